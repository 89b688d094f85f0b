from __future__ import annotations

import random
from collections import Counter
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.protocol.encoding import keccak256, word
from tolsey.protocol.sampling import (
    challenge_seal,
    detection_odds,
    dispute_id,
    draw,
    drawn_verifier_ids,
    panel_order,
    verdict_seal,
    verifier_salt,
    verifier_sample,
    vote_seal,
    window_seed,
)

JOB = b"\x11" * 32
ROOT = b"\x22" * 32
ALICE, BOB = "0x" + "aa" * 20, "0x" + "bb" * 20


@given(st.binary(max_size=40), st.integers(0, 300), st.data())
def test_draw_gives_distinct_numbers_of_the_population(key: bytes, population: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, population))
    drawn = draw(key, population, count)
    assert len(drawn) == len(set(drawn)) == count
    assert all(0 <= value < population for value in drawn)
    assert draw(key, population, population)[:count] == drawn, "a larger draw continues a smaller one"


def test_draw_of_more_than_there_are_raises() -> None:
    with pytest.raises(ValueError, match="4 of 3"):
        draw(b"k", 3, 4)


def test_draw_is_the_documented_shuffle() -> None:
    """Section 2.1 of docs/protocol.md written out with the whole array in memory."""
    places = list(range(17))
    for i in range(9):
        r = i + int.from_bytes(keccak256(b"tolsey/draw/1".ljust(32, b"\0"), b"key", word(i)), "big") % (17 - i)
        places[i], places[r] = places[r], places[i]
    assert draw(b"key", 17, 9) == places[:9]


def test_draw_is_uniform_by_chi_square() -> None:
    """Each of 20 numbers falls in a draw of 5 equally often: chi-square of 19 degrees stays under its 0.9999 point."""
    trials = 4_000
    counts = Counter(value for i in range(trials) for value in draw(word(i), 20, 5))
    expected = trials * 5 / 20
    # A draw without repetition has a smaller variance than a multinomial; the bound is safe.
    assert sum((counts[v] - expected) ** 2 / expected for v in range(20)) < 50.8


def test_window_seed_depends_on_each_input_and_has_112_bits() -> None:
    seeds = {
        window_seed(JOB, 0, ROOT, bytes(32), 5),
        window_seed(ROOT, 0, ROOT, bytes(32), 5),
        window_seed(JOB, 1, ROOT, bytes(32), 5),
        window_seed(JOB, 0, JOB, bytes(32), 5),
        window_seed(JOB, 0, ROOT, b"\1" * 32, 5),
        window_seed(JOB, 0, ROOT, bytes(32), 6),
    }
    assert len(seeds) == 6
    assert all(0 <= seed < 1 << 112 for seed in seeds)
    assert max(seed.bit_length() for seed in seeds) > 100


def test_verifier_salt_depends_on_secret_job_and_window() -> None:
    salts = {
        verifier_salt(b"\1" * 32, JOB, 0), verifier_salt(b"\2" * 32, JOB, 0), verifier_salt(b"\1" * 32, ROOT, 0),
        verifier_salt(b"\1" * 32, JOB, 1),
    }  # fmt: skip
    assert len(salts) == 4
    assert all(salt < 1 << 128 for salt in salts)


@given(st.integers(0, (1 << 112) - 1), st.integers(0, 40), st.integers(0, 7))
def test_drawn_verifiers_are_at_most_the_pool(seed: int, pool: int, wanted: int) -> None:
    ids = drawn_verifier_ids(seed, pool, wanted)
    assert len(ids) == min(pool, wanted)
    assert len(set(ids)) == len(ids)


def test_two_verifiers_with_other_salts_draw_other_samples() -> None:
    assert verifier_sample(9, 1, 1_000, 20) != verifier_sample(9, 2, 1_000, 20)
    assert len(verifier_sample(9, 1, 6, 20)) == 6


def test_panel_order_is_a_permutation_that_changes_with_the_round() -> None:
    first, second = panel_order(JOB, 0, 7, 30), panel_order(JOB, 1, 7, 30)
    assert sorted(first) == sorted(second) == list(range(30))
    assert first != second


def test_the_three_kinds_of_draw_are_independent() -> None:
    assert drawn_verifier_ids(5, 50, 7) != verifier_sample(5, 0, 50, 7)


def test_verdict_seal_is_bound_to_its_sender_and_marked() -> None:
    mine = verdict_seal(JOB, 0, ALICE, 1, 0, 9)
    assert mine[0] & 0x80
    assert mine != verdict_seal(JOB, 0, BOB, 1, 0, 9)
    others = [(JOB, 1, ALICE, 1, 0, 9), (JOB, 0, ALICE, 2, 0, 9), (JOB, 0, ALICE, 1, 1, 9), (JOB, 0, ALICE, 1, 0, 8)]
    assert mine not in [verdict_seal(*other) for other in others]


def test_challenge_and_vote_seals_are_bound_to_their_senders() -> None:
    assert challenge_seal(ALICE, JOB, 1, ROOT, JOB) != challenge_seal(BOB, JOB, 1, ROOT, JOB)
    assert vote_seal(JOB, 0, ALICE, 1, ROOT) != vote_seal(JOB, 0, BOB, 1, ROOT)
    assert vote_seal(JOB, 0, ALICE, 1, ROOT) != vote_seal(JOB, 1, ALICE, 1, ROOT)


def test_dispute_id_is_one_per_segment() -> None:
    assert dispute_id(JOB, 3) == keccak256(JOB, word(3)) != dispute_id(JOB, 4)


@pytest.mark.parametrize(
    ("segments", "faked", "samples"),
    [(40, 1, [4]), (40, 4, [4, 4]), (200, 20, [10]), (15, 15, [1]), (64, 6, [8, 8, 8]), (10, 0, [3])],
)
def test_detection_odds_agree_with_simulated_draws(segments: int, faked: int, samples: list[int]) -> None:
    """The formula against the real sampler: 2,500 windows, within five standard deviations."""
    trials, caught = 2_500, 0
    chooser = random.Random(f"{segments}/{faked}/{samples}")
    for seed in range(trials):
        bad = set(chooser.sample(range(segments), faked))
        caught += any(bad & set(verifier_sample(seed, salt, segments, size)) for salt, size in enumerate(samples))
    odds = detection_odds(segments, faked, samples)
    assert abs(caught / trials - odds) <= 5 * sqrt(odds * (1 - odds) / trials) + 1e-9


@pytest.mark.parametrize(("share", "samples"), [(0.01, 459), (0.05, 90), (0.10, 44), (0.20, 21)])
def test_detection_odds_reach_99_percent_at_the_published_sample_sizes(share: float, samples: int) -> None:
    """Sizes for an unbounded window, 1 - (1 - f)^k (design.md section 7); a finite one is never worse."""
    assert detection_odds(10_000, int(10_000 * share), [samples]) >= 0.99


def test_detection_odds_of_a_full_sample_is_certainty() -> None:
    assert detection_odds(8, 1, [8]) == 1.0
    assert detection_odds(8, 1, [100]) == 1.0
    assert detection_odds(8, 1, []) == 0.0
