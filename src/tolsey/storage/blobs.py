"""Contents on disk, each under its hash, within a quota.

    objects/ab/abcd…       the bytes        written to temp/, flushed, renamed: whole or absent
    objects/ab/abcd….m     the manifest     made with the bytes, so nothing is hashed twice
    pins/abcd…/owner       somebody needs it; what nobody pins may be collected, oldest first
    partial/abcd….part     a transfer on its way; survives restarts, counts towards the quota; where nobody runs it
                           any more it goes like a content that nobody pins
    temp/                  emptied at every opening

The files are the truth: the index in memory is rebuilt from them at opening, so there is no database row that can
disagree with the disk. Every chunk is checked against its hash when it is read, because a worker that serves a rotten
checkpoint loses its bond. All methods block (call them in worker threads) and may be called from several at once.

It is the `ContentStore` that network/transfer.py serves from.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tolsey.errors import RemoteViolation, StorageError
from tolsey.protocol.content import CHUNK_BYTES, ContentId, Manifest, chunk_hash, manifest_of
from tolsey.storage.lock import FolderLock

MANIFESTS_KEPT = 16
"""Decoded manifests in memory: without them each chunk read would hash the whole manifest again."""
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAME = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Entry:
    size_bytes: int
    stored_ns: int


class BlobStore:
    """One folder of contents.

    Args:
        root: made where missing; locked for this process.
        quota_bytes: contents and partial transfers together may not exceed it.
        spare_bytes: free space of the disk that is never used, so that the database beside it can still write.

    Raises:
        StorageError: another process has the folder, or the disk refuses.
    """

    def __init__(self, root: Path, quota_bytes: int, *, spare_bytes: int = 0) -> None:
        self.root = root
        self.quota_bytes = quota_bytes
        self.spare_bytes = spare_bytes
        self._mutex = threading.RLock()
        self._index: dict[str, _Entry] = {}
        self._manifests: OrderedDict[ContentId, Manifest] = OrderedDict()
        self._reserved_bytes = 0
        self._temp_number = 0
        with _disk(root):
            self._folder_lock = FolderLock(root, "blobs.lock")
            try:
                self._recover()
            except BaseException:
                self._folder_lock.release()
                raise

    def close(self) -> None:
        """Lets another process open the folder."""
        self._folder_lock.release()

    # looking

    @property
    def used_bytes(self) -> int:
        """Bytes of all contents, of partial transfers as they lie on disk, and of writes under way."""
        with self._mutex:
            contents = sum(entry.size_bytes for entry in self._index.values())
            return contents + self._reserved_bytes + self._partial_bytes()

    def has(self, content_id: ContentId) -> bool:
        """Whether the content is here in full."""
        with self._mutex:
            return content_id.hex() in self._index

    def ids(self) -> list[ContentId]:
        """All contents, oldest first."""
        with self._mutex:
            return [ContentId(bytes.fromhex(name)) for name in sorted(self._index, key=self._age)]

    def path_of(self, content_id: ContentId) -> Path:
        """The file with the content's bytes; to be read, never written.

        Raises:
            StorageError: it is not here.
        """
        if not self.has(content_id):
            raise StorageError(f"content {content_id.hex()} is not in {self.root}")
        return self._object(content_id.hex())

    def manifest(self, content_id: ContentId) -> Manifest | None:
        """The manifest of a content that is here, or None."""
        with self._mutex:
            if content_id.hex() not in self._index:
                return None
            if content_id in self._manifests:
                self._manifests.move_to_end(content_id)
                return self._manifests[content_id]
        with _disk(self.root):
            try:
                manifest = Manifest.decode(self._manifest_file(content_id.hex()).read_bytes(), content_id)
            except FileNotFoundError:
                return None  # deleted between the two lines
            except RemoteViolation as cause:
                raise StorageError(f"manifest of content {content_id.hex()} in {self.root} is damaged") from cause
        with self._mutex:
            self._manifests[content_id] = manifest
            if len(self._manifests) > MANIFESTS_KEPT:
                self._manifests.popitem(last=False)
        return manifest

    def read_chunk(self, content_id: ContentId, index: int) -> bytes:
        """One chunk, checked.

        Raises:
            StorageError: not here, no such chunk, or the disk gives other bytes than were written.
        """
        manifest = self.manifest(content_id)
        if manifest is None or not 0 <= index < len(manifest.chunk_hashes):
            raise StorageError(f"chunk {index} of content {content_id.hex()} is not in {self.root}")
        with _disk(self.root), self._object(content_id.hex()).open("rb") as opened:
            chunk = os.pread(opened.fileno(), manifest.chunk_size_bytes(index), index * CHUNK_BYTES)
        if chunk_hash(chunk) != manifest.chunk_hashes[index]:
            raise StorageError(
                f"chunk {index} of content {content_id.hex()} in {self.root} hashes to {chunk_hash(chunk).hex()}, "
                f"expected {manifest.chunk_hashes[index].hex()}",
                fix="check the disk; delete the content and fetch it again",
            )
        return chunk

    # adding

    def put_bytes(self, raw: bytes, *, pin: str | None = None) -> ContentId:
        """Stores a content that is in memory; `pin` as in `put_file`."""
        view = memoryview(raw)
        pieces = [view[start : start + CHUNK_BYTES] for start in range(0, len(raw), CHUNK_BYTES)]
        return self._put(manifest_of(pieces), pieces, pin)

    def put_file(self, path: Path, *, pin: str | None = None, move: bool = False) -> ContentId:
        """Stores a file's content and gives its id; durable when it returns. Again is free of effect.

        Args:
            pin: owner to pin it for in the same breath, so that no collection comes between.
            move: take the file itself instead of a copy; it must lie on the same disk, as `partial_path` does.

        Raises:
            StorageError: over quota, disk full, or the file changes while it is read.
        """
        with _disk(self.root), path.open("rb") as source:
            manifest = manifest_of(_chunks(source))
            if not move:
                source.seek(0)
                return self._put(manifest, _chunks(source), pin)
            os.fsync(source.fileno())
            with self._mutex:
                is_inside = path.parent == self.root / "partial"
                self.require_room(0 if is_inside else manifest.size_bytes)
                self._publish(path, manifest, pin)
        return manifest.content_id

    def partial_path(self, content_id: ContentId) -> Path:
        """Where a transfer of this content may grow, over restarts; then `put_file(path, move=True)`."""
        return self.root / "partial" / content_id.hex()

    def require_room(self, size_bytes: int) -> None:
        """Makes room for `size_bytes` more by dropping what nobody needs, oldest first: unpinned contents, and
        transfers that were given up (a stranger who serves all but the last chunk must not fill the disk for ever).

        Raises:
            StorageError: not enough of it is there, or the disk itself is too full; nothing was dropped then.
        """
        with self._mutex:
            free = self.quota_bytes - self.used_bytes
            disk_free = shutil.disk_usage(self.root).free - self.spare_bytes - self._reserved_bytes
            missing = max(size_bytes - free, size_bytes - disk_free)
            if missing <= 0:
                return
            victims = []
            for _age, size, drop in sorted((*self._unpinned(), *self._abandoned()), key=lambda found: found[0]):
                if missing <= 0:
                    break
                victims.append(drop)
                missing -= size
            if missing > 0:
                raise StorageError(
                    f"{size_bytes} bytes do not fit into {self.root}: quota {self.quota_bytes} bytes, "
                    f"used {self.used_bytes}, disk free {max(0, disk_free)}; dropping what is unpinned is not enough",
                    fix="raise the quota, or let go of finished jobs",
                )
            for drop in victims:
                drop()

    # keeping and dropping

    def pin(self, content_id: ContentId, owner: str = "user") -> None:
        """Keeps a content until `owner` unpins it; other owners count for themselves.

        Raises:
            StorageError: it is not here, or the owner's name is not 1 to 100 letters, digits, dots and dashes.
        """
        with self._mutex, _disk(self.root):
            if not self.has(content_id):
                raise StorageError(f"content {content_id.hex()} is not in {self.root}")
            self._write_pin(content_id.hex(), owner)

    def unpin(self, content_id: ContentId, owner: str = "user") -> None:
        """Lets a content go for this owner; nothing happens where it was not pinned."""
        if not _OWNER.fullmatch(owner):
            return
        folder = self.root / "pins" / content_id.hex()
        with self._mutex, _disk(self.root):
            (folder / owner).unlink(missing_ok=True)
            if folder.is_dir():
                if not os.listdir(folder):
                    folder.rmdir()
                else:
                    _sync_folder(folder)
            _sync_folder(self.root / "pins")

    def owners(self, content_id: ContentId) -> list[str]:
        """Who pins a content."""
        with self._mutex:
            folder = self.root / "pins" / content_id.hex()
            return sorted(os.listdir(folder)) if folder.is_dir() else []

    def delete(self, content_id: ContentId) -> bool:
        """Drops a content now; False where it was not here.

        Raises:
            StorageError: somebody pins it.
        """
        with self._mutex, _disk(self.root):
            owners = self.owners(content_id)
            if owners:
                raise StorageError(f"content {content_id.hex()} is pinned by {', '.join(owners[:5])}")
            if not self.has(content_id):
                return False
            self._drop(content_id.hex())
            return True

    # inside

    def _object(self, name: str) -> Path:
        return self.root / "objects" / name[:2] / name

    def _manifest_file(self, name: str) -> Path:
        return self._object(name).with_suffix(".m")

    def _age(self, name: str) -> tuple[int, str]:
        return self._index[name].stored_ns, name

    def _unpinned(self) -> Iterator[tuple[int, int, Callable[[], None]]]:
        """Contents without an owner: when each came (ns), its bytes, and what drops it."""
        for content_id in self.ids():
            if not self.owners(content_id):
                entry = self._index[content_id.hex()]
                yield entry.stored_ns, entry.size_bytes, partial(self._drop, content_id.hex())

    def _abandoned(self) -> Iterator[tuple[int, int, Callable[[], None]]]:
        """The same of transfers that nobody runs: whoever runs one holds the lock of its file (network/partfile.py)."""
        for path in (self.root / "partial").glob("*.part"):
            with suppress(OSError), _idle(path) as opened:
                found = os.fstat(opened)
                yield found.st_mtime_ns, found.st_blocks * 512, partial(_forget_transfer, path)

    def _partial_bytes(self) -> int:
        # Sparse until the chunks arrive, so blocks count, not the length.
        total = 0
        for entry in os.scandir(self.root / "partial"):
            with suppress(FileNotFoundError):  # a transfer renames its files while we look
                total += entry.stat().st_blocks * 512
        return total

    def _recover(self) -> None:
        for name in ("objects", "pins", "partial"):
            (self.root / name).mkdir(exist_ok=True)
        shutil.rmtree(self.root / "temp", ignore_errors=True)
        (self.root / "temp").mkdir()
        for path in sorted((self.root / "objects").glob("??/*")):
            name = path.stem
            if path.suffix == ".m" and _NAME.fullmatch(name):
                if not self._object(name).exists():
                    path.unlink(missing_ok=True)  # stopped between the two renames, or between the two unlinks
            elif _NAME.fullmatch(path.name):
                self._recover_one(path)

    def _recover_one(self, path: Path) -> None:
        size = path.stat().st_size
        try:
            manifest = Manifest.decode(self._manifest_file(path.name).read_bytes(), ContentId(bytes.fromhex(path.name)))
        except (FileNotFoundError, RemoteViolation):
            manifest = None
        if manifest is None:
            with path.open("rb") as opened:
                manifest = manifest_of(_chunks(opened))
            if manifest.content_id.hex() == path.name:
                self._write_durably(self._manifest_file(path.name), manifest.encode())
        if manifest.content_id.hex() != path.name or manifest.size_bytes != size:
            path.unlink()
            self._manifest_file(path.name).unlink(missing_ok=True)
            return
        self._index[path.name] = _Entry(size, path.stat().st_mtime_ns)

    def _put(self, manifest: Manifest, pieces: Iterable[bytes | memoryview], pin: str | None) -> ContentId:
        """Copies `pieces`, which must hash to `manifest`; hashing first makes a second put cost no space."""
        size = manifest.size_bytes
        with self._mutex, _disk(self.root):
            if self.has(manifest.content_id):
                if pin is not None:
                    self.pin(manifest.content_id, pin)
                return manifest.content_id
            self.require_room(size)
            self._reserved_bytes += size
        temp = self._temp_path()
        try:
            with _disk(self.root):
                with temp.open("xb") as target:
                    copied = manifest_of(_copied(pieces, target, size))
                    target.flush()
                    os.fsync(target.fileno())
                if copied != manifest:
                    raise StorageError(f"the file changed while it was copied into {self.root}", fix="put it again")
                with self._mutex:
                    self._publish(temp, manifest, pin)
        finally:
            with self._mutex:
                self._reserved_bytes -= size
            temp.unlink(missing_ok=True)
        return manifest.content_id

    def _publish(self, temp: Path, manifest: Manifest, pin: str | None) -> None:
        """Pin, manifest, bytes: the rename of the bytes is the moment from which the content exists."""
        name = manifest.content_id.hex()
        if pin is not None:
            self._write_pin(name, pin)
        if name in self._index:
            temp.unlink()
            return
        target = self._object(name)
        if not target.parent.is_dir():
            target.parent.mkdir()
            _sync_folder(target.parent.parent)
        self._write_durably(self._manifest_file(name), manifest.encode())
        os.replace(temp, target)
        _sync_folder(target.parent)
        self._index[name] = _Entry(manifest.size_bytes, target.stat().st_mtime_ns)

    def _write_durably(self, path: Path, raw: bytes) -> None:
        temp = self._temp_path()
        with temp.open("xb") as opened:
            opened.write(raw)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(temp, path)
        _sync_folder(path.parent)

    def _write_pin(self, name: str, owner: str) -> None:
        if not _OWNER.fullmatch(owner):
            raise StorageError(f"pin owner {owner[:120]!r} is not 1 to 100 letters, digits, dots and dashes")
        folder = self.root / "pins" / name
        folder.mkdir(exist_ok=True)
        (folder / owner).touch()
        _sync_folder(folder)
        _sync_folder(folder.parent)

    def _drop(self, name: str) -> None:
        self._index.pop(name, None)
        self._object(name).unlink(missing_ok=True)
        self._manifest_file(name).unlink(missing_ok=True)
        _sync_folder(self._object(name).parent)

    def _temp_path(self) -> Path:
        with self._mutex:
            self._temp_number += 1
            return self.root / "temp" / str(self._temp_number)


@contextmanager
def _idle(path: Path) -> Iterator[int]:
    """A transfer's file, held so that nobody begins to run it; BlockingIOError where somebody does."""
    with path.open("rb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield opened.fileno()


def _forget_transfer(path: Path) -> None:
    with suppress(OSError), _idle(path):
        path.unlink()
        path.with_suffix(".done").unlink(missing_ok=True)


@contextmanager
def _disk(root: Path) -> Iterator[None]:
    """Says what the operating system said, as our own error."""
    try:
        yield
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(root).free if root.exists() else 0
            raise StorageError(f"the disk of {root} is full: {free} bytes free", fix="make room on it") from cause
        raise StorageError(f"{cause.filename or root}: {cause.strerror or cause}") from cause


def _chunks(source: object) -> Iterator[bytes]:
    while piece := source.read(CHUNK_BYTES):  # type: ignore[attr-defined]  # any binary file, buffered: full chunks
        yield piece


def _copied(pieces: Iterable[bytes | memoryview], target: object, size: int) -> Iterator[bytes | memoryview]:
    written = 0
    for piece in pieces:
        written += len(piece)
        if written > size:
            return  # a file that grew; the comparison of manifests says so
        target.write(piece)  # type: ignore[attr-defined]  # a binary file
        yield piece


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
