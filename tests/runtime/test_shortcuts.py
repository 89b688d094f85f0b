"""Nodes that are spared are found where they may be, and the bits are those of the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tolsey.numerics import PROFILE, int8
from tolsey.runtime import shortcuts
from tolsey.runtime.admission import META, spec_of
from tolsey.runtime.executor import PhaseRunner
from tolsey.runtime.graph import Node, Phase, Program, StateTensor, TensorSpec
from tolsey.runtime.ops import DTYPES, OPS, refs

CPU = torch.device("cpu")
SHAPES = {"a": (6, 4), "b": (4, 3), "bias": (3,), "p": (2, 5), "q": (2, 5), "r": (2, 5)}
INPUTS = tuple(("batch", name) for name in SHAPES)
A, B, BIAS, P, Q, R = range(len(SHAPES))
FIRST = len(SHAPES)
"""The value of the first node."""
Calls = Sequence[tuple[str, list[Any]]]


def program(calls: Calls, outputs: Sequence[int]) -> Program:
    """Phase `grad` over the inputs; the specs that each node declares come from the meta device."""
    specs = {name: TensorSpec("float32", shape) for name, shape in SHAPES.items()}
    values = [torch.empty(spec.shape, dtype=DTYPES[spec.dtype], device=META) for spec in specs.values()]
    nodes = []
    for name, raw in calls:
        args = OPS[name].parse(raw)
        values.append(OPS[name].build(args, META)(*[values[slot] for slot in refs(args)]))
        nodes.append(Node(name, raw, (spec_of(values[-1]),)))
    kept = tuple(("grad", str(place), slot) for place, slot in enumerate(outputs))
    state = {"param.w": StateTensor(spec=specs["a"], role="param", recipe=None)}
    return Program(
        **{"state": state, "batch": specs, "data": {}, "micro_batches": 1, "rates": {}},
        grad=Phase(inputs=INPUTS, nodes=tuple(nodes), outputs=kept),
        update=Phase(inputs=(), nodes=(), outputs=()),
    )


def inputs() -> dict[tuple[str, str], torch.Tensor]:
    """Zeros of both signs, an infinity and a NaN among ordinary numbers; some lie in another order."""
    drawn, given = torch.Generator().manual_seed(5), {}
    for place, key in enumerate(INPUTS):
        tensor = torch.randn(SHAPES[key[1]], generator=drawn)
        if place >= BIAS:
            special = torch.tensor([-0.0, float("inf"), float("nan")])
            tensor.view(-1)[:3] = special.roll(place)
        given[key] = tensor
    given["batch", "q"] = given["batch", "q"].T.contiguous().T
    return given


def assert_same_either_way(whole: Program, profile: str) -> None:
    runner = PhaseRunner(whole, whole.grad, CPU, profile)
    quick, plain = runner.run(inputs()), runner.run(inputs(), lambda node, outs: None)
    for key, tensor in plain.items():
        assert torch.equal(quick[key].isnan(), tensor.isnan())
        assert torch.equal(quick[key].nan_to_num().view(torch.int32), tensor.nan_to_num().view(torch.int32))


MULTIPLIED: list[tuple[str, list[Any]]] = [("mm", [A, B]), ("reshape", [FIRST, [2, 3, 3]])]


def piece(value: int, at: int, dim: int = 0) -> tuple[str, list[Any]]:
    shape = [2, 5]
    shape.insert(dim % 3, 3)
    return "select_backward", [value, shape, dim, at]


FOUND: dict[str, tuple[Calls, int]] = {
    "bias of a product": ([("mm", [A, B]), ("add", [FIRST, BIAS])], 2),
    "bias first": ([("mm", [A, B]), ("add", [BIAS, FIRST])], 2),
    "bias of a reshaped product": ([*MULTIPLIED, ("add", [FIRST + 1, BIAS])], 3),
    "three pieces": (
        [piece(P, 2), piece(Q, 0), ("add", [FIRST, FIRST + 1]), piece(R, 1), ("add", [FIRST + 2, FIRST + 3])],
        5,
    ),
    "pieces of the middle, from behind": (
        [piece(P, -1, -2), piece(Q, -3, 1), piece(R, 1, 1), ("add", [FIRST, FIRST + 1]), ("add", [8, FIRST + 3])],
        5,
    ),
    "a second copy": (
        [("transpose", [P, 0, 1]), ("reshape", [FIRST, [10]]), ("exp", [FIRST + 1]), ("reshape", [FIRST, [1, 10]])],
        1,
    ),
}
"""Nodes, and how many of them the one call replaces that stands for the last."""


@pytest.mark.parametrize("profile", [PROFILE, *int8.SLICES])
@pytest.mark.parametrize("name", FOUND)
def test_shortcut_is_found_and_gives_the_bits_of_its_nodes(name: str, profile: str) -> None:
    calls, spared = FOUND[name]
    last = FIRST + len(calls) - 1
    whole = program([*calls, ("exp", [last])], [last + 1])
    (found,) = shortcuts.find(whole, whole.grad)
    assert len(found.nodes) == spared and max(found.nodes) == len(calls) - 1
    runner = PhaseRunner(whole, whole.grad, CPU, profile)
    assert len(runner._code) == len(runner._plain) - spared + 1
    assert_same_either_way(whole, profile)


LEFT: dict[str, tuple[Calls, list[int]]] = {
    "a product that is given out": ([("mm", [A, B]), ("add", [FIRST, BIAS])], [FIRST]),
    "a product that is read twice": ([("mm", [A, B]), ("add", [FIRST, BIAS]), ("exp", [FIRST])], [FIRST + 2]),
    "a bias of other columns": (
        [("mm", [A, B]), ("reshape", [FIRST, [9, 2]]), ("slice", [BIAS, 0, 0, 2, 1]), ("add", [FIRST + 1, FIRST + 2])],
        [],
    ),
    "a product that is repeated": (
        [("mm", [A, B]), ("reshape", [FIRST, [18, 1]]), ("add", [FIRST + 1, BIAS])],
        [],
    ),
    "two pieces of one place": (
        [piece(P, 2), piece(Q, 2), ("add", [FIRST, FIRST + 1]), piece(R, 1), ("add", [FIRST + 2, FIRST + 3])],
        [],
    ),
    "a place without piece": ([piece(P, 2), piece(Q, 0), ("add", [FIRST, FIRST + 1])], []),
    "pieces of two dims": (
        [
            *(("select_backward", [piece, [2, 2, 5], dim, dim]) for piece, dim in ((P, 0), (Q, 1))),
            ("add", [FIRST, FIRST + 1]),
        ],
        [],
    ),
    "a piece that is given out": (
        [piece(P, 2), piece(Q, 0), ("add", [FIRST, FIRST + 1]), piece(R, 1), ("add", [FIRST + 2, FIRST + 3])],
        [FIRST + 1],
    ),
    "a value that others read too": (
        [("transpose", [P, 0, 1]), ("reshape", [FIRST, [10]]), ("reshape", [FIRST, [1, 10]]), ("exp", [FIRST])],
        [FIRST + 1, FIRST + 2],
    ),
    "copies that are given out": (
        [("transpose", [P, 0, 1]), ("reshape", [FIRST, [10]]), ("reshape", [FIRST, [1, 10]])],
        [FIRST + 1],
    ),
}
"""Nodes, and the values that are given out before the last one."""


@pytest.mark.parametrize("name", LEFT)
def test_what_differs_in_the_least_is_left_to_its_nodes(name: str) -> None:
    calls, outputs = LEFT[name]
    whole = program(calls, [*outputs, FIRST + len(calls) - 1])
    assert shortcuts.find(whole, whole.grad) == []
    assert_same_either_way(whole, PROFILE)


@pytest.mark.parametrize("count", [shortcuts.MAX_PIECES, shortcuts.MAX_PIECES + 1])
def test_sum_of_too_many_is_not_followed(count: int) -> None:
    calls: list[tuple[str, list[Any]]] = [("select_backward", [P, [count, 2, 5], 0, at]) for at in range(count)]
    for at in range(1, count):
        last = FIRST + len(calls) - 1
        calls.append(("add", [last if at > 1 else FIRST, FIRST + at]))
    whole = program(calls, [FIRST + len(calls) - 1])
    assert len(shortcuts.find(whole, whole.grad)) == (count <= shortcuts.MAX_PIECES)
