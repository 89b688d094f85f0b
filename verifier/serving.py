"""What a verifier answers: the book of listings, traces that proved to be committed, and the contents it fetched.

A panel that judges a dispute, and a client whose worker has gone, find here what the worker no longer serves. Nothing
served needs trust: listings are signed, traces give a root on chain, contents have their id. All that is kept is
bounded.

It refuses listings of other markets, expired, unsigned by their account, older than the one it has, or of accounts
that the chain does not bind to their peer.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import trio

from tolsey.contracts.wallet import recover
from tolsey.errors import RemoteViolation
from tolsey.network.gossip import Gossip
from tolsey.network.host import Host
from tolsey.network.rpc import RpcRefused, serve
from tolsey.network.transfer import serve_content
from tolsey.protocol.listing import MAX_AGE_S, Listing
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import Account, JobId, PeerId
from tolsey.protocol.wire import BOOK, MAX_BOOK_ENTRIES, TRACE, SignedListing, WindowRequest, encode_book
from tolsey.storage.blobs import BlobStore
from tolsey.verifier.fetch import rpc_of
from tolsey.verifier.trace import CheckedTrace

MAX_TRACE_BYTES = 64 << 20
"""All traces kept in memory together; the oldest go first."""
CLOCK_SLACK_S = 60

_log = logging.getLogger(__name__)


def topic_of(domain: Domain) -> str:
    """The gossip topic of one market's listings."""
    return f"/tolsey/listings/1/{domain.chain_id}/{domain.market.lower()}"


class Traces:
    """Committed traces, newest last, bounded in bytes."""

    def __init__(self, most_bytes: int = MAX_TRACE_BYTES) -> None:
        self._most_bytes = most_bytes
        self._raw: OrderedDict[tuple[JobId, int], bytes] = OrderedDict()

    def keep(self, job_id: JobId, window: int, trace: CheckedTrace) -> None:
        """Keeps a trace for others."""
        self._raw[job_id, window] = trace.raw
        self._raw.move_to_end((job_id, window))
        while sum(map(len, self._raw.values())) > self._most_bytes:
            self._raw.popitem(last=False)

    async def answer(self, _peer_id: str, raw: bytes) -> bytes:
        """The reply to TRACE."""
        request = WindowRequest.decode(raw)
        found = self._raw.get((request.job_id, request.index))
        if found is None:
            raise RpcRefused("unknown", f"window {request.index} of job {request.job_id.hex()[:16]} is not here")
        return found


class Book:
    """The newest listing of each worker that the chain binds to its peer, at most MAX_BOOK_ENTRIES."""

    def __init__(
        self, domain: Domain, *, peer_of: Callable[[Account], PeerId | None], now_ts: Callable[[], int]
    ) -> None:
        self._domain = domain
        self._peer_of = peer_of
        self._now_ts = now_ts
        self._entries: dict[str, tuple[Listing, SignedListing]] = {}

    def checked(self, raw: bytes) -> tuple[Listing, SignedListing]:
        """The listing in a gossip message.

        Raises:
            RemoteViolation: see the file's docstring.
        """
        signed = SignedListing.decode(raw)
        listing = Listing.decode(signed.listing)
        if (listing.chain_id, listing.market.lower()) != (self._domain.chain_id, self._domain.market.lower()):
            raise RemoteViolation(f"listing for market {listing.market} of chain {listing.chain_id}")
        now_ts = self._now_ts()
        if not now_ts < listing.expires_at <= now_ts + MAX_AGE_S + CLOCK_SLACK_S:
            raise RemoteViolation(f"listing expires at {listing.expires_at}, now is {now_ts}")
        signer = recover(listing.digest(self._domain), signed.signature)
        if signer.lower() != listing.account.lower():
            raise RemoteViolation(f"listing of {listing.account} is signed by {signer}")
        return listing, signed

    def may_pass(self, _author: str, raw: bytes) -> bool:
        """Whether a gossip message may be passed on."""
        try:
            self.checked(raw)
        except RemoteViolation:
            return False
        return True

    def add(self, raw: bytes) -> bool:
        """Takes a listing in; whether it is new and of a registered worker."""
        listing, signed = self.checked(raw)
        key = listing.account.lower()
        known = self._entries.get(key)
        if known is not None and known[0].sequence >= listing.sequence:
            return False
        if self._peer_of(listing.account) != listing.peer_id:
            return False
        if known is None and len(self._entries) >= MAX_BOOK_ENTRIES:
            return False
        self._entries[key] = (listing, signed)
        return True

    def addrs_of(self, peer_id: str) -> tuple[str, ...]:
        """Addresses that a listed worker says it listens on."""
        return next((entry.addrs for entry, _ in self._entries.values() if entry.peer_id == peer_id), ())

    async def answer(self, _peer_id: str, _raw: bytes) -> bytes:
        """The reply to BOOK."""
        now_ts = self._now_ts()
        self._entries = {k: entry for k, entry in self._entries.items() if entry[0].expires_at > now_ts}
        return encode_book([signed for _, signed in self._entries.values()])

    async def listen(
        self, gossip: Gossip, host: Host, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keeps the book from gossip until cancelled."""
        received = await gossip.subscribe(topic_of(self._domain), self.may_pass)
        async with received:
            task_status.started()
            async for _author, raw in received:
                try:
                    if self.add(raw):
                        listing = Listing.decode(SignedListing.decode(raw).listing)
                        host.add_addrs(listing.peer_id, listing.addrs)
                except RemoteViolation as error:
                    _log.debug("listing refused: %s", error.message)


def serve_all(host: Host, blobs: BlobStore, traces: Traces, book: Book) -> None:
    """Registers every protocol; before the first connection, because peers ask once what we speak."""
    serve(host, rpc_of(BOOK), book.answer)
    serve(host, rpc_of(TRACE), traces.answer)
    serve_content(host, blobs)
