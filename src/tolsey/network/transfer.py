"""Contents between peers, pulled chunk by chunk from as many sources as there are.

One stream per source carries requests one way and replies, in the same order, the other:

    request  u32be(37) ‖ op ‖ content id (32) ‖ u32be(chunk index, else 0)    op: 1 manifest, 2 chunk, 3 done
    reply    u32be(length) ‖ 0 ‖ manifest, or u32be(index) ‖ chunk, or nothing
             u32be(1) ‖ 1 (not here) or 2 (busy)

The puller decides the pace: at most WINDOW chunks are asked for and unverified, whatever the size of the content, and
each is checked against the manifest in a thread before it is written. A source that lies is out at once; one that is
slow, silent or dead gives its chunks back to the others. `done` and its reply end the stream in order, because a
stream closed under a slow reader loses what was on its way. Next in the flow: partfile.py is the disk side.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from tolsey.errors import PeerUnreachable, RemoteViolation, StorageError
from tolsey.network.budgets import Bucket, Budget
from tolsey.network.host import Host
from tolsey.network.pulling import Pull, Source
from tolsey.network.scopes import unwrapped
from tolsey.network.streams import Stream, StreamEnded
from tolsey.network.wire import (
    BUSY,
    FILE_THREADS,
    NOT_HERE,
    OK,
    OP_DONE,
    OP_MANIFEST,
    PROTOCOL,
    REQUEST_BYTES,
    Request,
)
from tolsey.protocol.content import ContentId, Manifest

READ_AHEAD = 1
"""Chunks read from disk while one is on its way out: with it an upload holds three at most."""
IDLE_S = 60.0
SEND_S = 60.0
GRACE_S = 2.0
MAX_SOURCES = 16

_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


class ContentStore(Protocol):
    """What the serving side needs of a disk; both are called in worker threads and may block."""

    def manifest(self, content_id: ContentId) -> Manifest | None:
        """The manifest of a content that is here in full, or None."""

    def read_chunk(self, content_id: ContentId, index: int) -> bytes:
        """One chunk. Raises StorageError where it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadCaps:
    """What serving may cost.

    Attributes:
        max_uploads: streams served at once; the next peer is told `busy`.
        max_per_peer: of those, one peer's.
        peer_bps, total_bps: bytes a second to one peer and to all; None for no limit.
    """

    max_uploads: int = 16
    max_per_peer: int = 4
    peer_bps: float | None = None
    total_bps: float | None = None


def serve_content(host: Host, store: ContentStore, caps: UploadCaps | None = None) -> None:
    """Answers peers who fetch what `store` holds, within `caps`."""
    caps = caps or UploadCaps()
    per_peer = Budget(caps.peer_bps, burst=caps.peer_bps or 0.0)
    total = None if caps.total_bps is None else Bucket(caps.total_bps, burst=caps.total_bps)
    active = 0

    async def pay(peer_id: str, size: int) -> None:
        await per_peer.spend(peer_id, size)
        if total is not None:
            await total.spend(size)

    async def upload(stream: Stream) -> None:
        nonlocal active
        if active >= caps.max_uploads:
            with trio.fail_after(IDLE_S):
                await stream.read_frame(REQUEST_BYTES)  # an earlier answer would be lost when the stream closes
                await stream.write_frame(BUSY)
            return
        active += 1
        try:
            await _Upload(stream, store, pay).run()
        finally:
            active -= 1

    host.serve(PROTOCOL, upload, max_per_peer=caps.max_per_peer)


class _Upload:
    def __init__(self, stream: Stream, store: ContentStore, pay: Callable[[str, int], Awaitable[None]]) -> None:
        self._stream, self._store, self._pay = stream, store, pay
        self._held: tuple[ContentId, Manifest] | None = None

    async def run(self) -> None:
        send, receive = trio.open_memory_channel[tuple[bytes, ...]](READ_AHEAD)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_requests, send)
            async with receive:
                async for parts in receive:
                    await self._pay(self._stream.peer_id, sum(map(len, parts)))
                    with trio.fail_after(SEND_S):
                        await self._stream.write_frame(*parts)

    async def _read_requests(self, send: trio.MemorySendChannel[tuple[bytes, ...]]) -> None:
        async with send:
            while True:
                with trio.fail_after(IDLE_S):
                    try:
                        raw = await self._stream.read_frame(REQUEST_BYTES)
                    except StreamEnded:
                        return
                request = Request.decode(raw, self._stream.peer_id)
                if request.op == OP_DONE:
                    await send.send((OK,))
                    return
                await send.send(await self._reply(request))

    async def _reply(self, request: Request) -> tuple[bytes, ...]:
        manifest = await self._manifest(request.content_id)
        if manifest is None:
            return (NOT_HERE,)
        if request.op == OP_MANIFEST:
            return OK, manifest.encode()
        if request.index >= len(manifest.chunk_hashes):
            raise RemoteViolation(
                f"{self._stream.peer_id} asked for chunk {request.index} of {len(manifest.chunk_hashes)}",
                peer_id=self._stream.peer_id,
            )
        try:
            chunk = await trio.to_thread.run_sync(
                self._store.read_chunk, request.content_id, request.index, limiter=FILE_THREADS
            )
        except StorageError as error:
            _log.warning("content %s: chunk %d cannot be served: %s", request.content_id.hex(), request.index, error)
            return (NOT_HERE,)
        return OK, request.index.to_bytes(4, "big"), chunk

    async def _manifest(self, content_id: ContentId) -> Manifest | None:
        if self._held is None or self._held[0] != content_id:
            manifest = await trio.to_thread.run_sync(self._store.manifest, content_id, limiter=FILE_THREADS)
            if manifest is None:
                return None
            self._held = (content_id, manifest)
        return self._held[1]


async def fetch(
    host: Host,
    content_id: ContentId,
    sources: Sequence[tuple[str, Sequence[str]]],
    into: Path,
    *,
    max_bytes: int,
    require_room: Callable[[int], None] | None = None,
    on_progress: Progress | None = None,
) -> Manifest:
    """The manifest of a content that is now complete, verified and flushed at `into`.

    Args:
        sources: (peer id, addresses) of peers that may have it; used at once, the first MAX_SOURCES of them.
        into: final path. What arrives stands next to it and is taken up again by a later call, in this process or
            another.
        max_bytes: larger contents are refused before anything is written.
        require_room: called in a thread with the bytes still to come, before the first of them is written; raises
            StorageError where they are too many.
        on_progress: called with (bytes on disk, bytes in all) after each chunk; must be quick.

    Raises:
        PeerUnreachable: every source failed; the message says how each did. Call again with more sources.
        TooLarge: larger than `max_bytes`. StorageError: the disk refuses.
    """
    if not sources:
        raise PeerUnreachable(f"no source is known for content {content_id.hex()}")
    # A peer listed twice is one source with both addresses.
    merged: dict[str, list[str]] = {}
    for peer_id, addrs in sources:
        merged.setdefault(peer_id, []).extend(addrs)
    chosen = list(merged.items())[:MAX_SOURCES]
    pull = Pull(
        host, content_id, into, max_bytes=max_bytes, require_room=require_room, on_progress=on_progress,
        sources=len(chosen),
    )  # fmt: skip
    with unwrapped():
        try:
            async with trio.open_nursery() as nursery:
                for peer_id, addrs in chosen:
                    nursery.start_soon(Source(pull, peer_id, addrs).run)
                await pull.over.wait()
                with trio.move_on_after(GRACE_S):
                    await pull.left.wait()
                nursery.cancel_scope.cancel()
            return await pull.finish()
        finally:
            pull.close()
