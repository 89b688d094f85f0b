"""The bytes of the content protocol, shared by its two sides (transfer.py serves, pulling.py asks)."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from tolsey.errors import RemoteViolation
from tolsey.protocol.content import ContentId

PROTOCOL = "/tolsey/content/1"
OP_MANIFEST, OP_CHUNK, OP_DONE = 1, 2, 3
OK, NOT_HERE, BUSY = b"\x00", b"\x01", b"\x02"
REQUEST_BYTES = 1 + 32 + 4
CHUNK_HEADER_BYTES = 1 + 4

FILE_THREADS = trio.CapacityLimiter(2)
"""Threads that hash and touch the disk for the network, all transfers together. More of them take the processor from
the loop that feeds them: pulling 1 GB on 2 cores went at 350 MB/s with four, 380 with two, 320 with one."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question of the puller."""

    op: int
    content_id: ContentId
    index: int = 0

    def encode(self) -> bytes:
        return bytes([self.op]) + self.content_id + self.index.to_bytes(4, "big")

    @classmethod
    def decode(cls, raw: bytes, peer_id: str) -> Request:
        """Raises RemoteViolation for anything but REQUEST_BYTES with a known op."""
        if len(raw) != REQUEST_BYTES or raw[0] not in (OP_MANIFEST, OP_CHUNK, OP_DONE):
            raise RemoteViolation(
                f"{peer_id} sent a content request of {len(raw)} bytes, op {raw[:1].hex() or 'none'}",
                peer_id=peer_id,
                evidence=raw,
            )
        return cls(raw[0], ContentId(raw[1:33]), int.from_bytes(raw[33:], "big"))
