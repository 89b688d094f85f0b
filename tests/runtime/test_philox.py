"""Randomness: known answers, equal bits from all three implementations, distributions, the order as a bijection."""

from __future__ import annotations

import math
import statistics

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tolsey.protocol import philox
from tolsey.runtime import random

# counter, key, expected: file kat_vectors of the Random123 distribution, philox4x32 with 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_vectors_match(counter: philox.Block, key: tuple[int, int], expected: philox.Block) -> None:
    assert philox.philox4x32(counter, key) == expected


def test_block_mapping_is_key_seed_and_counter_index_stream_domain() -> None:
    seed, stream, index = 0x299F31D0A4093822, 0x13198A2E, 0x85A308D3243F6A88
    assert philox.block(seed, stream, index, domain=0x03707344) == KNOWN[2][2]


@given(seed=U64, stream=U32, domain=U32, index=st.integers(0, 2**64 - 100), count=st.integers(1, 200))
def test_words_vectorised_equal_reference(seed: int, stream: int, domain: int, index: int, count: int) -> None:
    expected = [word for i in range(-(-count // 4)) for word in philox.block(seed, stream, index + i, domain=domain)]
    drawn = random.words(seed, domain=domain, stream=stream, count=count, first_index=index)
    assert drawn.tolist() == expected[:count]


@given(seed=U64, stream=U32, low=st.lists(U32, min_size=1, max_size=20), high=U32)
def test_philox_torch_equals_reference(seed: int, stream: int, low: list[int], high: int) -> None:
    c0 = torch.tensor(low)
    out = torch.stack(random.philox_torch(c0, torch.full_like(c0, high), stream, 5, seed), dim=1)
    assert [tuple(row) for row in out.tolist()] == [philox.block(seed, stream, high << 32 | i, domain=5) for i in low]


@pytest.mark.parametrize(
    "bad",
    [
        {"seed": -1},
        {"seed": 2**64},
        {"stream": 2**32},
        {"index": 2**64},
        {"domain": -1},
    ],
)
def test_block_out_of_range_refused(bad: dict[str, int]) -> None:
    draw = {"seed": 0, "stream": 0, "index": 0, "domain": 0} | bad
    with pytest.raises(ValueError, match="outside its range"):
        philox.block(draw["seed"], draw["stream"], draw["index"], domain=draw["domain"])


@given(seed=U64, epoch=st.integers(0, 2**32 - 1), count=st.integers(1, 700))
def test_permutation_any_size_is_bijection(seed: int, epoch: int, count: int) -> None:
    order = random.permutation(seed, epoch=epoch, positions=numpy.arange(count), count=count)
    assert sorted(order.tolist()) == list(range(count))


@given(seed=U64, epoch=st.integers(0, 9), count=st.integers(1, 2**60), data=st.data())
def test_permutation_vectorised_equals_reference(seed: int, epoch: int, count: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4))
    order = random.permutation(seed, epoch=epoch, positions=numpy.array(positions), count=count)
    assert order.tolist() == [philox.permute(seed, epoch, position, count) for position in positions]


def test_permutation_other_epoch_or_seed_is_another_order() -> None:
    orders = [
        random.permutation(seed, epoch=epoch, positions=numpy.arange(1000), count=1000).tolist()
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    fixed_points = sum(a == b for a, b in zip(orders[0], orders[1], strict=True))
    assert orders[0] != orders[2] and fixed_points < 10  # a random pair of orders agrees in one place on average


def test_uniforms_are_24_bit_fractions_spread_evenly() -> None:
    drawn = random.uniforms(3, domain=1, stream=0, count=40_000)
    scaled = drawn * 2**24
    assert torch.equal(scaled, scaled.round()) and torch.equal(drawn, drawn.float().double())
    counts = torch.histc(drawn, 16, 0, 1)
    assert float(((counts - 2500) ** 2 / 2500).sum()) < 45  # chi-square, 15 degrees of freedom: p = 8e-5 at 45


def test_normal_quantile_agrees_with_exact() -> None:
    exact = statistics.NormalDist()
    points = [2.0**-33, 1e-9, 1e-6, 0.01, 0.0749999, 0.0750001, 0.3, 0.5 + 1e-6, 0.7, 0.92501, 0.999, 1 - 2.0**-33]
    found = random.normal_quantile(torch.tensor(points, dtype=torch.float64)).tolist()
    assert found == pytest.approx([exact.inv_cdf(point) for point in points], rel=1e-14)


def test_root_of_the_tail_is_rounded_as_ieee_has_it() -> None:
    numbers = random.words(3, domain=1, stream=0, count=20_000).double() * 2.0**-27
    assert random._sqrt(numbers).tolist() == [math.sqrt(number) for number in numbers.tolist()]


def test_normals_have_mean_0_variance_1_and_normal_tails() -> None:
    drawn = random.normals(11, domain=1, stream=4, count=200_000)
    assert abs(float(drawn.mean())) < 0.01 and abs(float(drawn.var()) - 1) < 0.015
    assert float((drawn.abs() > 2).double().mean()) == pytest.approx(0.0455, abs=0.002)
    assert float((drawn**4).mean()) == pytest.approx(3, abs=0.08)


def test_keep_masks_rate_and_independence() -> None:
    def mask(seed: int = 1, stream: int = 0, position: int = 5) -> torch.Tensor:
        return random.keep_masks(seed, stream=stream, position=position, shape=[100, 100], threshold=int(0.9 * 2**24))[
            0
        ]

    first = mask()
    assert float(first.float().mean()) == pytest.approx(0.9, abs=0.015)
    assert torch.equal(first, mask())
    for other in (mask(seed=2), mask(stream=1), mask(position=6)):
        assert float((first == other).float().mean()) == pytest.approx(0.82, abs=0.03)  # 0.9^2 + 0.1^2


@pytest.mark.parametrize("position", [0, 9, (1 << 32) - 2])
@pytest.mark.parametrize("shape", [[], [2, 3], [4], [0, 3]])
def test_keep_masks_elements_are_the_words_of_the_reference(shape: list[int], position: int) -> None:
    drawn = random.keep_masks(77, stream=3, position=position, ahead=2, shape=shape, threshold=1 << 23)
    assert drawn.shape == (2, *shape)
    for row in range(2):
        index = position + row << 32
        words = [word for i in range(2) for word in philox.block(77, 3, index | i, domain=philox.DOMAIN_MASK)]
        assert drawn[row].flatten().tolist() == [word >> 8 < 1 << 23 for word in words[: drawn[row].numel()]]


@pytest.mark.parametrize("threshold", [0, 1, 5_000_001, 1 << 24])
def test_keep_masks_larger_than_one_draw_equal_the_words(threshold: int) -> None:
    count = 4 * random.BLOCKS_AT_ONCE + 9
    drawn = random.keep_masks(5, stream=1, position=2, ahead=2, shape=[count], threshold=threshold)
    for row in range(2):
        words = random.words(5, domain=philox.DOMAIN_MASK, stream=1, count=count, first_index=2 + row << 32)
        assert torch.equal(drawn[row], words >> 8 < threshold)


def test_words_and_keep_masks_of_an_accelerator_equal_those_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        masks = random.keep_masks(7, stream=2, position=(1 << 32) - 3, ahead=3, shape=[5, 3], threshold=1 << 23)
        return random.words(7, domain=1, stream=2, count=37, first_index=(1 << 32) - 4), masks

    host = drawn()
    monkeypatch.setattr(random, "_on_host", lambda device: False)
    assert all(torch.equal(one, other) for one, other in zip(host, drawn(), strict=True))
