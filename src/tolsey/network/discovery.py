"""Where a peer or a content may be: a Kademlia table under our own protocol id.

It is a hint, never a fact: who a worker is, the chain says; whether a provider lives, only a dial says (a killed one
is listed for up to two days). One record per content (the manifest), never one per chunk: a peer drops what is above
10 announcements in 10 seconds, so `provide` keeps below that itself. Own look-ups ask the network and not the local
store, which would answer with whatever it had heard last.

A table fills only by asking, and thirty nodes that join at once do not find each other by one round: `open_discovery`
asks again, with jitter, until the table has stopped growing, and then once a minute.
Next in the flow: whoever found a peer dials it (host.py) and fetches (transfer.py).
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from libp2p.custom_types import TProtocol
from libp2p.kad_dht import common, kad_dht, peer_routing, provider_store, value_store
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.tools.anyio_service import background_trio_service

from tolsey.errors import NetworkError, PeerTimeout
from tolsey.network import guards
from tolsey.network.budgets import Bucket
from tolsey.network.host import Host
from tolsey.network.identity import is_peer_id
from tolsey.network.scopes import unwrapped
from tolsey.network.startup import peer_id_of
from tolsey.protocol.encoding import sha256

PROTOCOL = "/tolsey/kad/1.0.0"
PROVIDES_PER_S = 0.8
"""A receiver takes 10 in 10 s from one peer; 8 in 10 s leaves room for clocks."""
LOOKUP_S = 15.0
NEAREST, NEAREST_S, NEAREST_GRACE_S = 3, 1.0, 0.1
"""Peers asked before a look-up proper, how long, and how long yet once one has answered. A look-up asks every peer it
can find twice (who is near, then who provides): with ten nodes some eighteen questions, with these most often three."""
LARGE_ENOUGH = 16
"""Peers in the table above which the quick rounds end; a bucket holds 20."""
QUICK_ROUNDS = 12
REFRESH_S = 60.0
MAX_PROVIDERS = 50
_SHA256_MULTIHASH = b"\x12\x20"

Found = list[tuple[str, list[str]]]
_log = logging.getLogger(__name__)

# The library reads its protocol id from five modules and ignores the prefix argument.
for _module in (common, kad_dht, peer_routing, provider_store, value_store):
    _module.PROTOCOL_ID = TProtocol(PROTOCOL)  # type: ignore[attr-defined]  # re-exported names


class Discovery:
    """The table of one host; made by `open_discovery` alone."""

    def __init__(self, host: Host, dht: KadDHT) -> None:
        self._host = host
        self._dht = dht
        self._provides = Bucket(PROVIDES_PER_S, burst=8)

    @property
    def table_size(self) -> int:
        """How many peers the table holds."""
        return self._dht.get_routing_table_size()

    async def provide(self, key: bytes) -> bool:
        """Announces that this node has what `key` names; whether any peer was told.

        Args:
            key: a content id or any other short name; hashed before it leaves.

        Waits while the announcements of the last ten seconds are too many. Announced again by itself twice a day.
        """
        await self._provides.spend(1)
        told = False
        with trio.move_on_after(LOOKUP_S):
            told = await self._dht.provider_store.provide(record_key(key))
        return told

    async def find_providers(self, key: bytes, *, at_least: int = 1) -> Found:
        """Peers that announced `key`, each once, with the addresses heard of; ourselves left out.

        Args:
            at_least: stop asking once so many announcements came in.

        The NEAREST peers to the key that we know are asked first, because most often they have the answer; only then
        is the whole neighbourhood walked. What other peers told this node in its role as a directory comes last.
        """
        raw, store = record_key(key), self._dht.provider_store
        # The store answers alone when it knows anything: hide what it has for the time of the look-up.
        heard = store.providers.pop(raw, {})
        try:
            found = await self._ask_nearest(raw, at_least)
            if len(self._unique(found)) < at_least:
                with trio.move_on_after(LOOKUP_S):
                    found += await store.find_providers(raw, min(at_least, MAX_PROVIDERS))
        finally:
            fresh = store.providers.pop(raw, {})
            store.providers[raw] = {**fresh, **heard}
            if not store.providers[raw]:
                del store.providers[raw]
        return self._unique([*found, *(record.provider_info for record in heard.values())])

    async def _ask_nearest(self, raw: bytes, at_least: int) -> list[PeerInfo]:
        found: list[PeerInfo] = []

        async def ask(peer: ID) -> None:
            providers, _closer = await self._dht.provider_store._get_providers_from_peer_with_closers(peer, raw)
            found.extend(providers[:MAX_PROVIDERS])
            if len(self._unique(found)) >= at_least:
                # The others get a moment more, so that the quickest alone does not decide what is found.
                scope.deadline = min(scope.deadline, trio.current_time() + NEAREST_GRACE_S)

        nearest = self._dht.routing_table.find_local_closest_peers(raw, NEAREST)
        with trio.move_on_after(NEAREST_S) as scope:
            async with trio.open_nursery() as nursery:
                for peer in nearest:
                    nursery.start_soon(ask, peer)
        return found

    async def find_peer(self, peer_id: str) -> list[str]:
        """Addresses at which the peer may be; empty where nobody knows."""
        try:
            with trio.fail_after(LOOKUP_S):
                info = await self._dht.find_peer(ID.from_string(peer_id))
        except trio.TooSlowError as error:
            raise PeerTimeout(f"nobody answered within {LOOKUP_S} s where {peer_id} is") from error
        return [] if info is None else next((addrs for _, addrs in self._unique([info])), [])

    async def add_peer(self, peer_id: str, addrs: Sequence[str] = ()) -> bool:
        """Puts a peer into the table, as far as it has a place and speaks our protocol."""
        self._host.add_addrs(peer_id, addrs)
        return bool(await self._dht.add_peer(ID.from_string(peer_id)))

    async def refresh(self) -> None:
        """One round: everybody connected is offered to the table, then the table is asked for more."""
        for peer_id in self._host.peers():
            await self.add_peer(peer_id)
        with trio.move_on_after(LOOKUP_S):
            await self._dht.refresh_routing_table()

    async def keep_fresh(self) -> None:
        """Refreshes for ever: quickly until the table is large or has stopped growing, then once a minute."""
        rounds, idle = 0, 0
        while True:
            before = self.table_size
            await self.refresh()
            rounds, idle = rounds + 1, 0 if self.table_size > before else idle + 1
            young = rounds < QUICK_ROUNDS and self.table_size < LARGE_ENOUGH and (idle < 4 or not self.table_size)
            await trio.sleep((0.5 + 0.25 * rounds if young else REFRESH_S) * random.uniform(0.6, 1.4))

    def _unique(self, infos: Sequence[PeerInfo]) -> Found:
        found: dict[str, list[str]] = {}
        for info in infos:
            peer_id = str(info.peer_id)
            if peer_id == self._host.peer_id or not is_peer_id(peer_id) or self._host.scores.is_refused(peer_id):
                continue
            addrs = found.setdefault(peer_id, [])
            for addr in info.addrs[: guards.MAX_ADDRS_PER_PEER]:
                text = str(addr) if "/p2p/" in str(addr) else f"{addr}/p2p/{peer_id}"
                if text not in addrs and text.endswith(peer_id):
                    addrs.append(text)
        return list(found.items())


def record_key(key: bytes) -> bytes:
    """The key on the wire: a SHA-256 multihash, so that every record has the same length and js-libp2p takes it."""
    return _SHA256_MULTIHASH + sha256(key)


@asynccontextmanager
async def open_discovery(host: Host, bootstrap: Sequence[str] = ()) -> AsyncIterator[Discovery]:
    """The table of `host`, joined through `bootstrap`, until the block is left.

    Returns as soon as each bootstrap peer has answered or failed; the table goes on filling. A node without any
    bootstrap peer waits to be found.
    """
    dht = KadDHT(host.basic, DHTMode.SERVER, enable_random_walk=False)
    host.basic.set_stream_handler(TProtocol(PROTOCOL), guards.bounded_dht_handler(dht.handle_stream))
    discovery = Discovery(host, dht)
    with unwrapped():
        async with background_trio_service(dht), trio.open_nursery() as nursery:
            async with trio.open_nursery() as joining:
                for addr in bootstrap:
                    joining.start_soon(_join, host, discovery, addr)
            nursery.start_soon(discovery.keep_fresh)
            try:
                yield discovery
            finally:
                nursery.cancel_scope.cancel()


async def _join(host: Host, discovery: Discovery, addr: str) -> None:
    peer_id = peer_id_of(addr)
    if peer_id == host.peer_id:
        return
    try:
        await host.connect(addr)
    except NetworkError as error:
        # The host keeps trying and says so; whoever is connected later is offered to the table by `refresh`.
        _log.debug("cannot join through %s: %s", addr, error)
        return
    await discovery.add_peer(peer_id, [addr])
