"""Whole training runs on the exact kernels: one state root, whatever build and however many threads computed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
import torch

from tolsey.errors import ConfigError, RemoteViolation
from tolsey.numerics import PROFILE, build, library
from tolsey.runtime import exact
from tolsey.runtime.executor import Executable
from tolsey.runtime.ops import OPS, float_hex
from tolsey.runtime.segment import Trainer

from .conftest import Runner, cnn_job, gpt_job

STEPS = 5


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Every build on two threads for the test."""
    loaded = [library.load(isa) for isa in build.runnable()]
    before = [lib.threads for lib in loaded]
    for lib in loaded:
        lib.threads = 2
    yield
    for lib, threads in zip(loaded, before, strict=True):
        lib.threads = threads


def root(runner: Runner, monkeypatch: pytest.MonkeyPatch, isa: str) -> tuple[str, float]:
    """State root after STEPS steps on one build, and the last loss."""
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    trainer = Trainer(Executable(runner.admitted, profile=PROFILE), runner.data, seed=runner.job.seed)
    stepped = list(trainer.steps(runner.first(), STEPS))
    return exact_root(stepped[-1].state), stepped[-1].loss


def exact_root(state: object) -> str:
    from tolsey.runtime.state import root_of  # noqa: PLC0415  # beside its one use

    return root_of(state, PROFILE).hex()  # type: ignore[arg-type]  # a TrainingState


@pytest.mark.parametrize("make", [gpt_job, cnn_job], ids=["gpt", "cnn"])
def test_training_every_build_and_thread_count_gives_one_root(
    make: object, tmp_path: object, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    runner = Runner(make(dropout=0.1) if make is gpt_job else make(), tmp_path)  # type: ignore[operator, arg-type]
    found = {isa: root(runner, monkeypatch, isa) for isa in build.runnable()}
    request.getfixturevalue("two_threads")
    found |= {f"{isa}, 2 threads": root(runner, monkeypatch, isa) for isa in build.runnable()}
    assert len({state_root for state_root, _ in found.values()}) == 1, found
    stock = list(runner.trainer.steps(runner.first(), STEPS))[-1].loss
    assert next(iter(found.values()))[1] == pytest.approx(stock, rel=1e-4)


def test_every_operation_has_a_kernel_or_needs_none() -> None:
    assert set(exact.KERNELS) | exact.AS_THEY_ARE == set(OPS)
    assert not set(exact.KERNELS) & exact.AS_THEY_ARE
    assert set(exact.KERNELS) >= exact.INTEGERS_TOO


def test_build_other_device_refused() -> None:
    with pytest.raises(ConfigError, match="runs on CPUs"):
        exact.build(OPS["exp"], OPS["exp"].parse([0]), torch.device("cuda:0"))


def test_executable_other_float_type_refused(tmp_path: object) -> None:
    runner = Runner(cnn_job(), tmp_path)  # type: ignore[arg-type]
    grad = runner.program.grad
    node = dataclasses.replace(grad.nodes[0], op="full", args=["float64", [], float_hex(1.0)])
    doubled = dataclasses.replace(node, outs=(dataclasses.replace(node.outs[0], dtype="float64"),))
    program = dataclasses.replace(runner.program, grad=dataclasses.replace(grad, nodes=(doubled, *grad.nodes[1:])))
    admitted = dataclasses.replace(runner.admitted, program=program)
    with pytest.raises(RemoteViolation, match="float64; exact-fp32/1 computes in float32"):
        Executable(admitted, profile=PROFILE)


@pytest.mark.parametrize("name", sorted(exact.INTEGERS_TOO - {"scatter_add"}))
def test_integers_are_as_pytorch_has_them(name: str) -> None:
    op, x = OPS[name], torch.tensor([[3, -7, 2], [9, 9, -1]])
    more = {
        "sum": [[1], False], "amax": [[0], True], "amin": [[], False], "argmax": [1, False], "cumsum": [1],
        "maximum": [1], "minimum": [1], "clamp": [-2, 5], "pow": [1], "pow_scalar": [3], "relu": [],
    }[name]  # fmt: skip
    tensors = [x] if name not in ("maximum", "minimum", "pow") else [x, x.abs().flip(0) % 4]
    args = op.parse([0, *more])
    expected = op.build(args, torch.device("cpu"))(*tensors)
    assert torch.equal(exact.build(op, args, torch.device("cpu"))(*tensors), expected)
