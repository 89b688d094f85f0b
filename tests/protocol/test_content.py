from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.errors import RemoteViolation
from tolsey.protocol.content import (
    CHUNK_BYTES,
    MAX_CONTENT_BYTES,
    ContentId,
    Manifest,
    chunk_count,
    chunk_hash,
    content_id_of_bytes,
    manifest_of,
)

LONG = bytes(range(256)) * (2 * CHUNK_BYTES // 256) + b"tail"


def test_content_id_is_the_documented_hash() -> None:
    chunk = hashlib.sha256(b"tolsey/chunk/1".ljust(32, b"\0") + b"hello").digest()
    expected = hashlib.sha256(b"tolsey/content/1".ljust(32, b"\0") + (5).to_bytes(8, "big") + chunk).digest()
    assert content_id_of_bytes(b"hello") == expected


def test_manifest_of_three_chunks_names_sizes_and_hashes() -> None:
    manifest = manifest_of([LONG[:CHUNK_BYTES], LONG[CHUNK_BYTES : 2 * CHUNK_BYTES], LONG[2 * CHUNK_BYTES :]])
    assert manifest.size_bytes == len(LONG)
    assert [manifest.chunk_size_bytes(i) for i in range(3)] == [CHUNK_BYTES, CHUNK_BYTES, 4]
    assert manifest.chunk_hashes[2] == chunk_hash(b"tail")
    assert manifest.content_id == content_id_of_bytes(LONG)


def test_empty_content_has_an_id_and_no_chunks() -> None:
    assert manifest_of([]).chunk_hashes == ()
    assert content_id_of_bytes(b"") == manifest_of([]).content_id != content_id_of_bytes(b"\0")


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2)])
def test_chunk_count_rounds_up(size: int, count: int) -> None:
    assert chunk_count(size) == count


@given(st.binary(max_size=200))
def test_manifest_round_trip(raw: bytes) -> None:
    content = content_id_of_bytes(raw)
    manifest = manifest_of([raw] if raw else [])
    assert Manifest.decode(manifest.encode(), content) == manifest


@given(st.binary(min_size=1, max_size=50), st.data())
def test_manifest_with_one_bit_changed_is_refused(raw: bytes, data: st.DataObject) -> None:
    encoded = bytearray(manifest_of([raw]).encode())
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteViolation):
        Manifest.decode(bytes(encoded), content_id_of_bytes(raw))


@pytest.mark.parametrize("raw", [b"", b"\0" * 7, b"\0" * 9, bytes(8) + bytes(31), (1).to_bytes(8, "big"), b"\xff" * 40])
def test_manifest_malformed_blames_the_sender(raw: bytes) -> None:
    with pytest.raises(RemoteViolation):
        Manifest.decode(raw, ContentId(bytes(32)))


def test_manifest_larger_than_any_content_is_refused() -> None:
    with pytest.raises(RemoteViolation, match="allowed are 0 to"):
        Manifest(size_bytes=MAX_CONTENT_BYTES + 1, chunk_hashes=())


@given(st.binary(max_size=300))
def test_manifest_of_any_bytes_is_refused_for_another_id(raw: bytes) -> None:
    with pytest.raises(RemoteViolation):
        Manifest.decode(raw, ContentId(b"\x77" * 32))
