"""What time it is on the chain: the newest block's, and what the next block's will be at least.

Deadlines are block time. Where blocks are rare (a quiet local chain) nobody would ever see a deadline pass, so the
seconds since the newest block was seen are added: a call sent now runs in a block of about that time. Being early costs
a refused dry run, being late only time. Next in the flow: worker.py, jobs.py.
"""

from __future__ import annotations

import time

import trio

from tolsey.contracts.chain import Chain

TICK_S = 1.0


class ChainClock:
    """The chain's time for one worker."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._head = -1
        self._seen_s = 0.0

    @property
    def block_ts(self) -> int:
        """Time of the newest block seen; 0 before the first."""
        return self._chain.follower.now_ts

    @property
    def next_ts(self) -> int:
        """A guess at the next block's time, unix seconds; 0 before the first block is seen."""
        if self._chain.follower.head != self._head:
            self._head, self._seen_s = self._chain.follower.head, trio.current_time()
        return self.block_ts and self.block_ts + int(trio.current_time() - self._seen_s)

    @property
    def wall_ts(self) -> int:
        """For what others judge by their own clocks, such as a listing's expiry."""
        return max(self.block_ts, int(time.time()))

    async def tick(self) -> None:
        """Sleeps until a new block is seen, at most TICK_S."""
        with trio.move_on_after(TICK_S):
            await self._chain.follower.wait_block()
