"""The client on the network: whom it asks, and what it makes of the answers.

Everything that comes back is a claim. What is believed of a listing: contracts/listing_book.py. An offer must be signed
by its worker over exactly what was asked; a trace must hash to the window root on chain (fetch.py). A peer that lies is
dropped with the reason, never an exception that ends a purchase. Next in the flow: plan.py chooses.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

import trio

from tolsey.client.access import Access
from tolsey.client.ledger import Ledger
from tolsey.client.plan import Candidate, Terms
from tolsey.contracts.listing_book import ListingBook
from tolsey.contracts.wallet import recover
from tolsey.errors import NetworkError, RemoteViolation
from tolsey.network.gossip import open_gossip
from tolsey.network.host import Host, open_host
from tolsey.network.identity import Identity
from tolsey.network.rpc import Rpc, serve
from tolsey.network.transfer import ContentStore, serve_content
from tolsey.protocol import wire
from tolsey.protocol.encoding import canonical_json
from tolsey.protocol.listing import Listing, topic_of
from tolsey.protocol.units import Account, JobId, PeerId

LISTEN_ANYWHERE = "/ip4/127.0.0.1/tcp/0"
GOSSIP_S = 12.0
"""How long a client without any listing listens before it says that nobody sells."""
MAX_ASKED = 64
"""Workers asked for an offer at once; the cheapest by their listings."""
MAX_BOOK_PEERS = 32

_log = logging.getLogger(__name__)


def rpc_of(limits: wire.Limits) -> Rpc:
    """The network's form of one protocol's limits."""
    return Rpc(
        protocol=limits.protocol,
        max_request_bytes=limits.max_request_bytes,
        max_reply_bytes=limits.max_reply_bytes,
        deadline_s=limits.deadline_s,
    )


class Peers:
    """An open host with the market's questions; made by `open_peers` alone."""

    def __init__(self, access: Access, host: Host, ledger: Ledger) -> None:
        self.host = host
        self._access = access
        self._ledger = ledger
        self._block_ts = 0
        self.book = ListingBook(
            access.network.domain,
            is_registered=self._is_registered,
            now_ts=lambda: max(self._block_ts, int(time.time())),
            stranger_for_s=0,
        )

    async def sellers(self, *, patience_s: float = GOSSIP_S) -> list[Listing]:
        """Workers that list themselves now, cheapest minimum first.

        Asks the bootstrap peers for their book, then the workers in it for theirs; where that gives nobody, listens to
        the gossip for `patience_s`.
        """
        self._block_ts = await trio.to_thread.run_sync(self._access.reader.now_ts)
        await self._read_books(self._access.network.bootstrap)
        addrs = [addr for listing in self.book.listings() for addr in listing.addrs[:1]]
        known = set(self._access.network.bootstrap)
        await self._read_books([addr for addr in addrs if addr not in known][:MAX_BOOK_PEERS])
        if not self.book.listings() and patience_s > 0:
            await self._hear(patience_s)
        return sorted(self.book.listings(), key=lambda listing: (listing.min_price, listing.account))

    async def ask(self, listing: Listing, request: wire.OfferRequest, terms: Terms) -> Candidate:
        """The worker's quote for a request, or its offer where we signed it; or the reason why there is none."""
        candidate = Candidate(listing=listing, eta_s=listing.eta_s(request.spec))
        domain = self._access.network.domain
        now_ts = await trio.to_thread.run_sync(self._access.reader.now_ts)
        # A listing is minutes old, and a place may be free again: ask all the same.
        idle = dataclasses.replace(listing, busy=0)
        reason = (
            "is not among --on"
            if not is_wanted(listing.account, terms)
            else idle.why_not(request.spec, domain=domain, now_ts=now_ts)
        )
        if reason is not None:
            return dataclasses.replace(candidate, dropped=reason)
        try:
            reply = wire.OfferReply.decode(await self.call(listing, wire.OFFER, request.encode()))
            if reply.offer is None:
                return dataclasses.replace(candidate, dropped=f"refuses: {reply.refusal}")
            if request.client_signature == b"":
                return dataclasses.replace(candidate, offer=reply.offer)
            if recover(reply.offer.job_id(domain), reply.signature).lower() != listing.account.lower():
                return dataclasses.replace(candidate, dropped="sent an offer that it did not sign")
        except (NetworkError, RemoteViolation) as error:
            return dataclasses.replace(candidate, dropped=f"did not answer: {error.message}")
        return dataclasses.replace(candidate, offer=reply.offer, signature=reply.signature)

    async def ask_all(self, sellers: Sequence[Listing], request: wire.OfferRequest, terms: Terms) -> list[Candidate]:
        """The answers of all sellers, asked at once; beyond MAX_ASKED the dearest are left out."""
        ranked = sorted(sellers, key=lambda listing: listing.price(request.spec))[:MAX_ASKED]
        found: list[Candidate] = []

        async def one(listing: Listing) -> None:
            found.append(await self.ask(listing, request, terms))

        async with trio.open_nursery() as nursery:
            for listing in ranked:
                nursery.start_soon(one, listing)
        return found

    async def progress(self, peer_id: str, job_id: JobId) -> wire.Progress:
        """How the worker says the job goes."""
        raw = await rpc_of(wire.PROGRESS).call(self.host, peer_id, wire.WindowRequest(job_id=job_id, index=0).encode())
        return wire.Progress.decode(raw)

    async def trace(self, peer_id: str, job_id: JobId, window: int) -> wire.Trace:
        """The worker's trace of one window; not yet checked."""
        raw = await rpc_of(wire.TRACE).call(
            self.host, peer_id, wire.WindowRequest(job_id=job_id, index=window).encode()
        )
        return wire.Trace.decode(raw)

    async def step_roots(self, peer_id: str, job_id: JobId, segment: int, count: int) -> list[bytes]:
        """The state root after each step of a segment, as the worker tells; not checked."""
        raw = await rpc_of(wire.STEPS).call(
            self.host, peer_id, wire.WindowRequest(job_id=job_id, index=segment).encode()
        )
        return list(wire.decode_step_roots(raw, count))

    async def call(self, listing: Listing, limits: wire.Limits, raw: bytes) -> bytes:
        """One question to a worker, whose addresses are in its listing."""
        self.host.add_addrs(listing.peer_id, listing.addrs)
        return await rpc_of(limits).call(self.host, listing.peer_id, raw)

    async def locate(self, account: str) -> tuple[str, list[str]]:
        """Peer id and addresses of a registered worker.

        Raises:
            NetworkError: the chain does not know it, or no listing says where it is.
        """
        peer_id = self._ledger.worker_peers.get(account.lower())
        if peer_id is None:
            raise NetworkError(f"{account} is not registered as a worker on this market")
        await self.sellers(patience_s=0)
        self.host.add_addrs(peer_id, self.book.addrs_of(peer_id))
        return peer_id, self.host.addrs_of(peer_id)

    async def _read_books(self, addrs: Iterable[str]) -> None:
        async def one(addr: str) -> None:
            try:
                peer_id = await self.host.connect(addr)
                raw = await rpc_of(wire.BOOK).call(self.host, peer_id, canonical_json({}))
                for signed in wire.decode_book(raw):
                    await self._take(signed.encode())
            except (NetworkError, RemoteViolation) as error:
                _log.info("book of %s: %s", addr, error)

        async with trio.open_nursery() as nursery:
            for addr in addrs:
                nursery.start_soon(one, addr)

    async def _hear(self, patience_s: float) -> None:
        network = self._access.network
        async with open_gossip(self.host) as gossip:
            heard = await gossip.subscribe(topic_of(network.domain), self.book.may_pass)
            for peer_id in self.host.peers():  # a peer asks once what we speak, and that was before this topic
                await self.host.disconnect(peer_id)
            await self._read_books(network.bootstrap)
            with trio.move_on_after(patience_s):
                while not self.book.listings():
                    _author, raw = await heard.receive()
                    await self._take(raw)

    async def _take(self, raw: bytes) -> None:
        try:
            await self.book.add(raw)
        except RemoteViolation as error:
            _log.info("listing refused: %s", error)

    async def _is_registered(self, account: Account, peer_id: PeerId) -> bool:
        return self._ledger.worker_peers.get(account.lower()) == peer_id


@asynccontextmanager
async def open_peers(
    access: Access,
    *,
    ledger: Ledger,
    identity: Identity | None = None,
    listen: str = LISTEN_ANYWHERE,
    store: ContentStore | None = None,
) -> AsyncIterator[Peers]:
    """A host that asks; with `store` it also serves contents, until the block is left.

    Args:
        ledger: who is registered under which peer id.
        identity: a fresh one where nobody has to find us again.
    """
    async with open_host(identity or Identity.generate(), listen) as host:
        peers = Peers(access, host, ledger)
        serve(host, rpc_of(wire.BOOK), peers.book.answer)
        if store is not None:
            serve_content(host, store)
        yield peers


def is_wanted(account: str, terms: Terms) -> bool:
    """Whether `--on` leaves this worker in."""
    return not terms.on or any(account.lower().startswith(prefix) for prefix in terms.on)
