"""The day of a worker, in one nursery. Read this first.

    open     keys, database, blobs; the chain must be the one that the network file names
    enrol    transactions meant before the last stop; money, bond, account tied to peer id; this machine measured once
    meet     listen, gossip, look-up table; everything answered before the first peer is dialled
    serve    follow the chain, go on with the jobs of before, publish listings, until told to stop
    stop     no more offers, the training child ends, everything closes in reverse

Only once all of it stands does `started` tell the world. Whatever raises in here and is not caught ends the worker
with that error: a supervisor starts it again and it goes on from its tables. `Parts` are the seams at which tests and
dishonest workers put something else in place. Next in the flow: jobs.py, then worker.py.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
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
from tolsey.network.host import Host, Identity, open_host
from tolsey.network.transfer import ContentStore
from tolsey.node.bidding import Bidder
from tolsey.node.clock import ChainClock
from tolsey.node.committer import Committer
from tolsey.node.config import WorkerConfig
from tolsey.node.enrolment import enrol
from tolsey.node.executor import Executor
from tolsey.node.fetching import Fetcher
from tolsey.node.jobs import Jobs
from tolsey.node.publisher import Publisher
from tolsey.node.records import JobRecord, Records
from tolsey.node.registry import Registry
from tolsey.node.report import tell
from tolsey.node.responder import Responder
from tolsey.node.shop import Machine, Shop
from tolsey.node.worker import Tools, Worker
from tolsey.protocol.units import Account, PeerId
from tolsey.runtime.child_client import kept_warm
from tolsey.storage.blobs import BlobStore
from tolsey.storage.engine import Database
from tolsey.storage.process import pid_file

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a worker says once it serves."""

    account: Account
    peer_id: PeerId
    addrs: tuple[str, ...]
    machine: Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The seams of a worker: what each of its jobs is made of. The shipped worker uses these defaults only."""

    executor: Callable[..., Executor] = Executor
    committer: Callable[..., Committer] = Committer
    responder: Callable[..., Responder] = Responder
    worker: Callable[[JobRecord, Tools], Worker] = Worker
    store: Callable[[BlobStore], ContentStore] = lambda blobs: blobs


async def run(
    config: WorkerConfig,
    passphrase: str,
    *,
    stop: trio.Event | None = None,
    parts: Parts | None = None,
    task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs one worker until `stop` is set; started once it truly serves.

    Raises:
        ConfigError: wrong passphrase, port taken, home in use, money missing.
        ChainUnavailable: the endpoint does not answer or is another chain.
    """
    stop = trio.Event() if stop is None else stop
    parts = parts or Parts()
    async with AsyncExitStack() as stack:
        # open
        keys = await trio.to_thread.run_sync(Keystore.open, config.home / "keys", passphrase)
        identity = Identity(keys.peer_key)
        database = await trio.to_thread.run_sync(Database.open, config.home / "worker.sqlite")
        stack.callback(database.close)
        blobs = await trio.to_thread.run_sync(_open_blobs, config)
        stack.callback(blobs.close)
        network = NetworkFile.load(Path(config.network))
        if config.rpc_url is not None:
            network = dataclasses.replace(network, rpc_url=config.rpc_url)
        chain = Chain(Gateway(network, keys.wallet), database)
        await chain.run(chain.gateway.check_chain)
        stack.enter_context(pid_file(config.pid_file))

        # enrol
        records = Records(database)
        await chain.sender.recover()
        registry = Registry(chain, records)
        account = keys.wallet.account
        may_offer = await enrol(chain, keys.wallet, identity, registry, config)
        executor = parts.executor(config, blobs, records)
        machine = await executor.measure()

        # meet: everything is served before the first peer is dialled, because peers ask once what we speak
        host = await stack.enter_async_context(open_host(identity, config.listen, announce=config.announce))
        clock = ChainClock(chain)
        peer_id, addrs = PeerId(identity.peer_id), tuple(host.addrs)
        shop = Shop(config, chain, clock, records, machine, account=account, peer_id=peer_id, addrs=addrs)
        gossip = await stack.enter_async_context(open_gossip(host))
        discovery = await stack.enter_async_context(open_discovery(host))
        await stack.enter_async_context(kept_warm())
        executor.fetcher = Fetcher(host, discovery, blobs)
        book = ListingBook(chain.gateway.domain, is_registered=registry.is_registered, now_ts=lambda: clock.wall_ts)
        publisher = Publisher(gossip, book, keys.wallet, chain.gateway.domain, shop.listing)
        bidder = Bidder(
            config,
            records,
            executor,
            standing=shop.standing,
            free_of=shop.free_of,
            sign=keys.wallet.sign_digest,
            on_change=publisher.changed,
        )
        parts.responder(records, bidder, executor, book, parts.store(blobs)).serve(host)

        # serve
        tools = Tools(
            chain=chain,
            clock=clock,
            records=records,
            blobs=blobs,
            executor=executor,
            committer=parts.committer(chain, records, blobs),
            lookahead_windows=config.lookahead_windows,
        )
        jobs = Jobs(chain, records, tools, account, on_change=publisher.changed, make=parts.worker)

        async with trio.open_nursery() as nursery:
            await nursery.start(jobs.run)
            await nursery.start(chain.serve)
            await nursery.start(publisher.run)
            bidder.closed_because = None if may_offer else "is leaving the market"
            host.stay_connected(config.bootstrap or network.bootstrap)
            ready = Ready(account=account, peer_id=peer_id, addrs=addrs, machine=machine)
            nursery.start_soon(tell, config.home, _facts(ready), partial(_live, host, shop, book), records)
            _log.info("serving as %s on %s", account, ", ".join(addrs))
            task_status.started(ready)

            # stop
            await stop.wait()
            bidder.closed_because = "is stopping"
            _log.info("stopping")
            nursery.cancel_scope.cancel()


def _open_blobs(config: WorkerConfig) -> BlobStore:
    return BlobStore(config.home / "blobs", config.disk_quota_bytes, spare_bytes=config.disk_spare_bytes)


def _facts(ready: Ready) -> dict[str, Any]:
    """What the status file says that does not change."""
    return {
        "account": ready.account,
        "peer_id": ready.peer_id,
        "addrs": list(ready.addrs),
        "class": ready.machine.class_name,
        "class_id": ready.machine.class_id.hex(),
        "profiles": list(ready.machine.profiles),
        "flops_per_s": ready.machine.flops_per_s,
    }


async def _live(host: Host, shop: Shop, book: ListingBook) -> dict[str, Any]:
    """What it says that does."""
    listing = await shop.listing()
    return {
        "busy": listing.busy,
        "capacity": listing.capacity,
        "price_per_petaflop": listing.price_per_petaflop,
        "min_price": listing.min_price,
        "peers": host.peers(),
        "book": len(book.listings()),
    }
