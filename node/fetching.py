"""Brings contents from peers into the blob store: programs and data sets that clients serve.

Bounded before anything is written: by the caller's limit for the kind of content, by the store's quota, by the disk.
Whoever asked for the job is asked first; where it is, its connection, the peerstore and the look-up table know.
What arrived in part is kept and taken up again. Next in the flow: executor.py reads the files.
"""

from __future__ import annotations

import trio

from tolsey.errors import NetworkError
from tolsey.network.discovery import Discovery
from tolsey.network.host import Host
from tolsey.network.transfer import fetch
from tolsey.protocol.content import ContentId
from tolsey.storage.blobs import BlobStore

PROVIDERS_WANTED = 3
"""Other peers to look for when the client does not have a content."""


class Fetcher:
    """Contents from the network into one blob store."""

    def __init__(self, host: Host, discovery: Discovery, blobs: BlobStore) -> None:
        self._host = host
        self._discovery = discovery
        self._blobs = blobs

    async def get(self, content_id: ContentId, peer_id: str, *, max_bytes: int, owner: str) -> int:
        """The size of a content that is now here and pinned for `owner`.

        Args:
            peer_id: the client; others that announced the content are asked too when it fails.

        Raises:
            PeerUnreachable: nobody gave it. StorageError: larger than `max_bytes`, or no room.
        """
        if not self._blobs.has(content_id):
            await self._bring(content_id, peer_id, max_bytes)
        await trio.to_thread.run_sync(self._blobs.pin, content_id, owner)
        return self._blobs.path_of(content_id).stat().st_size

    async def _bring(self, content_id: ContentId, peer_id: str, max_bytes: int) -> None:
        into, room = self._blobs.partial_path(content_id), self._blobs.require_room
        try:
            sources = [(peer_id, self._host.addrs_of(peer_id) or await self._discovery.find_peer(peer_id))]
            await fetch(self._host, content_id, sources, into, max_bytes=max_bytes, require_room=room)
        except NetworkError:
            others = await self._discovery.find_providers(content_id, at_least=PROVIDERS_WANTED)
            others = [(peer, addrs) for peer, addrs in others if peer != peer_id]
            if not others:
                raise
            await fetch(self._host, content_id, others, into, max_bytes=max_bytes, require_room=room)
        await trio.to_thread.run_sync(lambda: self._blobs.put_file(into, move=True))
