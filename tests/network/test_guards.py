"""One test per guard, and beside it the proof that the library without the guard has the fault."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import trio
from libp2p import new_host
from libp2p.host.basic_host import BasicHost
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.network.swarm import Swarm
from libp2p.pubsub.pubsub import Pubsub
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from multiaddr import Multiaddr

from tolsey.errors import LocalViolation, NetworkError
from tolsey.network import guards
from tolsey.network.gossip import open_gossip
from tolsey.testing import hostile_peers as hostile

guards.apply()
LISTEN = Multiaddr("/ip4/127.0.0.1/tcp/0")


@pytest.fixture(params=["guarded", "unguarded"])
def guarded(request: pytest.FixtureRequest) -> bool:
    return request.param == "guarded"


@pytest.fixture
def take_off(monkeypatch):
    """Puts the library's own method back."""

    def restore(owner: type, name: str) -> None:
        monkeypatch.setattr(owner, name, guards.ORIGINALS[owner, name])

    return restore


def test_apply_other_version_refuses(monkeypatch):
    monkeypatch.setattr(guards, "_applied", False)
    monkeypatch.setattr(guards, "version", lambda _name: "0.9.0")
    with pytest.raises(LocalViolation, match=r"0\.9\.0 is installed.*0\.8\.1"):
        guards.apply()


def test_apply_twice_changes_nothing():
    before = Swarm.dial_peer
    guards.apply()
    assert Swarm.dial_peer is before


@pytest.mark.parametrize("protocol", [hostile.PLAINTEXT, hostile.SECIO])
async def test_guard1_insecure_dialer_refused(nodes, guarded, protocol):
    if guarded:
        async with nodes(1) as (node,):
            assert await hostile.propose_security(node.addrs[0], protocol) == "na"
    else:
        plain = new_host(listen_addrs=[LISTEN])
        async with plain.run(listen_addrs=[LISTEN]):
            assert await hostile.propose_security(str(plain.get_addrs()[0]), protocol) == protocol


async def test_guard2_inbound_slot_given_back(nodes, guarded, take_off):
    if not guarded:
        take_off(Swarm, "_do_handle_inbound_connection")
    async with nodes(2) as (node, dialer):
        node._swarm._inbound_limiter = trio.CapacityLimiter(3)
        accepted = 0
        for _ in range(5):
            try:
                await dialer.connect(node.addrs[0])
            except NetworkError:
                break
            accepted += 1
            await dialer.disconnect(node.peer_id)
        assert accepted == (5 if guarded else 3)


async def test_guard2_silent_dialers_yield(nodes, guarded, take_off):
    count = guards.MAX_PENDING_INBOUND + 6
    if not guarded:
        take_off(Swarm, "_do_handle_inbound_connection")
    async with nodes(2) as (node, dialer):
        node._swarm._inbound_limiter = trio.CapacityLimiter(count)
        async with hostile.silent_connections(node.addrs[0], count):
            await trio.sleep(0.2)  # the node takes them up in its own order
            with trio.move_on_after(3) as scope:
                try:
                    await dialer.connect(node.addrs[0])
                except NetworkError:
                    assert not guarded
                else:
                    assert guarded
            assert guarded == (not scope.cancelled_caught and dialer.peers() == [node.peer_id])


async def test_guard3_junk_gossip_contained(nodes, guarded, take_off):
    if not guarded:
        take_off(BasicHost, "_swarm_stream_handler")
        take_off(Pubsub, "push_msg")

    async def attack() -> None:
        async with nodes(2) as (node, attacker), open_gossip(node) as gossip, await gossip.subscribe("t"):
            await attacker.connect(node.addrs[0])
            await hostile.fuzz_gossip(attacker, node.peer_id, "t", seed=1, cases=8)
            await trio.sleep(0.3)
            assert await attacker.ping(node.peer_id) < 5

    if guarded:
        await attack()
    else:
        with pytest.raises(BaseException) as failed:
            await attack()
        assert not isinstance(failed.value, AssertionError | NetworkError)


async def test_guard3_streams_per_peer_capped(nodes, monkeypatch, stall):
    monkeypatch.setattr(guards, "MAX_INBOUND_STREAMS_PER_PEER", 5)
    async with nodes(3) as (node, greedy, honest):
        node.serve("/t/wait/1", stall)
        await greedy.connect(node.addrs[0])
        assert len(await hostile.idle_streams(greedy, node.peer_id, "/t/wait/1", 9)) <= 5
        await honest.connect(node.addrs[0])
        assert await honest.ping(node.peer_id) < 5


async def test_guard4_window_enforced(nodes, guarded, monkeypatch, stall):
    if not guarded:
        monkeypatch.setattr(guards, "STREAM_BUFFER_BYTES", math.inf)
        monkeypatch.setattr(guards, "CONNECTION_BUFFER_BYTES", math.inf)
    async with nodes(2) as (node, attacker):
        node.serve("/t/wait/1", stall)
        await attacker.connect(node.addrs[0])
        connection = node._swarm.get_connections()[0].muxed_conn
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, sum(map(len, connection.stream_buffers.values())))
                await trio.sleep(0.005)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            sent = await hostile.ignore_window(attacker, node.peer_id, "/t/wait/1", 40_000_000)
            await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
        if guarded:
            assert most <= guards.STREAM_BUFFER_BYTES
            assert sent < 40_000_000 and connection.is_closed
        else:
            assert most > 30_000_000


async def test_guard5_idle_dht_streams_end(nodes, guarded, monkeypatch):
    monkeypatch.setattr(guards, "DHT_STREAM_S", 0.5)
    async with nodes(5) as (node, honest, *attackers):
        dht = KadDHT(node.basic, DHTMode.SERVER)
        handler = guards.bounded_dht_handler(dht.handle_stream) if guarded else dht.handle_stream
        node.basic.set_stream_handler(hostile.KAD, handler)
        held = []
        for attacker in attackers:
            await attacker.connect(node.addrs[0])
            held += await hostile.idle_streams(attacker, node.peer_id, hostile.KAD, 4)
        assert dht._inbound_limiter.borrowed_tokens == 12
        await trio.sleep(1.0)
        await honest.connect(node.addrs[0])
        async with await honest.open_stream(node.peer_id, hostile.KAD) as stream:
            with trio.move_on_after(2):
                try:
                    await stream.write(b"\x02\x08\x05")  # varint length, then type = PING
                    answer = await stream.read_some()
                except NetworkError:
                    answer = b""
        assert bool(answer) == guarded
        assert len(held) == 12


class _Line:
    """A connection whose write takes `seconds` and can be cut in the middle."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.written, self.is_closed = seconds, b"", False

    async def write(self, data: bytes) -> None:
        self.written += data[: len(data) // 2]
        await trio.sleep(self.seconds)
        self.written += data[len(data) // 2 :]

    async def close(self) -> None:
        self.is_closed = True


async def test_guard6_write_waits_for_window(guarded, take_off, autojump_clock):
    if not guarded:
        take_off(yamux.YamuxStream, "write")
    frames = []

    async def write_frame(frame: bytes) -> None:
        frames.append(frame)
        await trio.lowlevel.checkpoint()

    stream = yamux.YamuxStream(1, SimpleNamespace(_write_frame=write_frame), True)
    stream.send_window = 0
    failed = []

    async def write() -> None:
        try:
            await stream.write(b"x" * 100)
        except MuxedStreamError as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.sleep(60)
        stream.send_window += 100
    assert (len(frames), len(failed)) == ((1, 0) if guarded else (0, 1))


async def test_guard6_frames_fill_noise_records_four_at_a_time():
    written = []

    async def write_frame(raw: bytes) -> None:
        written.append(raw)

    stream = yamux.YamuxStream(1, SimpleNamespace(_write_frame=write_frame), True)
    stream.send_window = 1 << 20
    await stream.write(bytes(5 * 65507 + 100))
    assert [len(raw) for raw in written] == [4 * 65519, 65519 + 112]
    lengths = [int.from_bytes(raw[i + 8 : i + 12], "big") for raw in written for i in range(0, len(raw), 65519)]
    assert lengths == [65507] * 5 + [100]


async def test_guard6_cancelled_write_is_whole(guarded, take_off, autojump_clock):
    if not guarded:
        take_off(yamux.Yamux, "_write_frame")
    line = _Line(seconds=2)
    connection = SimpleNamespace(_write_lock=trio.Lock(), secured_conn=line, is_initiator_value=True)
    with trio.move_on_after(1):
        await yamux.Yamux._write_frame(connection, bytes(12) + b"payload!")
    assert len(line.written) == (20 if guarded else 10)


async def test_guard6_frozen_peer_is_closed(autojump_clock):
    line = _Line(seconds=math.inf)
    connection = SimpleNamespace(_write_lock=trio.Lock(), secured_conn=line, is_initiator_value=True)
    with pytest.raises(guards.ConnectionClosedError, match="took no bytes"):
        await yamux.Yamux._write_frame(connection, bytes(20))
    assert line.is_closed and trio.current_time() >= guards.FRAME_WRITE_S


async def test_guard7_redial_during_disconnect_kept(nodes, guarded, take_off, eventually):
    if not guarded:
        take_off(Swarm, "close_peer")
    async with nodes(2) as (a, b):
        await b.connect(a.addrs[0])
        await eventually(lambda: a.peers())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.disconnect, b.peer_id)
            await eventually(lambda: not b.peers())
            await b.connect(a.addrs[0])
        await trio.sleep(0.3)
        assert b.peers() == [a.peer_id]
        assert a.peers() == ([b.peer_id] if guarded else [])


async def test_guard8_second_address_tried(nodes, guarded, take_off):
    if not guarded:
        take_off(Swarm, "dial_peer")
    async with nodes(2) as (a, b):
        dead = "/ip4/127.0.0.1/tcp/1/p2p/" + b.peer_id
        a.add_addrs(b.peer_id, [dead, b.addrs[0]])
        if guarded:
            await a.connect_any(b.peer_id)
            assert a.peers() == [b.peer_id]
        else:
            with pytest.raises(NetworkError):
                await a.connect_any(b.peer_id)


async def test_guard8_connect_does_not_wait_out_a_timer(nodes, guarded, take_off):
    if not guarded:
        take_off(Swarm, "dial_peer")
    async with nodes(2) as (a, b):
        start = trio.current_time()
        await a.connect(b.addrs[0])
        assert (trio.current_time() - start < 0.2) == guarded
