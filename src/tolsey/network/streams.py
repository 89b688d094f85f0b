"""One stream to one peer: exact reads, whole writes, and the room's own errors instead of the library's.

A frame is `u32be(length) ‖ payload`. The length is compared with the reader's bound before a byte of it is awaited.
The reader keeps its own buffer because the library's exact read gives up after a hundred short ones. There are no
deadlines here: the caller owns time. A stream that a peer opened is charged for each byte read, which slows the peer
down to its share. Next in the flow: host.py makes streams, rpc.py and transfer.py use them.
"""

from __future__ import annotations

from types import TracebackType

import trio
from libp2p.abc import INetStream

from tolsey.errors import PeerUnreachable, RemoteViolation
from tolsey.network.budgets import Budget
from tolsey.network.guards import LIBRARY_ERRORS, WRITE_BYTES, quietly
from tolsey.network.records import Whole

READ_BYTES = 65536


class StreamEnded(PeerUnreachable):
    """The peer closed its side between two frames: a goodbye."""


class StreamCut(PeerUnreachable):
    """The peer closed its side in order in the middle of a frame: it had promised more."""


class Stream:
    """A two-way byte stream; `async with` resets it on an error and closes it otherwise.

    Attributes:
        peer_id: the authenticated other side.
        protocol: the protocol id that was agreed.
    """

    def __init__(self, inner: INetStream, peer_id: str, *, charge: Budget | None = None) -> None:
        self.peer_id = peer_id
        self._charge = charge
        self.protocol = str(inner.get_protocol())
        self._inner = inner
        self._buffer = bytearray()  # what a cancelled read left, else empty: no more is read than is asked for

    async def read_some(self) -> bytes:
        """At least one byte, or nothing once the peer has closed its side in order."""
        if self._buffer:
            out = bytes(self._buffer)
            self._buffer.clear()
            return out
        return await self._read(READ_BYTES)

    async def read_exactly(self, size: int) -> bytes:
        """`size` bytes.

        Raises:
            StreamEnded: the peer had nothing more to say.
            StreamCut: it ended after a part of them.
            PeerUnreachable: the stream was broken off.
        """
        return await self._exactly(size, inside=False)

    async def _exactly(self, size: int, *, inside: bool) -> bytes:
        buffer = self._buffer
        while len(buffer) < size:
            more = await self._read(Whole(size - len(buffer)))
            if not more:
                ended = StreamCut if inside or buffer else StreamEnded
                raise ended(f"{self.peer_id} ended {self.protocol} after {len(buffer)} of {size} bytes")
            if len(more) == size:
                return more
            buffer += more
        with memoryview(buffer) as view:
            out = bytes(view[:size])
        del buffer[:size]
        return out

    async def read_frame(self, max_bytes: int) -> bytes:
        """One frame's payload.

        Raises:
            RemoteViolation: it announces more than `max_bytes`.
            StreamEnded: the peer ended the stream before the frame.
            StreamCut: it did so within it.
            PeerUnreachable: the stream was broken off.
        """
        size = await self.read_frame_size()
        if size > max_bytes:
            raise RemoteViolation(
                f"{self.peer_id} announced a frame of {size} bytes on {self.protocol}, allowed are {max_bytes}",
                peer_id=self.peer_id,
                evidence=size.to_bytes(4, "big"),
            )
        return await self.read_frame_body(size)

    async def read_frame_size(self) -> int:
        """The length that the next frame announces, for a reader to whom too long is no violation."""
        return int.from_bytes(await self.read_exactly(4), "big")

    async def read_frame_body(self, size: int) -> bytes:
        """The payload after `read_frame_size`; an end before it has all arrived is a StreamCut."""
        return await self._exactly(size, inside=True)

    async def write(self, raw: bytes | memoryview) -> None:
        """Sends all of `raw`.

        Raises:
            PeerUnreachable: the peer is gone or takes nothing.
        """
        try:
            await self._inner.write(raw)  # type: ignore[arg-type]  # guards.py slices it and does no more
        except LIBRARY_ERRORS as error:
            raise PeerUnreachable(f"{self.peer_id} takes nothing on {self.protocol}: {error!r}") from error

    async def write_frame(self, *parts: bytes) -> None:
        """Sends the parts' concatenation as one frame."""
        size = sum(map(len, parts))
        head, last = b"".join((size.to_bytes(4, "big"), *parts[:-1])), memoryview(parts[-1])
        first = WRITE_BYTES - len(head)  # the rest of a large part is not copied
        await self.write(head + last[:first])
        if len(last) > first:
            await self.write(last[first:])

    async def close_write(self) -> None:
        """Says that nothing more will be sent; reading goes on."""
        await quietly(self._inner.close_write())  # type: ignore[attr-defined]  # not in the interface

    async def aclose(self) -> None:
        """Closes in order: what was written still arrives."""
        await quietly(self._inner.close())
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """Breaks off: what was written may be lost."""
        await quietly(self._inner.reset())

    async def _read(self, most: int) -> bytes:
        try:
            raw = await self._inner.read(most)
        except EOFError:
            return b""
        except LIBRARY_ERRORS as error:
            raise PeerUnreachable(f"{self.peer_id} broke off {self.protocol}: {error!r}") from error
        if self._charge is not None:
            await self._charge.spend(self.peer_id, len(raw))
        return raw

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.aclose()
        else:
            await self.reset()
