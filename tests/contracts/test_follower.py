"""Every event once and in order, through restarts, reorganisations and endpoints that do not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tolsey.contracts import follower as room
from tolsey.contracts.chain import Chain
from tolsey.contracts.events import Event, Reorg, Withdrawn
from tolsey.contracts.follower import Follower
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.sender import Sender
from tolsey.errors import ChainUnavailable, Reorged
from tolsey.protocol.units import TokenUnits
from tolsey.storage import outbox
from tolsey.storage.engine import Database
from tolsey.testing.chain import MarketWorld

from .chains import ENGINES

POLL_S = 0.01


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MarketWorld]:
    with MarketWorld.open(tmp_path_factory.mktemp("world")) as world:
        world.as_("ann")
        yield world


@pytest.fixture
def world(shared: MarketWorld) -> Iterator[MarketWorld]:
    before = shared.snapshot()
    yield shared
    shared.revert(before)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "log.sqlite")
    yield opened
    opened.close()


class Told:
    """What one subscriber heard."""

    def __init__(self, channel: trio.MemoryReceiveChannel[Event | Reorg]) -> None:
        self.channel = channel
        self.heard: list[Event | Reorg] = []

    async def hear(self, count: int) -> list[Event | Reorg]:
        """Waits for so many more."""
        with trio.fail_after(20):
            for _ in range(count):
                self.heard.append(await self.channel.receive())
        return self.heard[-count:]

    def amounts(self) -> list[int]:
        return [event.amount for event in self.heard if isinstance(event, Withdrawn)]


@asynccontextmanager
async def following(world: MarketWorld, db: Database | None, **changes: Any):  # type: ignore[no-untyped-def]
    follower = Follower(Gateway(replace(world.network, **changes), None), db, poll_s=POLL_S)
    told = Told(follower.subscribe())
    async with trio.open_nursery() as nursery:
        await nursery.start(follower.run)
        yield follower, told
        nursery.cancel_scope.cancel()


def withdraw(world: MarketWorld, *amounts: int) -> None:
    for amount in amounts:
        world.send("ann", world.as_("ann").action.withdraw(TokenUnits(amount)))


async def test_run_tells_history_then_news_in_order(world: MarketWorld, db: Database) -> None:
    withdraw(world, 1, 2)
    expected = world.gateway.logs(0, world.gateway.block_number())
    async with following(world, db) as (follower, told):
        assert await told.hear(len(expected)) == expected
        withdraw(world, 3, 4, 5)
        await told.hear(3)
        assert told.amounts() == [1, 2, 3, 4, 5]
        assert follower.now_ts == world.now_ts()


async def test_restart_goes_on_where_it_stopped(world: MarketWorld, db: Database) -> None:
    withdraw(world, 1)
    async with following(world, db) as (_, told):
        await told.hear(2)
    withdraw(world, 2, 3)
    async with following(world, db) as (_, told):
        await told.hear(2)
        assert told.amounts() == [2, 3]


async def test_without_database_each_run_tells_everything(world: MarketWorld) -> None:
    withdraw(world, 1)
    for _ in range(2):
        async with following(world, None) as (_, told):
            await told.hear(2)
            assert told.amounts() == [1]


async def test_wait_block_wakes_with_the_next_block(world: MarketWorld) -> None:
    async with following(world, None) as (follower, _):
        before = follower.head
        world.mine()
        with trio.fail_after(10):
            assert await follower.wait_block() > before


async def test_reorganisation_is_told_then_what_came_instead(world: MarketWorld, db: Database) -> None:
    withdraw(world, 1)
    async with following(world, db) as (_, told):
        await told.hear(2)
        fork, first_gone = world.snapshot(), world.gateway.block_number() + 1
        withdraw(world, 2, 3)
        await told.hear(2)
        world.revert(fork)
        withdraw(world, 4)
        assert await told.hear(2) == [Reorg(from_block=first_gone), told.heard[-1]]
        assert told.amounts() == [1, 2, 3, 4]


async def test_reorganisation_while_stopped_is_found_at_start(world: MarketWorld, db: Database) -> None:
    fork = world.snapshot()
    withdraw(world, 1, 2)
    async with following(world, db) as (_, told):
        await told.hear(3)
    world.revert(fork)
    withdraw(world, 7)
    async with following(world, db) as (_, told):
        first, second = await told.hear(2)
        assert isinstance(first, Reorg) and isinstance(second, Withdrawn) and second.amount == 7


async def test_reorganisation_to_a_shorter_chain_is_seen(world: MarketWorld, db: Database) -> None:
    fork = world.snapshot()
    withdraw(world, 1, 2, 3)
    async with following(world, db) as (follower, told):
        await told.hear(4)
        world.revert(fork)
        heard = await told.hear(1)
        assert isinstance(heard[0], Reorg)
        with trio.fail_after(10):
            while follower.told > world.gateway.block_number():
                await follower.wait_block()
        assert follower.told == follower.head == world.gateway.block_number()


async def test_reorganisation_deeper_than_allowed_stops(
    world: MarketWorld, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MAX_REORG", 2)
    fork = world.snapshot()
    withdraw(world, 1, 2, 3, 4, 5)
    async with following(world, db) as (_, told):
        await told.hear(6)
    world.revert(fork)
    with pytest.raises(BaseExceptionGroup) as caught:
        async with following(world, db):
            pass
    assert caught.group_contains(Reorged, match="more than 2 blocks") or "2 blocks" in str(caught.value.exceptions)


async def test_confirmations_hold_events_back(world: MarketWorld) -> None:
    async with following(world, None, confirmations=2) as (follower, told):
        withdraw(world, 9)
        at = world.gateway.block_number()
        world.mine()
        with trio.fail_after(10):
            while follower.head < at + 1:
                await follower.wait_block()
        assert 9 not in told.amounts() and follower.told < at
        world.mine()
        while 9 not in told.amounts():
            await told.hear(1)


async def test_slow_subscriber_gets_everything_and_a_closed_one_is_forgotten(world: MarketWorld) -> None:
    follower = Follower(Gateway(world.network, None), None, poll_s=POLL_S)
    slow, gone = Told(follower.subscribe()), follower.subscribe()
    gone.close()
    withdraw(world, *range(1, 9))
    async with trio.open_nursery() as nursery:
        await nursery.start(follower.run)
        await slow.hear(9)
        assert slow.amounts() == list(range(1, 9))
        nursery.cancel_scope.cancel()


async def test_endpoint_that_fails_is_asked_again(world: MarketWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async with following(world, None) as (follower, told):
        await told.hear(1)
        blocks, failures = follower._gateway.blocks, [0]
        honest = blocks.newest

        def flaky() -> Any:
            failures[0] += 1
            if failures[0] <= 2:
                raise ChainUnavailable("no connection")
            return honest()

        monkeypatch.setattr(blocks, "newest", flaky)
        withdraw(world, 5)
        await told.hear(1)
        assert told.amounts() == [5] and failures[0] > 2


async def test_catching_up_in_many_rounds_loses_nothing(world: MarketWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RANGE", 2)
    withdraw(world, *range(1, 8))
    world.mine(5)
    async with following(world, None) as (follower, told):
        await told.hear(8)
        assert told.amounts() == list(range(1, 8))
        assert follower.told == world.gateway.block_number()


async def test_serve_finishes_what_was_left_and_repairs_after_a_reorganisation(
    world: MarketWorld, db: Database
) -> None:
    action = world.as_("ann").action.withdraw(TokenUnits(5))
    assert action.to is not None
    to = bytes.fromhex(action.to[2:])
    db.write_now(outbox.put, "left", chain_id=world.network.chain_id, to=to, data=action.data)
    fork = world.snapshot()
    chain = Chain(Gateway(world.network, world.wallet("ann")), db, poll_s=POLL_S)
    told = Told(chain.follower.subscribe())
    async with trio.open_nursery() as nursery:
        await nursery.start(chain.serve)
        while told.amounts() != [5]:
            await told.hear(1)
        world.revert(fork)
        while told.amounts() != [5, 5]:
            await told.hear(1)
        assert any(isinstance(event, Reorg) for event in told.heard)
        assert await chain.run(chain.gateway.block_number) == chain.follower.head
        nursery.cancel_scope.cancel()


@pytest.fixture(scope="module", params=ENGINES)
def either_world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[MarketWorld]:
    with MarketWorld.open(tmp_path_factory.mktemp("either"), engine=request.param) as world:
        world.as_("ann")
        yield world


@pytest.mark.parametrize("shorter", [True, False])
async def test_block_of_ours_gone_before_it_was_told_of_action_is_mined_again(
    either_world: MarketWorld, db: Database, shorter: bool
) -> None:
    """What the follower waits to be surer of than the sender does; its nonce must not stay taken."""
    world = either_world
    gateway = Gateway(world.network, world.wallet("ann"))
    sender = Sender(gateway, db)
    follower = Follower(Gateway(replace(world.network, confirmations=3), None), db, poll_s=POLL_S)
    told = Told(follower.subscribe())
    before = gateway.account(world.account("ann"))[0]
    fork = world.snapshot()
    async with trio.open_nursery() as nursery:
        await nursery.start(follower.run)
        await sender.send(gateway.action.withdraw(TokenUnits(5)), action_id="a")
        assert await db.read(outbox.mined_above, world.network.chain_id, follower.told)
        world.revert(fork)
        if not shorter:
            world.mine(2)
        while not any(isinstance(event, Reorg) for event in told.heard):
            await told.hear(1)
        with trio.fail_after(10):
            await sender.recover()
        nursery.cancel_scope.cancel()
    assert before - gateway.account(world.account("ann"))[0] == 5
    stored = db.read_now(outbox.find, "a")
    assert stored is not None and stored.state == "mined"
