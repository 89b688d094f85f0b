"""Peers that mean harm, as functions: what tests/network and the bench throw at a node.

Some speak raw TCP; others ride on an honest `Host` and misuse the streams that it gives them, so that no second
implementation of noise and yamux is needed. Nothing here is imported by the program.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from tolsey.errors import NetworkError
from tolsey.network.host import Host, Identity, open_host
from tolsey.network.streams import Stream

MULTISTREAM = b"\x13/multistream/1.0.0\n"
PLAINTEXT = "/plaintext/2.0.0"
SECIO = "/secio/1.0.0"
MESHSUB = "/meshsub/1.1.0"
KAD = "/tolsey/kad/1.0.0"


def tcp_of(addr: str) -> tuple[str, int]:
    """(ip, port) of an /ip4/…/tcp/… multiaddr."""
    parts = addr.split("/")
    return parts[2], int(parts[4])


async def propose_security(addr: str, protocol: str) -> str:
    """What the node answers to a dialer that offers `protocol` alone: the protocol again, or `na`."""
    stream = await trio.open_tcp_stream(*tcp_of(addr))
    async with stream:
        line = protocol.encode() + b"\n"
        await stream.send_all(MULTISTREAM + bytes([len(line)]) + line)
        with trio.move_on_after(5):
            raw = b""
            while raw.count(b"\n") < 2:
                more = await stream.receive_some(1024)
                if not more:
                    break
                raw += more
        return raw.split(b"\n")[1][1:].decode("ascii", "replace") if raw.count(b"\n") > 1 else ""


def impersonate(attacker_addr: str, victim_peer_id: str) -> str:
    """An address that leads to the attacker and names the victim."""
    return attacker_addr.rsplit("/p2p/", 1)[0] + f"/p2p/{victim_peer_id}"


@asynccontextmanager
async def silent_connections(addr: str, count: int) -> AsyncIterator[None]:
    """`count` TCP connections that say nothing, for the length of the block."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(await trio.open_tcp_stream(*tcp_of(addr)))
        yield


async def slow_loris(addr: str, *, pause_s: float = 0.2) -> int:
    """Sends the greeting byte by byte until the node has had enough; how many bytes it took."""
    stream = await trio.open_tcp_stream(*tcp_of(addr))
    sent = 0
    async with stream:
        for byte in MULTISTREAM * 1000:
            try:
                await stream.send_all(bytes([byte]))
            except trio.BrokenResourceError:
                break
            sent += 1
            await trio.sleep(pause_s)
    return sent


async def garbage(addr: str, seed: int, size: int = 4096) -> None:
    """Random bytes in place of a handshake; returns when the node has closed or after 5 s."""
    stream = await trio.open_tcp_stream(*tcp_of(addr))
    async with stream:
        with trio.move_on_after(5):
            try:
                await stream.send_all(random.Random(seed).randbytes(size))
                while await stream.receive_some(4096):
                    pass
            except trio.BrokenResourceError:
                return


async def dial_and_close(addr: str, count: int, *, dialers: int = 10) -> int:
    """How many of `count` dials, each closed again, were accepted; `dialers` identities dial at once."""
    accepted = 0

    async def dial(host: Host, times: int) -> None:
        nonlocal accepted
        for _ in range(times):
            try:
                peer_id = await host.connect(addr)
            except NetworkError:
                continue
            accepted += 1
            await host.disconnect(peer_id)

    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(open_host(Identity.generate())) for _ in range(dialers)]
        async with trio.open_nursery() as nursery:
            for i, host in enumerate(hosts):
                nursery.start_soon(dial, host, count // dialers + (i < count % dialers))
    return accepted


async def ignore_window(host: Host, peer_id: str, protocol: str, size_bytes: int) -> int:
    """Sends without regard to the receiver's window; how many bytes went out before the line broke."""
    stream = await host.open_stream(peer_id, protocol)
    sent, piece = 0, bytes(65000)
    try:
        while sent < size_bytes:
            stream._inner.muxed_stream.send_window = 1 << 30  # type: ignore[attr-defined]  # the misuse itself
            await stream.write(piece)
            sent += len(piece)
    except NetworkError:
        pass
    return sent


async def idle_streams(host: Host, peer_id: str, protocol: str, count: int) -> list[Stream]:
    """Up to `count` streams that say nothing."""
    streams: list[Stream] = []
    for _ in range(count):
        try:
            streams.append(await host.open_stream(peer_id, protocol))
        except NetworkError:
            break
    return streams


async def oversize_frame(host: Host, peer_id: str, protocol: str) -> None:
    """Announces a frame of 4 GiB and waits for the answer that never comes."""
    async with await host.open_stream(peer_id, protocol) as stream:
        await stream.write(b"\xff\xff\xff\xff")
        with trio.move_on_after(5):
            try:
                await stream.read_some()
            except NetworkError:
                return


async def fuzz_gossip(host: Host, peer_id: str, topic: str, *, seed: int, cases: int) -> int:
    """Sends malformed gossip, one case a stream; how many streams the node still opened for it."""
    opened = 0
    for raw in malformed_gossip(topic, seed=seed, cases=cases):
        try:
            stream = await host.open_stream(peer_id, MESHSUB)
            opened += 1
            await stream.write(raw)
            await stream.aclose()
        except NetworkError:
            continue
    return opened


def malformed_gossip(topic: str, *, seed: int, cases: int) -> Iterator[bytes]:
    """Frames that break the library's parsing in turn: keys, ids, lengths, types, truncation, noise."""
    rng = random.Random(seed)
    for case in range(cases):
        kind = case % 8
        peer = b"\x00\x24\x08\x01\x12\x20" + rng.randbytes(32)
        message = {1: peer, 2: rng.randbytes(20), 3: rng.randbytes(8), 4: topic.encode(), 5: rng.randbytes(64), 6: b""}
        if kind == 0:
            message[6] = rng.randbytes(rng.randrange(1, 40))  # a key that is no protobuf
        elif kind == 1:
            message[1] = rng.randbytes(rng.randrange(0, 5))  # an author that is no peer id
        elif kind == 2:
            message[6] = _field(1, 9) + _field(2, rng.randbytes(32))  # an unknown key type
        elif kind == 3:
            message[4] = rng.randbytes(12)  # a topic that is no UTF-8
        frame = _field(2, b"".join(_field(number, value) for number, value in message.items() if value))
        if kind == 4:
            frame = frame[: rng.randrange(1, len(frame))]
        elif kind == 5:
            frame = rng.randbytes(rng.randrange(1, 200))
        elif kind == 6:
            yield b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"  # a length of 2^63 and no body
            continue
        elif kind == 7:
            control = b"".join(_field(rng.randrange(1, 6), rng.randbytes(rng.randrange(0, 30))) for _ in range(4))
            frame = _field(3, control)
        yield _varint(len(frame)) + frame


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
