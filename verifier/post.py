"""The watch: folds events as they come, and keeps one task for every duty, vote and accusation of this verifier.

At the start the whole log is folded anew, so that nothing depends on what an earlier process had in memory; duties
whose time is not over are taken up where their records say. A reorganisation folds again from the chain: what was
drawn in a block that is gone ends by itself, because the contract refuses it.

How much is judged side by side is bounded in duty.py (Turns).
Next in the flow: duty.py, panelist.py, challenger.py.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import trio

from tolsey.contracts.bindings import binding_digest
from tolsey.contracts.chain import Chain
from tolsey.contracts.events import Event, Reorg, WindowCommitted
from tolsey.errors import ChainUnavailable, Reorged
from tolsey.network.identity import verify_peer_signature
from tolsey.protocol.units import Account, JobId
from tolsey.verifier.challenger import Challenger
from tolsey.verifier.duty import DutyRun, Tools
from tolsey.verifier.panelist import Panelist
from tolsey.verifier.records import Evidence
from tolsey.verifier.watcher import Binding, Duty, Job, PanelDuty, Watcher

MAX_OTHER_SOURCES = 8
"""Fellow verifiers asked for a trace or file when the worker does not serve it."""
HISTORY_RETRY_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Makers:
    """The seams of a verifier's conduct; the shipped verifier uses these defaults only."""

    duty: Callable[[Duty, Tools], DutyRun] = DutyRun
    panelist: Callable[[PanelDuty, Tools], Panelist] = Panelist
    challenger: Callable[[Evidence, Tools], Challenger] = Challenger


class Post:
    """One verifier's watch."""

    def __init__(self, chain: Chain, account: Account, *, watch_all: bool) -> None:
        self.chain = chain
        self.account = account
        self._watch_all = watch_all
        self._running: set[object] = set()
        self.watcher = self._blank()

    async def run(
        self, tools: Tools, makers: Makers, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Watches until cancelled; started once history is folded and open business goes on."""
        events = self.chain.follower.subscribe()
        async with events, trio.open_nursery() as nursery:
            owed = await self._history()
            for item in await tools.records.all_evidence(only_open=True):
                self.accuse(item, tools, makers, nursery)
            for duty in owed:
                self._take(duty, tools, makers, nursery)
            task_status.started()
            async for event in events:
                if isinstance(event, Reorg):
                    owed = await self._history()
                else:
                    owed = self.watcher.apply(event)
                    self._look_ahead(event, tools, nursery)
                for duty in owed:
                    self._take(duty, tools, makers, nursery)

    def accuse(self, item: Evidence, tools: Tools, makers: Makers, nursery: trio.Nursery) -> None:
        """Starts the challenger of a piece of evidence, once."""
        self._start(("evidence", item.job_id, item.segment, item.charge), makers.challenger(item, tools).run, nursery)

    def job(self, job_id: JobId) -> Job | None:
        """What the log says of a job."""
        return self.watcher.jobs.get(job_id)

    def sources(self, job_id: JobId) -> list[str]:
        """Peers that may have what belongs to a job: its worker, then fellow verifiers in random order."""
        job = self.watcher.jobs.get(job_id)
        if job is None:
            return []
        peers = self.watcher.peers
        fellows: list[str] = [
            peers[a] for a in self.watcher.seats.get(job.offer.class_id, {}) if a != self.account and a in peers
        ]
        worker: list[str] = [peers[job.offer.worker]] if job.offer.worker in peers else []
        return worker + random.sample(fellows, min(len(fellows), MAX_OTHER_SOURCES))

    def _take(self, duty: Duty | PanelDuty, tools: Tools, makers: Makers, nursery: trio.Nursery) -> None:
        key: object
        if isinstance(duty, Duty):
            key = ("duty", duty.job_id, duty.draw)
            run = makers.duty(duty, tools).run
        else:
            key = ("vote", duty.claim.dispute_id, duty.round)
            run = makers.panelist(duty, tools).run
        self._start(key, run, nursery)

    def _start(self, key: object, run: Callable[[], object], nursery: trio.Nursery) -> None:
        if key in self._running:
            return
        self._running.add(key)

        async def until_done() -> None:
            try:
                await run()  # type: ignore[misc]  # every run() here is async
            finally:
                self._running.discard(key)

        nursery.start_soon(until_done)

    def _look_ahead(self, event: Event, tools: Tools, nursery: trio.Nursery) -> None:
        """Fetches what a committed window needs while its draw is still to come."""
        if not isinstance(event, WindowCommitted):
            return
        job = self.job(event.job_id)
        if job is not None and self.watcher.my_seat(job.offer.class_id) is not None:

            async def ahead() -> None:
                with trio.move_on_after(job.offer.reveal_window_s):
                    async with tools.turns.ahead:
                        await tools.judge.prefetch(job, event.window)

            self._start(("ahead", event.job_id, event.window), ahead, nursery)

    async def _history(self) -> list[Duty | PanelDuty]:
        """Folds the log anew; returns duties whose time is not over: their own, or that of a challenge."""
        gateway = self.chain.gateway
        while True:
            try:
                newest = await self.chain.run(gateway.block_number)
                last = newest - gateway.network.confirmations
                events = await self.chain.run(gateway.logs, gateway.network.deployed_block, last)
                now_ts = await self.chain.run(gateway.now_ts)
                break
            except (ChainUnavailable, Reorged) as error:
                _log.warning("history waits: %s", error.message)
            await trio.sleep(HISTORY_RETRY_S)
        self.watcher = self._blank()
        owed = [duty for event in events for duty in self.watcher.apply(event)]
        return [duty for duty in owed if duty.reveal_by >= now_ts or self._is_open(duty)]

    def _is_open(self, duty: Duty | PanelDuty) -> bool:
        return isinstance(duty, Duty) and (job := self.job(duty.job_id)) is not None and job.is_open(duty.draw)

    def _blank(self) -> Watcher:
        return Watcher(self.account, is_bound=self._is_bound, watch_all=self._watch_all)

    def _is_bound(self, event: Binding) -> bool:
        digest = binding_digest(self.chain.gateway.domain, event.account, event.peer_id)
        return verify_peer_signature(event.peer_id, digest, event.peer_signature)
