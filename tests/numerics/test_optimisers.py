"""Optimiser steps in one pass: every build equals the slow twin, and the twin equals the nodes of a captured update."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy
import pytest
import torch
from torch import nn

from tolsey.numerics import elementwise
from tolsey.numerics.library import Library
from tolsey.numerics.reference import elementwise as single
from tolsey.numerics.reference import functions, optimisers
from tolsey.runtime import author
from tolsey.runtime.capture import capture
from tolsey.runtime.graph import Phase, TensorSpec
from tolsey.runtime.ops import Ref
from tolsey.runtime.optimisers import adamw, lion, sgd
from tolsey.runtime.schedule import Schedule

from .numbers import F32, assert_same_bits, draw_all

ADAMW = {
    "plain": {"factor": 1.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "clipped": {"factor": 0.37, "beta1": 0.9, "beta2": 0.95, "eps": 1e-6},
    "slow first": {"factor": 1.0, "beta1": 0.3, "beta2": 0.5, "eps": 0.0},
}
SGD = {
    "plain": {"factor": 1.0, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False},
    "momentum": {"factor": 0.5, "weight_decay": 0.01, "momentum": 0.9, "nesterov": False},
    "nesterov": {"factor": 1.0, "weight_decay": 0.0, "momentum": 0.9, "nesterov": True},
}
LION = {"plain": {"factor": 1.0, "beta1": 0.9, "beta2": 0.99}, "clipped": {"factor": 0.2, "beta1": 0.4, "beta2": 0.5}}


TENSORS = [draw_all(1_001, seed) for seed in range(4)]
COUNT = TENSORS[0].size


def adamw_numbers(options: dict[str, float]) -> dict[str, numpy.float32]:
    beta1, beta2 = options["beta1"], options["beta2"]
    given = {
        **{"factor": options["factor"], "decay": 0.9999, "step_size": 1.3e-3, "correction": 1.7},
        **{"weight1": 1 - beta1, "beta2": beta2, "weight2": 1 - beta2, "eps": options["eps"]},
    }
    return {name: single.rounded(number) for name, number in given.items()}


@pytest.mark.parametrize("case", ADAMW)
def test_adamw_of_each_build_equals_reference(lib: Library, case: str) -> None:
    rates = adamw_numbers(ADAMW[case])
    given = TENSORS
    expected = optimisers.adamw(*given, **rates)
    for found, wanted in zip(elementwise.adamw(lib, *given, **rates), expected, strict=True):
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("case", SGD)
def test_sgd_of_each_build_equals_reference(lib: Library, case: str) -> None:
    rates: dict[str, Any] = {
        name: value if isinstance(value, bool) else single.rounded(value)
        for name, value in {**SGD[case], "lr": 0.1}.items()
    }
    given = TENSORS[:3]
    for found, wanted in zip(elementwise.sgd(lib, *given, **rates), optimisers.sgd(*given, **rates), strict=True):
        assert_same_bits(found, wanted)


@pytest.mark.parametrize("case", LION)
def test_lion_of_each_build_equals_reference(lib: Library, case: str) -> None:
    options = LION[case]
    rates = {
        name: single.rounded(number)
        for name, number in {
            **{"factor": options["factor"], "decay": 0.9999, "lr": 1e-4},
            **{"weight1": 1 - options["beta1"], "weight2": 1 - options["beta2"]},
        }.items()
    }
    given = TENSORS[:3]
    for found, wanted in zip(elementwise.lion(lib, *given, **rates), optimisers.lion(*given, **rates), strict=True):
        assert_same_bits(found, wanted)


def test_update_may_be_written_over_its_inputs(lib: Library) -> None:
    rates = adamw_numbers(ADAMW["clipped"])
    param, grad, first, second = (numpy.tile(given, 3) for given in TENSORS)
    expected = optimisers.adamw(param, grad, first, second, **rates)
    kept = (param, first, second)
    lib.call("tolsey_adamw", param, grad, first, second, *kept, param.size, *rates.values())
    for found, wanted in zip(kept, expected, strict=True):
        assert_same_bits(found, wanted)


# ---------------------------------------------------------------- the nodes of a program's update phase


@cache
def captured(kind: str, **options: Any) -> Phase:
    """The update phase of a program with one parameter as long as TENSORS."""

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(COUNT))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    optimiser = {"adamw": adamw, "lion": lion, "sgd": sgd}[kind](**options)
    spec = TensorSpec("float32", (1, COUNT))
    schedule = Schedule(
        kind="constant", peak_lr="0.01", warmup_steps=0, total_steps=10, final_ratio=author.constant().final_ratio
    )
    made = capture(
        Line,
        loss="mse",
        batch={"x": spec, "y": spec},
        data={"kind": "examples"},
        optimiser=optimiser,
        schedule=schedule,
    )
    return made.program.update


def run_nodes(phase: Phase, values: dict[tuple[str, str], F32]) -> dict[str, F32]:
    """The state that the phase gives, node by node by the twins of single operations."""
    known: list[Any] = [values[key] for key in phase.inputs]
    number = single.rounded
    rules: dict[str, Any] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "add_scalar": lambda a, b: a + number(b),
        "mul_scalar": lambda a, b: a * number(b),
        "sqrt": functions.sqrt,
        "sign": single.sign,
        "lerp": lambda a, b, weight: single.lerp(a, b, number(weight)),
        "addcmul": lambda a, b, c, value: single.addcmul(a, b, c, number(value)),
        # The norm is told as a metric; the parameter does not hang on it without clipping.
        "vector_norm": lambda *_: numpy.float32(0),
        "stack": lambda *_: numpy.zeros(1, numpy.float32),
    }
    with numpy.errstate(all="ignore"):
        for node in phase.nodes:
            given = [known[arg.id] if isinstance(arg, Ref) else arg for arg in node.definition.parse(node.args)]
            known.append(rules[node.op](*given))
    return {name: known[value] for role, name, value in phase.outputs if role == "state"}


def test_adamw_kernel_gives_what_the_program_s_nodes_give(lib: Library) -> None:
    phase = captured("adamw", beta1="0.9", beta2="0.95", eps="1e-7")
    param, grad, first, second = TENSORS
    rates = adamw_numbers({"factor": 1.0, "beta1": 0.9, "beta2": 0.95, "eps": 1e-7})
    scalars = {("scalar", name): rates[name] for name in ("decay", "step_size", "correction")}
    inputs = {
        ("state", "param.weight"): param,
        ("grad", "weight"): grad,
        ("state", "adamw1.weight"): first,
        ("state", "adamw2.weight"): second,
    }
    expected = run_nodes(phase, {**inputs, **scalars})
    found = elementwise.adamw(lib, param, grad, first, second, **rates)
    for name, result in zip(("param", "adamw1", "adamw2"), found, strict=True):
        assert_same_bits(result, expected[f"{name}.weight"])


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", ["0", "0.05"])
def test_sgd_kernel_gives_what_the_program_s_nodes_give(lib: Library, weight_decay: str, nesterov: bool) -> None:
    phase = captured("sgd", momentum="0.9", weight_decay=weight_decay, nesterov=nesterov)
    param, grad, velocity, _ = TENSORS
    lr = numpy.float32(0.07)
    inputs = {("state", "param.weight"): param, ("grad", "weight"): grad, ("state", "momentum.weight"): velocity}
    expected = run_nodes(phase, {**inputs, ("scalar", "lr"): lr})
    found = elementwise.sgd(
        lib, param, grad, velocity, factor=1.0, weight_decay=float(weight_decay), momentum=0.9, nesterov=nesterov, lr=lr
    )
    for name, result in zip(("param", "momentum"), found, strict=True):
        assert_same_bits(result, expected[f"{name}.weight"])


def test_lion_kernel_gives_what_the_program_s_nodes_give(lib: Library) -> None:
    phase = captured("lion", beta1="0.9", beta2="0.95", weight_decay="0.1")
    param, grad, moment, _ = TENSORS
    decay, lr = numpy.float32(0.9999), numpy.float32(0.003)
    inputs = {
        ("state", "param.weight"): param,
        ("grad", "weight"): grad,
        ("state", "lion.weight"): moment,
        ("scalar", "decay"): decay,
        ("scalar", "lr"): lr,
    }
    expected = run_nodes(phase, inputs)
    weights = {"weight1": single.rounded(1 - 0.9), "weight2": single.rounded(1 - 0.95)}
    found = elementwise.lion(lib, param, grad, moment, factor=1.0, decay=decay, lr=lr, **weights)
    for name, result in zip(("param", "lion"), found, strict=True):
        assert_same_bits(result, expected[f"{name}.weight"])
