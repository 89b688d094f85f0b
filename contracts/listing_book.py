"""The book of listings: what workers say they sell, as far as signatures and the chain bear it out.

Worker, verifier and client each keep one: it serves late joiners, tells addresses, and nothing that costs money depends
on it. Everything in it comes from strangers: bounded in number and size, checked for signature and market before it is
passed on, and for registration and peer id before it is kept.

It refuses listings of other markets, expired or too far in the future, unsigned by their account, older than the one it
has, and of accounts that the chain does not bind to their peer. Next: protocol/listing.py and protocol/wire.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from tolsey.contracts.wallet import recover
from tolsey.errors import RemoteViolation
from tolsey.protocol.listing import MAX_AGE_S, Listing
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import Account, PeerId
from tolsey.protocol.wire import MAX_BOOK_ENTRIES, SignedListing, encode_book

CLOCK_SLACK_S = 60
"""How far another machine's idea of now may be ahead of ours."""
MAX_STRANGERS = 1024
STRANGER_FOR_S = 60.0
"""How long an account that the chain did not know is not asked about again."""

IsRegistered = Callable[[Account, PeerId], Awaitable[bool]]


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


class ListingBook:
    """The newest listing of each registered account, at most MAX_BOOK_ENTRIES.

    Args:
        is_registered: whether the chain binds this account to this peer id.
        now_ts: unix seconds.
        stranger_for_s: 0 where `is_registered` costs nothing, so that a registration counts from its first second.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        is_registered: IsRegistered,
        now_ts: Callable[[], int],
        stranger_for_s: float = STRANGER_FOR_S,
    ) -> None:
        self._domain = domain
        self._is_registered = is_registered
        self._now_ts = now_ts
        self._stranger_for_s = stranger_for_s
        self._entries: dict[str, Entry] = {}
        self._strangers: dict[tuple[str, str], float] = {}

    def may_pass(self, _author: str, raw: bytes) -> bool:
        """Whether a gossip message may be passed on: well-formed, of this market, signed. Quick, asks nobody."""
        try:
            checked(raw, domain=self._domain, now_ts=self._now_ts())
        except RemoteViolation:
            return False
        return True

    async def add(self, raw: bytes) -> Listing | None:
        """Takes a listing in; gives it where it is new and good.

        Raises:
            RemoteViolation: see `checked`. Whatever `is_registered` raises.
        """
        entry = checked(raw, domain=self._domain, now_ts=self._now_ts())
        key = entry.listing.account.lower()
        known = self._entries.get(key)
        if known is not None and known.listing.sequence >= entry.listing.sequence:
            return None
        is_known_peer = known is not None and known.listing.peer_id == entry.listing.peer_id
        if not is_known_peer and not await self._vouched(entry.listing):
            return None
        self._forget_expired()
        newest = self._entries.get(key)  # another task may have been here while the chain was asked
        if newest is None and len(self._entries) >= MAX_BOOK_ENTRIES:
            return None
        if newest is not None and newest.listing.sequence >= entry.listing.sequence:
            return None
        self._entries[key] = entry
        return entry.listing

    def listings(self) -> list[Listing]:
        """What is on sale now."""
        self._forget_expired()
        return [entry.listing for entry in self._entries.values()]

    def addrs_of(self, peer_id: str) -> tuple[str, ...]:
        """Addresses that a worker with this peer id says it listens on; none where nothing is listed."""
        return next((listing.addrs for listing in self.listings() if listing.peer_id == peer_id), ())

    async def answer(self, _peer_id: str, _raw: bytes) -> bytes:
        """The reply to BOOK."""
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
        self._strangers[pair] = trio.current_time() + self._stranger_for_s
        return False

    def _forget_expired(self) -> None:
        now_ts = self._now_ts()
        for key in [key for key, entry in self._entries.items() if entry.listing.expires_at <= now_ts]:
            del self._entries[key]
