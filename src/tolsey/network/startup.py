"""What must be right before a host listens: addresses, the port, the data directory, and the library's own settings.

It refuses malformed addresses, transports other than TCP, a port that somebody listens on and a directory that
another process holds; each as a `ConfigError` that says what to type instead. Next in the flow: host.py.
"""

from __future__ import annotations

import errno
import fcntl
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from libp2p import new_swarm
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr  # type: ignore[import-untyped]  # ships no types

from tolsey.errors import ConfigError
from tolsey.network import guards
from tolsey.network.identity import Identity, is_peer_id

LOCK_NAME = "network.lock"


def peer_id_of(addr: str) -> str:
    """The peer id at the end of a full multiaddr.

    Raises:
        ConfigError: there is none, or it is not an Ed25519 peer id.
    """
    peer_id = str(parse_addr(addr).get_peer_id() or "")
    if not is_peer_id(peer_id):
        raise ConfigError(f"{addr!r} does not end in /p2p/<peer id>", fix="copy the address that the peer prints")
    return peer_id


def build(identity: Identity, max_connections: int, announce: list[Multiaddr]) -> BasicHost:
    """A host of the library that has not started: TCP, noise and yamux, no dials of its own, no resource manager."""
    key_pair = create_new_key_pair(identity.key)
    swarm = new_swarm(
        key_pair=key_pair,
        sec_opt=guards.security_options(key_pair),
        muxer_opt=guards.muxer_options(),
        transports=[TCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=max_connections,
            min_connections=0,
            low_watermark=0,
            high_watermark=max_connections,
            inbound_upgrade_timeout=guards.DIAL_S,  # as patient as a dialer: a slow machine must not refuse its guests
        ),
    )
    assert isinstance(swarm, Swarm)
    # An eighth of the connections is kept for the peers that we choose.
    swarm._inbound_limiter = trio.CapacityLimiter(max_connections - max_connections // 8)
    swarm.auto_connector.maybe_connect = _dial_nobody  # type: ignore[method-assign]  # on this one object
    # Its circuit breaker refuses everybody for a minute after five failures; the guards and Limits count instead.
    swarm.set_resource_manager(None)
    return BasicHost(network=swarm, announce_addrs=announce or None, disable_identify_address_discovery=True)


@contextmanager
def locked(data_dir: Path | None) -> Iterator[None]:
    """Holds the data directory, made if need be, for the length of the block; None holds nothing."""
    if data_dir is None:
        yield
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    with open(data_dir / LOCK_NAME, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{data_dir} is in use by another node", fix="stop that node, or give this one its own --data-dir"
            ) from error
        yield


def refuse_taken_port(address: Multiaddr) -> None:
    """The library listens with SO_REUSEPORT and would share a taken port in silence; a plain bind does not."""
    protocols = {p.name for p in address.protocols()}
    if protocols != {"ip4", "tcp"} and protocols != {"ip6", "tcp"}:
        raise ConfigError(f"cannot listen on {address}: only /ip4 or /ip6 with /tcp", fix="/ip4/0.0.0.0/tcp/4101")
    family, name = (socket.AF_INET, "ip4") if "ip4" in protocols else (socket.AF_INET6, "ip6")
    ip, port = str(address.value_for_protocol(name)), int(str(address.value_for_protocol("tcp")))
    if not port:
        return
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            raise ConfigError(f"{ip} port {port} {why}", fix="choose another --listen address") from error


def parse_addr(addr: str) -> Multiaddr:
    """The multiaddr in `addr`; ConfigError for anything else."""
    if len(addr) > 512:
        raise ConfigError(f"an address of {len(addr)} characters is not one")
    try:
        return Multiaddr(addr)
    except Exception as error:  # the parser raises a dozen types, ValueError and KeyError among them
        raise ConfigError(f"not a multiaddr: {addr!r} ({error})", fix="/ip4/1.2.3.4/tcp/4101/p2p/12D3Koo…") from error


def with_peer(addr: Multiaddr, peer_id: str) -> str:
    """The address as text, ending in /p2p/<peer id>."""
    text = str(addr)
    return text if "/p2p/" in text else f"{text}/p2p/{peer_id}"


async def _dial_nobody() -> None:
    """In place of the library's dials to anybody it has heard of, whenever it finds us lonely."""


async def close_sockets(swarm: Swarm) -> None:
    """Closes what `swarm` listens on and is connected by.

    Its own shutdown awaits these after it has been cancelled, so that a stopped host would go on holding its port.
    """
    for listener in list(swarm.listeners.values()):
        await listener.close()
    swarm.listeners.clear()
    for connection in swarm.get_connections():
        await connection.muxed_conn.secured_conn.close()  # type: ignore[attr-defined]  # every yamux connection has it
