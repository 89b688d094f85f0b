"""What py-libp2p 0.8.1 does wrong as shipped, and what this program puts in its place.

    GUARD 1  plaintext and SECIO are offered, under any identity       -> noise and yamux only
    GUARD 2  an inbound slot is never given back (250 dials and out);  -> slot ends with the connection; the oldest
             silent dialers hold everybody up for 10 s                    unfinished handshake yields to a new dial
    GUARD 3  an exception in a stream handler or in gossip's push      -> the stream is reset, the node lives
             ends the process; one peer may hold any number of streams
    GUARD 4  the receive window is advertised and not enforced         -> the connection is closed
    GUARD 5  12 idle streams silence the DHT for good                  -> a deadline and a count per peer
    GUARD 6  a writer waits 5 s for window, then fails; a cancelled    -> waits for an event; a frame is written
             write tears a frame; a frozen peer blocks for ever           whole or the connection is closed
    GUARD 7  closing a peer forgets a connection made meanwhile        -> only closed connections are forgotten
    GUARD 8  one address per peer is tried, 251 ms at least            -> all addresses, staggered, first one wins

Each was reproduced; tests/network/test_guards.py has one test per guard that fails without it. `apply()` replaces
methods of the library's classes and therefore insists on the exact version. It changes nothing else: no protocol of
ours is known here. Next in the flow: host.py.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Any

import trio
from libp2p import create_yamux_muxer_option
from libp2p.abc import INetConn, INetStream
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TMuxerOptions, TSecurityOptions
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStoreError
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # ships no types

from tolsey.errors import LocalViolation
from tolsey.network import records

LIBRARY_VERSION = "0.8.1"
MAX_PENDING_INBOUND = 64
"""Handshakes under way at once; an honest one takes some 10 ms."""
MAX_INBOUND_PER_IP = 64
"""Established connections from one address that is not loopback: a rented machine must not take all slots."""
MAX_INBOUND_STREAMS_PER_PEER = 96
STREAM_BUFFER_BYTES = yamux.MAX_WINDOW_SIZE + (1 << 20)
CONNECTION_BUFFER_BYTES = 24 << 20
"""All unread bytes of one connection; one stream at full window fits, two do not (the second peer pays)."""
FRAME_PAYLOAD_BYTES = 65535 - 16 - yamux.HEADER_SIZE
"""65507: one yamux frame in one noise record (65535 with its 16-byte tag); one byte more costs two records."""
WRITE_BYTES = 4 * FRAME_PAYLOAD_BYTES
"""Handed to the socket at once: a quarter of the steps, and other streams wait for 256 kB at most."""
WINDOW_WAIT_S = 120.0
FRAME_WRITE_S = 15.0
DHT_STREAM_S = 10.0
DHT_STREAMS_PER_PEER = 4
DIAL_S = 8.0
DIAL_STAGGER_S = 0.25
MAX_ADDRS_PER_PEER = 8
FAILED_PEER_S = 10.0

LIBRARY_ERRORS = (BaseLibp2pError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What the library raises when a peer or the line is at fault. Everything else is a bug, its or ours."""

_HOST_PARTS = {"ip4", "ip6", "dns", "dns4", "dns6", "p2p"}
_log = logging.getLogger(__name__)
_applied = False

ORIGINALS: dict[tuple[type | ModuleType, str], object] = {}
"""What `apply` replaced: the tests put it back one by one to see each fault again."""

StreamHandler = Callable[[INetStream], Awaitable[None]]


def apply() -> None:
    """Puts guards 2, 3, 4, 6, 7 and 8 in place for the whole process; a second call does nothing.

    Raises:
        LocalViolation: another version of libp2p is installed, or libp2p came before the yamux setting.
    """
    global _applied
    if _applied:
        return
    found = version("libp2p")
    if found != LIBRARY_VERSION:
        raise LocalViolation(
            f"libp2p {found} is installed, the guards were written for {LIBRARY_VERSION}",
            fix=f"pip install libp2p=={LIBRARY_VERSION}",
        )
    if os.environ.get("PY_YAMUX_RELEASE_ON_READ") != "0":
        raise LocalViolation("PY_YAMUX_RELEASE_ON_READ is not 0: import tolsey.network before libp2p")
    _patch(Swarm, "_do_handle_inbound_connection", _handle_inbound)
    _patch(BasicHost, "_swarm_stream_handler", _contained_stream_handler(BasicHost._swarm_stream_handler))
    _patch(Pubsub, "push_msg", _contained_push(Pubsub.push_msg))
    _patch(yamux.Yamux, "__init__", _bounded_buffers(yamux.Yamux.__init__))
    _patch(yamux.YamuxStream, "send_window", _waking_property("send_window"))
    _patch(yamux.YamuxStream, "closed", _waking_property("closed"))
    _patch(yamux.YamuxStream, "write", _write)
    _patch(yamux.Yamux, "_write_frame", _write_frame)
    _patch(Swarm, "close_peer", _close_peer)
    _patch(Swarm, "dial_peer", _dial_peer)
    for owner, name, replacement in records.REPLACED:
        _patch(owner, name, replacement)
    if not os.environ.get("LIBP2P_DEBUG"):  # it warns at each ordinary end of a stream, and at each frame of a flood
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    _applied = True


def _patch(owner: type | ModuleType, name: str, replacement: object) -> None:
    if not isinstance(replacement, property):  # those two are set on the instances, not on the class
        ORIGINALS[owner, name] = getattr(owner, name)
    setattr(owner, name, replacement)


# GUARD 1


def security_options(key_pair: KeyPair) -> TSecurityOptions:
    """Noise alone; the library's own default would add TLS, SECIO and plaintext."""
    return {NOISE: NoiseTransport(key_pair, noise_privkey=create_new_key_pair().private_key)}


def muxer_options() -> TMuxerOptions:
    """Yamux alone."""
    return create_yamux_muxer_option()


# GUARD 2


class Admission:
    """Who may hold an inbound slot of one swarm: unfinished handshakes oldest first, finished ones by IP."""

    def __init__(self, may_connect: Callable[[str], bool]) -> None:
        self.may_connect = may_connect
        self.pending: dict[RawConnection, None] = {}
        self.per_ip: Counter[str] = Counter()

    async def make_room(self) -> None:
        """Closes the oldest unfinished handshake when all places are taken."""
        if len(self.pending) >= MAX_PENDING_INBOUND:
            oldest = next(iter(self.pending))
            del self.pending[oldest]
            await quietly(oldest.close())


def set_admission(swarm: Swarm, may_connect: Callable[[str], bool]) -> None:
    """Tells `swarm` which authenticated peer ids (base58) it may keep."""
    swarm.tolsey_admission = Admission(may_connect)  # type: ignore[attr-defined]  # rides on the library's object


async def _handle_inbound(self: Swarm, stream: ReadWriteCloser, maddr: Multiaddr, _event: Any) -> None:
    admission: Admission | None = getattr(self, "tolsey_admission", None)
    if admission is None:
        set_admission(self, lambda _peer: True)
        admission = self.tolsey_admission  # type: ignore[attr-defined]  # set one line above
    remote = stream.get_remote_address()
    ip = remote[0] if remote else ""
    raw = RawConnection(stream, False)
    limited = not ip.startswith("127.") and ip != "::1"
    if limited and admission.per_ip[ip] >= MAX_INBOUND_PER_IP:
        await quietly(raw.close())
        return
    await admission.make_room()
    admission.pending[raw] = None
    admission.per_ip[ip] += 1
    try:
        try:
            muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
        finally:
            admission.pending.pop(raw, None)
        if not admission.may_connect(str(muxed.peer_id)):
            await self.close_peer(muxed.peer_id)
        await muxed.event_closed.wait()  # type: ignore[attr-defined]  # every yamux connection has it
    except Exception as error:  # noqa: BLE001  # whatever a stranger's handshake does ends with this connection
        _log.debug("inbound connection from %s: %r", ip, error)
        await quietly(raw.close())
    finally:
        admission.per_ip[ip] -= 1
        if not admission.per_ip[ip]:
            del admission.per_ip[ip]


# GUARD 3


def _contained_stream_handler(original: Any) -> Any:
    async def handle(self: BasicHost, stream: INetStream) -> None:
        streams: Counter[str] = self.__dict__.setdefault("tolsey_streams", Counter())
        peer = str(stream.muxed_conn.peer_id)
        if streams[peer] >= MAX_INBOUND_STREAMS_PER_PEER:
            await quietly(stream.reset())
            return
        streams[peer] += 1
        try:
            await original(self, stream)
        except Exception as error:  # noqa: BLE001  # the library's handlers only: ours report their bugs to the host
            _log.debug("stream %s of %s: %r", stream.get_protocol(), peer, error)
            await quietly(stream.reset())
        finally:
            streams[peer] -= 1
            if not streams[peer]:
                del streams[peer]

    return handle


def _contained_push(original: Any) -> Any:
    async def push_msg(self: Pubsub, forwarder: ID, message: Any) -> None:
        try:
            await original(self, forwarder, message)
        except Exception as error:  # noqa: BLE001  # a junk key or topic raises half a dozen types
            _log.debug("gossip from %s dropped: %r", forwarder, error)

    return push_msg


# GUARD 4


class WindowOverrun(trio.TooSlowError):
    """A peer sent more than its window. (The read loop closes the connection on this base class alone.)"""


class _Buffer(records.Pieces):
    __slots__ = ("_owner",)

    def __init__(self, owner: _Buffers) -> None:
        super().__init__()
        self._owner = owner

    def extend(self, raw: bytes | memoryview) -> None:
        size = len(raw)
        if len(self) + size > STREAM_BUFFER_BYTES or self._owner.unread() + size > CONNECTION_BUFFER_BYTES:
            raise WindowOverrun(f"{len(self) + size} bytes unread, allowed are {STREAM_BUFFER_BYTES}")
        super().extend(raw)


class _Buffers(dict[int, Any]):
    def __setitem__(self, stream_id: int, start: bytearray) -> None:
        assert not start  # of the library; it puts an empty one here for each new stream
        super().__setitem__(stream_id, _Buffer(self))

    def unread(self) -> int:
        return sum(map(len, self.values()))


def _bounded_buffers(original: Any) -> Any:
    def init(self: yamux.Yamux, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.stream_buffers = _Buffers()
        self._write_lock = records.QuickLock()  # type: ignore[assignment]  # entered and left, nothing else
        self.secured_conn.__dict__["tolsey_muxer"] = self  # records.read_header puts data into its buffers

    return init


# GUARD 5


def bounded_dht_handler(handle: StreamHandler) -> StreamHandler:
    """`handle` with a deadline and a count per peer, so that idle streams cannot use up its 12 places."""
    open_streams: Counter[str] = Counter()

    async def bounded(stream: INetStream) -> None:
        peer = str(stream.muxed_conn.peer_id)
        if open_streams[peer] >= DHT_STREAMS_PER_PEER:
            await quietly(stream.reset())
            return
        open_streams[peer] += 1
        try:
            with trio.move_on_after(DHT_STREAM_S) as scope:
                await handle(stream)
            if scope.cancelled_caught:
                await quietly(stream.reset())
        finally:
            open_streams[peer] -= 1
            if not open_streams[peer]:
                del open_streams[peer]

    return bounded


# GUARD 6


def _waking_property(name: str) -> property:
    """An attribute of a yamux stream whose change wakes the writer that waits for it."""
    place = f"_tolsey_{name}"

    def read(self: yamux.YamuxStream) -> Any:
        return self.__dict__[place]

    def store(self: yamux.YamuxStream, value: Any) -> None:
        self.__dict__[place] = value
        waiting: trio.Event | None = self.__dict__.get("_tolsey_waiting")
        if waiting is not None and value > 0:
            waiting.set()

    return property(read, store)


async def _write(self: yamux.YamuxStream, data: bytes | memoryview) -> None:
    view, sent = memoryview(data), 0
    while sent < len(view) or not sent:
        if self.closed or self.send_closed:
            raise MuxedStreamError("stream is closed for sending")
        if self.send_window <= 0:
            await _window(self)
            continue
        size = min(self.send_window, WRITE_BYTES, len(view) - sent)
        self.send_window -= size
        await self.conn._write_frame(b"".join(_frames(self.stream_id, view[sent : sent + size])))
        sent += size
        if not size:
            return


def _frames(stream_id: int, payload: memoryview) -> Iterator[bytes | memoryview]:
    for start in range(0, len(payload) or 1, FRAME_PAYLOAD_BYTES):
        piece = payload[start : start + FRAME_PAYLOAD_BYTES]
        yield struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, stream_id, len(piece))
        yield piece


async def _window(stream: yamux.YamuxStream) -> None:
    waiting = trio.Event()
    stream.__dict__["_tolsey_waiting"] = waiting
    with trio.move_on_after(WINDOW_WAIT_S) as scope:
        await waiting.wait()
    if scope.cancelled_caught:
        raise MuxedStreamError(f"no window for {WINDOW_WAIT_S} s")


async def _write_frame(self: yamux.Yamux, data: bytes) -> None:
    async with self._write_lock:
        # Shielded: half a frame would make every later one unreadable. The deadline ends a frozen peer.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + FRAME_WRITE_S) as scope:
            await self.secured_conn.write(data)
    if scope.cancelled_caught:
        await quietly(self.secured_conn.close())
        raise ConnectionClosedError(f"peer took no bytes for {FRAME_WRITE_S} s")
    await trio.lowlevel.checkpoint_if_cancelled()


# GUARD 7


async def _close_peer(self: Swarm, peer_id: ID) -> None:
    for connection in list(self.get_connections(peer_id)):
        self.cleanup_connection_health(peer_id, connection)
        await quietly(connection.close())


# GUARD 8


async def _dial_peer(self: Swarm, peer_id: ID) -> list[INetConn]:
    live = [connection for connection in self.get_connections(peer_id) if not connection.is_closed]
    if live:
        return live
    if peer_id in self._ongoing_dials:
        await self._ongoing_dials[peer_id].wait()
        live = [connection for connection in self.get_connections(peer_id) if not connection.is_closed]
        if live:
            return live
        raise SwarmException(f"the dial to {peer_id} under way failed")
    if self._negative_peer_cache.is_blocked(str(peer_id)):
        raise SwarmException(f"peer {peer_id} did not answer in the last {FAILED_PEER_S} s")
    self._ongoing_dials[peer_id] = trio.Event()
    try:
        return [await dial_any(self, peer_id, known_addrs(self, peer_id))]
    except SwarmException:
        self._negative_peer_cache._ttl = FAILED_PEER_S
        self._negative_peer_cache.mark_failed(str(peer_id))
        raise
    finally:
        self._ongoing_dials.pop(peer_id).set()


def known_addrs(swarm: Swarm, peer_id: ID) -> list[Multiaddr]:
    """The peer's plain TCP addresses, loopback last, at most MAX_ADDRS_PER_PEER."""
    try:
        addrs = swarm.peerstore.addrs(peer_id)
    except PeerStoreError:
        return []
    plain = [a for a in addrs if {p.name for p in a.protocols()} - _HOST_PARTS == {"tcp"}]
    return sorted(plain, key=lambda a: str(a).startswith(("/ip4/127.", "/ip6/::1")))[:MAX_ADDRS_PER_PEER]


async def dial_any(swarm: Swarm, peer_id: ID, addrs: Sequence[Multiaddr]) -> INetConn:
    """The first connection that any of `addrs` gives; the next one is tried after DIAL_STAGGER_S or a failure.

    Raises:
        SwarmException: none answered; names each address with its reason.
    """
    won: list[INetConn] = []
    failed: list[str] = []

    async def attempt(addr: Multiaddr, over: trio.Event) -> None:
        try:
            with trio.fail_after(DIAL_S):
                async with swarm._global_dial_limiter:
                    won.append(await swarm.dial_addr(addr, peer_id))
        except (*LIBRARY_ERRORS, trio.TooSlowError, ValueError) as error:
            failed.append(f"{addr}: {error.__cause__ or error!r}")
        over.set()
        if won:
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for addr in addrs:
            over = trio.Event()
            nursery.start_soon(attempt, addr, over)
            with trio.move_on_after(DIAL_STAGGER_S):
                await over.wait()
    if not won:
        raise SwarmException(f"no address of {peer_id} answered: {'; '.join(failed) or 'none known'}")
    return won[0]


async def quietly(closing: Awaitable[Any]) -> None:
    """Awaits a clean-up whose failure changes nothing: the other side may be gone already."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 5.0):
        try:
            await closing
        except Exception as error:  # noqa: BLE001  # clean-up of something broken
            _log.debug("clean-up: %r", error)
