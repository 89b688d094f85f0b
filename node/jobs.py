"""Which jobs run, and what wakes them.

At the start every offer that may have been accepted and every job that is not closed is looked up on the chain; from
then on events say the same sooner. An event never carries a decision: it wakes the worker of its job, which asks the
chain. Blocks are a clock: a worker whose deadline has passed is woken by the next one.

It refuses to work on a job whose offer it has no record of (a lost or foreign home): it cannot know the spec.
Next in the flow: worker.py.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import trio

from tolsey.contracts.chain import Chain
from tolsey.contracts.events import DisputeClosed, Event, JobAccepted, JobEvent, Reorg
from tolsey.errors import ChainError
from tolsey.node.executor import pin_of
from tolsey.node.records import JobRecord, Records
from tolsey.node.worker import Tools, Worker
from tolsey.protocol.lifecycle import LIVE, State
from tolsey.protocol.units import Account, JobId

KEPT_OFFERS_S = 3_600
"""Block time after which an expired offer that nobody accepted is forgotten; longer than any reorganisation."""
KEPT_RESULTS_S = 7 * 86_400
"""Block time for which the last paid checkpoint of a closed job is kept for its client in any case."""

_log = logging.getLogger(__name__)


class Jobs:
    """The live jobs of one worker.

    Args:
        make: builds the worker of a job (a seam for tests and dishonest workers).
        on_change: called when a job began or ended.
    """

    def __init__(
        self,
        chain: Chain,
        records: Records,
        tools: Tools,
        account: Account,
        *,
        on_change: Callable[[], None],
        make: Callable[[JobRecord, Tools], Worker] = Worker,
    ) -> None:
        self._chain = chain
        self._records = records
        self._tools = tools
        self._account = account
        self._on_change = on_change
        self._make = make
        self._workers: dict[JobId, Worker] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs every live job until cancelled; started once the jobs of before are running again."""
        events = self._chain.follower.subscribe()
        async with events, trio.open_nursery() as nursery:
            await self._resume(nursery)
            nursery.start_soon(self._tick)
            task_status.started()
            async for event in events:
                await self._take(event, nursery)

    @property
    def count(self) -> int:
        """Jobs running now."""
        return len(self._workers)

    async def _resume(self, nursery: trio.Nursery) -> None:
        """Starts the jobs that were open when this worker last stopped, and those accepted since."""
        for offer in await self._records.open_offers():
            view = await self._chain.run(self._chain.gateway.job, offer.job_id)
            if view.state is not State.NONE:
                await self._begin(offer.job_id, nursery)
        for job in await self._records.jobs():
            if job.closed_at is None:
                self._start(job, nursery)

    async def _take(self, event: Event | Reorg, nursery: trio.Nursery) -> None:
        match event:
            case JobAccepted(worker=worker, job_id=job_id) if worker.lower() == self._account.lower():
                await self._begin(job_id, nursery)
            case JobEvent(job_id=job_id) if job_id in self._workers:
                self._workers[job_id].wake()
            case Reorg() | DisputeClosed():
                for running in self._workers.values():
                    running.wake()

    async def _begin(self, job_id: JobId, nursery: trio.Nursery) -> None:
        if job_id in self._workers:
            self._workers[job_id].wake()
            return
        known = await self._records.job(job_id)
        if known is None and job_id not in {offer.job_id for offer in await self._records.open_offers()}:
            await self._complain(job_id)
            return
        job = await self._records.begin_job(job_id)
        if job.closed_at is None:
            self._start(job, nursery)

    async def _complain(self, job_id: JobId) -> None:
        """Says that a live job of this account is not of this home; jobs that are over are nobody's concern."""
        with contextlib.suppress(ChainError):
            view = await self._chain.run(self._chain.gateway.job, job_id)
            if view.state not in LIVE:
                return
        _log.error("job %s was accepted, but this home did not offer it: restore its database", job_id.hex())

    def _start(self, job: JobRecord, nursery: trio.Nursery) -> None:
        if job.job_id not in self._workers:
            self._workers[job.job_id] = worker = self._make(job, self._tools)
            nursery.start_soon(self._run_one, worker)

    async def _run_one(self, worker: Worker) -> None:
        self._on_change()
        try:
            await worker.run()
        finally:
            del self._workers[worker.job.job_id]
            self._on_change()

    async def _tick(self) -> None:
        """Wakes workers whose deadline has passed; forgets old offers now and then."""
        forgotten_at = 0
        while True:
            await self._tools.clock.tick()
            for worker in self._workers.values():
                if worker.deadline is not None and self._tools.clock.next_ts > worker.deadline:
                    worker.wake()
            now_ts = self._tools.clock.block_ts
            if now_ts > forgotten_at + KEPT_OFFERS_S:
                forgotten_at = now_ts
                await self._records.forget_offers(now_ts - KEPT_OFFERS_S)
                await self._let_go_of_results(now_ts - KEPT_RESULTS_S)
                self._on_change()

    async def _let_go_of_results(self, closed_before: int) -> None:
        """Unpins the last checkpoint of jobs that were closed long ago; they stay until the room is needed."""
        for job in await self._records.jobs():
            if job.closed_at is not None and job.closed_at < closed_before:
                for record in await self._records.segments(job.job_id):
                    if self._tools.blobs.owners(record.checkpoint):
                        await trio.to_thread.run_sync(self._tools.blobs.unpin, record.checkpoint, pin_of(job.job_id))
