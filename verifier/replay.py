"""Replay as a numbered procedure: what must hold before a word may be said against a worker.

    0  machine     it keeps the profile (`pinned`: is of the class) and fits  else abstain: nobody's fault
    1  spec        the trace's spec has the offer's hash and cut              else that source lies; ask another
    2  leaves      the trace's leaves give the window root on chain           else that source lies; ask another
    3  continuity  every segment starts where the one before it ended         else provable on chain, without a panel
    4  inputs      program and data set have the hashes that the spec names   else unavailable
    5  start       the checkpoint's state has the committed input root        else unavailable: it is not that state
    6  replay      the child runs the segment's steps                         else abstain: it failed here
    7  compare     equal roots                                                then the segment matches
    8  again       a fresh process gives this machine's own root once more    else abstain: the fault may be ours
    9  mismatch    only now

Steps 1 and 2 happen where the trace comes in (trace.py); this file does the others. It never accuses on the strength of
one run, of a machine of another class (profile `pinned`), or of bytes that could not be had. Next in the flow: duty.py
seals what is found.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tolsey.errors import ClassMismatch
from tolsey.protocol.content import ContentId
from tolsey.protocol.job import PINNED, JobSpec, profile_of_class
from tolsey.protocol.lifecycle import Verdict
from tolsey.protocol.offer import Offer
from tolsey.protocol.units import ClassId, StateRoot
from tolsey.verifier.compare import Finding, compare
from tolsey.verifier.trace import CheckedTrace, break_in

_log = logging.getLogger(__name__)


class ReplayFailed(ClassMismatch):
    """This machine could not run the segment to its end: no word on the worker follows from that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """The files a job's segments are run from, all checked against their content ids.

    Attributes:
        program: the program file. dataset: the manifest. files: the manifest's files in its order.
    """

    spec: JobSpec
    program: Path
    dataset: Path
    files: tuple[Path, ...]
    initial_tensors: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay gave: the state's root, and the content id of its checkpoint file (equal states, equal files)."""

    root: StateRoot
    checkpoint: ContentId


class Bench(Protocol):
    """This machine's replays (bench.py): one at a time, each in a process of its own."""

    @property
    def class_id(self) -> ClassId:
        """Of this machine in profile `pinned`, measured in the child."""

    @property
    def profiles(self) -> tuple[str, ...]:
        """What this machine can run."""

    @property
    def fingerprint(self) -> bytes:
        """Canonical JSON of what the class id hashes."""

    @property
    def memory_bytes(self) -> int:
        """What one replay may use here."""

    async def replay(self, inputs: Inputs, segment: int, start: Path | None, input_root: StateRoot) -> Replayed:
        """The state after the segment, run from the checkpoint file `start` (None: the initial state).

        Raises:
            CheckpointUnavailable: the file is not the state with root `input_root`.
            ReplayFailed: the initial state is not, or the run did not come to an end here.
        """


class Source(Protocol):
    """Where files come from (files.py); raises CheckpointUnavailable where nobody serves what is committed."""

    async def inputs(self, spec: JobSpec) -> Inputs: ...

    async def checkpoint(self, spec: JobSpec, which: str, content_id: ContentId | None) -> Path: ...

    async def release(self, content_id: ContentId) -> None: ...


@dataclass(slots=True)
class Progress:
    """How far the tries at a window's sample got.

    Attributes:
        sure: roots that this machine gave: once and equal to the worker's, or twice.
        once: roots given once that differ from the worker's: a try that was cut short goes on with step 8.
        at: the segment whose checkpoint is asked for or replayed; None before the first and after the last.
    """

    sure: dict[int, StateRoot] = field(default_factory=dict)
    once: dict[int, StateRoot] = field(default_factory=dict)
    at: int | None = None


def class_refusal(offer: Offer, bench: Bench) -> str | None:
    """Step 0: the reason why this machine may not judge the job, or None: one of an exact profile any machine may."""
    profile = profile_of_class(offer.class_id)
    if profile not in bench.profiles:
        return f"this machine runs {', '.join(bench.profiles)}, the job is of {profile}"
    if profile != PINNED or bench.class_id == offer.class_id:
        return None
    return f"this machine is of class {bench.class_id.hex()[:16]}, the job of {offer.class_id.hex()[:16]}"


def memory_refusal(spec: JobSpec, bench: Bench) -> str | None:
    """The rest of step 0: the reason why this machine is too small for the job, or None.

    Said before anything is fetched: what this machine cannot take must not look like what nobody serves.
    """
    if spec.memory_bytes <= bench.memory_bytes:
        return None
    return f"this machine gives a replay {bench.memory_bytes} bytes of memory, the job may need {spec.memory_bytes}"


def cut_refusal(spec: JobSpec, offer: Offer) -> str | None:
    """Step 1, beyond the hash: the reason why spec and offer are not of one job, or None."""
    ours = (spec.class_id, spec.segment_count, spec.segments_per_window)
    if ours == (offer.class_id, offer.segment_count, offer.segments_per_window):
        return None
    return (
        f"the spec has {spec.segment_count} segments in windows of {spec.segments_per_window} for class "
        f"{spec.class_id.hex()[:8]}, the offer {offer.segment_count} in windows of {offer.segments_per_window} for "
        f"{offer.class_id.hex()[:8]}"
    )


class Replay:
    """Judges segments of one window with one bench and one source.

    Args:
        offer: the job's terms. trace: the window, checked (steps 1 and 2). before: where the window must start, None
            where that is not known. progress: of earlier tries; what is sure is not run again.
    """

    def __init__(
        self,
        bench: Bench,
        source: Source,
        *,
        offer: Offer,
        trace: CheckedTrace,
        before: StateRoot | None,
        progress: Progress,
    ) -> None:
        self._bench = bench
        self._source = source
        self._offer = offer
        self._trace = trace
        self._before = before
        self.progress = progress

    async def judge(self, segments: list[int]) -> Finding:
        """What is to be said of these segments; those that matched in an earlier try are not run again.

        Raises:
            CheckpointUnavailable: steps 4 or 5 lack a file now; call again with more patience.
        """
        # 0 machine
        if (
            why := class_refusal(self._offer, self._bench) or memory_refusal(self._trace.spec, self._bench)
        ) is not None:
            return Finding(kind=Verdict.ABSTAIN, reason=why)
        # 1 spec (its hash was compared in trace.py)
        if (why := cut_refusal(self._trace.spec, self._offer)) is not None:
            return Finding(kind=Verdict.ABSTAIN, reason=why)
        # 3 continuity
        if (broken := break_in(self._trace, self._before)) is not None:
            reason = f"segment {broken} does not start where the one before it ended"
            return Finding(kind=Verdict.MISMATCH, segment=broken, is_break=True, has_opening=True, reason=reason)
        # 4 inputs
        inputs = await self._source.inputs(self._trace.spec)
        for segment in segments:
            if self.progress.sure.get(segment) != self._trace.entry(segment).output_root:
                self.progress.at = segment
                try:
                    finding = await self._segment(inputs, segment)
                except ReplayFailed as error:
                    return Finding(kind=Verdict.ABSTAIN, segment=segment, reason=error.message)
                if finding.kind is not Verdict.MATCH:
                    return finding
        self.progress.at = None
        return Finding(kind=Verdict.MATCH, has_opening=True, reason=f"segments {segments} match")

    async def _segment(self, inputs: Inputs, segment: int) -> Finding:
        entry = self._trace.entry(segment)
        if (known := self.progress.sure.get(segment)) is not None:
            return _mismatch(segment, entry.output_root, known)
        # 5 start
        start_id = self._trace.start_of(segment)
        start = await start_of(self._source, self._trace.spec, segment, start_id)
        # 6 replay (the child checks the root of the start first)
        replayed = self.progress.once.get(segment)
        if replayed is None:
            replayed = (await self._bench.replay(inputs, segment, start, entry.input_root)).root
        # 7 compare
        again = None
        if replayed != entry.output_root:
            self.progress.once[segment] = replayed
            # 8 again
            _log.warning(
                "segment %d gave %s, committed is %s: running it again in a fresh process",
                segment, replayed.hex()[:16], entry.output_root.hex()[:16],
            )  # fmt: skip
            again = (await self._bench.replay(inputs, segment, start, entry.input_root)).root
        verdict = compare(entry.output_root, replayed, again)
        if verdict is not Verdict.ABSTAIN:
            self.progress.sure[segment] = replayed
        if verdict is Verdict.MATCH:
            if start is not None and start_id is not None:
                await self._source.release(start_id)
            return Finding(kind=verdict)
        if verdict is Verdict.ABSTAIN:
            told = "nothing" if again is None else again.hex()[:16]
            reason = (
                f"segment {segment} gave {replayed.hex()[:16]}, then {told}: it is not reproducible on this machine"
            )
            return Finding(kind=verdict, segment=segment, reason=reason)
        # 9 mismatch
        return _mismatch(segment, entry.output_root, replayed)


def _mismatch(segment: int, committed: StateRoot, replayed: StateRoot) -> Finding:
    reason = f"segment {segment} gives {replayed.hex()[:16]}, committed is {committed.hex()[:16]}"
    return Finding(kind=Verdict.MISMATCH, segment=segment, replayed_root=replayed, has_opening=True, reason=reason)


async def start_of(source: Source, spec: JobSpec, segment: int, content_id: ContentId | None) -> Path | None:
    """The file that a segment starts from, its root not yet checked; None for the initial state.

    Raises:
        CheckpointUnavailable: nobody serves it, or the trace does not say which it is.
    """
    return None if segment == 0 else await source.checkpoint(spec, f"before segment {segment}", content_id)
