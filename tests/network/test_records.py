"""Noise records cut from and packed for the socket: same bytes as the library's own, whole or refused."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH, NoiseTransportReadWriter
from libp2p.security.secure_session import SecureSession
from noise.backends.default.ciphers import ChaCha20Cipher
from noise.exceptions import NoiseInvalidMessage
from noise.state import CipherState

from tolsey.errors import PeerUnreachable
from tolsey.network import guards, records

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
