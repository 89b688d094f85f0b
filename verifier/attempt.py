"""One window, or one disputed segment, under judgement: what is kept between two tries, and what a finding becomes.

A try at a window gets its trace and the one before it, then replays the sample. Without the one before only the start
of the window cannot be judged; it may be hidden to keep this one from being looked at, so it is not waited for. What
was replayed is not run again. A finding that accuses comes with its evidence.

Next in the flow: judging.py, which tries again until it is too late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from tolsey.contracts.views import Opening
from tolsey.errors import CheckpointUnavailable
from tolsey.protocol.lifecycle import Verdict, Vote
from tolsey.protocol.units import JobId, StateRoot
from tolsey.verifier.compare import NOBODY_SERVES, Finding, vote_of
from tolsey.verifier.fetch import Fetcher, owner_of
from tolsey.verifier.files import JobFiles, Wanted, WindowTrace, trace_name
from tolsey.verifier.records import FOUND, Evidence
from tolsey.verifier.replay import Bench, Progress, Replay, Replayed, memory_refusal, start_of
from tolsey.verifier.trace import CheckedTrace
from tolsey.verifier.watcher import Duty, Job, PanelDuty

BEFORE_S = 10.0
"""Waited in each try for the trace of the window before; a peer that has it answers in one or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A finding, and for an accusation what it rests on.

    Attributes:
        is_final: all of the sample was looked at, or this machine may not look. Where it is not, time was up first.
    """

    finding: Finding
    evidence: Evidence | None = None
    is_final: bool = True


class WindowAttempt:
    """The tries at one window.

    Args:
        segments: the sample. owner: who pins its files. now_s: measures patience. progress: of an earlier attempt.
    """

    def __init__(
        self,
        duty: Duty,
        segments: list[int],
        bench: Bench,
        fetcher: Fetcher,
        jobs: Callable[[JobId], Job | None],
        owner: str,
        *,
        now_s: Callable[[], float],
        progress: Progress | None = None,
    ) -> None:
        self._duty = duty
        self._segments = segments
        self._bench = bench
        self._fetcher = fetcher
        self._jobs = jobs
        self.owner = owner
        self.progress = progress or Progress()
        self.wanted = Wanted(now_s)
        self._files = JobFiles(fetcher, duty.job_id, owner, self.wanted)
        self._trace: WindowTrace | None = None
        self._previous: WindowTrace | None = None

    async def once(self) -> Judgement:
        """One try.

        Raises:
            CheckpointUnavailable: something is missing. NoRoomHere: this machine's disk is full.
        """
        duty, window = self._duty, self._duty.draw.window
        if self._trace is None:
            self._trace = self._trace_of(window)
        trace = await self._trace.get()
        before, lacking = (duty.offer.initial_root, None) if window == 0 else await self._end_of(window - 1)
        finding = await self._judge(trace, before)
        if finding.kind is Verdict.MATCH and lacking is not None:
            self.wanted.ask(trace_name(window - 1))
            raise lacking
        if finding.kind is not Verdict.MISMATCH:
            return Judgement(finding=finding)
        charge = "discontinuity" if finding.is_break else "mismatch"
        return Judgement(finding=finding, evidence=self.evidence(charge, finding))

    def replayed(self) -> dict[int, tuple[StateRoot, StateRoot]]:
        """Roots before and after each segment that this machine is sure of."""
        if (trace := self._held) is None:
            return {}
        return {segment: (trace.entry(segment).input_root, root) for segment, root in self.progress.sure.items()}

    def unavailable(self, reason: str) -> Judgement:
        """The judgement once time is up and something was never served.

        Where even the trace is hidden, its worker can be made to open a segment on chain; where it has, that segment
        can be challenged.
        """
        if not self._fetcher.is_connected():
            finding = Finding(kind=Verdict.ABSTAIN, reason=f"this verifier is connected to nobody; {reason}")
            return Judgement(finding=finding, is_final=False)
        at, trace = self.progress.at, self._held
        segment = self._segments[0] if at is None else at
        finding = Finding(kind=Verdict.UNAVAILABLE, segment=segment, has_opening=trace is not None, reason=reason)
        if trace is not None and at is None:
            # Missing is the job's program or data, or the trace of the window before: nothing that this window's
            # segments could be charged with.
            return Judgement(finding=finding, is_final=False)
        job = self._jobs(self._duty.job_id)
        opened = None if trace is not None or job is None else job.opening()
        if trace is not None:
            evidence = self.evidence("unavailable", finding)
        elif opened is not None:
            evidence = self.evidence("unavailable", finding, opened)
        else:
            evidence = self.evidence("withheld", finding)
        return Judgement(finding=finding, evidence=evidence, is_final=False)

    def evidence(self, charge: str, finding: Finding, opened: Opening | None = None) -> Evidence:
        """What an accusation rests on; with `opened`, of the segment that was opened on chain."""
        duty, trace = self._duty, self._held
        segment = finding.segment if opened is None else opened.segment
        return Evidence(
            job_id=duty.job_id,
            segment=segment,
            charge=charge,
            stage=FOUND,
            offer=duty.offer,
            window_root=duty.draw.root,
            spec=b"" if trace is None else trace.spec.encode(),
            opening=opened if trace is None else trace.opening(segment),
            before=self._before(segment),
            replayed_root=finding.replayed_root or NOBODY_SERVES,
            start_checkpoint=None if trace is None else trace.start_of(segment),
            end_checkpoint=None if trace is None else trace.entry(segment).checkpoint,
            fingerprint=self._bench.fingerprint,
            message=finding.reason,
        )

    @property
    def _held(self) -> CheckedTrace | None:
        return None if self._trace is None else self._trace.held

    def _trace_of(self, window: int) -> WindowTrace:
        duty = self._duty
        job = self._jobs(duty.job_id)
        if job is None:
            raise CheckpointUnavailable(f"job {duty.job_id.hex()[:12]} is not known any more")
        root = duty.draw.root if window == duty.draw.window else job.roots[window]
        return WindowTrace(self._fetcher, job, window, root, self.wanted)

    async def _end_of(self, window: int) -> tuple[StateRoot | None, CheckpointUnavailable | None]:
        """Where the window before ended, or why that is not known now."""
        if self._previous is None:
            self._previous = self._trace_of(window)
        with trio.move_on_after(BEFORE_S):
            try:
                return (await self._previous.get()).ends_at, None
            except CheckpointUnavailable as error:
                return None, error
        return None, CheckpointUnavailable(f"{trace_name(window)} did not come in {BEFORE_S:.0f} s")

    async def _judge(self, trace: CheckedTrace, before: StateRoot | None) -> Finding:
        """The procedure of replay.py; where a checkpoint is not to be had, the trace that names it is doubted."""
        replay = Replay(
            self._bench, self._files, offer=self._duty.offer, trace=trace, before=before, progress=self.progress
        )
        try:
            return await replay.judge(self._segments)
        except CheckpointUnavailable:
            if self._trace is not None and self.progress.at is not None:
                self._trace.doubt()
            raise

    def _before(self, segment: int) -> Opening | None:
        """The opening of the segment before, in this window or the one before it."""
        if (trace := self._held) is None or segment == 0:
            return None
        if segment > trace.first:
            return trace.opening(segment - 1)
        previous = None if self._previous is None else self._previous.held
        return None if previous is None else previous.opening(segment - 1)


class PanelAttempt:
    """The tries at one disputed segment.

    Args:
        known: (job, segment, input root) -> output root, where this machine is sure already.
    """

    def __init__(
        self,
        duty: PanelDuty,
        bench: Bench,
        fetcher: Fetcher,
        jobs: Callable[[JobId], Job | None],
        known: Mapping[tuple[JobId, int, StateRoot], StateRoot],
        *,
        now_s: Callable[[], float],
    ) -> None:
        self._duty = duty
        self._bench = bench
        self._fetcher = fetcher
        self._jobs = jobs
        self._known = known
        self.owner = owner_of(duty.claim.job_id, f"panel-{duty.claim.segment}-{duty.round}")
        self.wanted = Wanted(now_s)
        self._files = JobFiles(fetcher, duty.claim.job_id, self.owner, self.wanted)
        self._trace: WindowTrace | None = None
        self._replayed: tuple[Replayed, Vote] | None = None

    async def once(self) -> tuple[Vote, str]:
        """One try: this machine's vote, and why.

        Raises:
            CheckpointUnavailable: something is missing. NoRoomHere, ReplayFailed: this machine cannot say.
        """
        claim = self._duty.claim
        known = self._known.get((claim.job_id, claim.segment, claim.input_root))
        if known is not None and claim.claimed_root != NOBODY_SERVES:
            vote = vote_of(output_root=claim.output_root, claimed_root=claim.claimed_root, replayed=known, again=known)
            return vote, f"segment {claim.segment} gave {known.hex()[:16]} here before"
        if self._trace is None:
            self._trace = self._trace_of_claim()
        trace = await self._trace.get()
        if (why := memory_refusal(trace.spec, self._bench)) is not None:
            return Vote.ABSTAIN, why
        try:
            if self._replayed is None:
                self._replayed = await self._replay(trace)
            replayed, vote = self._replayed
            if claim.claimed_root == NOBODY_SERVES and vote is Vote.WORKER:
                # The dispute says that nobody serves the checkpoints: the one at the end must be there as well.
                end = trace.entry(claim.segment).checkpoint
                await self._files.checkpoint(trace.spec, f"after segment {claim.segment}", end)
                if end != replayed.checkpoint:
                    raise CheckpointUnavailable(f"content {end.hex()[:16]} is not the state that segment ends in")
        except CheckpointUnavailable:
            self._trace.doubt()
            raise
        return vote, f"segment {claim.segment} gives {replayed.root.hex()[:16]} here"

    async def _replay(self, trace: CheckedTrace) -> tuple[Replayed, Vote]:
        claim, bench = self._duty.claim, self._bench
        inputs = await self._files.inputs(trace.spec)
        start = await start_of(self._files, trace.spec, claim.segment, trace.start_of(claim.segment))
        replayed = await bench.replay(inputs, claim.segment, start, claim.input_root)
        again = None
        if replayed.root not in (claim.output_root, claim.claimed_root):
            again = (await bench.replay(inputs, claim.segment, start, claim.input_root)).root
        return replayed, vote_of(
            output_root=claim.output_root, claimed_root=claim.claimed_root, replayed=replayed.root, again=again
        )

    def _trace_of_claim(self) -> WindowTrace:
        claim = self._duty.claim
        job, window = self._jobs(claim.job_id), claim.segment // self._duty.offer.segments_per_window
        if job is None or window not in job.roots:
            raise CheckpointUnavailable(f"window {window} of job {claim.job_id.hex()[:12]} is not known")
        return WindowTrace(self._fetcher, job, window, job.roots[window], self.wanted)
