"""Finds an optimiser's step of one parameter among the nodes of a phase, to be done in one pass over its memory.

Ten nodes a parameter each read and write whole tensors; numerics/native/optimisers.c keeps what lies between them in
registers and gives the same bits (docs/numerics/functions.md, section 6). A step is found by its shape alone: what the
outputs `param.NAME` and `MOMENT.NAME` are computed from must be one of `FORMS`, node for node, and nothing else may
read what lies between. Whatever differs in the least is left to its nodes.

A kernel takes its numbers by value, so the host must know them. Where kernels are queued it knows those alone that it
was given, the rates; of a number that nodes compute, such as the factor of clipping, it would have to wait for the
device once a parameter. There clipping stays a node. Next in the flow: executor.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import torch

from tolsey.numerics.library import Library
from tolsey.runtime.graph import Phase, Program, TensorSpec
from tolsey.runtime.ops import Ref, refs

NUMBER: Final = TensorSpec("float32", ())
Pattern = tuple[Any, ...]
"""(operation, arguments …). An argument is a pattern or a word: the name of an output, or a variable, which stands for
one value or number wherever it occurs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way in which optimisers.py writes a step.

    Attributes:
        kernel: "adamw", "sgd" or "lion".
        outputs: by the first part of its name, what each output of the step is computed by.
        numbers: those of the kernel that are no variable here.
    """

    kernel: str
    outputs: Mapping[str, Pattern]
    numbers: Mapping[str, float]


def _sgd(*, decays: bool, nesterov: bool) -> Form:
    grad = ("add", "grad", ("mul_scalar", "old", "weight_decay")) if decays else "grad"
    towards = ("add", grad, ("mul_scalar", "momentum", "mu")) if nesterov else "momentum"
    return Form(
        kernel="sgd",
        outputs={
            "momentum": ("add", ("mul_scalar", "velocity", "mu"), grad),
            "param": ("sub", "old", ("mul", towards, "lr")),
        },
        numbers={"nesterov": int(nesterov)} | ({} if decays else {"weight_decay": 0.0}),
    )


_SPREAD: Final = ("add_scalar", ("mul", ("sqrt", "adamw2"), "correction"), "eps")
FORMS: Final = (
    Form(
        kernel="adamw",
        outputs={
            "adamw1": ("lerp", "first", "grad", "weight1"),
            "adamw2": ("addcmul", ("mul_scalar", "second", "beta2"), "grad", "grad", "weight2"),
            "param": ("sub", ("mul", "old", "decay"), ("mul", ("div", "adamw1", _SPREAD), "step_size")),
        },
        numbers={},
    ),
    Form(
        kernel="lion",
        outputs={
            "lion": ("lerp", "moment", "grad", "weight2"),
            "param": (
                "sub",
                ("mul", "old", "decay"),
                ("mul", ("sign", ("lerp", "moment", "grad", "weight1")), "lr"),
            ),
        },
        numbers={},
    ),
    *(_sgd(decays=decays, nesterov=nesterov) for decays in (True, False) for nesterov in (True, False)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kernel:
    """How one is called: addresses of these inputs, of these outputs, how many elements, these numbers."""

    tensors: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: tuple[str, ...]


_KERNELS: Final = {
    "adamw": _Kernel(
        tensors=("old", "grad", "first", "second"),
        outputs=("param", "adamw1", "adamw2"),
        numbers=("factor", "decay", "step_size", "correction", "weight1", "beta2", "weight2", "eps"),
    ),
    "sgd": _Kernel(
        tensors=("old", "grad", "velocity"),
        outputs=("param", "momentum"),
        numbers=("factor", "weight_decay", "mu", "nesterov", "lr"),
    ),
    "lion": _Kernel(
        tensors=("old", "grad", "moment"),
        outputs=("param", "lion"),
        numbers=("factor", "decay", "lr", "weight1", "weight2"),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One parameter's step.

    Attributes:
        kernel: "adamw", "sgd" or "lion".
        nodes: places of the nodes that it replaces; it belongs where the last of them stands.
        reads: values, tensors first, then scalars.
        writes: values, in the order of `call`'s results.
        numbers: for the kernel; a `Ref` counts `reads`.
    """

    kernel: str
    nodes: frozenset[int]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    numbers: tuple[Any, ...]

    def build(self, lib: Library) -> Callable[..., list[torch.Tensor]]:
        """A function of the values at `reads`."""
        kernel, tensors = lib.function(f"tolsey_{self.kernel}"), len(_KERNELS[self.kernel].tensors)

        def call(*values: torch.Tensor) -> list[torch.Tensor]:
            given = [value.contiguous() for value in values[:tensors]]
            results = [torch.empty_like(given[0]) for _ in self.writes]
            numbers = [values[number.id].item() if isinstance(number, Ref) else number for number in self.numbers]
            kernel(*(x.data_ptr() for x in (*given, *results)), given[0].numel(), *numbers)
            return results

        return call


def find(program: Program, phase: Phase, *, queued: bool = False) -> list[Step]:
    """The steps of all parameters for which one is found.

    Args:
        queued: what nodes compute is not there yet when the step is called, only what the phase was given as scalars.
    """
    graph = Graph(program, phase, queued=queued)
    outputs: dict[str, dict[str, int]] = {}
    for role, name, value in phase.outputs:
        kind, _, parameter = name.partition(".")
        if role == "state" and parameter:
            outputs.setdefault(parameter, {})[kind] = value
    found, taken = list[Step](), set[int]()
    for given, form in product(outputs.values(), FORMS):
        step = _step(graph, form, given)
        if step is not None and not taken & step.nodes:
            found.append(step)
            taken |= step.nodes
    return found


class Graph:
    """A phase's values: what each is, which node makes it, which nodes read it, and which may be a kernel's numbers."""

    def __init__(self, program: Program, phase: Phase, *, queued: bool = False) -> None:
        self.specs: list[TensorSpec] = [program.input_spec(role, name) for role, name in phase.inputs]
        self.makers: dict[int, tuple[int, str, list[Any]]] = {}
        self.readers: dict[int, set[int]] = {}
        self.kept = {value for _, _, value in phase.outputs}
        self.ops = [node.op for node in phase.nodes]
        self.made: dict[int, int] = {}
        for index, node in enumerate(phase.nodes):
            args = node.definition.parse(node.args)
            for value in refs(args):
                self.readers.setdefault(value, set()).add(index)
            if len(node.outs) == 1:
                self.makers[len(self.specs)] = index, node.op, args
                self.made[index] = len(self.specs)
            self.specs += node.outs
        given = {value for value, (role, _) in enumerate(phase.inputs) if role == "scalar"}
        self.numbers = {value for value in (given if queued else range(len(self.specs))) if self.specs[value] == NUMBER}


def _step(graph: Graph, form: Form, outputs: Mapping[str, int]) -> Step | None:
    """The step whose results are `outputs`, if they are what the form says."""
    if set(outputs) != set(form.outputs):
        return None
    bound: dict[str, Any] = {name: Ref(value) for name, value in outputs.items()} | dict(form.numbers)
    made: dict[int, int] = {}  # values that the step's nodes make, and by which node
    if not all(_matches(graph, form.outputs[name], Ref(value), bound, made) for name, value in outputs.items()):
        return None
    bound["factor"] = 1.0
    _take_in_clipping(graph, bound, made)
    nodes, results = frozenset(made.values()), set(outputs.values())
    if (set(made) - results) & graph.kept or any(not graph.readers.get(value, set()) <= nodes for value in made):
        return None  # somebody else reads what lies between
    kernel = _KERNELS[form.kernel]
    reads = [bound[name].id for name in kernel.tensors]
    if len({graph.specs[value] for value in (*reads, *results)}) > 1 or graph.specs[reads[0]].dtype != "float32":
        return None
    if bound.get("weight_decay") == 0 and "weight_decay" not in form.numbers:
        return None  # the kernel leaves it out; nodes that are there add it
    numbers = []
    for name in kernel.numbers:
        number = bound[name]
        if isinstance(number, Ref):
            if number.id not in graph.numbers:
                return None
            reads.append(number.id)
            number = Ref(len(reads) - 1)
        elif name not in form.numbers and not _is_ordinary(number):
            return None
        numbers.append(number)
    writes = tuple(outputs[name] for name in kernel.outputs)
    return Step(kernel=form.kernel, nodes=nodes, reads=tuple(reads), writes=writes, numbers=tuple(numbers))


def _is_ordinary(number: Any) -> bool:
    """A number that operation and kernel round to binary32 alike: none that is whole, subnormal or beyond binary32."""
    return isinstance(number, float) and (number == 0 or 2.0**-126 <= abs(number) < 2.0**127)


def _matches(graph: Graph, pattern: Any, given: Any, bound: dict[str, Any], made: dict[int, int]) -> bool:
    """Whether an argument is what a pattern says; notes on the way what variables are and which nodes take part."""
    if isinstance(pattern, str):
        return repr(bound.setdefault(pattern, given)) == repr(given)  # which tells -0.0 from 0.0, and 1 from 1.0
    if not isinstance(given, Ref) or given.id not in graph.makers:
        return False
    index, op, args = graph.makers[given.id]
    made[given.id] = index
    return (
        op == pattern[0]
        and len(args) == len(pattern) - 1
        and all(_matches(graph, part, arg, bound, made) for part, arg in zip(pattern[1:], args, strict=True))
    )


def _take_in_clipping(graph: Graph, bound: dict[str, Any], made: dict[int, int]) -> None:
    """A gradient that is another, scaled, for this step alone: the kernel scales it, where it can be told by what."""
    value = bound["grad"].id
    if value not in graph.makers or value in graph.kept or not graph.readers[value] <= set(made.values()):
        return
    index, op, args = graph.makers[value]
    if op == "mul" and args[1].id in graph.numbers and graph.specs[args[0].id].shape:
        made[value] = index
        bound["grad"], bound["factor"] = args
