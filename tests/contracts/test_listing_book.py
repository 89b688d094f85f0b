"""The book believes only what is signed, current, of this market and registered; it stays bounded."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tolsey.contracts.listing_book import ListingBook, checked
from tolsey.contracts.wallet import Wallet
from tolsey.errors import RemoteViolation
from tolsey.protocol.listing import MAX_AGE_S, Listing, topic_of
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import Account, ClassId, PeerId, TokenUnits
from tolsey.protocol.wire import MAX_BOOK_ENTRIES, SignedListing, decode_book

DOMAIN = Domain(chain_id=31_337, market=Account("0x5FbDB2315678afecb367f032d93F642f64180aa3"))
STRANGER = Account("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
NOW = 1_800_000_000
PEER = PeerId("12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X")
OTHER_PEER = PeerId("12D3KooWSomebodyElse")


def signed(key: int = 7, **changes: Any) -> bytes:
    """A listing by the wallet of `key`, encoded for gossip."""
    wallet = Wallet.from_private_key(key.to_bytes(32, "big"))
    values: dict[str, Any] = {
        "account": wallet.account, "peer_id": PEER, "addrs": ("/ip4/127.0.0.1/tcp/4001",), "chain_id": DOMAIN.chain_id,
        "market": DOMAIN.market, "class_id": ClassId(bytes(32)), "class_name": "cpu", "profiles": ("pinned",),
        "price_per_petaflop": TokenUnits(1_000_000), "min_price": TokenUnits(500_000), "bond_bps": 5_000,
        "min_bond": TokenUnits(0), "memory_bytes": 1 << 30, "flops_per_s": 10**10, "busy": 0, "capacity": 1,
        "sequence": 1, "expires_at": NOW + 180,
    }  # fmt: skip
    listing = Listing(**values | changes)
    return SignedListing(listing=listing.encode(), signature=wallet.sign_digest(listing.digest(DOMAIN))).encode()


class World:
    """A book beside a chain that knows every account but those in `unknown`."""

    def __init__(self, **options: float) -> None:
        self.now_ts = NOW
        self.unknown: set[str] = set()
        self.asked = 0
        self.book = ListingBook(DOMAIN, is_registered=self.is_registered, now_ts=lambda: self.now_ts, **options)

    async def is_registered(self, account: Account, peer_id: str) -> bool:
        self.asked += 1
        return account not in self.unknown and peer_id == PEER


def test_checked_good_listing_is_returned() -> None:
    assert checked(signed(), domain=DOMAIN, now_ts=NOW).listing.peer_id == PEER


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"x" * 10, "signed listing of 10 bytes"),
        (b"{}" + bytes(65), "documented keys"),
        (signed(chain_id=1), "of chain 1"),
        (signed(market=Account("0x" + "12" * 20)), "listing for market"),
        (signed(expires_at=NOW), "expires at"),
        (signed(expires_at=NOW + MAX_AGE_S + 61), "expires at"),
        (signed(account=STRANGER), "is signed by"),
        (signed()[:-1] + b"\x05", "v = 5"),
    ],
)
def test_checked_bad_listing_is_a_violation(raw: bytes, words: str) -> None:
    with pytest.raises(RemoteViolation, match=words):
        checked(raw, domain=DOMAIN, now_ts=NOW)
    assert not World().book.may_pass("somebody", raw)


async def test_add_newer_sequence_replaces_older_does_not() -> None:
    world = World()
    assert await world.book.add(signed(sequence=5))
    assert not await world.book.add(signed(sequence=4))
    assert not await world.book.add(signed(sequence=5))
    assert await world.book.add(signed(sequence=6, busy=1))
    assert [(e.sequence, e.busy) for e in world.book.listings()] == [(6, 1)]


async def test_add_unregistered_account_is_not_kept_and_not_asked_again_at_once() -> None:
    world = World()
    world.unknown.add(Wallet.from_private_key((7).to_bytes(32, "big")).account)
    assert not await world.book.add(signed(sequence=1))
    assert not await world.book.add(signed(sequence=2))
    assert world.book.listings() == [] and world.asked == 1


async def test_add_where_asking_is_free_a_registration_counts_at_once() -> None:
    world = World(stranger_for_s=0)
    account = Wallet.from_private_key((7).to_bytes(32, "big")).account
    world.unknown.add(account)
    assert await world.book.add(signed(sequence=1)) is None
    world.unknown.clear()
    listing = await world.book.add(signed(sequence=1))
    assert listing is not None and listing.account == account


async def test_addrs_of_are_those_of_the_newest_listing() -> None:
    world = World()
    await world.book.add(signed(sequence=1))
    await world.book.add(signed(sequence=2, addrs=("/ip4/10.0.0.1/tcp/1",)))
    assert world.book.addrs_of(PEER) == ("/ip4/10.0.0.1/tcp/1",) and world.book.addrs_of(OTHER_PEER) == ()
    world.now_ts += 181
    assert world.book.addrs_of(PEER) == ()


async def test_add_known_account_under_another_peer_is_asked_anew() -> None:
    world = World()
    await world.book.add(signed(sequence=1))
    assert not await world.book.add(signed(sequence=2, peer_id=OTHER_PEER))
    assert [e.sequence for e in world.book.listings()] == [1]


async def test_expired_listing_leaves_the_book() -> None:
    world = World()
    await world.book.add(signed())
    world.now_ts += 181
    assert world.book.listings() == []
    assert decode_book(await world.book.answer("peer", b"")) == []


async def test_book_is_bounded_and_its_reply_decodes() -> None:
    world = World()
    for key in range(1, MAX_BOOK_ENTRIES + 3):
        await world.book.add(signed(key))
    assert len(world.book.listings()) == MAX_BOOK_ENTRIES
    entries = decode_book(await world.book.answer("peer", b""))
    assert len(entries) == MAX_BOOK_ENTRIES
    assert all(world.book.may_pass("peer", entry.encode()) for entry in entries)


def test_topic_is_of_chain_and_market() -> None:
    other = dataclasses.replace(DOMAIN, chain_id=1)
    assert topic_of(DOMAIN) != topic_of(other)
    assert topic_of(DOMAIN) == topic_of(DOMAIN).lower()
