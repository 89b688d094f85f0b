"""Training under the order-free profiles: one state root on every build, one gradient however its parts were dealt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tolsey.errors import LocalViolation
from tolsey.numerics import PROFILE, build, int8, library, products
from tolsey.runtime.exact import TensorSum
from tolsey.runtime.executor import Executable
from tolsey.runtime.segment import StepResult, Trainer
from tolsey.runtime.state import root_of

from .conftest import Runner, TinyGPT, cnn_job, gpt_job

STEPS = 5
MICRO_BATCHES = 8


@pytest.fixture
def threads() -> Iterator[Any]:
    """Sets every build to a number of threads, for the test."""
    loaded = [library.load(isa) for isa in build.runnable()]
    before = [lib.threads for lib in loaded]

    def set_all(count: int) -> None:
        for lib in loaded:
            lib.threads = count

    yield set_all
    for lib, count in zip(loaded, before, strict=True):
        lib.threads = count


def trainer(runner: Runner, profile: str) -> Trainer:
    return Trainer(Executable(runner.admitted, profile=profile), runner.data, seed=runner.job.seed)


def last_step(runner: Runner, profile: str) -> StepResult:
    return list(trainer(runner, profile).steps(runner.first(), STEPS))[-1]


@pytest.mark.parametrize("profile", int8.SLICES)
@pytest.mark.parametrize("make", [gpt_job, cnn_job], ids=["gpt", "cnn"])
def test_training_every_build_and_thread_count_gives_one_root(
    make: Any, profile: str, tmp_path: Path, threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(make(dropout=0.1) if make is gpt_job else make(), tmp_path)
    roots, losses = set(), set()
    for isa in build.runnable():
        monkeypatch.setenv(library.ISA_VARIABLE, isa)
        for count in (1, 2):
            threads(count)
            last = last_step(runner, profile)
            roots.add(root_of(last.state, profile).hex())
            losses.add(last.loss)
    assert len(roots) == len(losses) == 1
    chain = last_step(runner, PROFILE)
    assert losses.pop() == pytest.approx(chain.loss, rel=1e-2 if int8.SLICES[profile] == 2 else 1e-4)
    assert roots.pop() != root_of(chain.state, profile).hex(), "the chain's products were taken"


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    job = gpt_job(dropout=0.1, batch_size=MICRO_BATCHES, micro_batches=MICRO_BATCHES)
    return Runner(job, tmp_path_factory.mktemp("several"))


@pytest.mark.parametrize("profile", int8.SLICES)
def test_gradient_of_1_2_and_4_shards_is_the_steps_own(several: Runner, profile: str) -> None:
    """Micro-batches dealt out in any way, shards merged in any order: the bits of one machine that took them all."""
    one = trainer(several, profile)
    state = one.step(several.first()).state  # moments and masks are no longer the first ones
    own, _ = one._gradients(state, None)
    for shards in (1, 2, 4):
        dealt = numpy.random.default_rng(shards).permutation(MICRO_BATCHES).reshape(shards, -1)
        parts = [trainer(several, profile).gradient_sums(state, [int(m) for m in micros]) for micros in dealt]
        for name, total in merged(parts[::-1]).items():
            whole = own["grad", name]
            assert torch.equal(total.rounded().view(torch.int32), whole.view(torch.int32)), name
            assert whole.abs().max() > 0


def merged(parts: list[dict[str, TensorSum]]) -> Mapping[str, TensorSum]:
    first, *others = parts
    for other in others:
        for name, total in first.items():
            total.merge(other[name])
    return first


def test_gradient_added_in_another_order_differs_under_the_chain(several: Runner) -> None:
    """What the profile is for: the same parts, added in order and backwards."""
    state, chain = several.first(), trainer(several, PROFILE)
    parts = [
        {name: tensor for (role, name), tensor in given.items() if role == "grad"}
        for given in chain._micro_batches(chain._inputs(state), 0, range(MICRO_BATCHES), None)
    ]
    forwards, backwards = (
        {name: sum((part[name] for part in order), torch.zeros(())) for name in parts[0]}
        for order in (parts, parts[::-1])
    )
    assert any(not torch.equal(forwards[name], backwards[name]) for name in forwards)
    with pytest.raises(LocalViolation, match="exact-fp32/1 adds the gradients of micro-batches in order"):
        chain.gradient_sums(state, [0])


def test_shards_of_running_statistics_are_refused(tmp_path: Path) -> None:
    runner = Runner(cnn_job(batch_size=8, micro_batches=2), tmp_path)
    with pytest.raises(LocalViolation, match="running statistics pass from one micro-batch to the next"):
        trainer(runner, "exact-int8/1").gradient_sums(runner.first(), [0])


@pytest.mark.parametrize("slices", int8.SLICES.values())
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_weight_gradients_of_a_batch_dealt_to_shards_are_the_whole_batchs(shards: int, slices: int) -> None:
    """Terms of one product on several machines: exponents are agreed on, then integers are added."""
    lib = library.current()
    for name, (x, gradient) in linear_layers().items():
        whole = products.gemm(int8.kernels(lib, slices), gradient.T, x)
        parts = list(zip(numpy.array_split(gradient, shards), numpy.array_split(x, shards), strict=True))
        e_rows = numpy.max([int8.exponents(lib, upper.T) for upper, _ in parts], axis=0)
        e_columns = numpy.max([int8.exponents(lib, lower.T) for _, lower in parts], axis=0)
        sums = numpy.zeros(whole.shape, numpy.int64)
        for upper, lower in parts:
            mine = numpy.zeros_like(sums)
            int8.add_terms(lib, upper.T, lower, e_rows, e_columns, mine, slices=slices)
            sums += mine
        found = int8.rounded(lib, sums, e_rows, e_columns, slices=slices)
        assert (found.view(numpy.int32) == whole.view(numpy.int32)).all(), name
        assert numpy.abs(whole).max() > 0


def linear_layers() -> dict[str, tuple[Any, Any]]:
    """Input [tokens, in] and output's gradient [tokens, out] of each linear layer of a small GPT, in one backward."""
    torch.manual_seed(3)
    model, seen = TinyGPT(), dict[str, tuple[Any, Any]]()

    def watch(name: str, layer: torch.nn.Linear) -> None:
        def forward(_: Any, given: Any, output: torch.Tensor) -> None:
            x = given[0].detach().reshape(-1, layer.in_features).numpy()
            output.register_hook(
                lambda grad: seen.update({name: (x, grad.reshape(-1, layer.out_features).numpy().copy())})
            )

        layer.register_forward_hook(forward)

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear):
            watch(name, layer)
    tokens = torch.randint(256, (12, 8))
    torch.nn.functional.cross_entropy(model(tokens).reshape(-1, 256), tokens.reshape(-1)).backward()
    assert len(seen) == 5
    return seen
