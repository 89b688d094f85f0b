"""Whole training runs on the exact kernels: one state root, whatever build and however many threads computed it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from tolsey.errors import ConfigError, RemoteViolation
from tolsey.numerics import PROFILE, build, library
from tolsey.protocol.job import EXACT_CLASSES, EXACT_FP32, PINNED
from tolsey.runtime import exact
from tolsey.runtime.executor import Executable
from tolsey.runtime.graph import Node, TensorSpec
from tolsey.runtime.ops import OPS, float_hex
from tolsey.runtime.segment import StepResult, Trainer
from tolsey.runtime.state import root_of

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
    last = trained(runner, PROFILE)
    return root_of(last.state, PROFILE).hex(), last.loss


def trained(runner: Runner, profile: str) -> StepResult:
    """The last of STEPS steps in a profile."""
    trainer = Trainer(Executable(runner.admitted, profile=profile), runner.data, seed=runner.job.seed)
    return list(trainer.steps(runner.first(), STEPS))[-1]


@pytest.mark.parametrize("make", [gpt_job, cnn_job], ids=["gpt", "cnn"])
def test_training_every_build_and_thread_count_gives_one_root(
    make: object, tmp_path: object, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    runner = Runner(make(dropout=0.1) if make is gpt_job else make(), tmp_path)  # type: ignore[operator, arg-type]
    found = {isa: root(runner, monkeypatch, isa) for isa in build.runnable()}
    request.getfixturevalue("two_threads")
    found |= {f"{isa}, 2 threads": root(runner, monkeypatch, isa) for isa in build.runnable()}
    assert len({state_root for state_root, _ in found.values()}) == 1, found
    assert next(iter(found.values()))[1] == pytest.approx(trained(runner, PINNED).loss, rel=1e-4)


def test_every_operation_has_a_kernel_or_needs_none() -> None:
    assert set(exact.KERNELS) | exact.AS_THEY_ARE == set(OPS)
    assert not set(exact.KERNELS) & exact.AS_THEY_ARE
    assert set(exact.KERNELS) >= exact.INTEGERS_TOO


def test_build_other_device_refused() -> None:
    with pytest.raises(ConfigError, match="runs on CPUs and on the first NVIDIA GPU, not on mps"):
        exact.build(OPS["exp"], OPS["exp"].parse([0]), torch.device("mps"))


def test_executable_other_float_type_refused(tmp_path: object) -> None:
    runner = Runner(cnn_job(), tmp_path)  # type: ignore[arg-type]
    grad = runner.program.grad
    node = dataclasses.replace(grad.nodes[0], op="full", args=["float64", [], float_hex(1.0)])
    doubled = dataclasses.replace(node, outs=(dataclasses.replace(node.outs[0], dtype="float64"),))
    program = dataclasses.replace(runner.program, grad=dataclasses.replace(grad, nodes=(doubled, *grad.nodes[1:])))
    admitted = dataclasses.replace(runner.admitted, program=program)
    with pytest.raises(
        RemoteViolation, match="phase grad, node 0: full gives float64; exact-fp32/1 computes in float32"
    ):
        Executable(admitted, profile=PROFILE)


@pytest.mark.parametrize("place", ["state", "batch"])
def test_executable_input_of_another_float_type_refused(tmp_path: object, place: str) -> None:
    runner = Runner(cnn_job(), tmp_path)  # type: ignore[arg-type]
    name, item = next(iter(runner.program.state.items()))
    wide = dataclasses.replace(item.spec, dtype="bfloat16")
    change = {name: dataclasses.replace(item, spec=wide)} if place == "state" else {"x": wide}
    program = dataclasses.replace(runner.program, **{place: getattr(runner.program, place) | change})
    with pytest.raises(RemoteViolation, match=f"{place}.* is bfloat16; exact-fp32/1 computes in float32"):
        Executable(dataclasses.replace(runner.admitted, program=program), profile=PROFILE)


def refused(op: str, *types: str, args: Sequence[Any] = (0, 1), shape: Sequence[int] = (2, 2)) -> str | None:
    """Why a node with results of these types is refused; every value that it reads has one shape."""
    node = Node(op, list(args), tuple(TensorSpec(dtype, ()) for dtype in types))
    found = exact.refusal(node, [TensorSpec(types[0], tuple(shape))] * 3)
    return None if found is None else found.why


def test_refusal_product_of_integers_has_no_kernel() -> None:
    assert refused("mm", "int64") == "gives int64, for which exact-fp32/1 has no kernel"
    assert refused("sum", "int64", args=[0, [], False]) is refused("cast", "bool", args=[0, "bool"]) is None
    assert refused("add", "int64") is refused("mm", "float32") is None
    norm = [0, None, None, None, None, True, float_hex(0.1), float_hex(0.1)]
    assert refused("batch_norm", "float32", "float16", "float32", args=norm) == (
        "gives float16; exact-fp32/1 computes in float32"
    )


def test_refusal_convolution_without_a_kernel() -> None:
    """PyTorch takes one stride for two dimensions; the law's geometry has one for each."""
    image = [0, 1, None, [1], [0, 0], [1, 1], False, [0, 0], 1]
    assert "a convolution of 2 dimensions" in str(refused("convolution", "float32", args=image, shape=(2, 2, 2, 2)))


def test_the_market_names_the_profile_as_the_law_does() -> None:
    assert EXACT_FP32 == PROFILE and tuple(EXACT_CLASSES) == exact.PROFILES


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
