"""Lion, which PyTorch has not, against algorithm 2 of Chen et al. 2023 in binary64."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import nn

from tolsey.numerics import PROFILE
from tolsey.runtime import author
from tolsey.runtime.capture import capture
from tolsey.runtime.executor import PhaseRunner
from tolsey.runtime.graph import TensorSpec
from tolsey.runtime.schedule import Schedule, to_float32

STEPS = 20
SHAPE = (3, 37)


@pytest.mark.parametrize("profile", ["pinned", PROFILE])
def test_lion_over_several_steps_equals_the_paper_s_in_binary64(profile: str) -> None:
    optimiser, schedule = author.lion(weight_decay="0.5", beta1="0.8"), Schedule(peak_lr="0.01", total_steps=STEPS)
    spec = TensorSpec("float32", (5, 37))
    program = capture(
        lambda: nn.Linear(37, 3, bias=False),
        loss="mse",
        batch={"x": spec, "y": TensorSpec("float32", (5, 3))},
        data={"kind": "examples"},
        optimiser=optimiser,
        schedule=schedule,
    ).program
    runner = PhaseRunner(program, program.update, torch.device("cpu"), profile)
    drawn = numpy.random.default_rng(5)
    param, moment = drawn.standard_normal(SHAPE), numpy.zeros(SHAPE)
    state = {"param.weight": torch.tensor(param, dtype=torch.float32), "lion.weight": torch.zeros(SHAPE)}
    for step in range(STEPS):
        grad = drawn.standard_normal(SHAPE).astype(numpy.float32)
        scalars = {name: torch.tensor(to_float32(x)) for name, x in optimiser.scalars(schedule, step).items()}
        given = {("state", name): tensor for name, tensor in state.items()}
        given |= {("scalar", name): tensor for name, tensor in scalars.items()}
        given["grad", "weight"] = torch.tensor(grad)
        state = {name: tensor for (role, name), tensor in runner.run(given).items() if role == "state"}

        direction = numpy.sign(0.8 * moment + 0.2 * grad)
        param = param * (1 - 0.01 * 0.5) - 0.01 * direction
        moment = 0.99 * moment + 0.01 * grad
    numpy.testing.assert_allclose(state["param.weight"], param, atol=2e-6)
    numpy.testing.assert_allclose(state["lion.weight"], moment, atol=1e-7)
