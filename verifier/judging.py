"""From a window or a dispute to a finding, in time: fetch, replay, try again elsewhere, give up before it is too late.

Patience is the point. One failed fetch is nobody's guilt, so everything that is missing is asked for again, from every
source, with growing pauses, until shortly before the verdict must be sealed; only then "unavailable" is said. What
matched already is not run again. A finding that accuses comes with its evidence.

Next in the flow: duty.py and panelist.py.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from tolsey.contracts.views import Opening
from tolsey.errors import CheckpointUnavailable, RemoteViolation
from tolsey.protocol.content import ContentId
from tolsey.protocol.encoding import parse_canonical_json
from tolsey.protocol.job import JobSpec
from tolsey.protocol.lifecycle import Verdict, Vote
from tolsey.protocol.units import JobId, StateRoot
from tolsey.verifier.clock import Clock
from tolsey.verifier.compare import NOBODY_SERVES, Finding, vote_of
from tolsey.verifier.fetch import Fetcher, owner_of
from tolsey.verifier.records import FOUND, Evidence
from tolsey.verifier.replay import Bench, Inputs, Replay, ReplayFailed, class_refusal, start_of
from tolsey.verifier.trace import CheckedTrace
from tolsey.verifier.watcher import Duty, Job, PanelDuty

PAUSE_FIRST_S, PAUSE_MOST_S = 0.5, 60.0
MARGIN_SHARE, MARGIN_LEAST_S, MARGIN_MOST_S = 0.15, 3, 600
"""Time kept for the sealing transaction: a share of the window, a few blocks at least, ten minutes at most."""
MAX_KNOWN = 4_096
MAX_MANIFEST_BYTES = 4 << 20
MAX_DATA_FILES = 10_000

LEAST_FAIR_S = 5.0
"""A source that was asked for less than this, or less than half of the time there was, is not called unavailable."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A finding, and for an accusation what it rests on."""

    finding: Finding
    evidence: Evidence | None = None


def margin_s(window_s: int) -> int:
    """Seconds before the end of a sealing period at which judging stops."""
    return int(min(MARGIN_MOST_S, max(MARGIN_LEAST_S, MARGIN_SHARE * window_s)))


class Wanted:
    """What is being asked for at this moment, and since when; `what` is None while nothing is missing."""

    def __init__(self) -> None:
        self.what: str | None = None
        self._since_s = 0.0

    def for_(self, what: str) -> None:
        """From now on this is missing, where nothing was before."""
        if self.what is None:
            self._since_s = trio.current_time()
        self.what = what

    def got(self) -> None:
        """Nothing is missing."""
        self.what = None

    def waited_in_vain(self, total_s: float) -> str | None:
        """The blame for a source that took the request and most of the time; None where it had no fair chance."""
        waited_s = trio.current_time() - self._since_s
        if self.what is None or waited_s < max(LEAST_FAIR_S, total_s / 2):
            return None
        return f"{self.what} did not come in {waited_s:.0f} of {total_s:.0f} s"


class Judge:
    """Judges windows and disputes with one bench."""

    def __init__(self, bench: Bench, fetcher: Fetcher, clock: Clock, jobs: Callable[[JobId], Job | None]) -> None:
        self._bench = bench
        self._fetcher = fetcher
        self._clock = clock
        self._jobs = jobs
        self._known: OrderedDict[tuple[JobId, int, StateRoot], StateRoot] = OrderedDict()
        """(job, segment, input root) -> output root, where this machine is sure: a panel may ask for it again."""
        self._unfinished: dict[Duty, WindowAttempt] = {}

    async def window(self, duty: Duty, segments: list[int]) -> Judgement:
        """What is to be said of these segments of the duty's window, before its verdict is due."""
        if (why := class_refusal(duty.offer, self._bench)) is not None:
            return Judgement(finding=Finding(kind=Verdict.ABSTAIN, reason=why))
        owner = owner_of(duty.job_id, f"{duty.draw.window}-{duty.draw.seed:028x}")
        attempt = WindowAttempt(duty, segments, self._bench, self._fetcher, self._jobs, owner)
        until = duty.seal_by - margin_s(duty.offer.verdict_window_s)
        try:
            judged, reason = await self._until(attempt.once, until, attempt.wanted)
        finally:
            with trio.CancelScope(shield=True):
                await self._fetcher.let_go(owner)
        for segment, roots in attempt.replayed().items():
            self._known[duty.job_id, segment, roots[0]] = roots[1]
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        if judged is not None:
            return judged
        if reason is None:
            self._unfinished[duty] = attempt
            return Judgement(
                finding=Finding(kind=Verdict.ABSTAIN, reason="time was up before the replay came to its end")
            )
        return await attempt.unavailable(reason)

    async def late(self, duty: Duty) -> Judgement | None:
        """Goes on with a window whose verdict came due first, until nobody could challenge it any more.

        A slow machine owes no verdict that it is not sure of, but a lie that it finds a little later is still a lie.
        None where `window` came to an end, or this time too was not enough.
        """
        attempt = self._unfinished.pop(duty, None)
        if attempt is None:
            return None
        until = duty.challenge_by - margin_s(duty.offer.challenge_window_s)
        try:
            judged, _ = await self._until(attempt.once, until, attempt.wanted)
        finally:
            with trio.CancelScope(shield=True):
                await self._fetcher.let_go(attempt.owner)
        return judged

    async def panel(self, duty: PanelDuty) -> tuple[Vote, str]:
        """This machine's vote on a disputed segment, and why."""
        if (why := class_refusal(duty.offer, self._bench)) is not None:
            return Vote.ABSTAIN, why
        owner = owner_of(duty.claim.job_id, f"panel-{duty.claim.segment}-{duty.round}")
        wanted = Wanted()

        async def once() -> tuple[Vote, str]:
            return await self._panel_once(duty, owner, wanted)

        until = duty.seal_by - margin_s(int(self._clock.left_s(duty.seal_by)))
        try:
            voted, reason = await self._until(once, until, wanted)
        except ReplayFailed as error:
            return Vote.ABSTAIN, error.message
        finally:
            with trio.CancelScope(shield=True):
                await self._fetcher.let_go(owner)
        if voted is not None:
            return voted
        if reason is None:
            return Vote.ABSTAIN, "time was up before the replay came to its end"
        return Vote.UNAVAILABLE, reason

    async def prefetch(self, job: Job, window: int) -> None:
        """Brings what every sample of a window needs before the draw; failures are of no consequence."""
        owner = owner_of(job.job_id, "ahead")
        try:
            trace = await self._fetcher.trace(job, window, job.roots[window])
            await JobFiles(self._fetcher, job.job_id, owner, Wanted()).inputs(trace.spec)
        except CheckpointUnavailable as error:
            _log.debug("ahead of the draw: %s", error.message)
        finally:
            with trio.CancelScope(shield=True):
                await self._fetcher.let_go(owner)

    async def _until(self, once: Callable[[], Awaitable[T]], until: int, wanted: Wanted) -> tuple[T | None, str | None]:
        """The first result before `until`; else why nobody can be expected to have it, or None where it was our time.

        Time is up when a block says so, or when the clock does where blocks are rare.
        """
        result: T | None = None
        reason, pause_s, total_s = "", PAUSE_FIRST_S, self._clock.left_s(until)
        with trio.move_on_after(total_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, self._clock, until, nursery.cancel_scope)
                while result is None:
                    try:
                        result = await once()
                    except CheckpointUnavailable as error:
                        if reason != error.message:
                            _log.info("%s; trying on", error.message)
                        reason = error.message
                        wanted.for_("the right checkpoint")
                        await trio.sleep(pause_s)
                        pause_s = min(PAUSE_MOST_S, 2 * pause_s)
                nursery.cancel_scope.cancel()
        return result, None if wanted.what is None else reason or wanted.waited_in_vain(total_s)

    async def _panel_once(self, duty: PanelDuty, owner: str, wanted: Wanted) -> tuple[Vote, str]:
        claim = duty.claim
        known = self._known.get((claim.job_id, claim.segment, claim.input_root))
        if known is not None and claim.claimed_root != NOBODY_SERVES:
            vote = vote_of(output_root=claim.output_root, claimed_root=claim.claimed_root, replayed=known, again=known)
            return vote, f"segment {claim.segment} gave {known.hex()[:16]} here before"
        job = self._jobs(claim.job_id)
        window = claim.segment // duty.offer.segments_per_window
        if job is None or window not in job.roots:
            raise CheckpointUnavailable(f"window {window} of job {claim.job_id.hex()[:12]} is not known")
        wanted.for_("the trace")
        trace = await self._fetcher.trace(job, window, job.roots[window])
        files = JobFiles(self._fetcher, claim.job_id, owner, wanted)
        inputs = await files.inputs(trace.spec)
        start = await start_of(files, claim.segment, trace.start_of(claim.segment))
        wanted.got()
        replayed = await self._bench.replay(inputs, claim.segment, start, claim.input_root)
        again = None
        if replayed.root not in (claim.output_root, claim.claimed_root):
            again = (await self._bench.replay(inputs, claim.segment, start, claim.input_root)).root
        vote = vote_of(
            output_root=claim.output_root, claimed_root=claim.claimed_root, replayed=replayed.root, again=again
        )
        if claim.claimed_root == NOBODY_SERVES and vote is Vote.WORKER:
            # The dispute says that nobody serves the checkpoints: the one at the end must be there as well.
            end = trace.entry(claim.segment).checkpoint
            await files.checkpoint(end)
            if end != replayed.checkpoint:
                raise CheckpointUnavailable(f"content {end.hex()[:16]} is not the state after segment {claim.segment}")
        replayed_root = replayed.root
        return vote, f"segment {claim.segment} gives {replayed_root.hex()[:16]} here"


async def _cancel_when(clock: Clock, ts: int, scope: trio.CancelScope) -> None:
    await clock.after(ts)
    scope.cancel()


async def files_of(manifest: Path) -> list[ContentId]:
    """Content ids of the files that a data set's manifest names; the child checks the rest of it.

    Raises:
        CheckpointUnavailable: it is no manifest: nobody can run this job.
    """
    try:
        raw = await trio.Path(manifest).read_bytes()
        value = parse_canonical_json(raw, max_bytes=MAX_MANIFEST_BYTES)
        names = [item["content"] for item in value["files"]]
        if len(names) > MAX_DATA_FILES or not all(re.fullmatch("[0-9a-f]{64}", name) for name in names):
            raise ValueError(f"{len(names)} files")
    except (RemoteViolation, KeyError, TypeError, ValueError) as error:
        raise CheckpointUnavailable(f"the data set's manifest cannot be read: {error}") from error
    return [ContentId(bytes.fromhex(name)) for name in names]


class JobFiles:
    """The files of one job, pinned for one owner; the Source that replay.py asks."""

    def __init__(self, fetcher: Fetcher, job_id: JobId, owner: str, wanted: Wanted) -> None:
        self._fetcher = fetcher
        self._wanted = wanted
        self._job_id = job_id
        self._owner = owner

    async def inputs(self, spec: JobSpec) -> Inputs:
        """Program and data set of the spec."""
        program = await self._file(spec.program)
        dataset = await self._file(spec.dataset)
        files = [await self._file(content_id) for content_id in await files_of(dataset)]
        initial = None if spec.initial_tensors is None else await self._file(spec.initial_tensors)
        return Inputs(spec=spec, program=program, dataset=dataset, files=tuple(files), initial_tensors=initial)

    async def checkpoint(self, content_id: ContentId) -> Path:
        """A checkpoint's file; its root is still to be checked."""
        return await self._file(content_id)

    async def _file(self, content_id: ContentId) -> Path:
        self._wanted.for_(f"content {content_id.hex()[:16]}")
        await self._fetcher.content(self._job_id, content_id, self._owner)
        self._wanted.got()
        return self._fetcher.blobs.path_of(content_id)


class WindowAttempt:
    """What is kept between tries at one window: traces that came, segments that matched."""

    def __init__(
        self,
        duty: Duty,
        segments: list[int],
        bench: Bench,
        fetcher: Fetcher,
        jobs: Callable[[JobId], Job | None],
        owner: str,
    ) -> None:
        self._duty = duty
        self._segments = segments
        self._bench = bench
        self._fetcher = fetcher
        self._jobs = jobs
        self.owner = owner
        self.wanted = Wanted()
        self._files = JobFiles(fetcher, duty.job_id, owner, self.wanted)
        self._trace: CheckedTrace | None = None
        self._previous: CheckedTrace | None = None
        self._replay: Replay | None = None

    async def once(self) -> Judgement:
        """One try. Raises CheckpointUnavailable where something is missing."""
        if self._replay is None:
            self._replay = await self._prepared()
        finding = await self._replay.judge(self._segments)
        if finding.kind is not Verdict.MISMATCH:
            return Judgement(finding=finding)
        charge = "discontinuity" if finding.is_break else "mismatch"
        return Judgement(finding=finding, evidence=self.evidence(charge, finding))

    def replayed(self) -> dict[int, tuple[StateRoot, StateRoot]]:
        """Roots before and after each segment that this machine is sure of."""
        if self._trace is None or self._replay is None:
            return {}
        entries = {segment: self._trace.entry(segment) for segment in self._replay.sure}
        return {segment: (entries[segment].input_root, root) for segment, root in self._replay.sure.items()}

    async def unavailable(self, reason: str) -> Judgement:
        """The judgement once time is up and something was never served."""
        if not self._fetcher.is_connected():
            return Judgement(
                finding=Finding(kind=Verdict.ABSTAIN, reason=f"this verifier is connected to nobody; {reason}")
            )
        at = None if self._replay is None else self._replay.at
        segment = self._segments[0] if at is None else at
        finding = Finding(kind=Verdict.UNAVAILABLE, segment=segment, has_opening=self._trace is not None, reason=reason)
        if self._trace is not None and at is None:
            # Missing is the job's program or data, or the trace of the window before: nothing that this window's
            # segments could be charged with.
            return Judgement(finding=finding)
        charge = "withheld" if self._trace is None else "unavailable"
        return Judgement(finding=finding, evidence=self.evidence(charge, finding))

    async def _prepared(self) -> Replay:
        duty, window = self._duty, self._duty.draw.window
        job = self._jobs(duty.job_id)
        if job is None:
            raise CheckpointUnavailable(f"job {duty.job_id.hex()[:12]} is not known any more")
        self.wanted.for_(f"the trace of window {window}")
        if self._trace is None:
            self._trace = await self._fetcher.trace(job, window, duty.draw.root)
        before: StateRoot = duty.offer.initial_root
        if window > 0:
            if self._previous is None:
                self.wanted.for_(f"the trace of window {window - 1}")
                self._previous = await self._fetcher.trace(job, window - 1, job.roots[window - 1])
            before = self._previous.ends_at
        self.wanted.got()
        return Replay(self._bench, self._files, offer=duty.offer, trace=self._trace, before=before)

    def evidence(self, charge: str, finding: Finding) -> Evidence:
        """What an accusation rests on."""
        duty, trace, segment = self._duty, self._trace, finding.segment
        return Evidence(
            job_id=duty.job_id,
            segment=segment,
            charge=charge,
            stage=FOUND,
            offer=duty.offer,
            window_root=duty.draw.root,
            spec=b"" if trace is None else trace.spec.encode(),
            opening=None if trace is None else trace.opening(segment),
            before=self._before(segment),
            replayed_root=finding.replayed_root or NOBODY_SERVES,
            start_checkpoint=None if trace is None else trace.start_of(segment),
            end_checkpoint=None if trace is None else trace.entry(segment).checkpoint,
            fingerprint=self._bench.fingerprint,
            message=finding.reason,
        )

    def _before(self, segment: int) -> Opening | None:
        """The opening of the segment before, in this window or the one before it."""
        if self._trace is None or segment == 0:
            return None
        if segment > self._trace.first:
            return self._trace.opening(segment - 1)
        return None if self._previous is None else self._previous.opening(segment - 1)
