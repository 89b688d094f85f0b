"""The plan: who is chosen, why others are not, and what the screen says."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from tolsey.client import plan, present, render, views
from tolsey.client.money import Money
from tolsey.errors import ConfigError, NoOffer
from tolsey.protocol.job import PINNED
from tolsey.protocol.offer import LOCAL_CLOCKS
from tolsey.protocol.units import Seconds, StateRoot, TokenUnits

from .offers import CLASS, CLIENT, REQUEST, SPEC, TERMS, candidate


def examined(found: plan.Candidate, terms: plan.Terms = TERMS) -> plan.Candidate:
    return plan.examine(found, REQUEST, max_cost=terms.max_cost, now_ts=1_000)


def made(*found: plan.Candidate, pool_size: int = 3, empty: int = 0, terms: plan.Terms = TERMS) -> plan.Plan:
    examined_all = [examined(c, terms) for c in found]
    return plan.make_plan(examined_all, spec=SPEC, terms=terms, pool_size=pool_size, pool_places=pool_size + empty)


def test_plan_cheapest_fitting_offer_is_chosen() -> None:
    found = made(candidate(1, 900_000), candidate(2, 500_000), candidate(3, 700_000))
    assert found.chosen.account == candidate(2, 1).account
    assert [c.offer.price for c in found.candidates if c.offer] == [500_000, 700_000, 900_000]


def test_plan_equal_price_takes_the_quicker() -> None:
    found = made(candidate(1, 500_000, eta_s=9.0), candidate(2, 500_000, eta_s=3.0))
    assert found.chosen.account == candidate(2, 1).account


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"client_seal": b"z" * 32}, "client seal is"),
        ({"verifier_count": 1}, "verifier count is 1, asked was 3"),
        ({"sample_count": 1}, "sample count is 1"),
        ({"verdict_fee": TokenUnits(1)}, "verdict fee is 1, asked was 50000"),
        ({"commit_window_s": Seconds(9_999)}, "commit window is 9999"),
        ({"expires_at": 900}, "expired 100 s ago"),
        ({"forfeit": TokenUnits(400_000)}, "forfeit of 400000 units, more than one window's price"),
        ({"worker": CLIENT}, "worker is"),
        ({"price": TokenUnits(500_001)}, "price is 500001 units, its listing says 500000"),
        ({"bond": TokenUnits(4_999_999)}, "bond is 4999999 units, its listing says 5000000"),
        ({"initial_root": StateRoot(b"q" * 32)}, "initial root is"),
    ],
)
def test_examine_offer_with_other_terms_is_dropped(changed: dict[str, object], words: str) -> None:
    assert words in examined(candidate(1, 500_000, **changed)).dropped


def test_plan_escrow_above_the_cap_is_dropped_and_the_way_out_is_told() -> None:
    capped = dataclasses.replace(TERMS, max_cost=TokenUnits(600_000))
    with pytest.raises(NoOffer) as caught:
        made(candidate(1, 500_000), terms=capped)
    assert "needs an escrow of 800000 units, your cap is 600000" in caught.value.message
    assert "--max-cost" in (caught.value.fix or "")
    assert list(caught.value.dropped) == [candidate(1, 1).account]


def test_plan_nobody_there_says_so() -> None:
    with pytest.raises(NoOffer, match="nobody's listing was heard"):
        made()


def test_odds_count_no_more_verifiers_than_there_are() -> None:
    few, many = made(candidate(1, 1_000), pool_size=1), made(candidate(1, 1_000), pool_size=9)
    assert few.odds == plan.odds(5, {1: 1.0}, 2)
    assert many.odds == plan.odds(5, {3: 1.0}, 2)
    # 1 of 5 segments faked, 3 verifiers with 2 samples each: missed with (3/5)^3.
    assert many.odds[0].caught == pytest.approx(1 - 0.6**3)


def test_odds_name_each_possible_number_of_faked_segments_once() -> None:
    assert [(o.faked, o.share) for o in plan.odds(3, {3: 1.0}, 1)] == [(1, 1 / 3), (2, 2 / 3)]
    assert [o.faked for o in plan.odds(200, {3: 1.0}, 4)] == [2, 20, 100]
    assert [o.caught for o in plan.odds(1, {1: 1.0}, 1)] == [1.0]
    few = plan.odds(3, {2: 1.0}, 1)
    assert [o.caught for o in few] == pytest.approx([1 - (2 / 3) ** 2, 1 - (1 / 3) ** 2])


@pytest.mark.parametrize(
    ("eta_s", "paid_s"),
    [
        (10.0, 5 + 65 + 65),  # quick training: two challenge windows, and the first half of the training
        (400.0, 200 + 200 + 65),  # slow training: all of it, and the last challenge window
    ],
)
def test_paid_after_counts_challenge_windows(eta_s: float, paid_s: float) -> None:
    assert plan.paid_after_s(SPEC, eta_s, LOCAL_CLOCKS) == paid_s
    text = drawn(render.plan(present.plan(made(candidate(1, 500_000, eta_s=eta_s))), Money()))
    assert render.duration(paid_s) in text and f"training is {render.duration(eta_s)} of it" in text


def test_class_label_tells_classes_of_one_device_apart() -> None:
    name = "GenuineIntel AVX512 torch 2.9.0+cpu"
    assert render.class_label(name, "ab" * 32) == "GenuineIntel AVX512 ababab"
    assert render.class_label(name, "cd" * 32) != render.class_label(name, "ab" * 32)
    text = drawn(render.plan(present.plan(made(candidate(1, 500_000))), Money()))
    assert render.class_label("cpu", CLASS.hex()) in text


def test_odds_count_the_draws_that_fall_on_empty_places() -> None:
    # Two verifiers in four places, three drawn: one is met with 2·1/4, both with 1·2/4.
    assert plan.likely_drawn(3, 2, 4) == {0: 0, 1: 0.5, 2: 0.5, 3: 0}
    found = made(candidate(1, 1_000), pool_size=2, empty=2)
    assert found.odds[0].caught == pytest.approx(1 - 0.5 * 0.6 - 0.5 * 0.6**2)
    assert "2 of 4 places in the pool are empty" in drawn(render.plan(present.plan(found), Money()))


def test_plan_screen_says_money_odds_and_reasons() -> None:
    busy = dataclasses.replace(candidate(9, 1), offer=None, dropped="is busy with 1 of 1 jobs")
    text = drawn(render.plan(present.plan(made(candidate(1, 500_000), busy)), Money()))
    for words in (
        "0.80 USD = price 0.50 USD + verdict fees 0.30 USD", "is busy with 1 of 1 jobs", "bond 5.00 USD", "chosen",
        "3 of 3 verifiers replay 2 of 5 segments", "1 of 5 → 78.4%, 2 of 5 → 97.3%",
        f"challenge {render.duration(LOCAL_CLOCKS.challenge_window_s)}",
    ):  # fmt: skip
        assert words in text, words


def test_plan_screen_warns_where_nobody_checks() -> None:
    text = drawn(render.plan(present.plan(made(candidate(1, 500_000), pool_size=0)), Money()))
    assert "no verifier is registered for this profile" in text


def test_plan_screen_and_json_name_the_profile_and_who_can_check_it() -> None:
    view = present.plan(made(candidate(1, 500_000), pool_size=0))
    pinned = dataclasses.replace(view, profile=PINNED)
    assert "profile   exact-fp32/1: the same bits on every machine" in drawn(render.plan(view, Money()))
    assert json.loads(views.dumps(view))["profile"] == "exact-fp32/1"
    text = drawn(render.plan(pinned, Money()))
    assert "profile   pinned: bits agree between machines of the worker's class" in text
    assert "no verifier is registered in this class" in text


def test_offers_screen_names_each_workers_profiles() -> None:
    both = candidate(1, 1).listing
    text = drawn(render.offers([present.listing(both)], Money()))
    assert "exact-fp32/1, exact-int8/1" in text
    old = present.listing(dataclasses.replace(both, profiles=(PINNED,)))
    assert "exact-fp32/1" not in drawn(render.offers([old], Money()))


def test_plan_json_has_the_documented_keys() -> None:
    value = json.loads(views.dumps(present.plan(made(candidate(1, 500_000)))))
    assert set(value) == {field.name for field in dataclasses.fields(views.PlanView)}
    assert value["escrow"] == 800_000 and value["clocks"]["verdict_window_s"] == LOCAL_CLOCKS.verdict_window_s
    assert set(value["candidates"][0]) == {field.name for field in dataclasses.fields(views.CandidateView)}


def drawn(what: object) -> str:
    console = Console(file=io.StringIO(), width=160, highlight=False)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("units", "text"), [(0, "0.00 USD"), (1_250_000, "1.25 USD"), (1, "0.000001 USD"), (-5_000_000, "-5.00 USD")]
)
def test_money_text_is_exact(units: int, text: str) -> None:
    assert Money().text(units) == text


@pytest.mark.parametrize(
    ("text", "units"), [("1.25", 1_250_000), ("0.000001", 1), ("12", 12_000_000), ("1.2500000", 1_250_000)]
)
def test_money_parse_is_exact(text: str, units: int) -> None:
    assert Money().parse(text) == units


@pytest.mark.parametrize("text", ["", "-1", "1e3", "1,5", "0.0000001", "nan"])
def test_money_parse_refuses_what_is_no_amount(text: str) -> None:
    with pytest.raises(ConfigError):
        Money().parse(text)
