"""The exact profiles on a GPU: the kernels of numerics/cuda, bound to tensors, give the CPU's bits, step after step.

Without a GPU their text runs on this CPU (numerics/emulated.py), so that what is tried is everything but NVIDIA's
compiler and hardware. With one, `test_every_step_on_a_gpu_has_the_cpus_root` runs there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tolsey.errors import ConfigError
from tolsey.runtime import exact
from tolsey.runtime.executor import Executable
from tolsey.runtime.ops import OPS
from tolsey.runtime.segment import Trainer
from tolsey.runtime.state import root_of

from ..numerics import emulated  # noqa: TID252  # tests are no package that can be named
from .conftest import Runner, cnn_job, gpt_job

PROFILES = pytest.mark.parametrize("profile", exact.PROFILES)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and PyTorch built for it")


def roots(runner: Runner, device: str, steps: int, profile: str) -> list[str]:
    """State root after each step."""
    trainer = Trainer(Executable(runner.admitted, device, profile=profile), runner.data, seed=runner.job.seed)
    return [root_of(done.state, profile).hex() for done in trainer.steps(runner.first(), steps)]


@pytest.fixture(params=["gpt", "cnn"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    """A GPT of two micro-batches, and a CNN."""
    job = gpt_job(dropout=0.1, batch_size=4, micro_batches=2) if request.param == "gpt" else cnn_job()
    return Runner(job, tmp_path)


@PROFILES
def test_every_step_on_emulated_kernels_has_the_cpus_root(
    runner: Runner, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = roots(runner, "cpu", 2, profile)
    asked: list[Any] = []

    def require(*given: Any) -> Any:
        asked.append(given)
        return emulated.library()

    monkeypatch.setattr(exact, "require", require)
    assert roots(runner, "cpu", 2, profile) == expected and asked


@needs_gpu
@PROFILES
def test_every_step_on_a_gpu_has_the_cpus_root(runner: Runner, profile: str) -> None:
    assert roots(runner, "cuda", 20, profile) == roots(runner, "cpu", 20, profile)


@needs_gpu
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "neg", "abs", "floor", "round"])
def test_single_operations_of_pytorch_on_a_gpu_are_the_laws(name: str) -> None:
    op, generator = OPS[name], torch.Generator().manual_seed(5)
    bits = torch.randint(-(2**31), 2**31, (2, 1 << 20), generator=generator, dtype=torch.int64).to(torch.int32)
    tensors = list(bits.view(torch.float32))[: len(op.params)]
    args = op.parse(list(range(len(tensors))))
    found = exact.build(op, args, torch.device("cuda"))(*(x.cuda() for x in tensors)).cpu()
    expected = exact.build(op, args, torch.device("cpu"))(*tensors)
    same = (found.view(torch.int32) == expected.view(torch.int32)) | (found.isnan() & expected.isnan())
    assert bool(same.all())


@needs_gpu
def test_division_by_a_number_on_a_gpu_is_one_rounding() -> None:
    op, x = OPS["div_scalar"], torch.arange(1, 1 << 16, dtype=torch.float32)
    args = op.parse([0, "4008000000000000"])
    found = exact.build(op, args, torch.device("cuda"))(x.cuda()).cpu()
    assert torch.equal(found, x / 3.0)


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="first NVIDIA GPU"):
        exact.require(torch.device(device))
