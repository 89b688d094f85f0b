"""Says what this worker sells, and keeps the book of what others do.

A listing is gossiped about twice a minute and at once when it changes; contracts/listing_book.py says what is believed
of what comes back. Next in the flow: responder.py serves the book.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

import trio

from tolsey.contracts.listing_book import ListingBook
from tolsey.contracts.wallet import Wallet
from tolsey.errors import ChainError, RemoteViolation
from tolsey.network.gossip import MAX_MESSAGE_BYTES, Gossip
from tolsey.protocol.listing import Listing, topic_of
from tolsey.protocol.offer import Domain
from tolsey.protocol.wire import SignedListing

INTERVAL_S = 30.0
JITTER = 0.25
CHANGE_PAUSE_S = 1.0
"""Changes closer together than this are told in one message."""

_log = logging.getLogger(__name__)


class Publisher:
    """Gossips our listing and feeds the book.

    Args:
        make: our listing as of now, with a sequence number above all before.
    """

    def __init__(
        self, gossip: Gossip, book: ListingBook, wallet: Wallet, domain: Domain, make: Callable[[], Awaitable[Listing]]
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
