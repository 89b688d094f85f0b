"""Random numbers inside `tolsey.exact()`: which words they are, and that generators count them as people expect."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

import tolsey
from tolsey.protocol import philox

from .everywhere import MACHINES, digest, everywhere, machine


def test_draws_are_philox_words_of_seed_count_and_manual_seed() -> None:
    with tolsey.exact(seed=(9 << 32) + 7):
        first, mask = torch.rand(6), functional.dropout(torch.ones(6), 0.25)
        torch.manual_seed(3)
        again, order = torch.rand(6), torch.randint(10, 20, (3,))

    def words(stream: int, position: int, domain: int, count: int) -> list[int]:
        blocks = [
            philox.block((9 << 32) + 7, stream, position << 32 | index, domain=domain)
            for index in range(-(-count // 4))
        ]
        return [word for one in blocks for word in one][:count]

    assert first.tolist() == [(word >> 8) * 2.0**-24 for word in words(0, 0, philox.DOMAIN_INIT, 6)]
    kept = [word >> 8 < 0.75 * 2**24 for word in words(1, 0, philox.DOMAIN_MASK, 6)]
    assert (mask > 0).tolist() == kept and mask.max().item() == pytest.approx(4 / 3)
    assert again.tolist() == [(word >> 8) * 2.0**-24 for word in words(0, 3, philox.DOMAIN_INIT, 6)]
    raw = words(1, 3, philox.DOMAIN_RAW, 6)
    assert order.tolist() == [10 + (raw[i] + (raw[i + 1] << 32)) % 10 for i in (0, 2, 4)]


def test_every_kind_of_draw_is_one_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def draws() -> str:
        found = [
            torch.rand(5),
            torch.rand_like(torch.ones(2)),
            torch.randn(300),
            torch.empty(5).uniform_(-2, 3),
            torch.empty(5).normal_(1, 2),
            torch.randint(-3, 3, (9,)),
            torch.randperm(9),
            torch.bernoulli(torch.full((9,), 0.3)),
            torch.empty(9).bernoulli_(0.3),
            functional.dropout(torch.ones(9), 0.1),
            torch.empty(4).exponential_(2.0),
            torch.multinomial(torch.rand(3, 5), 3),
            torch.multinomial(torch.rand(5), 9, replacement=True),
            functional.gumbel_softmax(torch.rand(3, 4)),
            torch.normal(torch.ones(3), torch.ones(3)),
            torch.empty((), dtype=torch.int64).random_(),
            torch.empty(3).random_(),
            nn.init.kaiming_normal_(torch.empty(3, 3)),
            nn.init.trunc_normal_(torch.empty(9), 0, 1, -0.5, 0.5),
            nn.init.xavier_uniform_(torch.empty(3, 3)),
            torch.randn(3, generator=torch.Generator().manual_seed(8)),
        ]
        return digest(*found)

    everywhere(draws, monkeypatch, seed=2**64 - 1)


def test_draws_have_their_distributions() -> None:
    with tolsey.exact(3):
        uniform, normal = torch.rand(20000), torch.randn(20000)
        order, counts = torch.randperm(1000), torch.randint(0, 4, (20000,)).bincount()
        picks = torch.multinomial(torch.tensor([1.0, 0.0, 3.0]), 4000, replacement=True).bincount(minlength=3)
        pairs = torch.multinomial(torch.ones(500, 4), 2)
        waits = torch.empty(20000).exponential_(2.0)
    assert uniform.min() >= 0 and uniform.max() < 1 and uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert normal.mean().item() == pytest.approx(0, abs=0.03) and normal.std().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(order.sort()[0], torch.arange(1000)) and not torch.equal(order, torch.arange(1000))
    assert all(abs(count - 5000) < 300 for count in counts.tolist())
    assert picks[1] == 0 and picks[2].item() / 4000 == pytest.approx(0.75, abs=0.03)
    assert (pairs[:, 0] != pairs[:, 1]).all() and waits.mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.empty(2).bernoulli_(1.5),
        lambda: torch.empty(2).uniform_(1, 0),
        lambda: torch.empty(2).normal_(0, -1),
        lambda: torch.randint(3, 3, (2,)),
        lambda: torch.multinomial(torch.tensor([-1.0, 0.5]), 1),
    ],
)
def test_bounds_are_checked_as_pytorch_checks_them(draw: Callable[[], torch.Tensor]) -> None:
    with pytest.raises(RuntimeError) as stock:
        draw()
    with pytest.raises(RuntimeError) as found, tolsey.exact():
        draw()
    assert str(found.value) == str(stock.value)


def test_generators_mean_what_they_always_mean() -> None:
    own = torch.Generator().manual_seed(11)
    with tolsey.exact(1):
        a, b = torch.rand(3), torch.rand(3)
        with torch.random.fork_rng():
            c = torch.rand(3)
        d = torch.rand(3)
        torch.manual_seed(0)
        assert torch.equal(a, torch.rand(3))
        e, f = torch.rand(3, generator=own), torch.rand(3, generator=own)
    assert len({tuple(x.tolist()) for x in (a, b, c, e, f)}) == 5 and torch.equal(c, d)
    with tolsey.exact(1):
        assert torch.equal(a, torch.rand(3)) and torch.equal(e, torch.rand(3, generator=own.manual_seed(11)))
    with tolsey.exact(2):
        assert not torch.equal(a, torch.rand(3))


class Noisy(Dataset[torch.Tensor]):
    """Examples that are computed, and drawn, when they are asked for."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, place: int) -> torch.Tensor:
        return (torch.rand(40_000) + place).exp().sum() + torch.rand(())


def test_processes_of_a_loader_draw_and_compute_as_the_block_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are forked inside of it; the second machine has kernels on two threads, which no fork takes along."""

    def load() -> list[float]:
        torch.rand(300_000).exp()
        return [
            one for batch in DataLoader(Noisy(), batch_size=2, num_workers=2, shuffle=True) for one in batch.tolist()
        ]

    found = []
    for isa, threads, flush in (MACHINES[0], MACHINES[1]):
        with machine(isa, threads, monkeypatch, flush=flush), tolsey.exact(2):
            found.append(load())
    assert found[0] == found[1] and len(set(found[0])) == 6


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpoints_draw_the_same_masks_again(reentrant: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Tanh())

    def gradient(run: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        layer.zero_grad()
        with tolsey.exact(4):
            (run(torch.ones(4, 8, requires_grad=True)) * torch.rand(4, 8)).sum().backward()
        return layer[0].weight.grad.clone()

    kept, recomputed = gradient(layer), gradient(lambda x: checkpoint(layer, x, use_reentrant=reentrant))
    assert torch.equal(kept, recomputed) and kept.any()
