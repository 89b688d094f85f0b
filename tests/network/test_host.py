"""The host: who it lets in, what it makes of failures, and what it refuses to start on."""

from __future__ import annotations

import logging
import os
import socket

import pytest
import trio

from tolsey.errors import ConfigError, NetworkError, PeerUnreachable, RemoteViolation
from tolsey.network import host as host_module
from tolsey.network import scores
from tolsey.network.discovery import open_discovery
from tolsey.network.host import Identity, Limits, ProtocolUnsupported, open_host, verify_peer_signature
from tolsey.network.identity import is_peer_id
from tolsey.testing import hostile_peers as hostile


async def echo(stream):
    while raw := await stream.read_some():
        await stream.write(raw)


def test_identity_known_key_gives_known_peer_id():
    # RFC 8032 test 1: seed and public key; the peer id is the identity multihash of its protobuf.
    identity = Identity(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert identity.peer_id.startswith("12D3KooW") and is_peer_id(identity.peer_id)
    assert host_module.ID.from_string(identity.peer_id).to_bytes().hex() == "002408011220" + public
    assert identity.key.hex() not in repr(identity)


def test_signature_checked_by_peer_id_alone():
    one, two = Identity.generate(), Identity.generate()
    signature = one.sign(b"words")
    assert verify_peer_signature(one.peer_id, b"words", signature)
    assert not verify_peer_signature(one.peer_id, b"other", signature)
    assert not verify_peer_signature(two.peer_id, b"words", signature)
    assert not verify_peer_signature(one.peer_id, b"words", signature[:-1])
    for malformed in ("", "0OIl", "Qm" + "a" * 44, "x" * 10_000):
        assert not verify_peer_signature(malformed, b"words", signature)


def test_identity_wrong_length_refused():
    with pytest.raises(ValueError, match="32 bytes, this has 31"):
        Identity(bytes(31))


async def test_echo_both_sides_name_each_other(nodes):
    async with nodes(2) as (a, b):
        met = []

        async def meet(stream):
            met.append(stream.peer_id)
            await echo(stream)

        b.serve("/t/echo/1", meet)
        assert await a.connect(b.addrs[0]) == b.peer_id
        async with await a.open_stream(b.peer_id, "/t/echo/1") as stream:
            await stream.write(b"x" * 300_000)
            assert await stream.read_exactly(300_000) == b"x" * 300_000
        assert met == [a.peer_id]
        assert a.peers() == [b.peer_id] and b.peers() == [a.peer_id]
        assert 0 < await b.ping(a.peer_id) < 5


async def test_connect_other_identity_refused(nodes):
    async with nodes(2) as (a, attacker):
        victim = Identity.generate().peer_id
        with pytest.raises(PeerUnreachable):
            await a.connect(hostile.impersonate(attacker.addrs[0], victim))
        assert a.peers() == []


async def test_open_stream_unknown_protocol_says_so(nodes):
    async with nodes(2) as (a, b):
        await a.connect(b.addrs[0])
        with pytest.raises(ProtocolUnsupported, match="does not speak /t/none/1"):
            await a.open_stream(b.peer_id, "/t/none/1")


@pytest.mark.parametrize("addr", ["", "nonsense", "/ip4/127.0.0.1/tcp/1", "/ip4/999.0.0.1/tcp/1", "/ip4/1.2.3.4" * 99])
async def test_connect_malformed_address_is_the_users_mistake(nodes, addr):
    async with nodes(1) as (a,):
        with pytest.raises(ConfigError):
            await a.connect(addr)


async def test_open_host_port_taken_refused(nodes):
    async with nodes(1) as (a,):
        taken = a.addrs[0].rsplit("/p2p/", 1)[0]
        with pytest.raises(ConfigError, match="is taken"):
            async with open_host(Identity.generate(), taken):
                pass


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0/ws", "/dns4/x/tcp/1"])
async def test_open_host_other_transport_refused(listen):
    with pytest.raises(ConfigError, match="only /ip4 or /ip6 with /tcp"):
        async with open_host(Identity.generate(), listen):
            pass


async def test_open_host_data_dir_in_use_refused(tmp_path):
    async with open_host(Identity.generate(), data_dir=tmp_path):
        with pytest.raises(ConfigError, match="in use by another node"):
            async with open_host(Identity.generate(), data_dir=tmp_path):
                pass
    async with open_host(Identity.generate(), data_dir=tmp_path) as again:
        assert again.addrs


async def test_open_host_left_gives_back_port_and_sockets(nodes):
    before = len(os.listdir("/proc/self/fd"))
    async with nodes(2) as (a, b):
        await a.connect(b.addrs[0])
        address = b.addrs[0].rsplit("/p2p/", 1)[0]
    assert len(os.listdir("/proc/self/fd")) == before
    async with open_host(Identity.generate(), address) as again:
        assert again.addrs[0].startswith(address)


async def test_open_host_body_error_comes_out_alone():
    with pytest.raises(PeerUnreachable, match="mine"):
        async with open_host(Identity.generate()):
            raise PeerUnreachable("mine")


async def test_handler_violation_costs_score_and_node_lives(nodes, eventually):
    async with nodes(2) as (a, b):

        async def strict(stream):
            raise RemoteViolation("bad manners")

        b.serve("/t/strict/1", strict)
        await a.connect(b.addrs[0])
        for _ in range(3):
            with pytest.raises(NetworkError):
                async with await a.open_stream(b.peer_id, "/t/strict/1") as stream:
                    await stream.read_exactly(1)
        assert b.scores.is_refused(a.peer_id)
        await eventually(lambda: not b.peers())
        with pytest.raises(NetworkError):  # an inbound dial is let in by TCP and closed once the identity is known
            await a.connect(b.addrs[0])
            await a.ping(b.peer_id)
        with pytest.raises(PeerUnreachable, match="refused"):
            await b.connect(a.addrs[0])


async def test_handler_bug_ends_the_host(nodes):
    with pytest.raises(ZeroDivisionError):
        async with nodes(2) as (a, b):

            async def buggy(stream):
                raise ZeroDivisionError

            b.serve("/t/bug/1", buggy)
            await a.connect(b.addrs[0])
            await a.open_stream(b.peer_id, "/t/bug/1")
            await trio.sleep(5)


async def test_serve_max_per_peer_enforced(nodes):
    async with nodes(2) as (a, b):
        running = 0

        async def wait(stream):
            nonlocal running
            running += 1
            await trio.sleep_forever()

        b.serve("/t/wait/1", wait, max_per_peer=3)
        await a.connect(b.addrs[0])
        await hostile.idle_streams(a, b.peer_id, "/t/wait/1", 6)
        await trio.sleep(0.2)
        assert running == 3


async def test_limits_streams_over_all_protocols_enforced(nodes):
    async with nodes(2, Limits(max_streams_per_peer=4)) as (a, b):
        running = 0

        async def wait(stream):
            nonlocal running
            running += 1
            await trio.sleep_forever()

        b.serve("/t/wait/1", wait)
        b.serve("/t/wait/2", wait)
        await a.connect(b.addrs[0])
        await hostile.idle_streams(a, b.peer_id, "/t/wait/1", 3)
        await hostile.idle_streams(a, b.peer_id, "/t/wait/2", 3)
        await trio.sleep(0.2)
        assert running == 4


async def test_limits_read_bps_slows_the_sender(nodes):
    async with nodes(2, Limits(read_bps=400_000)) as (a, b):
        got = 0

        async def sink(stream):
            nonlocal got
            while raw := await stream.read_some():
                got += len(raw)

        b.serve("/t/sink/1", sink)
        await a.connect(b.addrs[0])
        async with await a.open_stream(b.peer_id, "/t/sink/1") as stream:
            with trio.move_on_after(1.0):
                while True:
                    await stream.write(bytes(50_000))
        await trio.sleep(0.1)
        assert 1_600_000 <= got <= 1_600_000 + 400_000 * 2  # the burst of four seconds, then the rate


async def test_heartbeat_silent_peer_dropped(nodes, monkeypatch, eventually):
    monkeypatch.setattr(host_module, "PING_S", 0.3)
    async with nodes(2, Limits(heartbeat_s=0.2)) as (a, b):

        async def mute(stream):
            await trio.sleep_forever()

        b.serve(host_module.PING_PROTOCOL, mute)
        await a.connect(b.addrs[0])
        await eventually(lambda: not a.peers())
        assert a.scores.score(b.peer_id) < 0


async def test_bootstrap_peer_is_dialled_again(nodes, eventually):
    async with nodes(1) as (a,), open_host(Identity.generate(), bootstrap=a.addrs) as b:
        await eventually(lambda: a.peers() == [b.peer_id])
        await a.disconnect(b.peer_id)
        await eventually(lambda: a.peers() == [b.peer_id])


async def test_bootstrap_peer_not_up_yet_is_one_line_then_reached(nodes, eventually, caplog):
    caplog.set_level(logging.DEBUG, "tolsey.network")
    late = Identity.generate()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"/ip4/127.0.0.1/tcp/{probe.getsockname()[1]}"
    full = f"{listen}/p2p/{late.peer_id}"

    def records(level):
        return [r.getMessage() for r in caplog.records if r.levelno == level and "bootstrap" in r.getMessage()]

    async with open_host(Identity.generate(), bootstrap=[full]) as early, open_discovery(early, [full]):
        await eventually(lambda: len(records(logging.DEBUG)) >= 2)  # tried and failed more than once
        async with open_host(late, listen):
            await eventually(lambda: early.peers() == [late.peer_id])
    assert records(logging.INFO) == [f"bootstrap peer {full} is not reachable yet; trying again"]
    assert not [r for r in caplog.records if r.levelno >= logging.INFO and "no address" in r.getMessage()]


async def test_connection_fault_is_one_record(nodes, caplog):
    caplog.set_level(logging.INFO, "tolsey.network")
    async with nodes(2) as (a, b):

        async def strict(stream):
            raise RemoteViolation("bad manners")

        b.serve("/t/strict/1", strict)
        await a.connect(b.addrs[0])
        await a.open_stream(b.peer_id, "/t/strict/1")
        await trio.sleep(0.2)
    assert [r.name for r in caplog.records if "bad manners" in r.message] == [scores.__name__]
