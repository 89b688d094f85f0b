"""An optimiser's step done in one pass is found where it is one, and gives the bits of its nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from tolsey.numerics import PROFILE
from tolsey.runtime import author, exact, fusion, schedule
from tolsey.runtime.capture import capture
from tolsey.runtime.executor import PhaseRunner
from tolsey.runtime.graph import Node, Phase, Program, TensorSpec
from tolsey.runtime.ops import float_hex
from tolsey.runtime.schedule import Schedule

from ..numerics import emulated  # noqa: TID252  # tests are no package that can be named

CPU = torch.device("cpu")
OPTIMISERS = {
    "adamw": author.adamw(weight_decay="0.1"),
    "lion": author.lion(weight_decay="0.1"),
    "sgd": author.sgd(momentum="0.9"),
    "sgd decays": author.sgd(momentum="0.9", weight_decay="1e-3"),
    "sgd nesterov": author.sgd(momentum="0.9", nesterov=True),
    "sgd decays nesterov": author.sgd(momentum="0.9", weight_decay="1e-3", nesterov=True),
}


PARAMS = 2
SCHEDULE = Schedule(peak_lr="0.01", total_steps=10)


@cache
def captured(kind: str, clip_norm: str | None = None) -> Program:
    """A program with PARAMS parameters."""
    batch = {"x": TensorSpec("float32", (5, 37)), "y": TensorSpec("float32", (5, 3))}
    made = capture(
        lambda: nn.Linear(37, 3),
        loss="mse",
        batch=batch,
        data={"kind": "examples"},
        optimiser=OPTIMISERS[kind],
        schedule=SCHEDULE,
        clip_norm=clip_norm,
    )
    return made.program


def inputs(kind: str) -> dict[tuple[str, str], torch.Tensor]:
    """Of phase update; gradients and moments hold a zero, an infinity and a NaN among ordinary numbers."""
    drawn, program = torch.Generator().manual_seed(3), captured(kind)
    scalars = OPTIMISERS[kind].scalars(SCHEDULE, 2)
    values = {}
    for role, name in program.update.inputs:
        if role == "scalar":
            values[role, name] = torch.tensor(schedule.to_float32(scalars[name]))
            continue
        tensor = torch.randn(program.input_spec(role, name).shape, generator=drawn)
        if not name.startswith(("param.", "adamw2.")):
            tensor.view(-1)[:3] = torch.tensor([0.0, float("inf"), float("nan")])
        values[role, name] = tensor.abs() if name.startswith("adamw2.") else tensor
    return values


@pytest.mark.parametrize("clip_norm", [None, "0.5"])
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_each_parameter_s_step_is_one_call_with_the_bits_of_its_nodes(kind: str, clip_norm: str | None) -> None:
    program = captured(kind, clip_norm)
    steps = fusion.find(program, program.update)
    assert len(steps) == PARAMS
    runner = PhaseRunner(program, program.update, CPU, PROFILE)
    assert len(runner._code) == len(runner._plain) - sum(len(step.nodes) - 1 for step in steps)
    given = inputs(kind)
    if clip_norm is not None:  # an infinite norm would make every element a NaN
        given = {key: tensor.nan_to_num(0.25, 0.5) for key, tensor in given.items()}
    assert_same_either_way(program, given)


@pytest.mark.parametrize("clip_norm", [None, "0.5"])
@pytest.mark.parametrize("kind", OPTIMISERS)
def test_step_of_queued_kernels_has_the_bits_of_its_nodes_and_reads_no_number_that_one_computes(
    kind: str, clip_norm: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's kernels, emulated; with a real one each such reading would wait for it."""
    monkeypatch.setattr(exact, "require", lambda *given: emulated.library())
    program, given = captured(kind, clip_norm), inputs(kind)
    steps = fusion.find(program, program.update, queued=True)
    assert len(steps) == PARAMS
    assert_same_either_way(program, {key: tensor.nan_to_num(0.25, 0.5) for key, tensor in given.items()})
    read, item = list[torch.Tensor](), torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: read.append(tensor) or item(tensor))
    PhaseRunner(program, program.update, CPU, PROFILE).run(given)
    known = {id(tensor) for (role, _), tensor in given.items() if role == "scalar"}
    assert read and {id(tensor) for tensor in read} <= known


def assert_same_either_way(program: Program, given: dict[tuple[str, str], torch.Tensor]) -> None:
    """Phase update gives the same bits fused and node by node."""
    runner = PhaseRunner(program, program.update, CPU, PROFILE)
    fused, plain = runner.run(dict(given)), runner.run(dict(given), lambda node, outs: None)
    for key, tensor in plain.items():
        assert torch.equal(fused[key].isnan(), tensor.isnan())
        assert torch.equal(fused[key].nan_to_num().view(torch.int32), tensor.nan_to_num().view(torch.int32)), key
        assert fused[key].is_contiguous()


def replaced(program: Program, op: str, args: dict[int, Any]) -> Program:
    """The first node `op` of phase update with other arguments."""
    nodes = list(program.update.nodes)
    place = next(place for place, node in enumerate(nodes) if node.op == op)
    changed = [args.get(position, arg) for position, arg in enumerate(nodes[place].args)]
    nodes[place] = Node(nodes[place].op, changed, nodes[place].outs)
    return dataclasses.replace(program, update=dataclasses.replace(program.update, nodes=tuple(nodes)))


def with_output(program: Program, op: str) -> Program:
    """What the first node `op` gives is told as a metric too."""
    update = program.update
    place = next(place for place, node in enumerate(update.nodes) if node.op == op)
    value = len(update.inputs) + sum(len(node.outs) for node in update.nodes[:place])
    outputs = (*update.outputs, ("metric", "spied", value))
    return dataclasses.replace(program, update=Phase(inputs=update.inputs, nodes=update.nodes, outputs=outputs))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("adamw", lambda program: with_output(program, "sqrt")),
        ("adamw", lambda program: replaced(program, "add_scalar", {1: 1})),  # a whole number
        ("adamw", lambda program: replaced(program, "add_scalar", {1: float_hex(1e-46)})),
        ("adamw", lambda program: replaced(program, "mul_scalar", {1: float_hex(1e39)})),
        ("adamw", lambda program: replaced(program, "addcmul", {1: 0})),
        ("lion", lambda program: with_output(program, "sign")),
        ("sgd nesterov", lambda program: replaced(program, "mul_scalar", {1: float_hex(-0.9)})),
        ("sgd decays", lambda program: replaced(program, "mul_scalar", {1: float_hex(0.0)})),
        ("sgd decays", lambda program: replaced(program, "mul_scalar", {1: float_hex(1e-46)})),
    ],
)
def test_step_that_differs_in_the_least_is_left_to_its_nodes(kind: str, change: Callable[[Program], Program]) -> None:
    program = captured(kind)
    changed = change(program)
    whole, fewer = (sum(len(step.nodes) for step in fusion.find(it, it.update)) for it in (program, changed))
    assert fewer < whole
    assert_same_either_way(changed, inputs(kind))


def test_one_parameter_given_under_two_names_is_one_step() -> None:
    """Lion's moment is no part of its parameter: two moments with one parameter share nodes."""
    program = captured("lion")
    update = program.update
    values = {name: value for _, name, value in update.outputs}
    first, second = ("param.weight", "param.bias")
    outputs = tuple((role, name, values[first] if name == second else value) for role, name, value in update.outputs)
    doubled = dataclasses.replace(program, update=dataclasses.replace(update, outputs=outputs))
    steps = fusion.find(doubled, doubled.update)
    assert len({node for step in steps for node in step.nodes}) == sum(len(step.nodes) for step in steps)
