"""This node on the network: it listens, dials, opens and serves streams, and judges those it talks to.

TCP, noise and yamux only; everybody is authenticated by peer id. The rule for failures is kept here and nowhere else:
a protocol broken (`RemoteViolation`), a frame left unfinished and a missed deadline end the stream and cost the peer
some of its score; a peer that is gone, refuses or has nothing (`NetworkError`) ends the stream and costs nothing; any
other exception of a handler is a bug of ours and ends the host.

It refuses plaintext, peers whose score is too low, more streams than a peer's share, a port that somebody listens on,
and a data directory that another process uses. Next in the flow: rpc.py, discovery.py, gossip.py, transfer.py.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID

from tolsey.errors import ConfigError, NetworkError, PeerTimeout, PeerUnreachable, RemoteViolation
from tolsey.network import guards, scores
from tolsey.network.budgets import Budget
from tolsey.network.identity import Identity, verify_peer_signature
from tolsey.network.scopes import leaves_of, unwrapped
from tolsey.network.startup import build, close_sockets, locked, parse_addr, peer_id_of, refuse_taken_port, with_peer
from tolsey.network.streams import Stream, StreamCut

__all__ = ["Host", "Identity", "Limits", "ProtocolUnsupported", "open_host", "peer_id_of", "verify_peer_signature"]

OPEN_STREAM_S = 10.0
CONNECT_S = 12.0
PING_S = 10.0
PING_PROTOCOL = "/ipfs/ping/1.0.0"
PING_BYTES = 32
ADDRESS_TTL_S = 24 * 3600

Handler = Callable[[Stream], Awaitable[None]]
_log = logging.getLogger(__name__)


class ProtocolUnsupported(PeerUnreachable):
    """The peer is there and does not speak this protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a peer may take of this node.

    Attributes:
        max_connections: of all peers together.
        max_streams_per_peer: open at once, over all protocols of ours, opened by the peer.
        stream_opens_per_s: by one peer; twice as many at a burst of four seconds.
        read_bps: bytes a second read from streams that one peer opened; it waits beyond that.
        heartbeat_s: between two pings of a connected peer; two unanswered in a row end the connection.
    """

    max_connections: int = 400
    max_streams_per_peer: int = 64
    stream_opens_per_s: float = 50.0
    read_bps: float = 16e6
    heartbeat_s: float = 20.0


class Host:
    """A running node; made by `open_host` alone.

    Attributes:
        identity: this node's key.
        scores: how peers have behaved.
    """

    def __init__(self, basic: BasicHost, identity: Identity, limits: Limits, nursery: trio.Nursery) -> None:
        self.identity = identity
        self.limits = limits
        self.scores = scores.Scores()
        self.basic = basic  # for the siblings in this room only
        self._nursery = nursery
        self._open: Counter[str] = Counter()
        self._opens = Budget(limits.stream_opens_per_s, burst=4 * limits.stream_opens_per_s)
        self._reads = Budget(limits.read_bps, burst=4 * limits.read_bps)
        guards.set_admission(self._swarm, lambda peer: not self.scores.is_refused(peer))

    @property
    def peer_id(self) -> str:
        """Our own base58 peer id."""
        return str(self.basic.get_id())

    @property
    def addrs(self) -> list[str]:
        """What others dial: full multiaddrs that end in /p2p/<peer id>."""
        return [str(addr) for addr in self.basic.get_addrs()]

    def peers(self) -> list[str]:
        """Ids of the peers connected now."""
        live = self._swarm.get_connections_map()
        return [str(peer) for peer, held in live.items() if any(not c.is_closed for c in held)]

    def addrs_of(self, peer_id: str) -> list[str]:
        """Addresses known of a peer, /p2p/ included; empty where none is known."""
        return [with_peer(a, peer_id) for a in guards.known_addrs(self._swarm, ID.from_string(peer_id))]

    async def connect(self, addr: str) -> str:
        """The id of the peer at `addr`, connected.

        Args:
            addr: a multiaddr that ends in /p2p/<peer id>; the peer must prove that id.

        Raises:
            ConfigError: not such an address.
            PeerUnreachable, PeerTimeout: nobody there, somebody else there, or too slow.
        """
        peer_id = peer_id_of(addr)
        await self.connect_any(peer_id, [addr])
        return peer_id

    async def connect_any(self, peer_id: str, addrs: Sequence[str] = ()) -> None:
        """Connects to the peer over whichever of `addrs` and the addresses known before answers first."""
        if self.scores.is_refused(peer_id):
            raise PeerUnreachable(f"peer {peer_id} is refused: score {self.scores.score(peer_id):.0f}")
        if peer_id == self.peer_id:
            raise PeerUnreachable("that is this node's own address")
        peer = ID.from_string(peer_id)
        self.add_addrs(peer_id, addrs)
        self._swarm._negative_peer_cache.evict(str(peer))
        try:
            with trio.fail_after(CONNECT_S):
                await self._swarm.dial_peer(peer)
        except trio.TooSlowError as error:
            raise PeerTimeout(f"{peer_id} did not answer within {CONNECT_S} s") from error
        except guards.LIBRARY_ERRORS as error:
            raise PeerUnreachable(f"cannot connect to {peer_id}: {error}") from error

    def add_addrs(self, peer_id: str, addrs: Sequence[str]) -> None:
        """Remembers where a peer may be; at most MAX_ADDRS_PER_PEER are ever tried."""
        parsed = [parse_addr(addr) for addr in addrs[: guards.MAX_ADDRS_PER_PEER]]
        if parsed:
            self.basic.get_peerstore().add_addrs(ID.from_string(peer_id), parsed, ADDRESS_TTL_S)

    def stay_connected(self, addrs: Sequence[str]) -> None:
        """Keeps trying to be connected to these peers while the host runs; call once everything is served.

        Raises:
            ConfigError: not a full multiaddr.
        """
        for addr in addrs:
            peer_id_of(addr)
            self._nursery.start_soon(_stay_connected, self, addr)

    async def disconnect(self, peer_id: str) -> None:
        """Closes every connection to the peer."""
        await self._swarm.close_peer(ID.from_string(peer_id))

    async def open_stream(self, peer_id: str, protocol: str) -> Stream:
        """A new stream to the peer, dialled if need be; the caller closes it (`async with`).

        Raises:
            ProtocolUnsupported: the peer does not speak `protocol`.
            PeerUnreachable, PeerTimeout: no stream within OPEN_STREAM_S.
        """
        if self.scores.is_refused(peer_id):
            raise PeerUnreachable(f"peer {peer_id} is refused: score {self.scores.score(peer_id):.0f}")
        try:
            with trio.fail_after(OPEN_STREAM_S):
                inner = await self.basic.new_stream(ID.from_string(peer_id), [TProtocol(protocol)])
        except trio.TooSlowError as error:
            raise PeerTimeout(f"{peer_id} opened no {protocol} within {OPEN_STREAM_S} s") from error
        except guards.LIBRARY_ERRORS as error:
            if "not supported" in str(error.__cause__):
                raise ProtocolUnsupported(f"{peer_id} does not speak {protocol}") from error
            raise PeerUnreachable(f"{peer_id} opened no {protocol}: {error.__cause__ or error}") from error
        return Stream(inner, peer_id)

    def serve(self, protocol: str, handler: Handler, *, max_per_peer: int = 16) -> None:
        """Runs `handler` for each stream that a peer opens on `protocol`, at most `max_per_peer` at once for each.

        The stream is closed when the handler returns and reset when it raises. Register before connecting: a peer
        asks what we speak once.
        """
        open_here: Counter[str] = Counter()

        async def accept(inner: INetStream) -> None:
            peer_id = str(inner.muxed_conn.peer_id)
            if not self._may_open(peer_id) or open_here[peer_id] >= max_per_peer:
                await guards.quietly(inner.reset())
                return
            open_here[peer_id] += 1
            self._open[peer_id] += 1
            try:
                await self._handle(handler, Stream(inner, peer_id, charge=self._reads))
            finally:
                for counter in (open_here, self._open):
                    counter[peer_id] -= 1
                    if not counter[peer_id]:
                        del counter[peer_id]

        self.basic.set_stream_handler(TProtocol(protocol), accept)

    def punish(self, peer_id: str, points: float, reason: str) -> None:
        """Lowers the peer's score; below the threshold it is disconnected and refused for a while."""
        self.scores.lower(peer_id, points, reason)
        if self.scores.is_refused(peer_id):
            self._nursery.start_soon(self.disconnect, peer_id)

    def blame(self, violation: RemoteViolation, peer_id: str, protocol: str) -> None:
        """Punishes whom the violation names, and where it names nobody the peer that we were talking to."""
        self.punish(violation.peer_id or peer_id, scores.VIOLATION, f"{protocol}: {violation}")

    async def ping(self, peer_id: str) -> float:
        """Round trip to the peer in seconds.

        Raises:
            PeerUnreachable, PeerTimeout: no right answer within PING_S.
        """
        payload, start = os.urandom(PING_BYTES), trio.current_time()
        try:
            with trio.fail_after(PING_S):
                async with await self.open_stream(peer_id, PING_PROTOCOL) as stream:
                    await stream.write(payload)
                    if await stream.read_exactly(PING_BYTES) != payload:
                        raise PeerUnreachable(f"{peer_id} answered a ping with other bytes")
        except trio.TooSlowError as error:
            raise PeerTimeout(f"{peer_id} did not answer a ping within {PING_S} s") from error
        return trio.current_time() - start

    async def heartbeat(self) -> None:
        """Pings every connected peer for ever; two misses in a row end the connection."""
        missed: Counter[str] = Counter()

        async def check(peer_id: str) -> None:
            try:
                await self.ping(peer_id)
            except ProtocolUnsupported:
                missed.pop(peer_id, None)
            except NetworkError as error:
                missed[peer_id] += 1
                if missed[peer_id] >= 2:
                    if isinstance(error, PeerTimeout):  # who is gone is not to blame, who is there and silent is
                        self.punish(peer_id, scores.UNRELIABLE, f"no heartbeat: {error}")
                    await self.disconnect(peer_id)
            else:
                missed.pop(peer_id, None)

        while True:
            await trio.sleep(self.limits.heartbeat_s)
            connected = self.peers()
            for gone in missed.keys() - set(connected):
                del missed[gone]
            async with trio.open_nursery() as nursery:
                for peer_id in connected:
                    nursery.start_soon(check, peer_id)

    @property
    def _swarm(self) -> Swarm:
        swarm = self.basic.get_network()
        assert isinstance(swarm, Swarm)
        return swarm

    def _may_open(self, peer_id: str) -> bool:
        return (
            not self.scores.is_refused(peer_id)
            and self._open[peer_id] < self.limits.max_streams_per_peer
            and self._opens.take(peer_id)
        )

    async def _handle(self, handler: Handler, stream: Stream) -> None:
        try:
            async with stream:
                await handler(stream)
        except Exception as caught:  # noqa: BLE001  # sorted below; nothing is swallowed
            for error in leaves_of(caught):
                if isinstance(error, RemoteViolation):
                    self.blame(error, stream.peer_id, stream.protocol)
                elif isinstance(error, trio.TooSlowError | StreamCut):
                    self.scores.lower(stream.peer_id, scores.UNRELIABLE, f"{stream.protocol}: {error!r}")
                elif isinstance(error, NetworkError):
                    _log.debug("%s of %s: %s", stream.protocol, stream.peer_id, error)
                else:
                    self._nursery.start_soon(_crash, caught)
                    return


@asynccontextmanager
async def open_host(
    identity: Identity,
    listen: str = "/ip4/127.0.0.1/tcp/0",
    *,
    bootstrap: Sequence[str] = (),
    data_dir: Path | None = None,
    announce: Sequence[str] = (),
    limits: Limits | None = None,
) -> AsyncIterator[Host]:
    """A host that listens, until the block is left.

    Args:
        identity: the node's key.
        listen: one TCP multiaddr; port 0 takes a free one.
        bootstrap: peers to stay connected to, as full multiaddrs; tried again with growing pauses.
        data_dir: locked while the host runs, so that no second process uses the same identity.
        announce: addresses told to others in place of the ones listened on (behind a NAT or in a container).

    Raises:
        ConfigError: address malformed, port taken, or directory in use.
        Exception: whatever bug a handler of ours had; see the rule at the top.
    """
    guards.apply()
    limits = limits or Limits()
    for addr in bootstrap:
        peer_id_of(addr)
    address = parse_addr(listen)
    with unwrapped(), locked(data_dir):
        refuse_taken_port(address)
        basic = build(identity, limits.max_connections, [parse_addr(addr) for addr in announce])
        async with basic.run(listen_addrs=[address]):
            if not basic.get_transport_addrs():
                raise ConfigError(f"cannot listen on {listen}", fix="choose another --listen address")
            async with trio.open_nursery() as nursery:
                host = Host(basic, identity, limits, nursery)
                nursery.start_soon(host.heartbeat)
                host.stay_connected(bootstrap)
                try:
                    yield host
                finally:
                    await guards.quietly(close_sockets(host._swarm))
                    nursery.cancel_scope.cancel()


async def _stay_connected(host: Host, addr: str) -> None:
    peer_id, pause_s, told = peer_id_of(addr), 0.5, False
    if peer_id == host.peer_id:
        return
    while True:
        if peer_id not in host.peers():
            try:
                await host.connect(addr)
                pause_s = 0.5
            except NetworkError as error:
                if not told:
                    _log.info("bootstrap peer %s is not reachable yet; trying again", addr)
                    told = True
                _log.debug("bootstrap peer %s: %s", addr, error)
                pause_s = min(60.0, pause_s * 2)
        await trio.sleep(max(pause_s, 2.0) if peer_id in host.peers() else pause_s)


async def _crash(error: BaseException) -> None:
    raise error
