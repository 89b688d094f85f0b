"""From a job's number to a checked file: the final checkpoint, and the chain of hashes that ties it to the chain.

    1. window root     from the contract: the last window that was settled
    2. trace           from the worker (or a verifier that has it): segments of that window; a claim
    3. leaves          hashed here from the trace; their Merkle root must be the window root
    4. checkpoint      fetched by the content id that the trace names; every chunk is checked against it
    5. state root      hashed here from the file's tensors, step and cursor; must be the segment's output root

It needs no torch: a checkpoint is a safetensors file, and a root is hashes over its bytes. It refuses a file whose
step 5 fails even though its content id fits, because the content id is only the worker's word. Next: commands/jobs.py.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from tolsey.client.peers import Peers
from tolsey.errors import CheckpointUnavailable, NetworkError, ProofInvalid, RemoteViolation, StorageError
from tolsey.network.transfer import fetch
from tolsey.protocol import merkle
from tolsey.protocol.checkpoint import TensorBytes, segment_leaf, state_root
from tolsey.protocol.checkpoint_file import LENGTH_BYTES, header_bytes, parse_header, step_and_cursor
from tolsey.protocol.offer import Domain, Offer
from tolsey.protocol.units import JobId, StateRoot, WindowRoot
from tolsey.protocol.wire import Trace, TraceEntry

MAX_CHECKPOINT_BYTES = 1 << 38


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """What a checkpoint file says it is: its root, step and cursor."""

    root: StateRoot
    step: int
    cursor: int


def check_trace(trace: Trace, *, offer: Offer, domain: Domain, job_id: JobId, window: int, root: WindowRoot) -> None:
    """Accepts a trace that hashes to the window root on chain.

    Raises:
        ProofInvalid: it is of other segments, broken between two of them, or hashes to another root.
    """
    indices = [entry.index for entry in trace.entries]
    if indices != list(offer.window_segments(window)):
        raise ProofInvalid(f"the trace of window {window} tells segments {indices[:4]}…, due are others")
    for before, after in itertools.pairwise(trace.entries):
        if before.output_root != after.input_root:
            raise ProofInvalid(
                f"segment {after.index} starts at {after.input_root.hex()[:16]}, the one before ended at "
                f"{before.output_root.hex()[:16]}"
            )
    if window == 0 and trace.entries[0].input_root != offer.initial_root:
        raise ProofInvalid(f"segment 0 starts at {trace.entries[0].input_root.hex()[:16]}, not at the initial state")
    told = merkle.root(leaves_of(trace.entries, offer=offer, domain=domain, job_id=job_id))
    if told != root:
        raise ProofInvalid(f"the worker's trace hashes to {told.hex()[:16]}, on chain is {root.hex()[:16]}")


def leaves_of(entries: Sequence[TraceEntry], *, offer: Offer, domain: Domain, job_id: JobId) -> list[bytes]:
    """The Merkle leaves of a trace's segments."""
    return [
        segment_leaf(
            chain_id=domain.chain_id,
            market=domain.market,
            job_id=job_id,
            worker=offer.worker,
            index=entry.index,
            input_root=entry.input_root,
            output_root=entry.output_root,
        )
        for entry in entries
    ]


async def checked_trace(
    peers: Peers, sources: Sequence[str], *, offer: Offer, domain: Domain, job_id: JobId, window: int, root: WindowRoot
) -> Trace:
    """The first trace of the window, from any source, that hashes to the root on chain.

    Raises:
        CheckpointUnavailable: nobody told one; ProofInvalid: the last that was told is wrong.
    """
    failure: Exception | None = None
    for peer_id in sources:
        try:
            trace = await peers.trace(peer_id, job_id, window)
            check_trace(trace, offer=offer, domain=domain, job_id=job_id, window=window, root=root)
        except (NetworkError, RemoteViolation, ProofInvalid) as error:
            failure = error
        else:
            return trace
    if isinstance(failure, ProofInvalid):
        raise failure
    raise CheckpointUnavailable(
        f"nobody tells the trace of window {window} of job {job_id.hex()[:12]}: {failure or 'no source is known'}",
        fix="try again while the worker is up (tolsey offers)",
    )


async def fetch_checkpoint(
    peers: Peers, sources: Sequence[tuple[str, Sequence[str]]], entry: TraceEntry, profile: str, into: Path
) -> FileState:
    """The checkpoint at the end of a segment, fetched into `into` and checked against the segment's output root.

    Raises:
        CheckpointUnavailable: nobody serves it. ProofInvalid: the file is another state; it is removed.
    """
    try:
        await fetch(peers.host, entry.checkpoint, sources, into, max_bytes=MAX_CHECKPOINT_BYTES)
    except NetworkError as cause:
        raise CheckpointUnavailable(
            f"nobody serves checkpoint {entry.checkpoint.hex()[:12]} of segment {entry.index}: {cause.message}",
            fix="try again while the worker is up",
        ) from cause
    state = await trio.to_thread.run_sync(read_state, into, profile)
    if state.root != entry.output_root:
        await trio.Path(into).unlink()
        raise ProofInvalid(
            f"the checkpoint of segment {entry.index} has state root {state.root.hex()[:16]}, committed is "
            f"{entry.output_root.hex()[:16]}"
        )
    return state


def read_state(path: Path, profile: str) -> FileState:
    """The state root, step and cursor of a safetensors checkpoint.

    Raises:
        ProofInvalid: not such a file. StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            view = memoryview(raw)
            try:
                return _state_of(view, profile)
            finally:
                view.release()
    except OSError as cause:
        raise StorageError(f"cannot read {path}: {cause.strerror}") from cause
    except (RemoteViolation, ValueError) as cause:
        raise ProofInvalid(f"{path} is no checkpoint: {cause}") from cause


def _state_of(view: memoryview, profile: str) -> FileState:
    length = header_bytes(bytes(view[:LENGTH_BYTES]), len(view))
    start = LENGTH_BYTES + length
    header = parse_header(bytes(view[LENGTH_BYTES:start]), len(view) - start)
    step, cursor = step_and_cursor(header.metadata)
    tensors = (
        TensorBytes(name=name, dtype=item.dtype, shape=item.shape, raw=view[start + item.first : start + item.last])
        for name, item in header.tensors.items()
    )
    root = state_root(tensors, step=step, cursor=cursor, profile=profile, threads=os.cpu_count() or 1)
    return FileState(root=root, step=step, cursor=cursor)


def sources_of(peers: Peers, ids: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Peers as content sources, with the addresses known of them."""
    found = []
    for peer_id in ids:
        with suppress(ValueError):
            found.append((peer_id, peers.host.addrs_of(peer_id)))
    return found
