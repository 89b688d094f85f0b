"""Scores and budgets against a clock of our own."""

from __future__ import annotations

import trio

from tolsey.network import budgets, scores
from tolsey.network.budgets import Budget
from tolsey.network.scores import Scores


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_score_stranger_is_zero():
    table = Scores(Clock())
    assert table.score("p") == 0 and not table.is_refused("p")


def test_score_three_violations_refuse_for_a_while():
    clock = Clock()
    table = Scores(clock)
    for count in range(3):
        assert not table.is_refused("p"), count
        table.lower("p", scores.VIOLATION, "test")
    assert table.is_refused("p") and not table.is_refused("q")
    clock.now += scores.REFUSE_S - 1
    assert table.is_refused("p")
    clock.now += 1
    assert not table.is_refused("p")


def test_score_one_lie_refuses():
    table = Scores(Clock())
    table.lower("p", scores.LIE, "test")
    assert table.is_refused("p")


def test_score_heals_by_half_life():
    clock = Clock()
    table = Scores(clock)
    table.lower("p", 80, "test")
    clock.now += scores.HALF_LIFE_S
    assert table.score("p") == -40
    table.lower("p", 10, "test")
    assert table.score("p") == -50


def test_score_flood_of_ids_forgets_no_ban():
    table = Scores(Clock())
    table.lower("banned", scores.LIE, "test")
    for i in range(scores.MAX_PEERS + 500):
        table.lower(f"p{i}", 1, "test")
    assert len(table) == scores.MAX_PEERS
    assert table.is_refused("banned") and table.score("p0") == 0


async def test_budget_take_refuses_beyond_burst(autojump_clock):
    budget = Budget(10, burst=3)
    assert [budget.take("p") for _ in range(4)] == [True, True, True, False]
    assert budget.take("q")
    await trio.sleep(0.1)
    assert budget.take("p") and not budget.take("p")


async def test_budget_spend_waits_for_the_rate(autojump_clock):
    budget = Budget(100, burst=100)
    start = trio.current_time()
    for _ in range(5):
        await budget.spend("p", 100)
    assert trio.current_time() - start == 4


async def test_budget_none_is_no_limit(autojump_clock):
    budget = Budget(None)
    await budget.spend("p", 1e12)
    assert budget.take("p", 1e12) and trio.current_time() == 0


async def test_budget_table_is_bounded(autojump_clock):
    budget = Budget(1, burst=1)
    for i in range(budgets.MAX_BUCKETS + 1):
        budget.take(f"p{i}")
        await trio.sleep(0.01)
    assert len(budget._buckets) < 200
