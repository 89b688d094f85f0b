"""Exactly once: an action is mined one time however often its sender is stopped, refused, stuck or reorganised away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tolsey.contracts.actions import Action
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.sender import Sender
from tolsey.contracts.transactions import NonceTaken, Transactions, Underpriced
from tolsey.errors import ChainUnavailable, InsufficientFunds, LocalViolation, Reverted
from tolsey.protocol.units import TokenUnits
from tolsey.storage import outbox
from tolsey.storage.engine import Database
from tolsey.testing.chain import PURSE, MarketWorld


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MarketWorld]:
    with MarketWorld.open(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture
def world(shared: MarketWorld) -> Iterator[MarketWorld]:
    """The shared chain, as it was before the test."""
    shared.as_("ann")
    before = shared.snapshot()
    yield shared
    shared.rpc("evm_setAutomine", True)
    shared.revert(before)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "outbox.sqlite")
    yield opened
    opened.close()


def withdraw(world: MarketWorld, amount: int) -> Action:
    return world.as_("ann").action.withdraw(TokenUnits(amount))


def left(world: MarketWorld) -> int:
    """What Ann has taken out of the market so far."""
    return PURSE - world.gateway.account(world.account("ann"))[0]


def sender(world: MarketWorld, db: Database | None, **options: Any) -> Sender:
    return Sender(Gateway(world.network, world.wallet("ann")), db, **options)


def state_of(db: Database, action_id: str) -> str | None:
    found = db.read_now(outbox.find, action_id)
    return None if found is None else found.state


async def test_send_gives_the_receipt_with_our_events(world: MarketWorld, db: Database) -> None:
    receipt = await sender(world, db).send(withdraw(world, 5), action_id="a")
    assert receipt.succeeded and [type(event).__name__ for event in receipt.events] == ["Withdrawn"]
    assert left(world) == 5 and state_of(db, "a") == "mined"


async def test_send_same_id_twice_gives_the_old_receipt(world: MarketWorld, db: Database) -> None:
    first = await sender(world, db).send(withdraw(world, 5), action_id="a")
    again = await sender(world, db).send(withdraw(world, 5), action_id="a")
    assert first == again and left(world) == 5


async def test_send_same_id_for_other_content_refused(world: MarketWorld, db: Database) -> None:
    with pytest.raises(LocalViolation):
        db.write_now(outbox.put, "a", chain_id=world.network.chain_id, to=b"\x01" * 20, data=b"x")
        await sender(world, db).send(withdraw(world, 5), action_id="a")
    assert left(world) == 0


async def test_send_many_at_once_each_mined_once(world: MarketWorld, db: Database) -> None:
    one = sender(world, db)
    async with trio.open_nursery() as nursery:
        for amount in range(1, 11):
            for _ in range(2):
                nursery.start_soon(lambda n: one.send(withdraw(world, n), action_id=f"w{n}"), amount)
    assert left(world) == sum(range(1, 11))


async def test_send_refused_keeps_nothing_and_may_be_tried_again(world: MarketWorld, db: Database) -> None:
    one = sender(world, db)
    too_much = withdraw(world, PURSE + 7)
    with pytest.raises(Reverted) as refusal:
        await one.send(too_much, action_id="a")
    assert refusal.value.name == "Ledger_InsufficientFree" and refusal.value.args_by_name["free"] == PURSE
    assert state_of(db, "a") is None
    world.send("ann", world.as_("ann").action.mint(TokenUnits(7)))
    world.send("ann", world.as_("ann").action.deposit(TokenUnits(7)))
    assert (await one.send(too_much, action_id="a")).succeeded


async def test_send_reverted_in_its_block_says_why_each_time(
    world: MarketWorld, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the estimate let through is refused by the block: somebody was quicker."""
    monkeypatch.setattr(Transactions, "estimate", lambda self, action: 200_000)
    one = sender(world, db)
    for _ in range(2):
        with pytest.raises(Reverted, match="free in the market") as refusal:
            await one.send(withdraw(world, PURSE + 1), action_id="b")
        assert refusal.value.name == "Ledger_InsufficientFree"
    stored = db.read_now(outbox.find, "b")
    assert stored is not None and stored.state == "reverted" and len(stored.attempts) == 1


async def test_send_without_ether_says_what_is_needed(world: MarketWorld, db: Database) -> None:
    world.rpc("anvil_setBalance", world.account("ann"), hex(1000))
    with pytest.raises(InsufficientFunds) as refusal:
        await sender(world, db).send(withdraw(world, 5), action_id="a")
    assert "ETH" in refusal.value.diagnostics() and state_of(db, "a") is None


async def test_send_without_database_waits_for_the_receipt(world: MarketWorld) -> None:
    assert (await sender(world, None).send(withdraw(world, 3), action_id="a")).succeeded
    assert left(world) == 3


# Stopped at each step.


class Stopped(BaseException):
    """The process ends here, as by kill -9: nothing after this line runs."""


STEPS: list[tuple[str, Callable[[pytest.MonkeyPatch], None], str | None, int]] = [
    ("before anything is stored", lambda patch: stop_at(patch, Sender, "_store"), None, 0),
    ("stored, not sent", lambda patch: stop_at(patch, Transactions, "broadcast"), "signed", 0),
    ("sent, not written down", lambda patch: stop_at(patch, outbox, "mark_sent"), "signed", 5),
    ("written down, not waited for", lambda patch: stop_at(patch, Sender, "_look"), "sent", 5),
    ("mined, not written down", lambda patch: stop_at(patch, outbox, "mark_mined"), "sent", 5),
]


def stop_at(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise Stopped

    patch.setattr(owner, name, stop)


@pytest.mark.parametrize("how", ["recover", "send again"])
@pytest.mark.parametrize(("step", "stop", "state", "taken"), STEPS, ids=[step[0] for step in STEPS])
async def test_stopped_anywhere_then_mined_exactly_once(
    world: MarketWorld,
    db: Database,
    step: str,
    stop: Callable[[pytest.MonkeyPatch], None],
    state: str | None,
    taken: int,
    how: str,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        with pytest.raises(Stopped):
            await sender(world, db).send(withdraw(world, 5), action_id="a")
    assert state_of(db, "a") == state
    await until(lambda: left(world) == taken)
    next_life = sender(world, db)
    if how == "recover":
        await next_life.recover()
    if how == "send again" or state is None:
        await next_life.send(withdraw(world, 5), action_id="a")
    assert left(world) == 5 and state_of(db, "a") == "mined"
    await next_life.recover()
    assert left(world) == 5


async def test_recover_action_meant_by_a_room_is_sent(world: MarketWorld, db: Database) -> None:
    action = withdraw(world, 5)
    assert action.to is not None
    to = bytes.fromhex(action.to[2:])
    db.write_now(outbox.put, "meant", chain_id=world.network.chain_id, to=to, data=action.data)
    hopeless = withdraw(world, PURSE * 2)
    db.write_now(outbox.put, "hopeless", chain_id=world.network.chain_id, to=to, data=hopeless.data)
    await sender(world, db).recover()
    assert (state_of(db, "meant"), state_of(db, "hopeless"), left(world)) == ("mined", "refused", 5)


KILLED = """
import sys, trio
from pathlib import Path
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.sender import Sender
from tolsey.contracts.wallet import Wallet
from tolsey.protocol.units import TokenUnits
from tolsey.storage.engine import Database

folder, key = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
gateway = Gateway(NetworkFile.load(folder / "net.toml"), Wallet.from_private_key(key))
sender = Sender(gateway, Database.open(folder / "outbox.sqlite"))

async def main():
    await sender.recover()
    print("recovered", flush=True)
    for n in range(1, 13):
        await sender.send(gateway.action.withdraw(TokenUnits(1 << n)), action_id=f"w{n}")
        print(n, flush=True)

trio.run(main)
"""


@pytest.mark.slow
def test_killed_again_and_again_every_action_is_mined_once(world: MarketWorld, tmp_path: Path) -> None:
    world.network.save(tmp_path / "net.toml")
    key = bytes(world.wallet("ann")._key.key).hex()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for line_to_die_at in (1, 3, 5, None):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path), key], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        for number, _line in enumerate(process.stdout):
            if number == line_to_die_at:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == (0 if line_to_die_at is None else -signal.SIGKILL)
    assert left(world) == sum(1 << n for n in range(1, 13))


# Stuck, replaced, raced, cut off.


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110  what is waited for happens in another process
            await trio.sleep(0.01)


async def test_stuck_transaction_gets_a_dearer_copy_and_one_is_mined(world: MarketWorld, db: Database) -> None:
    world.rpc("evm_setAutomine", False)
    one = sender(world, db, stuck_s=0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: one.send(withdraw(world, 5), action_id="a"))

        def copies() -> int:
            found = db.read_now(outbox.find, "a")
            return 0 if found is None else len(found.attempts)

        await until(lambda: copies() >= 3)
        world.mine()
    stored = db.read_now(outbox.find, "a")
    assert stored is not None and stored.state == "mined" and left(world) == 5
    assert len({attempt.tx_hash for attempt in stored.attempts}) == len(stored.attempts) >= 3


async def test_nonce_used_by_a_stranger_action_is_signed_anew(
    world: MarketWorld, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, Transactions, "broadcast")
        with pytest.raises(Stopped):
            await sender(world, db).send(withdraw(world, 5), action_id="a")
    world.send("ann", withdraw(world, 1))  # the same key elsewhere
    await sender(world, db).recover()
    assert state_of(db, "a") == "mined" and left(world) == 6


async def test_underpriced_copy_is_raised_until_it_is_taken(
    world: MarketWorld, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, refusals = Transactions.broadcast, [0]

    def picky(self: Transactions, raw: bytes) -> None:
        refusals[0] += 1
        if refusals[0] <= 2:
            raise Underpriced("max fee per gas less than block base fee")
        honest(self, raw)

    monkeypatch.setattr(Transactions, "broadcast", picky)
    await sender(world, db).send(withdraw(world, 5), action_id="a")
    stored = db.read_now(outbox.find, "a")
    assert stored is not None and len(stored.attempts) == 3 and left(world) == 5


async def test_endpoint_gone_after_signing_action_waits_for_it(
    world: MarketWorld, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = Transactions.broadcast, [0]

    def flaky(self: Transactions, raw: bytes) -> None:
        calls[0] += 1
        if calls[0] <= 3:
            raise ChainUnavailable("no connection")
        honest(self, raw)

    monkeypatch.setattr(Transactions, "broadcast", flaky)
    assert (await sender(world, db).send(withdraw(world, 5), action_id="a")).succeeded
    assert left(world) == 5


async def test_endpoint_down_before_signing_raises_and_keeps_nothing(world: MarketWorld, db: Database) -> None:
    network = world.network
    dead = Gateway(
        type(network)(**{**{f: getattr(network, f) for f in network.__slots__}, "rpc_url": "http://127.0.0.1:9"}),
        world.wallet("ann"),
    )
    with pytest.raises(ChainUnavailable):
        await Sender(dead, db).send(withdraw(world, 5), action_id="a")
    assert state_of(db, "a") is None


async def test_older_signed_action_goes_first(world: MarketWorld, db: Database) -> None:
    """A crash left nonce n on disk only; the next action has n + 1 and would wait for ever."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, Transactions, "broadcast")
        with pytest.raises(Stopped):
            await sender(world, db).send(withdraw(world, 5), action_id="a")
    with trio.fail_after(10):
        await sender(world, db).send(withdraw(world, 3), action_id="b")
    assert left(world) == 8


async def test_block_gone_action_is_mined_again_once(world: MarketWorld, db: Database) -> None:
    before = world.snapshot()
    one = sender(world, db)
    first = await one.send(withdraw(world, 5), action_id="a")
    world.revert(before)
    world.mine()
    assert left(world) == 0
    with trio.fail_after(10):
        second = await one.send(withdraw(world, 5), action_id="a")
    assert left(world) == 5 and second.block_hash != first.block_hash and state_of(db, "a") == "mined"


async def test_block_gone_unnoticed_next_action_sends_the_lost_one_first(world: MarketWorld, db: Database) -> None:
    """Nobody follows the chain, as in a client's command: the taken nonce is above all that the chain knows."""
    before = world.snapshot()
    one = sender(world, db)
    await one.send(withdraw(world, 5), action_id="a")
    await one.send(withdraw(world, 7), action_id="b")
    world.revert(before)
    with trio.fail_after(10):
        await one.send(withdraw(world, 3), action_id="c")
        await one.recover()
    assert left(world) == 15 and [state_of(db, action_id) for action_id in "abc"] == ["mined"] * 3


async def test_confirmations_are_waited_for(world: MarketWorld, db: Database) -> None:
    network = world.network
    deep = type(network)(**{**{f: getattr(network, f) for f in network.__slots__}, "confirmations": 3})
    one = Sender(Gateway(deep, world.wallet("ann")), db)
    done: list[int] = []

    async def send() -> None:
        receipt = await one.send(withdraw(world, 5), action_id="a")
        done.append(receipt.block_number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await until(lambda: left(world) == 5)
        world.mine(2)
        await trio.sleep(0.1)
        assert not done and state_of(db, "a") == "sent"
        world.mine(1)
    assert done


def test_broadcast_same_bytes_twice_is_harmless(world: MarketWorld) -> None:
    made = world.as_("ann").transactions
    action = withdraw(world, 5)
    signed = made.sign(action, nonce=made.next_nonce(), gas=made.estimate(action), fees=made.fees())
    made.broadcast(signed.raw)
    try:
        made.broadcast(signed.raw)
    except NonceTaken:
        pass  # mined already
    assert left(world) == 5
