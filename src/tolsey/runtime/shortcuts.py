"""Finds nodes of a phase whose values can be had with less work, to the bit.

- *bias*: `add` of a vector to each row of a product (`mm`, reshaped or not) is the product with a bias, which the law
  adds once, by the same addition (docs/numerics/products.md): a tensor is written once instead of twice.
- *pieces*: a sum of `select_backward`s that fill a tensor between them, as the gradient of queries, keys and values is.
  Each adds a piece to zeros, so every element is its piece's plus +0, and every piece is written to its place once.
- *copies*: a second `reshape` of a value, where the first one may have had to copy, is a view of the first.

What lies between must be read by nobody else. Whatever differs in the least is left to its nodes. Next in the flow:
executor.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch

from tolsey.numerics.library import Library
from tolsey.runtime import exact
from tolsey.runtime.fusion import Graph
from tolsey.runtime.graph import Phase, Program
from tolsey.runtime.ops import Call

MAX_PIECES: Final = 64
"""Terms of a sum that are looked at: a program of a stranger may add without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortcut:
    """Some nodes done by one call.

    Attributes:
        nodes: places of the nodes that it replaces; it belongs where the last of them stands.
        reads: values, in the order of the call's arguments.
        writes: the value of the last node.
        build: of the profile's kernels, gives the call.
    """

    nodes: frozenset[int]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    build: Callable[[Library], Call]


def find(program: Program, phase: Phase) -> list[Shortcut]:
    """The shortcuts of a phase; no two replace the same node."""
    graph = Graph(program, phase)
    found, taken = list[Shortcut](), set[int]()
    for value in reversed(graph.makers):  # so that the last of several sums is met first
        index, op, _ = graph.makers[value]
        if index in taken:
            continue
        shortcut = next(filter(None, (look(graph, value) for look in _FORMS.get(op, ()))), None)
        if shortcut is not None:
            found.append(shortcut)
            taken |= shortcut.nodes
    return found


def _lies_between(graph: Graph, value: int) -> bool:
    """Whether a node makes this value for one other node alone."""
    return value in graph.makers and value not in graph.kept and len(graph.readers.get(value, ())) == 1


def _bias(graph: Graph, value: int) -> Shortcut | None:
    last, _, args = graph.makers[value]
    shape = graph.specs[value].shape
    for product, bias in (args, args[::-1]):
        at, nodes = product.id, {last}
        while _lies_between(graph, at) and graph.makers[at][1] == "reshape":
            nodes.add(graph.makers[at][0])
            at = graph.makers[at][2][0].id
        if not _lies_between(graph, at) or graph.makers[at][1] != "mm":
            continue
        index, _, (a, b) = graph.makers[at]
        columns = graph.specs[at].shape[1:]
        if graph.specs[bias.id].shape == columns == shape[-1:] and shape == graph.specs[product.id].shape:
            return Shortcut(
                nodes=frozenset({*nodes, index}),
                reads=(bias.id, a.id, b.id),
                writes=(value,),
                build=partial(_with_bias, shape),
            )
    return None


def _with_bias(shape: tuple[int, ...], lib: Library) -> Call:
    multiply = exact.KERNELS["addmm"](lib, ())
    return lambda bias, a, b: multiply(bias, a, b).reshape(shape)


def _pieces(graph: Graph, value: int) -> Shortcut | None:
    spec = graph.specs[value]
    nodes, pieces, places = {graph.makers[value][0]}, list[int](), list[tuple[int, int]]()
    terms = [term.id for term in graph.makers[value][2]]
    while terms:
        term = terms.pop()
        if not _lies_between(graph, term) or graph.specs[term] != spec or len(terms) + len(pieces) >= MAX_PIECES:
            return None
        index, op, args = graph.makers[term]
        nodes.add(index)
        if op == "add":
            terms += [part.id for part in args]
        elif op == "select_backward":
            piece, shape, dim, at = args
            pieces.append(piece.id)
            places.append((dim % len(shape), at % shape[dim]))
        else:
            return None
    dim = places[0][0]
    if spec.dtype != "float32" or sorted(places) != [(dim, at) for at in range(spec.shape[dim])]:
        return None
    build = partial(_together, spec.shape, places)
    return Shortcut(nodes=frozenset(nodes), reads=tuple(pieces), writes=(value,), build=build)


def _together(shape: tuple[int, ...], places: list[tuple[int, int]], lib: Library) -> Call:
    def call(*pieces: torch.Tensor) -> torch.Tensor:
        whole = pieces[0].new_empty(shape)
        for piece, (dim, at) in zip(pieces, places, strict=True):
            torch.add(piece, 0.0, out=whole.select(dim, at))  # -0 becomes +0, as where zeros are added
        return whole

    return call


def _copy(graph: Graph, value: int) -> Shortcut | None:
    """The first reshape's result lives on where the value itself would have: nobody else reads that."""
    index, _, (source, *_) = graph.makers[value]
    readers = graph.readers[source.id]
    if {value, source.id} & graph.kept or index == min(readers) or any(graph.ops[at] != "reshape" for at in readers):
        return None
    shape, first = graph.specs[value].shape, graph.made[min(readers)]
    return Shortcut(
        nodes=frozenset({index}), reads=(first,), writes=(value,), build=lambda lib: lambda x: x.reshape(shape)
    )


_FORMS: Final[dict[str, tuple[Callable[[Graph, int], Shortcut | None], ...]]] = {
    "add": (_bias, _pieces),
    "reshape": (_copy,),
}
"""What a shortcut's last node does, and what to look for there."""
