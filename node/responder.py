"""Answers what peers ask of a worker: offers, progress, traces, step roots, the book, and bytes by content id.

Whoever asks is a stranger: requests are bounded before they are read (network/rpc.py), costly answers are given one at
a time and only for jobs whose dispute they can serve, and nothing here changes a job. What we cannot answer is said
with a code, never with silence: `unknown` (no such job), `not-yet` (segments not made), `not-now` (another replay
runs, or the job is over). Next in the flow: bidding.py, publisher.py, executor.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import trio

from tolsey.contracts.listing_book import ListingBook
from tolsey.errors import ChainError, ConfigError, RemoteViolation, StorageError, VerificationError
from tolsey.network.host import Host
from tolsey.network.rpc import Rpc, RpcRefused, serve
from tolsey.network.transfer import ContentStore, serve_content
from tolsey.node.bidding import Bidder
from tolsey.node.executor import Executor
from tolsey.node.records import JobRecord, Records, SegmentRecord
from tolsey.protocol.units import JobId, StateRoot
from tolsey.protocol.wire import (
    BOOK,
    OFFER,
    PROGRESS,
    STEPS,
    TRACE,
    Limits,
    Progress,
    Trace,
    TraceEntry,
    WindowRequest,
    encode_step_roots,
)
from tolsey.runtime.child_client import TrainingProcessDied

MAX_LOSSES = 4096
"""Points of a loss curve in one reply; thinned evenly above (wire.Progress)."""
KEPT_STEP_ROOTS = 16
"""Segments whose step roots are kept, so that three panel members cost one replay."""

Handler = Callable[[str, bytes], Awaitable[bytes]]


def rpc_of(limits: Limits, *, max_per_peer: int = 4) -> Rpc:
    """The network room's form of a protocol of ours."""
    return Rpc(
        protocol=limits.protocol,
        max_request_bytes=limits.max_request_bytes,
        max_reply_bytes=limits.max_reply_bytes,
        deadline_s=limits.deadline_s,
        max_per_peer=max_per_peer,
    )


class Responder:
    """The answering side of one worker."""

    def __init__(
        self, records: Records, bidder: Bidder, executor: Executor, book: ListingBook, store: ContentStore
    ) -> None:
        self._records = records
        self._bidder = bidder
        self._executor = executor
        self._book = book
        self._store = store
        self._replaying = trio.Lock()
        self._step_roots: OrderedDict[tuple[JobId, int], list[StateRoot]] = OrderedDict()

    def serve(self, host: Host) -> None:
        """Registers every protocol; before the first connection, because peers ask once what we speak."""
        serve(host, rpc_of(OFFER), guarded(self.offer))
        serve(host, rpc_of(PROGRESS), guarded(self.progress))
        serve(host, rpc_of(TRACE), guarded(self.trace))
        serve(host, rpc_of(STEPS, max_per_peer=1), guarded(self.steps))
        serve(host, rpc_of(BOOK), guarded(self._book.answer))
        serve_content(host, self._store)

    async def offer(self, peer_id: str, raw: bytes) -> bytes:
        """A signed offer, or why not."""
        return (await self._bidder.answer(peer_id, raw)).encode()

    async def progress(self, _peer_id: str, raw: bytes) -> bytes:
        """How a job goes."""
        job = await self._job(WindowRequest.decode(raw))
        made = await self._records.segments(job.job_id)
        kept = job.spec.segment_steps(made[-1].index).stop if made else 0
        live = [pair for pair in self._executor.live.get(job.job_id, []) if pair[0] >= kept]
        losses = [pair for record in made for pair in record.losses] + live
        done = live[-1][0] + 1 if live else kept
        return Progress(
            phase=job.phase,
            step=done,
            steps=job.spec.steps,
            window=min(job.window, job.offer.window_count - 1),
            losses=tuple(thinned(losses, MAX_LOSSES)),
            step_s=f"{made[-1].step_us / 1e6:.6f}" if made else "0",
            message=job.message,
        ).encode()

    async def trace(self, _peer_id: str, raw: bytes) -> bytes:
        """The segments of one window, all of them or none."""
        request = WindowRequest.decode(raw)
        job = await self._job(request)
        if request.index >= job.offer.window_count:
            raise RemoteViolation(f"window {request.index} of {job.offer.window_count}")
        indices = job.offer.window_segments(request.index)
        made = await self._records.segments(job.job_id, range(max(indices.start - 1, 0), indices.stop))
        inside = [record for record in made if record.index in indices]
        if len(inside) != len(indices):
            raise RpcRefused("not-yet", f"{len(inside)} of {len(indices)} segments of window {request.index} are made")
        start = made[0].checkpoint if made[0].index < indices.start else None
        return Trace(spec=job.spec.encode(), window_start=start, entries=tuple(map(self.entry, inside))).encode()

    def entry(self, record: SegmentRecord) -> TraceEntry:
        """One line of a trace."""
        return TraceEntry(
            index=record.index,
            input_root=record.input_root,
            output_root=record.output_root,
            checkpoint=record.checkpoint,
        )

    async def steps(self, _peer_id: str, raw: bytes) -> bytes:
        """State roots after each step of one segment, by running it again in a child; one replay at a time."""
        request = WindowRequest.decode(raw)
        job = await self._job(request)
        if not await self._records.segments(job.job_id, range(request.index, request.index + 1)):
            raise RpcRefused("not-yet", f"segment {request.index} is not made")
        key = (job.job_id, request.index)
        if key not in self._step_roots:
            if job.is_final:
                raise RpcRefused("not-now", f"the job is {job.state.name}, its checkpoints are let go")
            try:
                self._replaying.acquire_nowait()
            except trio.WouldBlock:
                raise RpcRefused("not-now", "another replay runs, ask again") from None
            try:
                self._step_roots[key] = await self._executor.step_roots(job, request.index)
            finally:
                self._replaying.release()
            while len(self._step_roots) > KEPT_STEP_ROOTS:
                self._step_roots.popitem(last=False)
        return encode_step_roots(self._step_roots[key])

    async def _job(self, request: WindowRequest) -> JobRecord:
        job = await self._records.job(request.job_id)
        if job is None:
            raise RpcRefused("unknown", f"job {request.job_id.hex()[:16]} is not of this worker")
        return job


def thinned(points: list[tuple[int, str]], most: int) -> list[tuple[int, str]]:
    """At most `most` points, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[i * (len(points) - 1) // (most - 1)] for i in range(most)]


def guarded(handler: Handler) -> Handler:
    """Says `unavailable` where chain, disk or a child fail us: no peer's fault, and no reason to stop the worker."""

    async def answer(peer_id: str, raw: bytes) -> bytes:
        try:
            return await handler(peer_id, raw)
        except (ChainError, StorageError, VerificationError, ConfigError, TrainingProcessDied) as error:
            raise RpcRefused("unavailable", error.message) from error

    return answer
