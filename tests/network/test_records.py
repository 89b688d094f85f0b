"""Noise records cut from and packed for the socket: same bytes as the library's own, whole or refused."""

from __future__ import annotations

import os
import random
import struct
from types import SimpleNamespace

import pytest
import trio
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux import yamux
from noise.backends.default.ciphers import ChaCha20Cipher
from noise.exceptions import NoiseInvalidMessage
from noise.state import CipherState

from tolsey.errors import PeerUnreachable
from tolsey.network import guards, records
from tolsey.network.records import KEPT_PIECE_BYTES, Pieces, QuickLock, Whole

KEY = bytes(range(32))


class Line:
    """A socket that gives what it was given, in pieces of random size."""

    def __init__(self, raw: bytes = b"", seed: int = 0) -> None:
        self.raw, self.written, self.reads, self._random = raw, [], 0, random.Random(seed)

    async def read(self, n: int) -> bytes:
        self.reads += 1
        size = self._random.choice([1, 2, 3, 1000, n])
        out, self.raw = self.raw[: min(size, n)], self.raw[min(size, n) :]
        return out

    async def write(self, raw: bytes) -> None:
        self.written.append(raw)


def transport(line: Line) -> NoiseTransportReadWriter:
    def cipher() -> CipherState:
        state = CipherState(SimpleNamespace(cipher_class=ChaCha20Cipher))
        state.initialize_key(KEY)
        return state

    protocol = SimpleNamespace(cipher_state_encrypt=cipher(), cipher_state_decrypt=cipher())
    return NoiseTransportReadWriter(line, SimpleNamespace(noise_protocol=protocol))


def sealed(*plain: bytes) -> bytes:
    """Records as the specification has them: u16be(length), then ChaCha20-Poly1305 with a counter for nonce."""
    out = b""
    for number, raw in enumerate(plain):
        record = ChaCha20Poly1305(KEY).encrypt(bytes(4) + number.to_bytes(8, "little"), raw, None)
        out += len(record).to_bytes(2, "big") + record
    return out


def session(line: Line) -> SecureSession:
    made = SecureSession.__new__(SecureSession)
    made.conn = transport(line)
    return made


@pytest.fixture(autouse=True)
def applied() -> None:
    guards.apply()


@pytest.mark.parametrize("seed", range(8))
async def test_read_msg_any_pieces_give_the_records(seed):
    plain = [os.urandom(size) for size in (1, 65519, 0, 12, 40_000)]
    reader = transport(Line(sealed(*plain), seed))
    assert [await reader.read_msg() for _ in plain] == plain
    with pytest.raises(IncompleteReadError) as ended:
        await reader.read_msg()
    assert ended.value.is_clean_close


async def test_read_msg_many_records_in_one_read():
    line = Line(sealed(*[b"x"] * 50))
    line._random = SimpleNamespace(choice=max)
    reader = transport(line)
    assert [await reader.read_msg() for _ in range(50)] == [b"x"] * 50
    assert line.reads == 1


@pytest.mark.parametrize("kept", [1, 2, 10, 117])
async def test_read_msg_cut_record_is_no_clean_end(kept):
    reader = transport(Line(sealed(bytes(100))[:kept]))
    with pytest.raises(IncompleteReadError) as ended:
        await reader.read_msg()
    assert ended.value.received_bytes == kept and not ended.value.is_clean_close


@pytest.mark.parametrize("at", [2, 50, -1])
async def test_read_msg_tampered_record_refused(at):
    raw = bytearray(sealed(bytes(100)))
    raw[at] ^= 1
    with pytest.raises(NoiseInvalidMessage):
        await transport(Line(bytes(raw))).read_msg()


@pytest.mark.parametrize("size", [1, MAX_PLAINTEXT_LENGTH, MAX_PLAINTEXT_LENGTH + 1, 4 * MAX_PLAINTEXT_LENGTH])
async def test_write_msg_records_of_the_specification_in_one_write(size):
    line, raw = Line(), os.urandom(size)
    await transport(line).write_msg(raw)
    pieces = [raw[i : i + MAX_PLAINTEXT_LENGTH] for i in range(0, size, MAX_PLAINTEXT_LENGTH)]
    assert line.written == [sealed(*pieces)]


@pytest.mark.parametrize("seed", range(4))
async def test_session_read_exact_sizes_over_record_borders(seed):
    raw = os.urandom(100_000)
    reader = session(Line(sealed(raw[:10], raw[10:60_000], raw[60_000:]), seed))
    got = b"".join([await reader.read(n) for n in (0, 4, 12, 70_000, 1)])
    assert got == raw[:70_017]
    assert await reader.read() == raw[70_017:]


async def test_session_read_empty_record_is_the_end():
    with pytest.raises(ConnectionClosedError):
        await session(Line(sealed(b""))).read(5)
    assert await session(Line(sealed(b"abc", b""))).read(5) == b"abc"


async def test_read_data_body_short_is_incomplete():
    connection = SimpleNamespace(secured_conn=session(Line(sealed(b"abc", b""))))
    with pytest.raises(IncompleteReadError, match="3 of 5 bytes"):
        await records.read_data_body(connection, 5)


@pytest.mark.parametrize("seed", range(6))
def test_pieces_any_sizes_come_out_in_order(seed):
    pick, pieces, expected = random.Random(seed), Pieces(), b""
    for _ in range(300):
        if pick.random() < 0.5:
            raw = os.urandom(pick.choice([0, 1, 100, KEPT_PIECE_BYTES - 1, KEPT_PIECE_BYTES, 65507]))
            pieces.extend(memoryview(raw) if pick.random() < 0.5 else raw)
            expected += raw
        else:
            most = pick.choice([1, 4, 1000, 65507, 1 << 20])
            assert pieces.take(most) == expected[:most]
            expected = expected[most:]
        assert len(pieces) == len(expected)
    assert pieces.take(len(pieces)) == expected and not pieces


def test_pieces_large_one_is_not_copied_and_small_ones_are_one():
    pieces, large = Pieces(), os.urandom(65507)
    for _ in range(1000):
        pieces.extend(b"xy")
    pieces.extend(large)
    assert len(pieces._pieces) == 2
    assert pieces.take(2000) == b"xy" * 1000
    assert pieces.take(65507) is large


async def test_quick_lock_free_takes_no_turn_and_held_is_handed_over_in_order():
    lock, log = QuickLock(), []

    async def enter(name: str) -> None:
        async with lock:
            log.append(name)
            await trio.lowlevel.checkpoint()
            log.append(name)

    with trio.CancelScope() as scope:
        scope.cancel()
        async with lock:  # any turn given up would raise here
            log.append("free")
    async with trio.open_nursery() as nursery, lock:
        for name in "abc":
            nursery.start_soon(enter, name)
            await trio.testing.wait_all_tasks_blocked()
    assert log == ["free", *"aabbcc"] and not lock._is_held


async def test_quick_lock_waiter_that_gave_up_is_passed_over(autojump_clock):
    lock = QuickLock()
    async with trio.open_nursery() as nursery, lock:
        with trio.move_on_after(1) as scope:
            async with lock:
                raise AssertionError
        assert scope.cancelled_caught
        nursery.start_soon(lock.__aenter__)
        await trio.testing.wait_all_tasks_blocked()
    assert lock._is_held


def frame(stream_id: int, body: bytes = b"", *, kind: int = yamux.TYPE_DATA, flags: int = 0, length: int = -1) -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream_id, len(body) if length < 0 else length) + body


def muxed(line: Line, *stream_ids: int) -> yamux.Yamux:
    made = yamux.Yamux(session(line), None, is_initiator=True)
    for stream_id in stream_ids:
        made.streams[stream_id] = yamux.YamuxStream(stream_id, made, True)
        made.stream_buffers[stream_id] = bytearray()
        made.stream_events[stream_id] = trio.Event()
    return made


@pytest.mark.parametrize("seed", range(6))
async def test_read_header_plain_data_to_its_streams_and_stops_at_the_rest(seed):
    pick, expected, plain = random.Random(seed), {1: b"", 3: b""}, b""
    for _ in range(60):
        stream_id, body = pick.choice([1, 3]), os.urandom(pick.choice([0, 1, 12, 5000, 65507]))
        expected[stream_id] += body
        plain += frame(stream_id, body)
    ping = frame(0, kind=yamux.TYPE_PING, length=7)
    cuts = sorted(pick.randrange(len(plain)) for _ in range(80))  # records begin and end anywhere
    records_of = [plain[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    line = Line(sealed(*[raw[i : i + 65519] for raw in records_of for i in range(0, len(raw), 65519)], ping), seed)
    muxer = muxed(line, 1, 3)
    assert await records.read_header(muxer.secured_conn, 12) == ping
    for stream_id, raw in expected.items():
        assert muxer.stream_buffers[stream_id].take(1 << 30) == raw
        assert muxer.streams[stream_id].recv_window == max(0, (1 << 18) - len(raw))
        assert muxer.stream_events[stream_id].is_set()


@pytest.mark.parametrize(
    "left",
    [
        frame(5, b"nobody"),
        frame(1, b"end", flags=yamux.FLAG_FIN),
        frame(1, b"gone", flags=yamux.FLAG_RST),
        frame(1, kind=yamux.TYPE_WINDOW_UPDATE, length=9),
        frame(1, length=yamux.MAX_WINDOW_SIZE + 1),
        b"\x01" + frame(1, b"of another version")[1:],
    ],
)
async def test_read_header_anything_else_is_left_to_the_library(left):
    muxer = muxed(Line(sealed(frame(1, b"before") + left)), 1)
    assert await records.read_header(muxer.secured_conn, 12) == left[:12]
    assert muxer.stream_buffers[1].take(100) == b"before"
    if left[12:]:
        assert await muxer._read_data_body(len(left) - 12) == left[12:]


async def test_read_header_reader_has_its_turn_before_what_follows():
    reset = frame(1, kind=yamux.TYPE_WINDOW_UPDATE, flags=yamux.FLAG_RST)
    muxer = muxed(Line(sealed(frame(1, b"last words"), reset)), 1)
    muxer.secured_conn.conn.read_writer.read_write_closer._random = SimpleNamespace(choice=max)
    got = []

    async def read() -> None:
        got.append(await muxer.streams[1].read(100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert await records.read_header(muxer.secured_conn, 12) == reset
        async with muxer.streams_lock:  # as the library takes it before any effect
            assert got == [b"last words"]


async def test_read_header_flood_of_tiny_frames_lets_others_work():
    muxer = muxed(Line(sealed(frame(1) * 5000 + frame(0, kind=yamux.TYPE_PING))), 1)
    muxer.secured_conn.conn.read_writer.read_write_closer._random = SimpleNamespace(choice=max)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await records.read_header(muxer.secured_conn, 12)
        nursery.cancel_scope.cancel()
    assert turns >= 5000 // records.FRAMES_PER_TURN


async def test_read_header_more_than_may_wait_is_refused():
    body = bytes(65507)
    muxer = muxed(Line(sealed(*[frame(1, body)] * (guards.STREAM_BUFFER_BYTES // 65507 + 1))), 1)
    muxer.secured_conn.conn.read_writer.read_write_closer._random = SimpleNamespace(choice=max)
    with pytest.raises(guards.WindowOverrun):
        await records.read_header(muxer.secured_conn, 12)
    assert len(muxer.stream_buffers[1]) <= guards.STREAM_BUFFER_BYTES


async def test_read_header_empty_record_is_the_end():
    muxer = muxed(Line(sealed(frame(1, b"x"), b"", frame(0, kind=yamux.TYPE_PING))), 1)
    muxer.secured_conn.conn.read_writer.read_write_closer._random = SimpleNamespace(choice=max)
    with pytest.raises(ConnectionClosedError):
        await records.read_header(muxer.secured_conn, 12)


async def test_stream_read_whole_wakes_once_and_gives_what_the_window_allows():
    muxer = muxed(Line(), 1)
    stream, got = muxer.streams[1], []

    async def read() -> None:
        got.append(len(await stream.read(Whole(1 << 20))))  # a window is 256 KiB at first: a quarter is waited for

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            records._put(muxer, 1, bytes(20_000))
            assert not muxer.stream_events[1].is_set()
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        records._put(muxer, 1, bytes(20_000))
        await trio.testing.wait_all_tasks_blocked()
        assert got == [80_000]
        stream.recv_window = 10  # no more than this can come before the reader has read
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        records._put(muxer, 1, bytes(10))
    assert got == [80_000, 10]


async def test_stream_read_whole_cancelled_keeps_the_bytes(nodes, eventually):
    async with nodes(2) as (a, b):
        go_on = trio.Event()

        async def halves(stream):
            await stream.write(b"x" * 1000)
            await go_on.wait()
            await stream.write(b"y" * 1000)
            await stream.read_some()

        b.serve("/t/halves/1", halves)
        await a.connect(b.addrs[0])
        async with await a.open_stream(b.peer_id, "/t/halves/1") as stream:
            inner = stream._inner.muxed_stream
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.read_exactly, 2000)
                await eventually(lambda: len(inner.conn.stream_buffers[inner.stream_id]) == 1000)
                nursery.cancel_scope.cancel()
            go_on.set()
            assert await stream.read_exactly(2000) == b"x" * 1000 + b"y" * 1000
            await stream.write(b"!")


async def test_stream_small_reads_tell_the_peer_at_half_a_window(nodes, monkeypatch):
    told = []
    tell = yamux.YamuxStream.send_window_update

    async def counting(self, increment: int, skip_lock: bool = False) -> None:
        told.append((self.stream_id, increment))
        await tell(self, increment, skip_lock)

    monkeypatch.setattr(yamux.YamuxStream, "send_window_update", counting)
    async with nodes(2) as (a, b):

        async def count(stream):
            for _ in range(300):
                await stream.read_exactly(1000)
            await stream.write(b"!")

        b.serve("/t/count/1", count)
        await a.connect(b.addrs[0])
        async with await a.open_stream(b.peer_id, "/t/count/1") as stream:
            for _ in range(300):
                await stream.write(bytes(1000))
            assert await stream.read_exactly(1) == b"!"
            mine = [increment for of, increment in told if of == stream._inner.muxed_stream.stream_id]
    assert 1 <= len(mine) <= 3 and min(mine) >= 1 << 17


async def test_stream_bytes_before_a_reset_arrive(nodes):
    async with nodes(2) as (a, b):

        async def last_words(stream):
            await stream.read_exactly(1)
            await stream.write(b"last words")
            raise PeerUnreachable("and gone")

        b.serve("/t/last/1", last_words)
        await a.connect(b.addrs[0])
        for _ in range(20):
            async with await a.open_stream(b.peer_id, "/t/last/1") as stream:
                await stream.write(b"?")
                assert await stream.read_exactly(10) == b"last words"
                with pytest.raises(PeerUnreachable, match="broke off"):
                    await stream.read_exactly(1)


async def test_stream_reset_leaves_nothing_behind(nodes, eventually):
    async with nodes(2) as (a, b):

        async def reset(stream):
            await stream.read_exactly(1)
            await stream.reset()

        b.serve("/t/reset/1", reset)
        await a.connect(b.addrs[0])
        connection = a._swarm.get_connections()[0].muxed_conn
        await eventually(lambda: not connection.streams)
        for _ in range(20):
            async with await a.open_stream(b.peer_id, "/t/reset/1") as stream:
                await stream.write(b"?")
                with pytest.raises(PeerUnreachable):
                    await stream.read_exactly(1)
        await eventually(lambda: not connection.streams)
        assert not connection.stream_events and not connection.stream_buffers
