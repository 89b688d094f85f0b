"""Kademlia as other rooms see it: announce, find, join, and not to be fooled by an old store."""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio

from tolsey.network import discovery as discovery_module
from tolsey.network.discovery import open_discovery, record_key
from tolsey.network.host import Identity


async def _joined(stack: AsyncExitStack, hosts, eventually):
    """Everybody joined through the first host and knows all others."""
    tables = [await stack.enter_async_context(open_discovery(hosts[0]))]
    for host in hosts[1:]:
        tables.append(await stack.enter_async_context(open_discovery(host, hosts[0].addrs)))
    await eventually(lambda: all(table.table_size == len(hosts) - 1 for table in tables))
    return tables


async def test_provide_found_by_a_third_with_addresses(nodes, eventually):
    async with nodes(4) as hosts, AsyncExitStack() as stack:
        tables = await _joined(stack, hosts, eventually)
        assert await tables[1].provide(b"content")
        assert await tables[3].find_providers(b"content") == [(hosts[1].peer_id, hosts[1].addrs)]
        assert await tables[2].find_providers(b"unknown") == []
        assert await tables[2].find_peer(hosts[3].peer_id) == hosts[3].addrs
        assert await tables[2].find_peer(Identity.generate().peer_id) == []


async def test_find_providers_own_announcement_left_out_and_others_listed_once(nodes, eventually):
    async with nodes(4) as hosts, AsyncExitStack() as stack:
        tables = await _joined(stack, hosts, eventually)
        for table in tables[:3]:
            await table.provide(b"content")
        found = await tables[0].find_providers(b"content", at_least=50)
        assert sorted(peer for peer, _ in found) == sorted(host.peer_id for host in hosts[1:3])


async def test_find_providers_directory_role_survives_own_look_up(nodes, eventually):
    async with nodes(3) as hosts, AsyncExitStack() as stack:
        tables = await _joined(stack, hosts, eventually)
        await tables[1].provide(b"content")
        await eventually(lambda: record_key(b"content") in tables[0]._dht.provider_store.providers)
        await tables[0].find_providers(b"content")
        assert record_key(b"content") in tables[0]._dht.provider_store.providers
        await tables[0].find_providers(b"nothing")
        assert record_key(b"nothing") not in tables[0]._dht.provider_store.providers


async def test_find_providers_asks_the_network_despite_a_full_store(nodes, eventually):
    async with nodes(3) as hosts, AsyncExitStack() as stack:
        tables = await _joined(stack, hosts, eventually)
        await tables[1].provide(b"content")
        assert len(await tables[0].find_providers(b"content")) == 1
        await tables[2].provide(b"content")
        tables[0]._dht.provider_store.providers[record_key(b"content")].pop(str(hosts[2].basic.get_id()), None)
        found = await tables[0].find_providers(b"content", at_least=5)
        assert {peer for peer, _ in found} == {hosts[1].peer_id, hosts[2].peer_id}


async def test_find_providers_nearest_know_no_walk(nodes, eventually, monkeypatch):
    async with nodes(4) as hosts, AsyncExitStack() as stack:
        tables = await _joined(stack, hosts, eventually)
        await tables[1].provide(b"content")
        walked = []

        async def walk(key, _count):
            walked.append(key)
            return []

        monkeypatch.setattr(tables[3]._dht.provider_store, "find_providers", walk)
        assert [peer for peer, _ in await tables[3].find_providers(b"content")] == [hosts[1].peer_id]
        assert not walked
        assert await tables[3].find_providers(b"unknown") == []
        assert walked == [record_key(b"unknown")]


async def test_find_providers_nearest_silent_walks_on(nodes, eventually, monkeypatch):
    monkeypatch.setattr(discovery_module, "NEAREST_S", 0.2)
    async with nodes(4) as hosts, AsyncExitStack() as stack:
        tables = await _joined(stack, hosts, eventually)
        await tables[1].provide(b"content")
        store = tables[3]._dht.provider_store
        ask = store._get_providers_from_peer_with_closers

        async def walk(key, _count):
            return (await ask(hosts[0].basic.get_id(), key))[0]

        async def silent(_peer, _key):
            await trio.sleep_forever()

        monkeypatch.setattr(store, "find_providers", walk)
        monkeypatch.setattr(store, "_get_providers_from_peer_with_closers", silent)
        assert [peer for peer, _ in await tables[3].find_providers(b"content")] == [hosts[1].peer_id]


async def test_find_providers_refused_peer_left_out(nodes, eventually):
    async with nodes(3) as hosts, AsyncExitStack() as stack:
        tables = await _joined(stack, hosts, eventually)
        await tables[1].provide(b"content")
        hosts[0].scores.lower(hosts[1].peer_id, 200, "test")
        assert await tables[0].find_providers(b"content") == []


async def test_provide_keeps_below_the_receivers_limit(nodes, eventually):
    async with nodes(3) as hosts, AsyncExitStack() as stack:
        tables = await _joined(stack, hosts, eventually)
        start = trio.current_time()
        for i in range(10):
            await tables[1].provide(b"content %d" % i)
        waited = trio.current_time() - start
        assert waited >= 2 / discovery_module.PROVIDES_PER_S - 0.1
        for i in range(10):
            assert await tables[2].find_providers(b"content %d" % i), i


async def test_join_dead_bootstrap_is_no_failure(nodes, eventually):
    dead = f"/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
    async with nodes(2) as (a, b), open_discovery(a), open_discovery(b, [dead, *a.addrs]) as table:
        await eventually(lambda: table.table_size >= 1)
