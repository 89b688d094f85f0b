"""A verifier's day: read this first.

    open     keys, database, blobs, chain                    refuse a wrong passphrase, chain or home
    measure  numerics class and profiles, in the child       what it may judge
    enrol    money, bond and place in the profile's pool     only what is missing
    meet     host, gossip, look-up table                     serve before the first peer is dialled
    serve    follow the chain; duties, votes, challenges     everything in one nursery
    stop     cancel: children die, the outbox keeps what was sent

`run` tells `started` only when all of it holds, so that "ready" means ready. After kill -9 the same steps bring the
verifier back to where it was: findings, evidence and sent transactions are on disk, everything else is on the chain.
Next in the flow: post.py.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from tolsey.contracts.chain import Chain
from tolsey.contracts.gateway import Gateway
from tolsey.contracts.listing_book import ListingBook
from tolsey.contracts.network_file import NetworkFile
from tolsey.contracts.wallet import Keystore
from tolsey.network.discovery import open_discovery
from tolsey.network.gossip import open_gossip
from tolsey.network.host import open_host
from tolsey.network.identity import Identity
from tolsey.protocol.job import class_of_profile
from tolsey.protocol.units import Account, ClassId, PeerId
from tolsey.runtime.child_client import kept_warm
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database
from tolsey.storage.process import pid_file
from tolsey.verifier.bench import ChildBench
from tolsey.verifier.clock import Clock
from tolsey.verifier.config import VerifierConfig
from tolsey.verifier.duty import Tools, Turns
from tolsey.verifier.enrolment import enrol, profile_of
from tolsey.verifier.fetch import Fetcher, NetworkPeers, unpin_stale
from tolsey.verifier.judging import Judge
from tolsey.verifier.pokes import Poker
from tolsey.verifier.post import Makers, Post
from tolsey.verifier.records import Evidence, Records
from tolsey.verifier.replay import Bench
from tolsey.verifier.report import tell
from tolsey.verifier.serving import Traces, listen, serve_all

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a verifier says of itself once it serves.

    Attributes:
        profile, class_id: whose pool it sits in.
    """

    account: Account
    peer_id: PeerId
    addrs: tuple[str, ...]
    profile: str
    class_id: ClassId


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The seams of a verifier; the shipped one uses these defaults only."""

    bench: Callable[[VerifierConfig], Awaitable[Bench]] = field(default=lambda config: measured_bench(config))
    judge: Callable[..., Judge] = Judge
    makers: Makers = field(default_factory=Makers)


async def measured_bench(config: VerifierConfig) -> Bench:
    """Replays in child processes of this machine.

    Raises:
        ConfigError: it cannot run the profile that it shall be drawn for.
    """
    return await ChildBench.measured(
        config.home / "replays",
        profile=config.profile,
        device=config.device,
        memory_bytes=config.memory_bytes,
        max_segment_s=config.max_segment_s,
    )


async def run(
    config: VerifierConfig,
    passphrase: str,
    *,
    stop: trio.Event | None = None,
    parts: Parts | None = None,
    task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs one verifier until `stop` is set; started once it truly serves.

    Raises:
        ConfigError: wrong passphrase, port taken, home in use, money missing, no kernels for the profile.
        ChainUnavailable: the endpoint does not answer or is another chain.
    """
    stop, parts = trio.Event() if stop is None else stop, parts or Parts()
    async with AsyncExitStack() as stack:
        # open
        keys = await trio.to_thread.run_sync(Keystore.open, config.home / "keys", passphrase)
        database = await trio.to_thread.run_sync(Database.open, config.home / "verifier.sqlite")
        stack.callback(database.close)
        blobs = await trio.to_thread.run_sync(_open_blobs, config)
        stack.callback(blobs.close)
        network = NetworkFile.load(Path(config.network))
        if config.rpc_url is not None:
            network = dataclasses.replace(network, rpc_url=config.rpc_url)
        chain = Chain(Gateway(network, keys.wallet), database)
        await chain.run(chain.gateway.check_chain)
        stack.enter_context(pid_file(config.pid_file))
        account, identity = keys.wallet.account, Identity(keys.peer_key)

        # measure
        profile = await profile_of(chain, account, config)
        bench = await parts.bench(dataclasses.replace(config, profile=profile))

        # enrol
        class_id = class_of_profile(profile) or bench.class_id
        await enrol(chain, keys, class_id, config)

        # meet
        post = Post(chain, account, watch_all=config.watch_all)
        clock = Clock(chain, await chain.run(chain.gateway.now_ts))
        records, traces = Records(database), Traces()
        host = await stack.enter_async_context(open_host(identity, config.listen, announce=config.announce))

        async def is_registered(who: Account, peer_id: PeerId) -> bool:
            return post.watcher.peers.get(who) == peer_id

        book = ListingBook(network.domain, is_registered=is_registered, now_ts=clock.wall_ts, stranger_for_s=0)
        gossip = await stack.enter_async_context(open_gossip(host))
        discovery = await stack.enter_async_context(open_discovery(host))
        if isinstance(bench, ChildBench):
            await stack.enter_async_context(kept_warm())
        serve_all(host, blobs, traces, book)
        peers = NetworkPeers(host, discovery, blobs)
        fetcher = Fetcher(peers, blobs, network.domain, sources=post.sources, keep=traces.keep)
        judge = parts.judge(bench, fetcher, clock, post.job)

        # serve
        async with trio.open_nursery() as nursery:

            async def accuse(item: Evidence) -> None:
                post.accuse(item, tools, parts.makers, nursery)

            tools = Tools(
                chain=chain,
                clock=clock,
                records=records,
                judge=judge,
                account=account,
                secret=keys.verifier_secret,
                accuse=accuse,
                job=post.job,
                turns=Turns(config.max_duties),
                watch_samples=config.watch_samples,
            )
            await nursery.start(listen, book, network.domain, gossip, host)
            await nursery.start(post.run, tools, parts.makers)
            await nursery.start(chain.serve)
            host.stay_connected(config.bootstrap or network.bootstrap)
            await nursery.start(Poker(chain, clock, lambda: post.watcher).run)
            ready = Ready(
                account=account,
                peer_id=PeerId(identity.peer_id),
                addrs=tuple(host.addrs),
                profile=profile,
                class_id=class_id,
            )
            nursery.start_soon(tell, config, _facts(ready, bench), records, post, host)
            _log.info("serving as %s on %s", account, ", ".join(host.addrs))
            task_status.started(ready)

            # stop
            await stop.wait()
            _log.info("stopping")
            nursery.cancel_scope.cancel()


def _facts(ready: Ready, bench: Bench) -> dict[str, Any]:
    return {
        "account": ready.account,
        "peer_id": ready.peer_id,
        "addrs": list(ready.addrs),
        "profile": ready.profile,
        "class_id": ready.class_id.hex(),
        "fingerprint": bench.fingerprint.decode(),
    }


def _open_blobs(config: VerifierConfig) -> BlobStore:
    blobs = BlobStore(config.home / "blobs", quota_bytes=config.disk_quota_bytes)
    unpin_stale(blobs)
    return blobs
