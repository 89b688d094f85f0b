"""Says what this worker sells, and remembers what others do: the book.

A listing is gossiped about twice a minute and at once when it changes. The book keeps the newest listing of each
account that is registered on chain; it serves late joiners and nothing here depends on it. Everything in it comes from
strangers: bounded in number and size, checked for signature and market before it is passed on, and for registration
and peer id before it is kept.

It refuses listings of other markets, expired or too far in the future, unsigned by their account, older than the one it
has, and of accounts that the chain does not know. Next in the flow: responder.py serves the book.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from tolsey.contracts.wallet import Wallet, recover
from tolsey.errors import ChainError, RemoteViolation
from tolsey.network.gossip import MAX_MESSAGE_BYTES, Gossip
from tolsey.protocol.listing import MAX_AGE_S, Listing
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import Account
from tolsey.protocol.wire import MAX_BOOK_ENTRIES, SignedListing, encode_book

INTERVAL_S = 30.0
JITTER = 0.25
CHANGE_PAUSE_S = 1.0
"""Changes closer together than this are told in one message."""
CLOCK_SLACK_S = 60
"""How far another machine's idea of now may be ahead of ours."""
MAX_STRANGERS = 1024
STRANGER_FOR_S = 60.0
"""How long an account that the chain did not know is not asked about again."""

IsRegistered = Callable[[Account, str], Awaitable[bool]]
_log = logging.getLogger(__name__)


def topic_of(domain: Domain) -> str:
    """The gossip topic of one market's listings."""
    return f"/tolsey/listings/1/{domain.chain_id}/{domain.market.lower()}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A checked listing, with the bytes that others can check again."""

    listing: Listing
    signed: SignedListing


def checked(raw: bytes, *, domain: Domain, now_ts: int) -> Entry:
    """The listing in a gossip message, as far as it can be checked without asking anyone.

    Raises:
        RemoteViolation: malformed, of another market, expired, too far ahead, or not signed by its account.
    """
    signed = SignedListing.decode(raw)
    listing = Listing.decode(signed.listing)
    if (listing.chain_id, listing.market.lower()) != (domain.chain_id, domain.market.lower()):
        raise RemoteViolation(f"listing for market {listing.market} of chain {listing.chain_id}", evidence=raw)
    if not now_ts < listing.expires_at <= now_ts + MAX_AGE_S + CLOCK_SLACK_S:
        raise RemoteViolation(f"listing expires at {listing.expires_at}, now is {now_ts}", evidence=raw)
    signer = recover(listing.digest(domain), signed.signature)
    if signer.lower() != listing.account.lower():
        raise RemoteViolation(f"listing of {listing.account} is signed by {signer}", evidence=raw)
    return Entry(listing, signed)


class Book:
    """The newest listing of each registered account, at most MAX_BOOK_ENTRIES.

    Args:
        is_registered: whether the chain binds this account to this peer id.
        now_ts: unix seconds.
    """

    def __init__(self, domain: Domain, *, is_registered: IsRegistered, now_ts: Callable[[], int]) -> None:
        self._domain = domain
        self._is_registered = is_registered
        self._now_ts = now_ts
        self._entries: dict[str, Entry] = {}
        self._strangers: dict[tuple[str, str], float] = {}

    def may_pass(self, author: str, raw: bytes) -> bool:
        """Whether a gossip message may be passed on: well-formed, of this market, signed. Quick, asks nobody."""
        try:
            checked(raw, domain=self._domain, now_ts=self._now_ts())
        except RemoteViolation:
            return False
        return True

    async def add(self, raw: bytes) -> bool:
        """Takes a listing in; whether it is new and good.

        Raises:
            RemoteViolation: see `checked`.
        """
        entry = checked(raw, domain=self._domain, now_ts=self._now_ts())
        key = entry.listing.account.lower()
        known = self._entries.get(key)
        if known is not None and known.listing.sequence >= entry.listing.sequence:
            return False
        is_known_peer = known is not None and known.listing.peer_id == entry.listing.peer_id
        if not is_known_peer and not await self._vouched(entry.listing):
            return False
        self._forget_expired()
        if key not in self._entries and len(self._entries) >= MAX_BOOK_ENTRIES:
            return False
        newest = self._entries.get(key)  # another task may have been here while the chain was asked
        if newest is not None and newest.listing.sequence >= entry.listing.sequence:
            return False
        self._entries[key] = entry
        return True

    def listings(self) -> list[Listing]:
        """What is on sale now."""
        self._forget_expired()
        return [entry.listing for entry in self._entries.values()]

    def encode(self) -> bytes:
        """A reply to BOOK."""
        self._forget_expired()
        return encode_book([entry.signed for entry in self._entries.values()])

    async def _vouched(self, listing: Listing) -> bool:
        pair = (listing.account.lower(), listing.peer_id)
        if self._strangers.get(pair, 0.0) > trio.current_time():
            return False
        if await self._is_registered(listing.account, listing.peer_id):
            self._strangers.pop(pair, None)
            return True
        while len(self._strangers) >= MAX_STRANGERS:
            del self._strangers[next(iter(self._strangers))]
        self._strangers[pair] = trio.current_time() + STRANGER_FOR_S
        return False

    def _forget_expired(self) -> None:
        now_ts = self._now_ts()
        for key in [key for key, entry in self._entries.items() if entry.listing.expires_at <= now_ts]:
            del self._entries[key]


class Publisher:
    """Gossips our listing and feeds the book.

    Args:
        make: our listing as of now, with a sequence number above all before.
    """

    def __init__(
        self, gossip: Gossip, book: Book, wallet: Wallet, domain: Domain, make: Callable[[], Awaitable[Listing]]
    ) -> None:
        self._gossip = gossip
        self._book = book
        self._wallet = wallet
        self._domain = domain
        self._make = make
        self._changed = trio.Event()

    def changed(self) -> None:
        """Says that the listing is no longer true: it is told anew at once."""
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publishes and listens until cancelled; started once the topic is subscribed to."""
        received = await self._gossip.subscribe(topic_of(self._domain), self._book.may_pass)
        async with received, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, received)
            task_status.started()
            while True:
                await self.publish()
                self._changed = trio.Event()
                with trio.move_on_after(INTERVAL_S * random.uniform(1 - JITTER, 1 + JITTER)):
                    await self._changed.wait()
                    await trio.sleep(CHANGE_PAUSE_S)

    async def publish(self) -> None:
        """Signs the listing as it is now, keeps it in our own book and sends it."""
        listing = await self._make()
        signed = SignedListing(
            listing=listing.encode(), signature=self._wallet.sign_digest(listing.digest(self._domain))
        )
        raw = signed.encode()
        if len(raw) > MAX_MESSAGE_BYTES:
            _log.error("our listing has %d bytes, %d can be told: use fewer addresses", len(raw), MAX_MESSAGE_BYTES)
            return
        await self._book.add(raw)
        await self._gossip.publish(topic_of(self._domain), raw)

    async def _listen(self, received: trio.MemoryReceiveChannel[tuple[str, bytes]]) -> None:
        async for author, raw in received:
            try:
                if await self._book.add(raw):
                    _log.debug("listing from %s", author)
            except RemoteViolation as error:
                _log.debug("listing from %s dropped: %s", author, error.message)
            except ChainError as error:
                _log.warning("cannot check a listing: %s", error.message)
