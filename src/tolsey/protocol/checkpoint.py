"""The state root: one 32-byte hash over everything that a training run remembers between two steps.

Words: *state* is a set of named tensors, the number of steps done and the data cursor (how many examples were
consumed), and nothing hidden; its *canonical bytes* are each tensor's elements in row-major order, little-endian,
every NaN replaced by the one quiet NaN (the caller does this: only it knows the element type); a *chunk* is 64 KiB of
them, the last one shorter.

    chunk leaf  = sha256(tag("tolsey/chunk/1") ‖ chunk)
    tensor root = keccak256(tag("tolsey/tensor/1") ‖ keccak256(name utf-8) ‖ keccak256(dtype ascii)
                            ‖ keccak256(u64be(dim 0) ‖ u64be(dim 1) ‖ …) ‖ word(size_bytes) ‖ chunk tree root)
    state root  = keccak256(tag("tolsey/state/1") ‖ tree root over the tensor roots in name order
                            ‖ word(tensor count) ‖ word(step) ‖ word(cursor) ‖ keccak256(profile ascii))
    leaf        = keccak256(tag("tolsey/leaf/1") ‖ word(chain id) ‖ word(market) ‖ job id ‖ word(worker)
                            ‖ word(segment index) ‖ input root ‖ output root)

The chunk tree of a tensor without elements is ZERO. Names are sorted by their UTF-8 bytes. SHA-256 stands at the
leaves because it is fast (SHA-NI, 1.7 GB/s a core) and a precompile on chain opens it.

It refuses to know element types beyond their name, and to read files: runtime/state.py does both. Next in the flow:
merkle trees over segment leaves (the commitment), and contracts/solidity, which hashes the same words.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tolsey.protocol import merkle, units
from tolsey.protocol.encoding import (
    TAG_CHUNK,
    TAG_LEAF,
    TAG_STATE,
    TAG_TENSOR,
    address_word,
    keccak256,
    tag,
    word,
)

StateRoot = units.StateRoot
"""32 bytes."""

MAX_HEADER_BYTES = 1 << 20
"""Of a checkpoint file (checkpoint_file.py): what it may have beside the bytes of its tensors."""
STATE_CHUNK_BYTES = 1 << 16
PIECE_BYTES = 1 << 20
"""What one thread hashes at a time: a millisecond, against some ten microseconds to hand it over. Whole chunks."""
DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Element types of states, programs and data sets, with their size in bytes. A closed list."""

_CHUNK = tag(TAG_CHUNK)
_TENSOR = tag(TAG_TENSOR)
_STATE = tag(TAG_STATE)
_LEAF = tag(TAG_LEAF)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorBytes:
    """One tensor of a state as the root sees it.

    Attributes:
        name: at most 512 bytes of UTF-8.
        dtype: a key of DTYPE_BYTES.
        shape: dimensions, outermost first; () for a single number.
        raw: canonical bytes, a one-dimensional view of bytes (`memoryview.cast("B")`); not copied.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview

    def __post_init__(self) -> None:
        expected = math.prod(self.shape) * DTYPE_BYTES[self.dtype]
        if len(self.raw) != expected:
            raise ValueError(f"tensor {self.name!r} has {len(self.raw)} bytes, its shape and dtype need {expected}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The steps between two checkpoints, and the roots at both ends.

    Attributes:
        index: 0 for the first segment of the job.
        first_step: steps done at its start, so the step it runs first (counted from 0).
        last_step: steps done at its end; it runs steps first_step .. last_step - 1.
        input_root: state root at its start; equals the output root of the segment before.
        output_root: state root at its end.
    """

    index: int
    first_step: int
    last_step: int
    input_root: StateRoot
    output_root: StateRoot

    def leaf(self, *, chain_id: int, market: str, job_id: bytes, worker: str) -> bytes:
        """The 32-byte leaf that the worker's commitment holds for this segment; bound to chain, market and worker."""
        return segment_leaf(
            chain_id=chain_id,
            market=market,
            job_id=job_id,
            worker=worker,
            index=self.index,
            input_root=self.input_root,
            output_root=self.output_root,
        )


def segment_leaf(
    *, chain_id: int, market: str, job_id: bytes, worker: str, index: int, input_root: bytes, output_root: bytes
) -> bytes:
    """The 32-byte leaf of one segment.

    Args:
        market, worker: 0x-prefixed accounts.
        job_id, input_root, output_root: 32 bytes each.
    """
    for name, value in (("job id", job_id), ("input root", input_root), ("output root", output_root)):
        if len(value) != 32:
            raise ValueError(f"{name} has 32 bytes, not {len(value)}")
    return keccak256(
        _LEAF, word(chain_id), address_word(market), job_id, address_word(worker), word(index), input_root, output_root
    )


def chunk_leaves(raw: bytes | memoryview) -> list[bytes]:
    """The SHA-256 leaf of each 64 KiB chunk of `raw`; empty for no bytes.

    The tag is hashed once and the digest state copied per chunk, so Python costs about one microsecond per chunk.
    """
    tagged = hashlib.sha256(_CHUNK)
    view = memoryview(raw)
    leaves = []
    for start in range(0, len(view), STATE_CHUNK_BYTES):
        digest = tagged.copy()
        digest.update(view[start : start + STATE_CHUNK_BYTES])
        leaves.append(digest.digest())
    return leaves


def state_root(tensors: Iterable[TensorBytes], *, step: int, cursor: int, profile: str, threads: int = 1) -> StateRoot:
    """The root of a whole state.

    Args:
        tensors: in any order, names distinct, at least one; taken as hashing gets to them.
        step: optimiser steps done.
        cursor: examples consumed.
        profile: numerics profile, such as "pinned".
        threads: that hash; the root is the same for any number.
    """
    roots: dict[str, bytes] = {}
    for name, root in _tensor_roots(tensors, threads):
        if name in roots:
            raise ValueError(f"two tensors are called {name!r}")
        roots[name] = root
    return StateRoot(
        keccak256(
            _STATE,
            merkle.root([roots[name] for name in sorted(roots, key=str.encode)]),
            word(len(roots)),
            word(step),
            word(cursor),
            keccak256(profile.encode("ascii")),
        )
    )


def _tensor_roots(tensors: Iterable[TensorBytes], threads: int) -> Iterator[tuple[str, bytes]]:
    """Name and root of each tensor, in any order.

    Large tensors are hashed in pieces by several threads at once: hashlib lets go of the lock. Few tensors
    wait at a time, so that bytes copied from a device do not pile up.
    """
    if threads == 1:
        for tensor in tensors:
            yield tensor.name, _tensor_root(tensor, chunk_leaves(tensor.raw))
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="state-root") as pool:
        waiting: deque[tuple[TensorBytes, list[Future[list[bytes]]]]] = deque()
        for tensor in tensors:
            if len(tensor.raw) < PIECE_BYTES:
                yield tensor.name, _tensor_root(tensor, chunk_leaves(tensor.raw))
                continue
            view = memoryview(tensor.raw)
            starts = range(0, len(view), PIECE_BYTES)
            waiting.append((tensor, [pool.submit(chunk_leaves, view[start : start + PIECE_BYTES]) for start in starts]))
            if len(waiting) > threads:
                yield _joined(*waiting.popleft())
        while waiting:
            yield _joined(*waiting.popleft())


def _joined(tensor: TensorBytes, pieces: list[Future[list[bytes]]]) -> tuple[str, bytes]:
    return tensor.name, _tensor_root(tensor, [leaf for piece in pieces for leaf in piece.result()])


def _tensor_root(tensor: TensorBytes, leaves: Sequence[bytes]) -> bytes:
    return keccak256(
        _TENSOR,
        keccak256(tensor.name.encode()),
        keccak256(tensor.dtype.encode("ascii")),
        keccak256(*(dim.to_bytes(8, "big") for dim in tensor.shape)),
        word(len(tensor.raw)),
        merkle.root(leaves) if leaves else merkle.ZERO,
    )
