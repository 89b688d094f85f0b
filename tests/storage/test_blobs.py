"""Contents on disk: whole or absent, within the quota, never dropped while pinned."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tolsey.errors import StorageError
from tolsey.protocol.content import CHUNK_BYTES, ContentId, content_id_of_bytes, manifest_of
from tolsey.storage.blobs import BlobStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    opened = BlobStore(tmp_path / "blobs", 10 * CHUNK_BYTES)
    yield opened
    opened.close()


def content(seed: int, size: int = 1000) -> bytes:
    return random.Random(seed).randbytes(size)


def put_aged(store: BlobStore, seed: int, size: int) -> ContentId:
    """A content whose age is its seed."""
    content_id = store.put_bytes(content(seed, size))
    os.utime(store.path_of(content_id), ns=(seed, seed))
    return content_id


def reopened(store: BlobStore, quota_bytes: int = 10 * CHUNK_BYTES) -> BlobStore:
    store.close()
    return BlobStore(store.root, quota_bytes)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 5])
def test_put_file_gives_the_protocols_id_and_serves_its_chunks(store: BlobStore, tmp_path: Path, size: int) -> None:
    raw = content(size, size)
    (tmp_path / "file").write_bytes(raw)
    content_id = store.put_file(tmp_path / "file")
    assert content_id == content_id_of_bytes(raw) == store.put_bytes(raw)
    manifest = store.manifest(content_id)
    assert manifest is not None and manifest.content_id == content_id
    chunks = [store.read_chunk(content_id, index) for index in range(len(manifest.chunk_hashes))]
    assert b"".join(chunks) == raw == store.path_of(content_id).read_bytes()
    assert store.used_bytes == size and store.ids() == [content_id]


def test_unknown_content_has_no_manifest_path_or_chunk(store: BlobStore) -> None:
    stranger = ContentId(bytes(32))
    assert store.manifest(stranger) is None and not store.has(stranger) and store.delete(stranger) is False
    for ask in (store.path_of, lambda content_id: store.read_chunk(content_id, 0), store.pin):
        with pytest.raises(StorageError, match="is not in"):
            ask(stranger)
    known = store.put_bytes(b"x")
    for index in (-1, 1, 10**9):
        with pytest.raises(StorageError, match="chunk"):
            store.read_chunk(known, index)


def test_put_over_quota_names_both_sizes_and_keeps_nothing(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=f"{11 * CHUNK_BYTES} bytes.*quota {10 * CHUNK_BYTES}"):
        store.put_bytes(bytes(11 * CHUNK_BYTES))
    (tmp_path / "file").write_bytes(bytes(11 * CHUNK_BYTES))
    with pytest.raises(StorageError, match="quota"):
        store.put_file(tmp_path / "file")
    assert store.used_bytes == 0 and list((store.root / "temp").iterdir()) == []


def test_put_again_at_full_quota_is_free(store: BlobStore) -> None:
    raw = content(1, 10 * CHUNK_BYTES)
    content_id = store.put_bytes(raw, pin="job")
    assert store.put_bytes(raw, pin="other") == content_id
    assert store.owners(content_id) == ["job", "other"]


def test_room_is_made_from_unpinned_oldest_first(store: BlobStore) -> None:
    ids = [put_aged(store, seed, 3 * CHUNK_BYTES) for seed in (3, 1, 2)]
    store = reopened(store)
    assert store.ids() == [ids[1], ids[2], ids[0]]
    store.pin(ids[1], "job-7")
    store.put_bytes(content(9, 3 * CHUNK_BYTES))
    assert store.has(ids[1]) and not store.has(ids[2]) and store.has(ids[0])
    store.pin(ids[0])
    with pytest.raises(StorageError, match="unpinned"):
        store.put_bytes(content(10, 9 * CHUNK_BYTES))
    assert len(store.ids()) == 3  # nothing was dropped in vain
    store.close()


def test_pins_count_by_owner_and_survive_reopening(store: BlobStore) -> None:
    content_id = store.put_bytes(b"shared dataset", pin="job-1")
    store.pin(content_id, "job-2")
    store.pin(content_id, "job-2")
    store = reopened(store)
    assert store.owners(content_id) == ["job-1", "job-2"]
    with pytest.raises(StorageError, match="pinned by job-1, job-2"):
        store.delete(content_id)
    store.unpin(content_id, "job-1")
    store.unpin(content_id, "job-1")
    store.unpin(content_id, "../job-2")
    assert store.owners(content_id) == ["job-2"]
    store.unpin(content_id, "job-2")
    assert store.delete(content_id) is True and store.used_bytes == 0
    store.close()


@pytest.mark.parametrize("owner", ["", "a/b", "..", ".", "x" * 101, "a b"])
def test_pin_owner_that_is_no_plain_name_is_refused(store: BlobStore, owner: str) -> None:
    content_id = store.put_bytes(b"x")
    with pytest.raises(StorageError, match="owner"):
        store.pin(content_id, owner)
    with pytest.raises(StorageError, match="owner"):
        store.put_bytes(b"y", pin=owner)
    assert not store.has(content_id_of_bytes(b"y"))


def test_partial_transfer_counts_and_becomes_a_content(store: BlobStore) -> None:
    raw = content(4, 2 * CHUNK_BYTES + 7)
    content_id = content_id_of_bytes(raw)
    part = store.partial_path(content_id)
    part.write_bytes(raw[:CHUNK_BYTES])
    assert store.used_bytes >= CHUNK_BYTES
    store = reopened(store)
    assert part.read_bytes() == raw[:CHUNK_BYTES]
    part.write_bytes(raw)
    assert store.put_file(part, move=True, pin="job") == content_id
    assert not part.exists() and store.path_of(content_id).read_bytes() == raw and store.used_bytes == len(raw)
    store.close()


def test_room_is_made_from_transfers_that_nobody_runs(store: BlobStore) -> None:
    """A stranger that serves all but the last chunk leaves a file which nobody would ever take away."""
    given_up, running = (store.partial_path(content_id_of_bytes(bytes([n]))).with_suffix(".part") for n in (1, 2))
    for path in (given_up, running):
        path.write_bytes(content(6, 4 * CHUNK_BYTES))
        path.with_suffix(".done").write_bytes(b"journal")
    with running.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="quota"):
            store.require_room(8 * CHUNK_BYTES)
        assert given_up.exists(), "nothing was dropped in vain"
        store.require_room(5 * CHUNK_BYTES)
    assert not given_up.exists() and not given_up.with_suffix(".done").exists()
    assert running.exists() and running.with_suffix(".done").exists()


def test_rotten_bytes_are_not_served(store: BlobStore) -> None:
    content_id = store.put_bytes(content(5, CHUNK_BYTES + 10))
    path = store.path_of(content_id)
    with path.open("r+b") as opened:
        opened.seek(CHUNK_BYTES + 3)
        opened.write(b"!!")
    assert store.read_chunk(content_id, 0)
    with pytest.raises(StorageError, match="hashes to"):
        store.read_chunk(content_id, 1)


def test_opening_repairs_what_a_crash_left(store: BlobStore) -> None:
    kept = store.put_bytes(content(1))
    no_manifest = store.put_bytes(content(2))
    short = store.put_bytes(content(3))
    bad_manifest = store.put_bytes(content(4))
    store.path_of(no_manifest).with_suffix(".m").unlink()
    store.path_of(bad_manifest).with_suffix(".m").write_bytes(b"\0" * 40)
    store.path_of(short).write_bytes(b"cut")
    lonely = store.root / "objects" / "ab"
    lonely.mkdir(exist_ok=True)
    (lonely / ("ab" * 32 + ".m")).write_bytes(b"x")
    (store.root / "temp" / "77").write_bytes(b"half")
    store = reopened(store)
    assert set(store.ids()) == {kept, no_manifest, bad_manifest}
    assert all(store.read_chunk(each, 0) for each in store.ids())
    assert store.manifest(no_manifest) == manifest_of([content(2)])
    assert not any(lonely.iterdir()) and not any((store.root / "temp").iterdir())
    store.close()


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is full"), (errno.EIO, "Input/output error")]
)
def test_disk_that_refuses_is_a_storage_error(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match=words):
            store.put_bytes(b"x")
    assert store.ids() == [] and store.used_bytes == 0
    assert store.put_bytes(b"x")


def test_spare_space_of_the_disk_is_left(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", 1 << 60, spare_bytes=1 << 59)
    with pytest.raises(StorageError, match="disk free 0"):
        store.put_bytes(b"x")
    store.close()


def test_many_threads_put_read_and_drop(store: BlobStore) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in range(8):
                raw = content(number % 5, 50_000)
                content_id = store.put_bytes(raw, pin=f"t{seed}")
                assert store.read_chunk(content_id, 0) == raw
                store.unpin(content_id, f"t{seed}")
        except BaseException as failure:  # noqa: BLE001  # shown by the assertion
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and store.used_bytes == 5 * 50_000


def test_folder_in_use_is_refused(store: BlobStore) -> None:
    with pytest.raises(StorageError, match=f"process {os.getpid()}"):
        BlobStore(store.root, 1)
