"""Content addressing: any file is a list of 1 MiB chunks, and its id is a hash over their hashes.

The id fixes size, chunk size and every byte, so that chunks may come from any peer in any order and each can be
checked alone before it is written. It is used for programs, specs, datasets and checkpoint files alike.

    chunk hash  = sha256(tag("tolsey/chunk/1") ‖ chunk bytes)
    content id  = sha256(tag("tolsey/content/1") ‖ u64be(size_bytes) ‖ chunk hash 0 ‖ chunk hash 1 ‖ …)

Next in the flow: storage/blobs.py keeps contents on disk, network/transfer.py moves them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NewType

from tolsey.errors import RemoteViolation
from tolsey.protocol.encoding import TAG_CHUNK, TAG_CONTENT, sha256, tag

ContentId = NewType("ContentId", bytes)
"""32 bytes."""

CHUNK_BYTES = 1 << 20
MAX_CONTENT_BYTES = 1 << 40
_CHUNK = tag(TAG_CHUNK)
_CONTENT = tag(TAG_CONTENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Size and chunk hashes of one content.

    Attributes:
        size_bytes: 0 to 2^40.
        chunk_hashes: one 32-byte hash per chunk of CHUNK_BYTES, the last chunk shorter; empty for an empty file.
    """

    size_bytes: int
    chunk_hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.size_bytes <= MAX_CONTENT_BYTES:
            raise RemoteViolation(f"content of {self.size_bytes} bytes, allowed are 0 to {MAX_CONTENT_BYTES}")
        if len(self.chunk_hashes) != chunk_count(self.size_bytes):
            raise RemoteViolation(
                f"manifest has {len(self.chunk_hashes)} chunk hashes, {self.size_bytes} bytes need "
                f"{chunk_count(self.size_bytes)}"
            )

    @property
    def content_id(self) -> ContentId:
        """The 32-byte id that this manifest must hash to."""
        return ContentId(sha256(_CONTENT, self.size_bytes.to_bytes(8, "big"), *self.chunk_hashes))

    def chunk_size_bytes(self, index: int) -> int:
        """How many bytes chunk `index` has."""
        return min(CHUNK_BYTES, self.size_bytes - index * CHUNK_BYTES)

    def encode(self) -> bytes:
        """u64be(size_bytes) followed by the chunk hashes."""
        return self.size_bytes.to_bytes(8, "big") + b"".join(self.chunk_hashes)

    @classmethod
    def decode(cls, raw: bytes, expected: ContentId) -> Manifest:
        """The manifest in `raw`, checked against the id it was asked for by.

        Raises:
            RemoteViolation: malformed, or of another content.
        """
        if len(raw) < 8 or (len(raw) - 8) % 32:
            raise RemoteViolation(f"manifest of {len(raw)} bytes is not 8 + 32 k", evidence=raw[:64])
        hashes = tuple(raw[i : i + 32] for i in range(8, len(raw), 32))
        manifest = cls(size_bytes=int.from_bytes(raw[:8], "big"), chunk_hashes=hashes)
        if manifest.content_id != expected:
            raise RemoteViolation(
                f"manifest is of content {manifest.content_id.hex()}, asked was {expected.hex()}", evidence=raw[:4096]
            )
        return manifest


def chunk_count(size_bytes: int) -> int:
    """Chunks in a content of `size_bytes`."""
    return -(-size_bytes // CHUNK_BYTES)


def chunk_hash(chunk: bytes | memoryview) -> bytes:
    """The 32-byte hash that a manifest holds for `chunk`."""
    return sha256(_CHUNK, chunk)


def manifest_of(chunks: Iterable[bytes | memoryview]) -> Manifest:
    """The manifest of a content given as chunks of CHUNK_BYTES (the last may be shorter)."""
    size, hashes = 0, []
    for chunk in chunks:
        size += len(chunk)
        hashes.append(chunk_hash(chunk))
    return Manifest(size_bytes=size, chunk_hashes=tuple(hashes))


def content_id_of_bytes(raw: bytes) -> ContentId:
    """The id of a content that is in memory."""
    view = memoryview(raw)
    return manifest_of(view[i : i + CHUNK_BYTES] for i in range(0, len(raw), CHUNK_BYTES)).content_id
