"""The state root, recomputed by hand from its definition, and what must change it."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from Crypto.Hash import keccak

from tolsey.protocol.checkpoint import Segment, StateRoot, TensorBytes, chunk_leaves, segment_leaf, state_root

A = TensorBytes(name="a", dtype="float32", shape=(2, 2), raw=bytes(range(16)))
B = TensorBytes(name="b", dtype="uint8", shape=(3,), raw=b"xyz")


def keccak256(*parts: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=b"".join(parts)).digest()


def tagged(name: str) -> bytes:
    return f"tolsey/{name}/1".encode().ljust(32, b"\0")


def tensor_by_hand(name: bytes, dtype: bytes, dims: list[int], size: int, tree: bytes) -> bytes:
    shape = b"".join(dim.to_bytes(8, "big") for dim in dims)
    return keccak256(
        tagged("tensor"), keccak256(name), keccak256(dtype), keccak256(shape), size.to_bytes(32, "big"), tree
    )


def test_state_root_two_tensors_equals_definition() -> None:
    leaf_a = hashlib.sha256(tagged("chunk") + bytes(range(16))).digest()
    leaf_b = hashlib.sha256(tagged("chunk") + b"xyz").digest()
    tree = keccak256(
        tagged("node"),
        tensor_by_hand(b"a", b"float32", [2, 2], 16, leaf_a),
        tensor_by_hand(b"b", b"uint8", [3], 3, leaf_b),
    )
    expected = keccak256(
        tagged("state"),
        tree,
        (2).to_bytes(32, "big"),
        (7).to_bytes(32, "big"),
        (70).to_bytes(32, "big"),
        keccak256(b"pinned"),
    )
    assert state_root([B, A], step=7, cursor=70, profile="pinned") == expected


def test_state_root_chunks_are_64_kib_and_the_last_is_shorter() -> None:
    raw = bytes(70_000)
    leaves = [hashlib.sha256(tagged("chunk") + part).digest() for part in (raw[:65536], raw[65536:])]
    assert chunk_leaves(raw) == leaves and chunk_leaves(b"") == []


def test_state_root_empty_tensor_has_zero_chunk_tree() -> None:
    empty = TensorBytes(name="e", dtype="float32", shape=(0, 4), raw=b"")
    expected = keccak256(
        tagged("state"),
        tensor_by_hand(b"e", b"float32", [0, 4], 0, bytes(32)),
        (1).to_bytes(32, "big"),
        bytes(32),
        bytes(32),
        keccak256(b"pinned"),
    )
    assert state_root([empty], step=0, cursor=0, profile="pinned") == expected


@pytest.mark.parametrize(
    "change",
    [
        {"step": 8},
        {"cursor": 71},
        {"profile": "other"},
        {"tensors": [A]},
        {"tensors": [A, TensorBytes(name="c", dtype="uint8", shape=(3,), raw=b"xyz")]},
        {"tensors": [A, TensorBytes(name="b", dtype="int8", shape=(3,), raw=b"xyz")]},
        {"tensors": [A, TensorBytes(name="b", dtype="uint8", shape=(3, 1), raw=b"xyz")]},
        {"tensors": [A, TensorBytes(name="b", dtype="uint8", shape=(3,), raw=b"xyZ")]},
    ],
)
def test_state_root_any_field_changed_differs(change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"tensors": [A, B], "step": 7, "cursor": 70, "profile": "pinned"}
    assert state_root(**base) != state_root(**base | change)


def test_state_root_same_name_twice_refused() -> None:
    with pytest.raises(ValueError, match="two tensors"):
        state_root([A, A], step=0, cursor=0, profile="pinned")


def test_tensor_bytes_wrong_size_refused() -> None:
    with pytest.raises(ValueError, match="need 16"):
        TensorBytes(name="a", dtype="float32", shape=(4,), raw=bytes(15))


def test_segment_leaf_equals_definition_and_binds_everything() -> None:
    segment = Segment(
        index=3, first_step=30, last_step=40, input_root=StateRoot(b"\1" * 32), output_root=StateRoot(b"\2" * 32)
    )
    market, worker, job = "0x" + "aa" * 20, "0x" + "bb" * 20, b"\3" * 32
    expected = keccak256(
        tagged("leaf"),
        (5).to_bytes(32, "big"),
        bytes(12) + b"\xaa" * 20,
        job,
        bytes(12) + b"\xbb" * 20,
        (3).to_bytes(32, "big"),
        b"\1" * 32,
        b"\2" * 32,
    )
    assert segment.leaf(chain_id=5, market=market, job_id=job, worker=worker) == expected
    assert segment.leaf(chain_id=6, market=market, job_id=job, worker=worker) != expected


def test_segment_leaf_short_root_refused() -> None:
    with pytest.raises(ValueError, match="input root has 32 bytes, not 31"):
        segment_leaf(
            chain_id=1,
            market="0x" + "00" * 20,
            job_id=bytes(32),
            worker="0x" + "00" * 20,
            index=0,
            input_root=bytes(31),
            output_root=bytes(32),
        )
