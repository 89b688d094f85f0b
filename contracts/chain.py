"""The chain for trio code: one gateway, one sender, one follower, and the threads in which they block.

    events = chain.follower.subscribe()
    await nursery.start(chain.serve)
    view = await chain.run(chain.gateway.job, job_id)

Next in the flow: the rooms above.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import trio

from tolsey.contracts.events import Event, Reorg
from tolsey.contracts.follower import Follower
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.sender import Sender
from tolsey.storage.engine import Database

P = ParamSpec("P")
T = TypeVar("T")
RPC_THREADS = 4


class Chain:
    """One participant's chain.

    Args:
        db: where sent actions and the follower's cursor survive, or None.
        poll_s: how often the follower looks for a new block.

    Attributes:
        gateway, sender, follower: the parts.
    """

    def __init__(self, gateway: Gateway, db: Database | None = None, *, poll_s: float = 0.25) -> None:
        self.gateway = gateway
        self.sender = Sender(gateway, db)
        self.follower = Follower(gateway, db, poll_s=poll_s)
        self._rpc = trio.CapacityLimiter(RPC_THREADS)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A blocking read of the gateway, in a thread that is left behind on cancellation (reads change nothing)."""
        return await trio.to_thread.run_sync(
            partial(call, *args, **kwargs),
            limiter=self._rpc,
            abandon_on_cancel=True,
        )

    async def serve(
        self,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Follows the chain and finishes what an earlier process, or a reorganisation, left under way.

        Started once the present is reached; subscribe to the follower before.

        Raises:
            ChainUnavailable: before it has started, another chain or none. Reorged: deeper than can be undone.
        """
        await self.run(self.gateway.check_chain)
        async with trio.open_nursery() as nursery, self.follower.subscribe() as told:
            nursery.start_soon(self._recover_after_reorgs, told)
            nursery.start_soon(self.sender.recover)
            await nursery.start(self.follower.run)
            task_status.started()
            await trio.sleep_forever()

    async def _recover_after_reorgs(self, told: trio.MemoryReceiveChannel[Event | Reorg]) -> None:
        async for event in told:
            if isinstance(event, Reorg):
                await self.sender.recover()
