"""What a verifier answers: the book of listings, traces that proved to be committed, and the contents it fetched.

A panel that judges a dispute, and a client whose worker has gone, find here what the worker no longer serves. Nothing
served needs trust: listings are signed, traces give a root on chain, contents have their id. All that is kept is
bounded. What is believed of a listing: contracts/listing_book.py.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

import trio

from tolsey.contracts.listing_book import ListingBook
from tolsey.errors import RemoteViolation
from tolsey.network.gossip import Gossip
from tolsey.network.host import Host
from tolsey.network.rpc import RpcRefused, serve
from tolsey.network.transfer import serve_content
from tolsey.protocol.listing import topic_of
from tolsey.protocol.offer import Domain
from tolsey.protocol.units import JobId
from tolsey.protocol.wire import BOOK, TRACE, WindowRequest
from tolsey.storage.blobs import BlobStore
from tolsey.verifier.fetch import rpc_of
from tolsey.verifier.trace import CheckedTrace

MAX_TRACE_BYTES = 64 << 20
"""All traces kept in memory together; the oldest go first."""

_log = logging.getLogger(__name__)


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


async def listen(
    book: ListingBook,
    domain: Domain,
    gossip: Gossip,
    host: Host,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keeps the book from gossip until cancelled, and remembers where listed workers listen."""
    received = await gossip.subscribe(topic_of(domain), book.may_pass)
    async with received:
        task_status.started()
        async for _author, raw in received:
            try:
                listing = await book.add(raw)
            except RemoteViolation as error:
                _log.debug("listing refused: %s", error.message)
                continue
            if listing is not None:
                host.add_addrs(listing.peer_id, listing.addrs)


def serve_all(host: Host, blobs: BlobStore, traces: Traces, book: ListingBook) -> None:
    """Registers every protocol; before the first connection, because peers ask once what we speak."""
    serve(host, rpc_of(BOOK), book.answer)
    serve(host, rpc_of(TRACE), traces.answer)
    serve_content(host, blobs)
