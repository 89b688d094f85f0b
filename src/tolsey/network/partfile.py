"""A content that is still arriving, on disk: `<name>.part` with the bytes, `<name>.done` with the chunks that are in.

Every chunk is checked before it is written, the journal is written after the bytes, and what the journal claims is
hashed again when a fetch resumes: a machine may have stopped between the two. The name itself appears only when all
is there and flushed. Everything here blocks and is called from worker threads. Next in the flow: transfer.py.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from tolsey.errors import RemoteViolation, StorageError
from tolsey.protocol.content import CHUNK_BYTES, Manifest, chunk_hash

REGION_BYTES = 32 << 20
"""Disk space is taken in pieces of this size, before the first chunk of each: writing into holes was measured to be
five times slower on ext4 (300 MB: 1.1 s and 0.2 s), and a full disk is noticed at once."""
FLUSH_CHUNKS = 64
"""Chunks written before they are flushed, in one thread while the others go on: what is on disk already has not to be
waited for at the end (1 GB: 0.4 s of 3, and much more where the disk is slower than the line)."""
_INDEX_BYTES = 4


class PartFile:
    """One content on its way into `into`; resumes what an earlier process left.

    Args:
        into: the final path; its directory is made.
        manifest: checked against the content id by the caller.

    Attributes:
        done: indices of the chunks that are on disk and right.

    Raises:
        StorageError: another fetch writes there, or the disk refuses.
    """

    def __init__(self, into: Path, manifest: Manifest) -> None:
        self.into, self.manifest = into, manifest
        self.part = into.with_name(into.name + ".part")
        self.journal = into.with_name(into.name + ".done")
        self.done: set[int] = set()
        self._allocating, self._allocated = threading.Lock(), set[int]()
        self._flushing, self._flushed = threading.Lock(), 0
        self._writing = threading.Lock()
        try:
            into.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.part, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"cannot write {self.part}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, manifest.size_bytes)
            self._resume()
        except OSError as error:
            os.close(self._fd)
            raise StorageError(f"cannot use {self.part}: {error.strerror}", fix="wait for the other fetch") from error

    def write(self, index: int, chunk: bytes | memoryview) -> None:
        """Puts a chunk in its place.

        Raises:
            RemoteViolation: its bytes are not those of the manifest; nothing was written.
            StorageError: the disk refuses.
        """
        expected = self.manifest.chunk_hashes[index]
        if len(chunk) != self.manifest.chunk_size_bytes(index) or chunk_hash(chunk) != expected:
            raise RemoteViolation(
                f"chunk {index} hashes to {chunk_hash(chunk).hex()}, the manifest says {expected.hex()}",
                evidence=bytes(chunk[:64]),
            )
        try:
            self._allocate(index * CHUNK_BYTES // REGION_BYTES)
            with self._writing:  # the system lets one in at a time too, and the others spin on a processor meanwhile
                _write_all(self._fd, chunk, index * CHUNK_BYTES)
            os.write(self._journal_fd, index.to_bytes(_INDEX_BYTES, "big"))
            self._flush_some()
        except OSError as error:
            raise StorageError(f"cannot write {self.part}: {error.strerror}", fix="make room on the disk") from error
        self.done.add(index)

    def finish(self) -> None:
        """Flushes the bytes and gives the file its name."""
        missing = len(self.manifest.chunk_hashes) - len(self.done)
        if missing:
            raise StorageError(f"{self.part} lacks {missing} of {len(self.manifest.chunk_hashes)} chunks")
        try:
            os.fsync(self._fd)
            os.replace(self.part, self.into)
            directory = os.open(self.into.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            self.journal.unlink()
        except OSError as error:
            raise StorageError(f"cannot finish {self.into}: {error.strerror}") from error

    def close(self) -> None:
        """Leaves things as they are for a later resume."""
        os.close(self._journal_fd)
        os.close(self._fd)

    def _allocate(self, region: int) -> None:
        # Held until the region is there: where the disk cannot allocate, the C library writes zeros instead.
        with self._allocating:
            if region not in self._allocated:
                start = region * REGION_BYTES
                os.posix_fallocate(self._fd, start, min(REGION_BYTES, self.manifest.size_bytes - start))
                self._allocated.add(region)

    def _flush_some(self) -> None:
        written = len(self.done)
        if written - self._flushed < FLUSH_CHUNKS or not self._flushing.acquire(blocking=False):
            return
        try:
            os.fdatasync(self._fd)
            self._flushed = written
        finally:
            self._flushing.release()

    def _resume(self) -> None:
        content_id = self.manifest.content_id
        raw = self.journal.read_bytes() if self.journal.exists() else b""
        count = len(self.manifest.chunk_hashes)
        if raw.startswith(content_id):
            body = raw[len(content_id) :]
            for at in range(0, len(body) - _INDEX_BYTES + 1, _INDEX_BYTES):
                index = int.from_bytes(body[at : at + _INDEX_BYTES], "big")
                if index < count and index not in self.done and self._is_right(index):
                    self.done.add(index)
        kept = b"".join(index.to_bytes(_INDEX_BYTES, "big") for index in sorted(self.done))
        self._journal_fd = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.write(self._journal_fd, content_id + kept)

    def _is_right(self, index: int) -> bool:
        chunk = os.pread(self._fd, self.manifest.chunk_size_bytes(index), index * CHUNK_BYTES)
        return chunk_hash(chunk) == self.manifest.chunk_hashes[index]


def _write_all(fd: int, raw: bytes | memoryview, offset: int) -> None:
    view = memoryview(raw)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
