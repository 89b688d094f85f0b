"""Follows the chain: every event of the market once and in order, and every reorganisation undone.

This is the one place where the chain is polled. A round: ask for the newest header; if a block that we have told of is
no longer the chain's, walk back to the last common one, forget what came after, and tell `Reorg(from_block)`; so too
if an action of ours was mined in a later block that is gone. Then tell the events up to the newest block that has
enough confirmations. The cursor is written after the events were handed to
the subscribers, so after a crash they are told again: an event is known by its `key`, and whoever acts on one looks at
the chain's state first.

Subscribe before `run` is started; a subscriber that lags holds the follower up (its channel is bounded), one that is
closed is forgotten. An endpoint that does not answer is asked again, ever more slowly. Deeper reorganisations than
MAX_REORG stop the follower: a human must look. Next in the flow: book.py, and the rooms above.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import trio

from tolsey.contracts.blocks import Header
from tolsey.contracts.events import Event, Reorg
from tolsey.contracts.gateway import Gateway
from tolsey.errors import ChainUnavailable, Reorged
from tolsey.storage import chain_log, outbox
from tolsey.storage.chain_log import SeenBlock
from tolsey.storage.engine import Database, Session

T = TypeVar("T")
MAX_REORG = 64
"""Blocks; two epochs of Ethereum, after which a block is final."""
RANGE = 1_000
"""Blocks told of in one round while catching up."""
CHANNEL_EVENTS = 256
SLOWEST_POLL_S = 30.0
log = logging.getLogger(__name__)


class Follower:
    """Follows one market.

    Args:
        db: where the cursor survives; None starts at the market's first block each time.
        name: of the cursor in the database.
        poll_s: between rounds.

    Attributes:
        now_ts: time of the newest block seen, unix seconds; 0 before `run` has started.
        head: number of the newest block seen.
        told: number of the last block whose events were told.
    """

    def __init__(
        self, gateway: Gateway, db: Database | None = None, *, name: str = "market", poll_s: float = 0.25
    ) -> None:
        self._gateway = gateway
        self._db = db
        self._name = name
        self._poll_s = poll_s
        self._hashes: OrderedDict[int, bytes] = OrderedDict()
        self._subscribers: list[trio.MemorySendChannel[Event | Reorg]] = []
        self._new_block = trio.Event()
        self._limiter = trio.CapacityLimiter(1)
        self.now_ts = 0
        self.head = 0
        self.told = gateway.network.deployed_block - 1

    def subscribe(self) -> trio.MemoryReceiveChannel[Event | Reorg]:
        """Everything that is told from now on; close the channel to end it."""
        send, receive = trio.open_memory_channel[Event | Reorg](CHANNEL_EVENTS)
        self._subscribers.append(send)
        return receive

    async def wait_block(self) -> int:
        """Sleeps until a newer block is seen; its number."""
        await self._new_block.wait()
        return self.head

    async def run(
        self,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Follows until cancelled; started once all events up to the present were told.

        Raises:
            Reorged: deeper than MAX_REORG. ChainUnavailable: only before it has started.
        """
        if self._db is not None:
            await self._load(self._db)
        while await self._round():
            pass
        task_status.started()
        wait_s, down = self._poll_s, False
        while True:
            try:
                while await self._round():
                    pass
                wait_s, down = self._poll_s, False
            except ChainUnavailable as error:
                if not down:
                    log.warning("the chain cannot be followed: %s", error.message)
                wait_s, down = min(SLOWEST_POLL_S, max(wait_s, 0.25) * 2), True
            await trio.sleep(wait_s)

    async def _round(self) -> bool:
        """One look; whether more is to be told at once."""
        mined = await self._mined_untold()  # before `newest` is asked for, which must not be older than it
        newest = await self._ask(self._gateway.blocks.newest)
        is_new, self.head, self.now_ts = newest.number != self.head, newest.number, newest.ts
        ancestor = await self._ask(partial(self._common_ancestor, newest))
        if ancestor < self.told or (mined and not await self._ask(partial(self._all_there, mined, newest))):
            await self._undo(ancestor)
        final = newest.number - self._gateway.network.confirmations
        last = min(final, self.told + RANGE)
        if last > self.told:
            headers, events = await self._ask(partial(self._read, self.told + 1, last, newest.number))
            if headers is None:
                return True  # the chain changed while we read
            for event in events:
                await self._tell(event)
            await self._keep(last, headers, events)
        if is_new:  # whoever waited for the block finds its events told
            self._new_block.set()
            self._new_block = trio.Event()
        return self.told < final

    def _common_ancestor(self, newest: Header) -> int:
        """The highest block that we have told of and that is still the chain's."""
        number = self.told
        while number in self._hashes:
            if self.told - number > MAX_REORG:
                raise Reorged(
                    f"more than {MAX_REORG} blocks below {self.told} are gone",
                    fix="check the endpoint; if the chain was reset, start with a fresh data folder",
                )
            if number <= newest.number:
                here = newest if number == newest.number else self._gateway.blocks.at(number)
                if here is not None and here.hash == self._hashes[number]:
                    return number
            number -= 1
        return number

    def _all_there(self, mined: list[tuple[int, bytes]], newest: Header) -> bool:
        """Whether all these blocks are the chain's."""
        for number, block_hash in mined:
            here = self._gateway.blocks.at(number) if number <= newest.number else None
            if here is None or here.hash != block_hash:
                return False
        return True

    def _read(self, first: int, last: int, newest: int) -> tuple[list[Header] | None, list[Event]]:
        """Headers worth remembering and events of a range, or (None, []) where they do not fit together."""
        blocks = self._gateway.blocks
        headers: list[Header] = []
        for number in range(min(last, max(first, newest - chain_log.KEPT_BLOCKS)), last + 1):
            header = blocks.at(number)
            if header is None or header.parent_hash != self._hash_before(headers, header):
                return None, []
            headers.append(header)
        try:
            events = blocks.logs(first, last)
        except Reorged:
            return None, []
        by_number = {header.number: header.hash for header in headers}
        if any(by_number.get(event.block_number, event.block_hash) != event.block_hash for event in events):
            return None, []
        return headers, events

    def _hash_before(self, headers: list[Header], header: Header) -> bytes:
        if headers:
            return headers[-1].hash
        return self._hashes.get(header.number - 1, header.parent_hash)

    async def _undo(self, ancestor: int) -> None:
        for number in [number for number in self._hashes if number > ancestor]:
            del self._hashes[number]
        log.warning("the chain has changed above block %d; told of were those up to %d", ancestor, self.told)
        # What was sent is under way again before anybody hears of it; the cursor goes back after all have heard.
        if self._db is not None:
            await self._db.write(outbox.unmine_above, self._gateway.network.chain_id, ancestor)
        await self._tell(Reorg(from_block=ancestor + 1))
        if self._db is not None:
            await self._db.write(self._write_undo, ancestor)
        self.told = ancestor

    async def _keep(self, last: int, headers: list[Header], events: list[Event]) -> None:
        for header in headers:
            self._hashes[header.number] = header.hash
        while len(self._hashes) > chain_log.KEPT_BLOCKS:
            self._hashes.popitem(last=False)
        if self._db is not None:
            await self._db.write(self._write_cursor, headers)
        self.told = last

    async def _tell(self, event: Event | Reorg) -> None:
        for channel in list(self._subscribers):
            try:
                await channel.send(event)
            except trio.BrokenResourceError:
                self._subscribers.remove(channel)

    # the database's part

    async def _mined_untold(self) -> list[tuple[int, bytes]]:
        if self._db is None:
            return []
        return await self._db.read(outbox.mined_above, self._gateway.network.chain_id, self.told)

    async def _load(self, db: Database) -> None:
        chain_id = self._gateway.network.chain_id
        cursor = await db.read(chain_log.cursor, chain_id, self._name)
        if cursor is None:
            return
        self.told = cursor[0]
        seen = await db.read(chain_log.blocks_seen, chain_id)
        self._hashes = OrderedDict((block.number, block.hash) for block in reversed(seen) if block.number <= cursor[0])

    def _write_cursor(self, session: Session, headers: list[Header]) -> None:
        chain_id, last = self._gateway.network.chain_id, headers[-1]
        seen = [
            SeenBlock(number=header.number, hash=header.hash, parent_hash=header.parent_hash, timestamp=header.ts)
            for header in headers
        ]
        chain_log.add_blocks(session, chain_id, seen)
        chain_log.set_cursor(session, chain_id, self._name, last.number, last.hash)

    def _write_undo(self, session: Session, ancestor: int) -> None:
        chain_id = self._gateway.network.chain_id
        chain_log.forget_above(session, chain_id, ancestor)
        chain_log.set_cursor(session, chain_id, self._name, ancestor, self._hashes.get(ancestor, bytes(32)))

    async def _ask(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(
            work,
            limiter=self._limiter,
            abandon_on_cancel=True,
        )
