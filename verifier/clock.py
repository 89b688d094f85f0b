"""Waiting for block time, and sending what must be sent although the line is bad.

Deadlines of the market are block times; this file turns them into waits on blocks (never on the machine's clock alone)
and tells how many real seconds are left, for giving work up in time. Next in the flow: duty.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio

from tolsey.contracts.chain import Chain
from tolsey.contracts.gateway import Action
from tolsey.errors import ChainUnavailable, Reorged

RETRY_FIRST_S, RETRY_MOST_S = 1.0, 30.0

_log = logging.getLogger(__name__)


class Clock:
    """Block time of one chain.

    Args:
        now_ts: time of the newest block, for as long as the follower has seen none.
    """

    def __init__(self, chain: Chain, now_ts: int = 0) -> None:
        self._chain = chain
        self._first_ts = now_ts
        self._made_s = time.monotonic()

    @property
    def now_ts(self) -> int:
        """Time of the newest block that was followed, unix seconds."""
        return max(self._first_ts, self._chain.follower.now_ts)

    def wall_ts(self) -> int:
        """Unix seconds: the newest block's time, or the machine's where blocks are rare."""
        return max(self.now_ts, int(time.time()))

    def passed_s(self) -> float:
        """Seconds since this clock was made, by its blocks or by the machine, whichever says more."""
        return max(float(self.now_ts - self._first_ts), time.monotonic() - self._made_s)

    async def block(self) -> None:
        """Returns at the next block, once its events are told."""
        await self._chain.follower.wait_block()

    async def after(self, ts: int) -> None:
        """Returns once a block later than `ts` was seen."""
        while self.now_ts <= ts:
            await self.block()

    async def up(self, until: Callable[[], int]) -> None:
        """Returns once the moment has come that `until` gives: a dispute may put it off, so each block asks anew.

        Where blocks are rare, real seconds count.
        """
        while (left_s := self.left_s(until())) > 0:
            with trio.move_on_after(left_s) as waiting:
                await self.block()
            if waiting.cancelled_caught:
                return

    def left_s(self, ts: int) -> float:
        """Seconds until `ts` if blocks keep the time of clocks; 0 where it has passed."""
        return float(max(0, ts - self.now_ts))

    async def send(self, action: Action, action_id: str, *, until: int) -> None:
        """Sends through the outbox, again and again while the endpoint is away and `until` has not passed.

        Raises:
            Reverted: the contract said no. ChainUnavailable: time is up.
        """
        pause_s = RETRY_FIRST_S
        while True:
            try:
                await self._chain.sender.send(action, action_id=action_id)
                return
            except (ChainUnavailable, Reorged) as error:
                if self.now_ts > until:
                    raise
                _log.warning("%s: %s; again in %.0f s", action.description, error.message, pause_s)
            await trio.sleep(pause_s)
            pause_s = min(RETRY_MOST_S, 2 * pause_s)
