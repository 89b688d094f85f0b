"""The pulling side of a content transfer: one `Pull` per content, one `Source` per peer that it comes from.

A chunk is *waiting* (nobody was asked), *held* (a source was asked) or *done* (verified and on disk). A source that
fails gives back what it holds. A source with nothing left to ask for takes over what another has held for longer than
TAKE_OVER_S, so that one slow peer at the end does not set the pace; at most one window is then sent twice.
Next in the flow: partfile.py writes.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from tolsey.errors import NetworkError, PeerUnreachable, RemoteViolation, StorageError
from tolsey.network import scores
from tolsey.network.host import Host
from tolsey.network.partfile import PartFile
from tolsey.network.scopes import leaves_of
from tolsey.network.streams import Stream, StreamCut
from tolsey.network.wire import (
    BUSY,
    CHUNK_HEADER_BYTES,
    FILE_THREADS,
    NOT_HERE,
    OK,
    OP_CHUNK,
    OP_DONE,
    OP_MANIFEST,
    PROTOCOL,
    Request,
)
from tolsey.protocol.content import CHUNK_BYTES, ContentId, Manifest, chunk_count

WINDOW = 8
"""Chunks asked for and not yet written, over all sources: 8 MiB of memory for any size."""
CHUNK_S = 30.0
MANIFEST_S = 30.0
DONE_S = 1.0
TAKE_OVER_S = 3.0
PAUSES_S = (0.5, 2.0, 5.0)
"""Before a source is tried again; a chunk in between starts the count anew."""

_log = logging.getLogger(__name__)


class TooLarge(StorageError):
    """A content has, by its own hash, more bytes than the caller allows: the disk has nothing to do with it."""


class Pull:
    """What all sources of one content share.

    Attributes:
        over: set when the content is complete or no source is left.
        left: set when no source is at work any more.
    """

    def __init__(
        self,
        host: Host,
        content_id: ContentId,
        into: Path,
        *,
        max_bytes: int,
        require_room: Callable[[int], None] | None,
        on_progress: Callable[[int, int], None] | None,
        sources: int,
    ) -> None:
        self.host, self.content_id, self.into, self.max_bytes = host, content_id, into, max_bytes
        self._require_room = require_room
        self.over, self.left = trio.Event(), trio.Event()
        self.window = max(2, WINDOW // sources)
        self.failures: dict[str, str] = {}
        self._on_progress = on_progress
        self._sources = sources
        self._part: PartFile | None = None
        self._opening = trio.Lock()
        self._waiting: deque[int] = deque()
        self._held: dict[int, list[tuple[str, float]]] = {}
        self._changed = trio.Event()

    @property
    def part(self) -> PartFile:
        """The file on disk; there once a source gave the manifest."""
        assert self._part is not None
        return self._part

    @property
    def has_manifest(self) -> bool:
        return self._part is not None

    @property
    def is_complete(self) -> bool:
        return self._part is not None and len(self._part.done) == len(self._part.manifest.chunk_hashes)

    async def accept(self, manifest: Manifest) -> None:
        """Opens the file for the first manifest that arrives; later ones are equal, their hash says so."""
        if manifest.size_bytes > self.max_bytes:
            raise TooLarge(
                f"content {self.content_id.hex()} has {manifest.size_bytes} bytes, allowed are {self.max_bytes}"
            )
        async with self._opening:
            if self._part is None:
                part = await trio.to_thread.run_sync(PartFile, self.into, manifest, limiter=FILE_THREADS)
                self._part = part
                if self._require_room is not None:
                    missing = manifest.size_bytes - min(manifest.size_bytes, len(part.done) * CHUNK_BYTES)
                    await trio.to_thread.run_sync(self._require_room, missing, limiter=FILE_THREADS)
                self._waiting.extend(i for i in range(len(manifest.chunk_hashes)) if i not in part.done)
        if self.is_complete:
            self.over.set()
        self._tell()

    async def next_for(self, peer_id: str) -> int | None:
        """The chunk that the peer should be asked for next; None once all are done. Waits while there is none."""
        while not self.is_complete:
            index = self._waiting.popleft() if self._waiting else self._overdue(peer_id)
            if index is not None:
                self._held.setdefault(index, []).append((peer_id, trio.current_time()))
                return index
            # Woken by a chunk or a failure; or by time, because a chunk becomes overdue without any event.
            with trio.move_on_after(TAKE_OVER_S / 2):
                await self._changed.wait()
        return None

    async def keep(self, index: int, chunk: memoryview) -> None:
        """Verifies and writes a chunk; one that is there already is dropped."""
        if index not in self.part.done:
            await trio.to_thread.run_sync(self.part.write, index, chunk, limiter=FILE_THREADS)
            if self._on_progress is not None:
                manifest = self.part.manifest
                self._on_progress(min(len(self.part.done) * CHUNK_BYTES, manifest.size_bytes), manifest.size_bytes)
        self._held.pop(index, None)
        if self.is_complete:
            self.over.set()
        self._tell()

    def give_back(self, peer_id: str) -> None:
        """Returns what a failed source held to the others."""
        for index, holders in list(self._held.items()):
            holders[:] = [holder for holder in holders if holder[0] != peer_id]
            if not holders:
                del self._held[index]
                if index not in self.part.done:
                    self._waiting.appendleft(index)
        self._tell()

    def leave(self, peer_id: str, reason: str) -> None:
        """A source has ended; the last one to do so ends the pull."""
        self.failures[peer_id] = reason
        self._sources -= 1
        if not self._sources:
            self.over.set()
            self.left.set()

    async def finish(self) -> Manifest:
        """Names the file; raises PeerUnreachable where chunks are missing."""
        if not self.is_complete:
            got = f"{len(self.part.done)} of {len(self.part.manifest.chunk_hashes)} chunks" if self._part else "nothing"
            reasons = "; ".join(f"{peer}: {why}" for peer, why in self.failures.items())
            raise PeerUnreachable(
                f"content {self.content_id.hex()}: {got} of it arrived ({reasons})",
                fix="run the same command again: what arrived is kept",
            )
        await trio.to_thread.run_sync(self.part.finish, limiter=FILE_THREADS)
        return self.part.manifest

    def close(self) -> None:
        if self._part is not None:
            self._part.close()

    def _overdue(self, peer_id: str) -> int | None:
        now = trio.current_time()
        for index, holders in self._held.items():
            if len(holders) == 1 and holders[0][0] != peer_id and now - holders[0][1] > TAKE_OVER_S:
                return index
        return None

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Source:
    """One peer that the content comes from."""

    def __init__(self, pull: Pull, peer_id: str, addrs: Sequence[str]) -> None:
        self._pull, self._peer_id, self._addrs = pull, peer_id, addrs
        self._got = 0

    async def run(self) -> None:
        """Pulls until the content is complete or this source is of no more use."""
        reason, tries = "did nothing", 0
        while not self._pull.is_complete and tries <= len(PAUSES_S):
            before = self._got
            try:
                await self._session()
                reason = "ended"
            except Exception as caught:  # noqa: BLE001  # sorted by _judge, which raises what is not the source's
                reason, may_retry = self._judge(caught)
                if not may_retry:
                    break
            finally:
                self._pull.give_back(self._peer_id)
            tries = 1 if self._got > before else tries + 1
            if tries <= len(PAUSES_S) and not self._pull.is_complete:
                with trio.move_on_after(PAUSES_S[tries - 1]):
                    await self._pull.over.wait()
        self._pull.leave(self._peer_id, reason)

    def _judge(self, caught: Exception) -> tuple[str, bool]:
        """What the failure says of the source, and whether to try it again."""
        errors = list(leaves_of(caught))
        for error in errors:
            if not isinstance(error, RemoteViolation | NetworkError | trio.TooSlowError):
                raise error
        host = self._pull.host
        worst = next((e for e in errors if isinstance(e, RemoteViolation)), errors[0])
        _log.info("source %s of %s: %s", self._peer_id, self._pull.content_id.hex(), worst)
        if isinstance(worst, RemoteViolation):
            host.punish(self._peer_id, scores.LIE, str(worst))
            return str(worst), False
        if isinstance(worst, _Without):
            return str(worst), worst.for_now
        if isinstance(worst, trio.TooSlowError):  # it was there and did not answer; who cannot be reached is not blamed
            host.scores.lower(self._peer_id, scores.UNRELIABLE, "slow source")
            return f"no answer within {CHUNK_S:.0f} s", True
        if isinstance(worst, StreamCut):
            host.scores.lower(self._peer_id, scores.UNRELIABLE, str(worst))
        return str(worst), True

    async def _session(self) -> None:
        pull = self._pull
        await pull.host.connect_any(self._peer_id, self._addrs)
        async with await pull.host.open_stream(self._peer_id, PROTOCOL) as stream:
            if not pull.has_manifest:
                try:
                    await pull.accept(await self._manifest(stream))
                except _Without as without:
                    if without.may_part:
                        await self._part(stream)
                    raise
            await self._chunks(stream)
            await self._part(stream)

    async def _part(self, stream: Stream) -> None:
        with trio.move_on_after(DONE_S):
            await stream.write_frame(Request(OP_DONE, self._pull.content_id).encode())
            await stream.read_frame(1)

    async def _manifest(self, stream: Stream) -> Manifest:
        with trio.fail_after(MANIFEST_S):
            await stream.write_frame(Request(OP_MANIFEST, self._pull.content_id).encode())
            size, most = await stream.read_frame_size(), 1 + 8 + 32 * chunk_count(self._pull.max_bytes)
            if size > most:  # the content may be this large in truth, so nobody is blamed
                raise _Without(f"offers a manifest of {size} bytes, {self._pull.max_bytes} allow {most}")
            reply = await stream.read_frame_body(size)
        return Manifest.decode(bytes(self._body(reply)), self._pull.content_id)

    async def _chunks(self, stream: Stream) -> None:
        """Asks and takes side by side; a slot is free again once its chunk is on disk."""
        slots = trio.Semaphore(self._pull.window)
        send, receive = trio.open_memory_channel[int](self._pull.window)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, stream, slots, send)
            async with receive:
                async for index in receive:
                    with trio.fail_after(CHUNK_S):
                        reply = await stream.read_frame(CHUNK_HEADER_BYTES + CHUNK_BYTES)
                    body = self._body(reply)
                    if int.from_bytes(body[:4], "big") != index:
                        raise RemoteViolation(f"asked for chunk {index}, got {body[:4].hex()}", peer_id=self._peer_id)
                    self._got += 1
                    nursery.start_soon(self._keep, index, memoryview(reply)[CHUNK_HEADER_BYTES:], slots)

    async def _ask(self, stream: Stream, slots: trio.Semaphore, send: trio.MemorySendChannel[int]) -> None:
        async with send:
            while True:
                await slots.acquire()
                index = await self._pull.next_for(self._peer_id)
                if index is None:
                    return
                await send.send(index)
                with trio.fail_after(CHUNK_S):
                    await stream.write_frame(Request(OP_CHUNK, self._pull.content_id, index).encode())

    async def _keep(self, index: int, chunk: memoryview, slots: trio.Semaphore) -> None:
        await self._pull.keep(index, chunk)
        slots.release()

    def _body(self, reply: bytes) -> memoryview:
        if reply[:1] == NOT_HERE and len(reply) == 1:
            raise _Without("does not have it", may_part=True)
        if reply[:1] == BUSY and len(reply) == 1:
            raise _Without("is busy", for_now=True)
        if reply[:1] != OK:
            raise RemoteViolation(f"reply with status {reply[:1].hex() or 'none'}", peer_id=self._peer_id)
        return memoryview(reply)[1:]


class _Without(NetworkError):
    """The source has nothing to give; nobody's fault.

    Args:
        for_now: it may have later.
        may_part: the source waits for another question, nothing is on its way.
    """

    def __init__(self, message: str, *, for_now: bool = False, may_part: bool = False) -> None:
        super().__init__(message)
        self.for_now, self.may_part = for_now, may_part
