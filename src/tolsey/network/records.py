"""The same bytes on the wire with fewer steps for each: how noise records are cut from and packed for the socket.

The library reads a record with two or more system calls (its length, then its body) and copies it through four
buffers; it sends each record alone. Here a read takes what the socket holds and a write sends several records at once.
Nothing that a peer can see changes: not the records, not their order, not when a connection ends.

It refuses what the library refuses: a record that is cut off (IncompleteReadError) or that was tampered with
(NoiseInvalidMessage). At most RECEIVE_BYTES and one record wait here, per connection. guards.py puts these methods in
place, for its version of the library only. Next in the flow: host.py.
"""

from __future__ import annotations

import trio
from cryptography.exceptions import InvalidTag
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from noise.exceptions import NoiseInvalidMessage  # type: ignore[import-untyped]  # ships no types

RECEIVE_BYTES = 1 << 18
BODY_S = 60.0
"""An announced payload must arrive within it, or the connection ends; the library's own figure."""
_LENGTH_BYTES = 2


class _Incoming:
    """What came from the socket and was not asked for yet; `at` is where the next record begins."""

    __slots__ = ("at", "raw")

    def __init__(self) -> None:
        self.raw, self.at = b"", 0


async def read_msg(self: NoiseTransportReadWriter, prefix_encoded: bool = False) -> bytes:
    """The plaintext of the next record. In place of the library's; waits only where the socket has to be read."""
    assert not prefix_encoded  # of the handshake only, which does not pass here
    incoming: _Incoming = self.__dict__.setdefault("tolsey_incoming", _Incoming())
    while True:
        raw, at = incoming.raw, incoming.at
        held = len(raw) - at
        end = at + _LENGTH_BYTES + int.from_bytes(raw[at : at + _LENGTH_BYTES], "big")
        if held >= _LENGTH_BYTES and len(raw) >= end:
            if at:  # no turn was given up for it: who waits for the record before must not see this one's effect first
                await trio.lowlevel.checkpoint()
            break
        more = await self.read_writer.read_write_closer.read(RECEIVE_BYTES)
        if not more:
            raise IncompleteReadError("connection ended", _LENGTH_BYTES if held < 2 else end - at, held)
        incoming.raw, incoming.at = raw[at:] + more if held else more, 0
    incoming.at = end
    if end == len(raw):
        incoming.raw, incoming.at = b"", 0
    ciphers = self.noise_state.noise_protocol
    try:
        with memoryview(raw) as view:
            return ciphers.cipher_state_decrypt.decrypt_with_ad(None, view[at + _LENGTH_BYTES : end])  # type: ignore[no-any-return]
    except InvalidTag:
        raise NoiseInvalidMessage("a record fails its authentication") from None


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


async def _record(session: SecureSession) -> bytes:
    raw = await session.conn.read_msg()
    if not raw:
        raise ConnectionClosedError("Connection closed")
    return raw


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


async def read_some(self: YamuxStream, n: int | None = -1) -> bytes:
    """At most `n` bytes of a stream. In place of the library's, which takes three locks for each frame, forgets what
    came before a reset, and calls a reset an end once the stream is off its list."""
    if n is None or n <= 0:
        return await _read_all(self, n)
    connection, stream_id = self.conn, self.stream_id
    while not (buffer := connection.stream_buffers.get(stream_id)):
        if self.reset_received:
            raise MuxedStreamReset("stream was reset")
        if self.recv_closed:
            raise MuxedStreamEOF("stream is closed for receiving")
        event = connection.stream_events.get(stream_id)
        if buffer is None or event is None or self.closed or connection.event_shutting_down.is_set():
            raise MuxedStreamReset("stream is gone")
        await event.wait()
        if stream_id in connection.stream_events:
            connection.stream_events[stream_id] = trio.Event()
    if n >= len(buffer):
        raw = bytes(buffer)
        buffer.clear()
    else:
        with memoryview(buffer) as view:
            raw = bytes(view[:n])
        del buffer[:n]
    if self.closed and not buffer:
        await connection._finalize_stream(self, fully_closed=True)
    await self._auto_tune_and_send_window_update(bytes_read=len(raw))
    return raw


_read_all = YamuxStream.read

REPLACED = (
    (NoiseTransportReadWriter, "read_msg", read_msg),
    (NoiseTransportReadWriter, "write_msg", write_msg),
    (SecureSession, "read", read),
    (Yamux, "_read_data_body", read_data_body),
    (YamuxStream, "read", read_some),
)
