"""The embedded chain's clock: a busy chain runs ahead by a second a block, and then waits for the wall clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tolsey.contracts.devchain.engine import Engine
from tolsey.contracts.devchain.store import ChainStore

NOON = 1_800_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> Iterator[Engine]:
    store = ChainStore(tmp_path / "chain.sqlite")
    yield Engine(store, clock=clock)
    store.close()


def test_chain_that_is_ahead_mines_no_idle_block_until_the_clock_has_caught_up(engine: Engine, clock: Clock) -> None:
    for _ in range(10):
        engine.mine()  # as ten transactions of one second would
    assert engine.head.timestamp == NOON + 10
    for second in range(10):
        clock.now = NOON + second + 1
        engine.mine_if_due()
    assert engine.head.timestamp == NOON + 10
    clock.now = NOON + 11
    engine.mine_if_due()
    assert engine.head.timestamp == NOON + 11


def test_idle_chain_follows_the_clock_block_by_block(engine: Engine, clock: Clock) -> None:
    for second in range(1, 6):
        clock.now = NOON + second
        engine.mine_if_due()
        assert (engine.head.block_number, engine.head.timestamp) == (second, NOON + second)


def test_shifted_clock_is_followed_and_a_wanted_time_is_kept(engine: Engine, clock: Clock) -> None:
    engine.shift_time(3_600)
    clock.now += 1
    engine.mine_if_due()
    assert engine.head.timestamp == NOON + 3_601
    engine.set_next_timestamp(NOON + 9_000)
    engine.mine_if_due()
    assert engine.head.timestamp == NOON + 9_000
