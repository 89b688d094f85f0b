"""The same bytes on the wire with fewer steps for each: socket, noise records, yamux frames, reader, and back.

The library reads a record with two or more system calls (its length, then its body), copies it through six buffers,
takes five locks and some ten turns of the scheduler for each frame, and sends each record alone. Here a read takes what
the socket holds, plain data goes straight to its stream, a reader wakes when it has what it waits for, and a write
sends several records at once. Measured for 1 GB, with load on the machine: 24,000 turns in place of 95,000 on both
sides, 5 s of processor time in place of 7.6. A peer sees the same records and frames in the same order, the same end of
a connection, and fewer window updates: at half a window, as go-yamux sends them.

It refuses what the library refuses: a record that is cut off (IncompleteReadError) or that was tampered with
(NoiseInvalidMessage). At most RECEIVE_BYTES and one record wait here, per connection. guards.py puts these methods in
place, for its version of the library only. Next in the flow: host.py.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

import trio
from cryptography.exceptions import InvalidTag
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.stream.net_stream import NetStream
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux import yamux
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from noise.exceptions import NoiseInvalidMessage  # type: ignore[import-untyped]  # ships no types

RECEIVE_BYTES = 1 << 18
BODY_S = 60.0
"""An announced payload must arrive within it, or the connection ends; the library's own figure."""
FRAMES_PER_TURN = 16
"""Data frames taken from what has arrived before others have their turn."""
KEPT_PIECE_BYTES = 48 << 10
"""A piece of this size is kept as it came, with the record around it: at most a third of memory more than it says."""
_LENGTH_BYTES = 2
_DATA = bytes([0, yamux.TYPE_DATA, 0, 0])
"""How a data frame without flags begins; its stream and its length follow."""
_PLACE = struct.Struct("!II")


class QuickLock:
    """A lock that costs no turn of the scheduler while it is free; trio's own gives one up each time.

    For places that give one up anyway while they hold it, or right after.
    """

    __slots__ = ("_is_held", "_others")

    def __init__(self) -> None:
        self._is_held, self._others = False, trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        if self._is_held:
            await self._others.park()  # whoever leaves hands it over
        self._is_held = True

    async def __aexit__(self, *_error: object) -> None:
        if self._others:
            self._others.unpark()
        else:
            self._is_held = False


def _with_quick_locks(owner: type, *names: str) -> Callable[..., None]:
    original = owner.__init__  # type: ignore[misc]  # of the class itself

    def init(self: object, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for name in names:
            setattr(self, name, QuickLock())

    return init


class _Incoming:
    """What came from the socket and was not asked for yet; `at` is where the next record begins."""

    __slots__ = ("at", "raw")

    def __init__(self) -> None:
        self.raw, self.at = b"", 0

    @property
    def size(self) -> int:
        """Bytes of the next record with its length; of the length alone until that is here."""
        if len(self.raw) - self.at < _LENGTH_BYTES:
            return _LENGTH_BYTES
        return _LENGTH_BYTES + int.from_bytes(self.raw[self.at : self.at + _LENGTH_BYTES], "big")

    @property
    def end(self) -> int | None:
        """Where the next record ends; None until all of it is here."""
        if len(self.raw) - self.at < _LENGTH_BYTES:
            return None
        end = self.at + self.size
        return end if end <= len(self.raw) else None


async def read_msg(self: NoiseTransportReadWriter, prefix_encoded: bool = False) -> bytes:
    """The plaintext of the next record. In place of the library's; waits only where the socket has to be read."""
    assert not prefix_encoded  # of the handshake only, which does not pass here
    incoming = _incoming(self)
    if incoming.at and incoming.end is not None:
        # No turn was given up for it: who waits for the record before must not see this one's effect first.
        await trio.lowlevel.checkpoint()
    while (raw := _here(self)) is None:
        more = await self.read_writer.read_write_closer.read(RECEIVE_BYTES)
        held = len(incoming.raw) - incoming.at
        if not more:
            raise IncompleteReadError("connection ended", incoming.size, held)
        incoming.raw, incoming.at = incoming.raw[incoming.at :] + more if held else more, 0
    return raw


def _here(transport: NoiseTransportReadWriter) -> bytes | None:
    """The plaintext of the next record if all of it has arrived."""
    incoming = _incoming(transport)
    raw, start, end = incoming.raw, incoming.at + _LENGTH_BYTES, incoming.end
    if end is None:
        return None
    incoming.at = end
    if end == len(raw):
        incoming.raw, incoming.at = b"", 0
    ciphers = transport.noise_state.noise_protocol
    try:
        with memoryview(raw) as view:
            return ciphers.cipher_state_decrypt.decrypt_with_ad(None, view[start:end])  # type: ignore[no-any-return]
    except InvalidTag:
        raise NoiseInvalidMessage("a record fails its authentication") from None


def _incoming(transport: NoiseTransportReadWriter) -> _Incoming:
    found: _Incoming = transport.__dict__.setdefault("tolsey_incoming", _Incoming())
    return found


async def write_msg(self: NoiseTransportReadWriter, msg: bytes, prefix_encoded: bool = False) -> None:
    """Sends `msg` as records of at most MAX_PLAINTEXT_LENGTH, all in one write. In place of the library's."""
    assert not prefix_encoded
    cipher = self.noise_state.noise_protocol.cipher_state_encrypt
    parts: list[bytes] = []
    with memoryview(msg) as view:
        for start in range(0, len(msg), MAX_PLAINTEXT_LENGTH):
            record = cipher.encrypt_with_ad(None, view[start : start + MAX_PLAINTEXT_LENGTH])
            parts += (len(record).to_bytes(_LENGTH_BYTES, "big"), record)
    await self.read_writer.read_write_closer.write(b"".join(parts))


async def read(self: SecureSession, n: int | None = None) -> bytes:
    """`n` bytes, fewer at the end of the connection; without `n` what comes next. In place of the library's."""
    if n == 0:
        return b""
    rest: bytes = self.__dict__.pop("tolsey_rest", b"") or await _record(self)
    if n is not None and len(rest) < n:
        parts, size = [rest], len(rest)
        while size < n:
            more = await self.conn.read_msg()
            if not more:
                break
            parts.append(more)
            size += len(more)
        rest = b"".join(parts)
    if n is None or len(rest) <= n:
        return rest
    self.__dict__["tolsey_rest"] = rest[n:]
    return rest[:n]


async def _record(session: SecureSession, *, gives_turn: bool = True) -> bytes:
    """The next record of a session; without `gives_turn` one that has arrived is taken at once."""
    transport: Any = session.conn
    raw: bytes | None = None if gives_turn else _here(transport)
    if raw is None:
        raw = await session.conn.read_msg()
    if not raw:
        raise ConnectionClosedError("Connection closed")
    return raw


class Pieces:
    """The unread bytes of a stream. Large pieces are kept as they came, so that they are copied once, when taken."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: deque[bytes | memoryview | bytearray] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def extend(self, raw: bytes | memoryview) -> None:
        """Adds bytes at the end."""
        self._size += len(raw)
        if len(raw) >= KEPT_PIECE_BYTES:
            self._pieces.append(raw)
        elif self._pieces and isinstance(last := self._pieces[-1], bytearray):
            last += raw
        else:
            self._pieces.append(bytearray(raw))

    def take(self, most: int) -> bytes:
        """At most `most` bytes from the front; they are gone then."""
        parts: list[bytes | memoryview | bytearray] = []
        missing = min(most, self._size)
        self._size -= missing
        while missing:
            piece = self._pieces.popleft()
            if len(piece) > missing:
                piece, rest = _split(piece, missing)
                self._pieces.appendleft(rest)
            parts.append(piece)
            missing -= len(piece)
        return b"".join(parts)


def _split(
    piece: bytes | memoryview | bytearray, size: int
) -> tuple[bytes | memoryview, bytes | memoryview | bytearray]:
    if isinstance(piece, bytearray):
        head = bytes(piece[:size])
        del piece[:size]  # moves nothing: the array remembers where it begins
        return head, piece
    view = memoryview(piece)
    return view[:size], view[size:]


async def read_header(session: SecureSession, size: int) -> bytes:
    """The next yamux header that the library has to see. In place of its exact read, which serves headers alone.

    A data frame without flags, of a stream that is open, says nothing but "here are bytes": it is put into its buffer
    here, within the same bounds, so that the library's many steps are taken for the other frames only.
    """
    muxer: Yamux = session.__dict__["tolsey_muxer"]
    taken = 0
    while True:
        raw, at = session.__dict__.pop("tolsey_rest", b"") or await _record(session, gives_turn=not taken), 0
        while at < len(raw) and (place := _plain_data(muxer, raw, at)):
            stream_id, length = place
            at, end = at + size, at + size + length
            if end <= len(raw):
                _put(muxer, stream_id, memoryview(raw)[at:end])
            else:
                session.__dict__["tolsey_rest"] = raw[at:]
                _put(muxer, stream_id, await read_data_body(muxer, length))
            at, taken = end, taken + 1
            if taken == FRAMES_PER_TURN:
                taken = 0
                await trio.lowlevel.checkpoint()
        if at < len(raw):
            session.__dict__["tolsey_rest"] = raw[at:]
            break
    if taken:  # who waits for those bytes must see them before the effect of what follows (of a reset, or of the end)
        await trio.lowlevel.checkpoint()
    header = await session.read(size)
    if len(header) < size:
        raise IncompleteReadError(f"connection ended after {len(header)} of {size} bytes", size, len(header))
    return header


def _plain_data(muxer: Yamux, raw: bytes, at: int) -> tuple[int, int] | None:
    """Stream and length of the frame at `at`, if it is data without flags for a stream that is open."""
    if not raw.startswith(_DATA, at) or len(raw) - at < yamux.HEADER_SIZE or muxer.streams_lock.locked():
        return None
    stream_id, length = _PLACE.unpack_from(raw, at + len(_DATA))
    return (stream_id, length) if stream_id in muxer.streams and length <= yamux.MAX_WINDOW_SIZE else None


def _put(muxer: Yamux, stream_id: int, body: bytes | memoryview) -> None:
    stream = muxer.streams.get(stream_id)
    if stream is None:  # closed while the body was on its way
        return
    buffer = muxer.stream_buffers[stream_id]
    buffer.extend(body)
    stream.recv_window = max(0, stream.recv_window - len(body))
    if len(buffer) >= stream.__dict__.get("tolsey_wanted", 1) or not stream.recv_window:
        muxer.stream_events[stream_id].set()


async def read_data_body(self: Yamux, length: int) -> bytes:
    """A yamux frame's payload. In place of the library's, which copies it twice more."""
    session = self.secured_conn
    if len(session.__dict__.get("tolsey_rest", b"")) >= length:
        return await session.read(length)
    with trio.fail_after(BODY_S):
        raw = await session.read(length)
    if len(raw) < length:
        raise IncompleteReadError(f"connection ended after {len(raw)} of {length} bytes", length, len(raw))
    return raw


class Whole(int):
    """A count of bytes of which the reader has no use for fewer: `read_some` waits for them while the window allows."""


async def read_some(self: YamuxStream, n: int | None = -1) -> bytes:
    """At most `n` bytes of a stream, all that is here without `n`. In place of the library's, which takes three locks
    for each frame, forgets what came before a reset, calls a reset an end once the stream is off its list, and tells
    the peer of each small read."""
    buffer = await _filled(self, min(n, self.target_recv_window // 4) if isinstance(n, Whole) else 1)
    if not buffer:
        if self.recv_closed and not self.reset_received:
            raise MuxedStreamEOF("stream is closed for receiving")
        raise MuxedStreamReset("stream was reset or is gone")
    raw = buffer.take(len(buffer) if n is None or n < 0 else n)
    if self.closed and not buffer:
        await self.conn._finalize_stream(self, fully_closed=True)
    unsaid = self.__dict__.get("tolsey_unsaid", 0) + len(raw)
    if 2 * unsaid >= self.target_recv_window:
        await self._auto_tune_and_send_window_update(bytes_read=unsaid)
        unsaid = 0
    self.__dict__["tolsey_unsaid"] = unsaid
    return raw


async def _filled(stream: YamuxStream, wanted: int) -> Pieces:
    """The stream's buffer with `wanted` bytes in it, or with what there is when no more can come."""
    connection, stream_id = stream.conn, stream.stream_id
    waited = False
    stream.__dict__["tolsey_wanted"] = wanted
    try:
        while len(buffer := connection.stream_buffers.get(stream_id) or Pieces()) < wanted:
            event = connection.stream_events.get(stream_id)
            if event is None or stream.reset_received or stream.recv_closed or stream.closed:
                break
            if connection.event_shutting_down.is_set() or (buffer and not stream.recv_window):
                break
            await event.wait()
            waited = True
            if stream_id in connection.stream_events:
                connection.stream_events[stream_id] = trio.Event()
    finally:
        stream.__dict__["tolsey_wanted"] = 1
    if not waited:
        await trio.lowlevel.checkpoint()
    return buffer  # type: ignore[return-value]  # guards.py puts Pieces in place of the library's arrays


REPLACED: tuple[tuple[type | ModuleType, str, Callable[..., Any]], ...] = (
    (TrioTCPStream, "__init__", _with_quick_locks(TrioTCPStream, "read_lock", "write_lock")),
    (NetStream, "__init__", _with_quick_locks(NetStream, "_state_lock")),
    (YamuxStream, "__init__", _with_quick_locks(YamuxStream, "window_lock")),
    (NoiseTransportReadWriter, "read_msg", read_msg),
    (NoiseTransportReadWriter, "write_msg", write_msg),
    (SecureSession, "read", read),
    (yamux, "read_exactly", read_header),
    (Yamux, "_read_data_body", read_data_body),
    (YamuxStream, "read", read_some),
)
