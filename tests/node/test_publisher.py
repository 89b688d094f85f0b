"""The book believes only what is signed, current, of this market and registered; it stays bounded."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tolsey.contracts.wallet import Wallet
from tolsey.errors import RemoteViolation
from tolsey.node.publisher import Book, checked, topic_of
from tolsey.protocol.listing import MAX_AGE_S
from tolsey.protocol.units import Account
from tolsey.protocol.wire import MAX_BOOK_ENTRIES, SignedListing, decode_book

from . import worlds


def signed(key: int = 7, **changes: Any) -> bytes:
    """A listing by the wallet of `key`, encoded for gossip."""
    wallet = Wallet.from_private_key(key.to_bytes(32, "big"))
    listing = worlds.listing(**{"account": wallet.account} | changes)
    return SignedListing(listing=listing.encode(), signature=wallet.sign_digest(listing.digest(worlds.DOMAIN))).encode()


class World:
    """A book beside a chain that knows every account but those in `unknown`."""

    def __init__(self) -> None:
        self.now_ts = worlds.NOW
        self.unknown: set[str] = set()
        self.asked = 0
        self.book = Book(worlds.DOMAIN, is_registered=self.is_registered, now_ts=lambda: self.now_ts)

    async def is_registered(self, account: Account, peer_id: str) -> bool:
        self.asked += 1
        return account not in self.unknown and peer_id == worlds.GOOD_PEER


def test_checked_good_listing_is_returned() -> None:
    assert checked(signed(), domain=worlds.DOMAIN, now_ts=worlds.NOW).listing.peer_id == worlds.GOOD_PEER


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"x" * 10, "signed listing of 10 bytes"),
        (b"{}" + bytes(65), "documented keys"),
        (signed(chain_id=1), "of chain 1"),
        (signed(market=Account("0x" + "12" * 20)), "listing for market"),
        (signed(expires_at=worlds.NOW), "expires at"),
        (signed(expires_at=worlds.NOW + MAX_AGE_S + 61), "expires at"),
        (signed(account=worlds.CLIENT), "is signed by"),
        (signed()[:-1] + b"\x05", "v = 5"),
    ],
)
def test_checked_bad_listing_is_a_violation(raw: bytes, words: str) -> None:
    with pytest.raises(RemoteViolation, match=words):
        checked(raw, domain=worlds.DOMAIN, now_ts=worlds.NOW)
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


async def test_add_known_account_under_another_peer_is_asked_anew() -> None:
    world = World()
    await world.book.add(signed(sequence=1))
    assert not await world.book.add(signed(sequence=2, peer_id="12D3KooWSomebodyElse"))
    assert [e.sequence for e in world.book.listings()] == [1]


async def test_expired_listing_leaves_the_book() -> None:
    world = World()
    await world.book.add(signed())
    world.now_ts += 181
    assert world.book.listings() == []
    assert decode_book(world.book.encode()) == []


async def test_book_is_bounded_and_its_reply_decodes() -> None:
    world = World()
    for key in range(1, MAX_BOOK_ENTRIES + 3):
        await world.book.add(signed(key))
    assert len(world.book.listings()) == MAX_BOOK_ENTRIES
    entries = decode_book(world.book.encode())
    assert len(entries) == MAX_BOOK_ENTRIES
    assert all(world.book.may_pass("peer", entry.encode()) for entry in entries)


def test_topic_is_of_chain_and_market() -> None:
    other = dataclasses.replace(worlds.DOMAIN, chain_id=1)
    assert topic_of(worlds.DOMAIN) != topic_of(other)
    assert topic_of(worlds.DOMAIN) == topic_of(worlds.DOMAIN).lower()
