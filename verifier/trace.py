"""A worker's trace held against the chain: from here on it is no claim any more.

The chain holds one root per window. A trace whose spec has the offer's hash and whose leaves give that root is the one
the worker committed, whoever served it; each of its segments can be opened on chain. What the root does not cover is
where a checkpoint's file is to be found: those content ids stay hints until the file's state root is checked.

A trace that passes may still convict its worker: `break_in` finds a segment that does not start where the one before
it ended. Pure: fetch.py gets the bytes, replay.py uses the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from tolsey.contracts.views import Opening
from tolsey.errors import ProofInvalid, RemoteViolation, SpecInvalid
from tolsey.protocol import merkle
from tolsey.protocol.checkpoint import segment_leaf
from tolsey.protocol.content import ContentId
from tolsey.protocol.job import JobSpec
from tolsey.protocol.offer import Domain, Offer
from tolsey.protocol.units import JobId, StateRoot, WindowRoot
from tolsey.protocol.wire import Trace, TraceEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTrace:
    """One window's segments, as committed.

    Attributes:
        raw: the bytes served, for whoever asks this verifier next. source: the peer that served them.
        leaves: one per entry; their Merkle root is on chain.
    """

    raw: bytes
    source: str
    spec: JobSpec
    window_start: ContentId | None
    entries: tuple[TraceEntry, ...]
    leaves: tuple[bytes, ...]

    @property
    def first(self) -> int:
        """Index of its first segment in the job."""
        return self.entries[0].index

    def entry(self, segment: int) -> TraceEntry:
        """The line of a segment of this window."""
        return self.entries[segment - self.first]

    def start_of(self, segment: int) -> ContentId | None:
        """Content id of the checkpoint before a segment; None where that is the initial state (or not told)."""
        return self.window_start if segment == self.first else self.entry(segment - 1).checkpoint

    def opening(self, segment: int) -> Opening:
        """What opens a segment on chain."""
        entry = self.entry(segment)
        return Opening(
            segment=segment,
            input_root=entry.input_root,
            output_root=entry.output_root,
            siblings=tuple(merkle.proof(self.leaves, segment - self.first)),
        )

    @property
    def ends_at(self) -> StateRoot:
        """Root of the state after its last segment."""
        return self.entries[-1].output_root


def checked_trace(
    raw: bytes, *, offer: Offer, job_id: JobId, window: int, root: WindowRoot, domain: Domain, source: str
) -> CheckedTrace:
    """The trace in bytes from anybody, if it is the one committed as `root`. Seconds of work for a window at its limit.

    Raises:
        RemoteViolation: malformed, or another spec or other segments than the offer's.
        ProofInvalid: its leaves do not give the root on chain.
    """
    trace = Trace.decode(raw)
    try:
        spec = JobSpec.decode(trace.spec)
    except SpecInvalid as error:
        raise RemoteViolation(f"the trace's spec is none: {error.message}", evidence=trace.spec[:4096]) from error
    if spec.spec_hash != offer.spec_hash:
        raise RemoteViolation(
            f"the trace's spec has hash {spec.spec_hash.hex()[:16]}, the job's is {offer.spec_hash.hex()[:16]}"
        )
    indices = offer.window_segments(window)
    if [entry.index for entry in trace.entries] != list(indices):
        raise RemoteViolation(
            f"the trace has {len(trace.entries)} segments in another order than {indices.start} to {indices.stop - 1}"
        )
    leaves = tuple(
        segment_leaf(
            chain_id=domain.chain_id,
            market=domain.market,
            job_id=job_id,
            worker=offer.worker,
            index=entry.index,
            input_root=entry.input_root,
            output_root=entry.output_root,
        )
        for entry in trace.entries
    )
    if (got := merkle.root(leaves)) != root:
        raise ProofInvalid(f"the trace gives window root {got.hex()[:16]}, the chain holds {root.hex()[:16]}")
    return CheckedTrace(
        raw=raw, source=source, spec=spec, window_start=trace.window_start, entries=trace.entries, leaves=leaves
    )


def break_in(trace: CheckedTrace, before: StateRoot | None) -> int | None:
    """The first segment that does not start where the one before it ended, or None.

    Args:
        before: where the window must start: the initial root, or the root at which the window before ended; None
            where that is not known, then the first segment is not judged.
    """
    for entry in trace.entries:
        if before is not None and entry.input_root != before:
            return entry.index
        before = entry.output_root
    return None
