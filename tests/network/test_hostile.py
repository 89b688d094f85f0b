"""Everything at once and one by one: the node stays up, answers others, and keeps its memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tolsey.errors import NetworkError
from tolsey.network.discovery import open_discovery
from tolsey.network.gossip import open_gossip
from tolsey.network.host import Identity
from tolsey.network.rpc import Rpc, serve
from tolsey.testing import hostile_peers as hostile

BOOK = Rpc(protocol="/tolsey/book/1", max_request_bytes=100, max_reply_bytes=100)
ANSWER_S = 3.0


def rss_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.fixture
def market(nodes):
    """A node with all its services, an attacker, and a proof that the node still serves a stranger."""

    @asynccontextmanager
    async def run():
        async with nodes(2) as (node, attacker), open_gossip(node) as gossip, open_discovery(node):
            await gossip.subscribe("offers")

            async def answer(_peer_id, raw):
                return raw

            serve(node, BOOK, answer)
            await attacker.connect(node.addrs[0])

            async def serves() -> None:
                async with nodes(1) as (honest,):
                    with trio.fail_after(ANSWER_S):
                        await honest.connect(node.addrs[0])
                        assert await BOOK.call(honest, node.peer_id, b"still there?") == b"still there?"

            yield node, attacker, serves

    return run


async def test_hostile_plaintext_and_secio_refused(market):
    async with market() as (node, _attacker, serves):
        assert await hostile.propose_security(node.addrs[0], hostile.PLAINTEXT) == "na"
        assert await hostile.propose_security(node.addrs[0], hostile.SECIO) == "na"
        await serves()


async def test_hostile_impersonation_not_believed(market):
    async with market() as (node, attacker, serves):
        victim = Identity.generate()
        with pytest.raises(NetworkError):
            await node.connect(hostile.impersonate(attacker.addrs[0], victim.peer_id))
        assert victim.peer_id not in node.peers()
        await serves()


async def test_hostile_300_dials_none_refused(market):
    async with market() as (node, _attacker, serves):
        assert await hostile.dial_and_close(node.addrs[0], 300, dialers=30) == 300
        await serves()


async def test_hostile_gossip_fuzz_survived(market):
    async with market() as (node, attacker, serves):
        assert await hostile.fuzz_gossip(attacker, node.peer_id, "offers", seed=7, cases=48) == 48
        await trio.sleep(0.2)
        await serves()


async def test_hostile_window_ignorer_memory_bounded(market, stall):
    async with market() as (node, attacker, serves):
        node.serve("/t/wait/1", stall)
        before = rss_mb()
        await hostile.ignore_window(attacker, node.peer_id, "/t/wait/1", 200_000_000)
        assert rss_mb() - before < 60
        await serves()


async def test_hostile_idle_dht_streams_capped(market, nodes, eventually):
    async with market() as (node, attacker, serves):
        held = await hostile.idle_streams(attacker, node.peer_id, hostile.KAD, 12)
        async with nodes(1) as (honest,), open_discovery(honest, node.addrs) as table:
            with trio.fail_after(ANSWER_S):
                assert await table.find_providers(b"x") == []
                await eventually(lambda: table.table_size)
        assert held
        await serves()


async def test_hostile_silent_connections_yield(market):
    async with market() as (node, _attacker, serves), hostile.silent_connections(node.addrs[0], 260):
        await trio.sleep(0.3)
        await serves()


async def test_hostile_slow_loris_cut_off(market):
    async with market() as (node, _attacker, serves):
        with trio.fail_after(12):
            assert await hostile.slow_loris(node.addrs[0], pause_s=0.3) < 40
            await serves()


async def test_hostile_garbage_handshakes_ignored(market):
    async with market() as (node, _attacker, serves), trio.open_nursery() as nursery:
        for seed in range(20):
            nursery.start_soon(hostile.garbage, node.addrs[0], seed)
        await trio.sleep(0.2)
        await serves()
        nursery.cancel_scope.cancel()


async def test_hostile_oversize_frames_cost_the_attacker_alone(market):
    async with market() as (node, attacker, serves):
        before = rss_mb()
        for _ in range(3):
            try:
                await hostile.oversize_frame(attacker, node.peer_id, BOOK.protocol)
            except NetworkError:
                break
        assert node.scores.is_refused(attacker.peer_id)
        assert rss_mb() - before < 20
        await serves()
