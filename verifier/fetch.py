"""Brings traces and files from whoever has them: the worker first, then other verifiers.

A trace counts only once it gives the window root on chain (trace.py), a file only under its content id, a checkpoint
only when its state has the committed root (replay.py). So it does not matter who serves: a lying source costs a try,
an eclipsed worker is got around, and "unavailable" is said only after every known source was asked.

Two things are kept apart because a bond hangs on it: what nobody serves, or what is larger than the job's own law
allows, is unavailable; what this machine's disk has no room for is this machine's own trouble.

It refuses to keep what nobody needs: files are pinned for a duty and let go with it. Next in the flow: files.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol

import trio

from tolsey.errors import (
    CheckpointUnavailable,
    ClassMismatch,
    NetworkError,
    ProofInvalid,
    RemoteViolation,
    StorageError,
)
from tolsey.network.discovery import Discovery
from tolsey.network.host import Host
from tolsey.network.pulling import TooLarge
from tolsey.network.rpc import Rpc
from tolsey.network.transfer import fetch
from tolsey.protocol.content import ContentId
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import JobId, WindowRoot
from tolsey.protocol.wire import TRACE, Limits, WindowRequest
from tolsey.storage.blobs import BlobStore
from tolsey.verifier.trace import CheckedTrace, checked_trace
from tolsey.verifier.watcher import Job

LIE_POINTS = 20.0
"""What a trace costs its server that is not the committed one."""
PIN_PREFIX = "duty-"
CHECKING = trio.CapacityLimiter(1)
"""Traces checked at once: one of 65,536 segments takes 2.6 s and 60 MB, in which the node must go on serving."""

_log = logging.getLogger(__name__)


def rpc_of(limits: Limits, *, max_per_peer: int = 4) -> Rpc:
    """The network room's form of a protocol of ours."""
    return Rpc(
        protocol=limits.protocol,
        max_request_bytes=limits.max_request_bytes,
        max_reply_bytes=limits.max_reply_bytes,
        deadline_s=limits.deadline_s,
        max_per_peer=max_per_peer,
    )


class NoRoomHere(ClassMismatch):
    """This machine's disk refuses a file: no word on the worker follows from that."""


class Peers(Protocol):
    """Questions to other peers; the network in the shipped verifier, memory in tests."""

    async def trace(self, peer_id: str, job_id: JobId, window: int) -> bytes:
        """What the peer says is the trace. Raises NetworkError or RemoteViolation."""

    async def content(self, content_id: ContentId, peer_ids: Sequence[str], owner: str, max_bytes: int) -> None:
        """Brings a content into the blob store, pinned for `owner`. Raises NetworkError, TooLarge or StorageError."""

    def punish(self, peer_id: str, reason: str) -> None:
        """Notes that the peer served what it should not."""

    def is_connected(self) -> bool:
        """Whether anybody can be reached now."""


class NetworkPeers:
    """Peers over libp2p."""

    def __init__(self, host: Host, discovery: Discovery, blobs: BlobStore) -> None:
        self._host = host
        self._discovery = discovery
        self._blobs = blobs
        self._arriving: dict[ContentId, trio.Lock] = {}

    async def trace(self, peer_id: str, job_id: JobId, window: int) -> bytes:
        await self._host.connect_any(peer_id, await self._addrs(peer_id))
        request = WindowRequest(job_id=job_id, index=window).encode()
        return await rpc_of(TRACE).call(self._host, peer_id, request)

    async def content(self, content_id: ContentId, peer_ids: Sequence[str], owner: str, max_bytes: int) -> None:
        lock = self._arriving.setdefault(content_id, trio.Lock())
        try:
            async with lock:
                if await trio.to_thread.run_sync(self._pinned, content_id, owner):
                    return
                sources = [(peer_id, await self._addrs(peer_id)) for peer_id in peer_ids]
                path = self._blobs.partial_path(content_id)
                room = self._blobs.require_room
                await fetch(self._host, content_id, sources, path, max_bytes=max_bytes, require_room=room)
                await trio.to_thread.run_sync(lambda: self._blobs.put_file(path, pin=owner, move=True))
        finally:
            if not lock.locked():
                self._arriving.pop(content_id, None)

    def punish(self, peer_id: str, reason: str) -> None:
        self._host.punish(peer_id, LIE_POINTS, reason)

    def is_connected(self) -> bool:
        return bool(self._host.peers())

    def _pinned(self, content_id: ContentId, owner: str) -> bool:
        if not self._blobs.has(content_id):
            return False
        self._blobs.pin(content_id, owner)
        return True

    async def _addrs(self, peer_id: str) -> Sequence[str]:
        if known := self._host.addrs_of(peer_id):
            return known
        try:
            return await self._discovery.find_peer(peer_id)
        except NetworkError:
            return ()


class Fetcher:
    """Traces and files of jobs.

    Args:
        sources: peer ids that may have what belongs to a job, best first (the worker's at the front).
        keep: called with each trace that proved to be the committed one, to be served to others.
    """

    def __init__(
        self,
        peers: Peers,
        blobs: BlobStore,
        domain: Domain,
        *,
        sources: Callable[[JobId], list[str]],
        keep: Callable[[JobId, int, CheckedTrace], None],
    ) -> None:
        self._peers = peers
        self.blobs = blobs
        self._domain = domain
        self.sources = sources
        self._keep = keep

    async def trace(
        self, job: Job, window: int, root: WindowRoot, *, but: Collection[str] = frozenset()
    ) -> CheckedTrace:
        """The committed trace of a window, from any source whose peer id is not in `but`.

        Raises:
            CheckpointUnavailable: no source serves it now; says how each failed.
        """
        failures = []
        for peer_id in self.sources(job.job_id):
            if peer_id in but:
                continue
            try:
                raw = await self._peers.trace(peer_id, job.job_id, window)
                trace = await trio.to_thread.run_sync(
                    partial(
                        checked_trace, raw, offer=job.offer, job_id=job.job_id, window=window, root=root,
                        domain=self._domain, source=peer_id,
                    ),
                    limiter=CHECKING,
                )  # fmt: skip
            except (RemoteViolation, ProofInvalid) as error:
                self._peers.punish(peer_id, error.message)
                failures.append(f"{peer_id}: {error.message}")
            except NetworkError as error:
                failures.append(f"{peer_id}: {error.message}")
            else:
                self._keep(job.job_id, window, trace)
                return trace
        raise CheckpointUnavailable(
            f"nobody serves the trace of window {window}: {'; '.join(failures) or 'no source is known'}"
        )

    async def content(self, job_id: JobId, content_id: ContentId, owner: str, *, max_bytes: int) -> None:
        """Brings a file of the job into the blob store, pinned for `owner`.

        Args:
            max_bytes: the most that the job's spec lets it have.

        Raises:
            CheckpointUnavailable: no source serves it now, or it is larger than it may be.
            NoRoomHere: the disk refuses it.
        """
        name = f"content {content_id.hex()[:16]}"
        try:
            await self._peers.content(content_id, self.sources(job_id), owner, max_bytes)
        except (NetworkError, TooLarge) as error:
            raise CheckpointUnavailable(f"{name} is not to be had: {error.message}") from error
        except StorageError as error:
            raise NoRoomHere(f"{name} finds no room here: {error.message}") from error
        # It may have been here before, as another kind of file.
        if (size := self.blobs.path_of(content_id).stat().st_size) > max_bytes:
            raise CheckpointUnavailable(f"{name} has {size} bytes, allowed are {max_bytes}")

    async def release(self, content_id: ContentId, owner: str) -> None:
        """Unpins one file that `owner` no longer needs."""
        await trio.to_thread.run_sync(self.blobs.unpin, content_id, owner)

    def is_connected(self) -> bool:
        """Whether this verifier reaches anybody at all: who is cut off itself must not call others unavailable."""
        return self._peers.is_connected()

    async def let_go(self, owner: str) -> None:
        """Unpins all that was fetched for `owner`."""

        def unpin() -> None:
            for content_id in self.blobs.ids():
                self.blobs.unpin(content_id, owner)

        await trio.to_thread.run_sync(unpin)


def owner_of(job_id: JobId, what: str) -> str:
    """The pin owner of one duty's files."""
    return f"{PIN_PREFIX}{job_id.hex()[:24]}-{what}"


def unpin_stale(blobs: BlobStore) -> None:
    """Lets go of what duties of an earlier process had pinned: duties pin anew what they still need. Blocks."""
    for content_id in blobs.ids():
        for owner in blobs.owners(content_id):
            if owner.startswith(PIN_PREFIX):
                blobs.unpin(content_id, owner)
