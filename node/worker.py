"""One job from accepted offer to payment.

Two tasks per job. *Training* makes segments: fetch, initialise, train, keep, one after another. *Following* asks the
chain what state the job is in and does what that state wants of a worker. Events only wake it: each turn reads the
job's word on chain and the segment table anew, so that a missed event, a reorganisation or kill -9 changes nothing,
and starting again is the same code as going on.

    chain says   the worker's turn
    Accepted     all segments of the window on disk: commit; past the deadline: expire
    Committed    past the deadline: draw without the client's secret
    Drawn        past the deadline: settle
    Demanded     answer with the opening
    Challenged   past the deadline or ruled on: resolve
    final        kill the child, let the checkpoints go

Training goes on while a window is drawn, replayed and settled, but never more than `lookahead_windows` beyond it: work
on top of an unsettled window is work at risk. A job that cannot be trained is given back (`resign`) at once, so that
the client loses as little as possible. Next in the flow: committer.py, executor.py.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from tolsey.contracts.actions import Action
from tolsey.contracts.chain import Chain
from tolsey.contracts.views import JobView
from tolsey.errors import (
    ChainError,
    ConfigError,
    InsufficientFunds,
    NetworkError,
    RemoteViolation,
    Reverted,
    StorageError,
    TolseyError,
    VerificationError,
)
from tolsey.node.clock import ChainClock
from tolsey.node.committer import Committer
from tolsey.node.executor import Executor, pin_of
from tolsey.node.records import JobRecord, Records, SegmentRecord
from tolsey.protocol.lifecycle import FINAL, State
from tolsey.runtime.child_client import TrainingProcessDied
from tolsey.storage.blobs import BlobStore

RETRY_FIRST_S, RETRY_MOST_S = 1.0, 30.0
"""Pauses after a failure of the line, doubling; the job's own deadline ends the retries."""
UNSEEN_GRACE_S = 60
"""How long after its offer expired a job may be unknown to the chain (a reorganisation) before it is given up."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every job of this worker works with."""

    chain: Chain
    clock: ChainClock
    records: Records
    blobs: BlobStore
    executor: Executor
    committer: Committer
    lookahead_windows: int


class Worker:
    """Runs one job; `run` returns when the chain has closed it."""

    def __init__(self, job: JobRecord, tools: Tools) -> None:
        self.job = job
        self.deadline: int | None = None
        self._tools = tools
        self._woken = trio.Event()
        self._window = trio.Event()  # set and replaced whenever the chain's window moves
        self._view: JobView | None = None
        self._giving_up = False
        self._refusals: Counter[str] = Counter()
        self._tag = job.job_id.hex()[:12]

    def wake(self) -> None:
        """Makes the worker look at the chain again: an event of this job, a passed deadline, a finished segment."""
        self._woken.set()

    async def run(self) -> None:
        """One job from accepted offer to payment."""
        _log.info("job %s: starts in window %d", self._tag, self.job.window)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.train)
            await self._follow()
            nursery.cancel_scope.cancel()  # kills the child at once
        await self._let_go()
        _log.info("job %s: closed as %s", self._tag, self.job.state.name)

    # following the chain

    async def _follow(self) -> None:
        """Takes the worker's turns until the job is final."""
        pause_s = RETRY_FIRST_S
        while True:
            self._woken = trio.Event()
            try:
                view = await self._tools.chain.run(self._tools.chain.gateway.job, self.job.job_id)
                await self._see(view)
                if view.state in FINAL or self._is_lost(view):
                    return
                await self.turn(view)
                pause_s = RETRY_FIRST_S
            except (ChainError, InsufficientFunds) as error:
                _log.warning("job %s: %s; again in %.0f s", self._tag, error.message, pause_s)
                with trio.move_on_after(pause_s):
                    await self._woken.wait()
                pause_s = min(RETRY_MOST_S, 2 * pause_s)
            else:
                await self._woken.wait()

    async def _see(self, view: JobView) -> None:
        """Remembers a change of state or window."""
        before = self._view
        self._view, self.deadline = view, view.deadline
        if before is not None and (before.state, before.window) == (view.state, view.window):
            return
        if view.state is not State.NONE:
            _log.info("job %s: %s, window %d", self._tag, view.state.name, view.window)
            await self._note(state=view.state, window=view.window)
        self._window.set()
        self._window = trio.Event()

    def _is_lost(self, view: JobView) -> bool:
        """Whether the acceptance was undone and can no longer come back."""
        if view.state is not State.NONE:
            return False
        return self._tools.clock.block_ts > self.job.offer.expires_at + UNSEEN_GRACE_S

    async def turn(self, view: JobView) -> None:
        """Does what the state wants of a worker, see the table at the top."""
        turns: dict[State, Callable[[JobView], Awaitable[None]]] = {
            State.ACCEPTED: self._commit,
            State.COMMITTED: self._draw,
            State.DRAWN: self._settle,
            State.DEMANDED: self.answer,
            State.CHALLENGED: self._resolve,
        }
        if (turn := turns.get(view.state)) is not None:
            await turn(view)

    async def _commit(self, view: JobView) -> None:
        action = self._tools.chain.gateway.action
        if self._is_overdue(view):
            await self._send(action.expire(self.job.offer), "expire", view)
        elif self._giving_up:
            await self._send(action.resign(self.job.offer), "resign", view)
        else:
            await self._commit_if_ready(view)

    async def _commit_if_ready(self, view: JobView) -> None:
        try:
            if not await self._tools.committer.is_ready(self.job, view.window):
                return
            action = await self._tools.committer.commitment(self.job, view.window)
        except StorageError as error:
            await self._give_up(error)
        else:
            await self._send(action, "commit", view)

    async def _draw(self, view: JobView) -> None:
        if self._is_overdue(view):
            await self._send(self._tools.chain.gateway.action.draw(self.job.offer, bytes(32)), "draw", view)

    async def _settle(self, view: JobView) -> None:
        if self._is_overdue(view):
            await self._send(self._tools.chain.gateway.action.settle(self.job.offer), "settle", view)

    async def answer(self, view: JobView) -> None:
        """Opens the demanded segment on chain."""
        if self._is_overdue(view):
            return
        dispute = await self._tools.chain.run(self._tools.chain.gateway.dispute, self.job.job_id)
        if dispute is None:
            return
        opening = await self._tools.committer.opening(self.job, dispute.segment)
        _log.info("job %s: segment %d is demanded, answering on chain", self._tag, dispute.segment)
        await self._send(self._tools.chain.gateway.action.answer(self.job.offer, opening), "answer", view)

    async def _resolve(self, view: JobView) -> None:
        action = self._tools.chain.gateway.action.resolve(self.job.offer)
        if not self._is_overdue(view):
            try:
                await self._tools.chain.run(self._tools.chain.gateway.simulate, action)
            except Reverted:
                return  # the judge has not ruled; its ruling wakes us
        await self._send(action, "resolve", view)

    async def _send(self, action: Action, what: str, view: JobView) -> None:
        """Sends once per window and deadline, and once more for each refusal that was mined and paid for.

        Raises:
            Reverted: the contract refuses, mostly because somebody else was quicker; look at the chain again.
        """
        base = f"{what}:{self.job.job_id.hex()}:{view.window}:{view.deadline}"
        try:
            await self._tools.chain.sender.send(action, action_id=f"{base}:{self._refusals[base]}")
        except Reverted:
            self._refusals[base] += 1
            raise
        _log.info("job %s: %s of window %d sent", self._tag, what, view.window)
        self.wake()

    def _is_overdue(self, view: JobView) -> bool:
        return self._tools.clock.next_ts > view.deadline

    # training

    async def train(self) -> None:
        """Makes the missing segments; gives the job back where that is impossible."""
        try:
            await self._patiently(lambda: self._tools.executor.prepare(self.job))
            done = await self._tools.records.last_segment(self.job.job_id)
            index = 0 if done is None else done.index + 1
            while index < self.job.offer.segment_count:
                window = index // self.job.offer.segments_per_window
                await self._until_allowed(window)
                last = self.job.offer.window_segments(window).stop
                await self._note(phase="training", message=f"window {window}, segments {index} to {last - 1}")
                await self._tools.executor.train(self.job, range(index, last), self._keep)
                index = last
            await self._note(phase="verifying", message="all segments are trained")
        except (ConfigError, RemoteViolation, StorageError, VerificationError, TrainingProcessDied) as error:
            await self._give_up(error)

    async def _keep(self, record: SegmentRecord) -> None:
        """Writes a finished segment down; the last of a window is news for `_follow`."""
        await self._tools.records.add_segment(self.job.job_id, record)
        _log.info("job %s: segment %d done, root %s", self._tag, record.index, record.output_root.hex()[:16])
        window = record.index // self.job.offer.segments_per_window
        if record.index + 1 == self.job.offer.window_segments(window).stop:
            self.wake()

    async def _give_up(self, error: TolseyError) -> None:
        """The job cannot be done here: it is resigned from as soon as the chain allows."""
        _log.error("job %s: cannot be done: %s", self._tag, error.diagnostics())
        await self._note(phase="failed", message=error.message)
        self._giving_up = True
        self.wake()

    async def _until_allowed(self, window: int) -> None:
        """Waits until `window` is at most `lookahead_windows` beyond the chain's."""
        while self._view is None or window > self._view.window + self._tools.lookahead_windows:
            await self._window.wait()

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeats a step that needs other peers until it is done; following ends the job when time is up."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                return await step()
            except NetworkError as error:
                _log.warning("job %s: %s; again in %.0f s", self._tag, error.message, pause_s)
                await self._note(message=f"waiting for contents: {error.message}")
            await trio.sleep(pause_s)
            pause_s = min(RETRY_MOST_S, 2 * pause_s)

    # the end

    async def _let_go(self) -> None:
        """Unpins every checkpoint but the last paid one, which the client may still want."""
        view, offer = self._view, self.job.offer
        paid = 0 if view is None else view.window
        keep = offer.window_segments(paid - 1).stop - 1 if paid else -1
        for record in await self._tools.records.segments(self.job.job_id):
            if record.index != keep:
                await trio.to_thread.run_sync(self._tools.blobs.unpin, record.checkpoint, pin_of(self.job.job_id))
        await self._tools.executor.forget(self.job)
        final = view is not None and view.state is State.COMPLETED
        await self._note(
            phase="done" if final else "failed",
            state=State.CANCELLED if view is None or view.state is State.NONE else view.state,
            closed_at=self._tools.clock.block_ts,
        )

    async def _note(self, **values: object) -> None:
        await self._tools.records.note(self.job.job_id, **values)
        fresh = await self._tools.records.job(self.job.job_id)
        assert fresh is not None, "a job's row is never deleted"
        self.job = fresh
