"""From a window or a dispute to a finding, in time: fetch, replay, try again elsewhere, give up before it is too late.

Patience is the point. One failed fetch is nobody's guilt, so everything that is missing is asked for again, from every
source, with growing pauses, until shortly before the verdict must be sealed; only then "unavailable" is said. Who is
cut off from everybody says nothing of others.

A verdict that came due too early is not the end: as long as the window can be challenged, `late` goes on. There too
"unavailable" is said last, and of a worker that hides even its trace once it was made to open a segment on chain.

Next in the flow: duty.py and panelist.py.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import trio

from tolsey.contracts.views import NOBODY, Claim
from tolsey.errors import CheckpointUnavailable
from tolsey.protocol.lifecycle import State, Verdict, Vote
from tolsey.protocol.sampling import dispute_id
from tolsey.protocol.units import JobId, StateRoot
from tolsey.verifier.attempt import Judgement, PanelAttempt, WindowAttempt
from tolsey.verifier.clock import Clock
from tolsey.verifier.compare import NOBODY_SERVES, Finding
from tolsey.verifier.fetch import Fetcher, NoRoomHere, owner_of
from tolsey.verifier.files import JobFiles, Wanted
from tolsey.verifier.records import WEIGHT, Evidence
from tolsey.verifier.replay import Bench, Progress, ReplayFailed, class_refusal, memory_refusal
from tolsey.verifier.watcher import Duty, Job, PanelDuty

PAUSE_FIRST_S, PAUSE_MOST_S = 0.5, 60.0
PAUSE_SHARE = 0.25
"""Of the time left, at most: the last try must come near the end."""
MARGIN_SHARE, MARGIN_LEAST_S, MARGIN_MOST_S = 0.15, 3, 600
"""Time kept for the sealing transaction: a share of the window, a few blocks at least, ten minutes at most."""
CHALLENGE_TRANSACTIONS = 2
"""A challenge is sealed, and opened in a later block: twice that time is kept for it."""
NEVER = 1 << 62
NO_ROUND = -1
MAX_KNOWN = 4_096

T = TypeVar("T")
_log = logging.getLogger(__name__)


def margin_s(window_s: int) -> int:
    """Seconds before the end of a sealing period at which judging stops."""
    return int(min(MARGIN_MOST_S, max(MARGIN_LEAST_S, MARGIN_SHARE * window_s)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Generic[T]):
    """How trying ended.

    Attributes:
        result: None where time was up first.
        missing: then why nobody can be expected to have what is missing; None where the time was this machine's own.
        trouble: what kept this machine from it, for people.
    """

    result: T | None
    missing: str | None
    trouble: str


class Judge:
    """Judges windows and disputes with one bench."""

    def __init__(self, bench: Bench, fetcher: Fetcher, clock: Clock, jobs: Callable[[JobId], Job | None]) -> None:
        self._bench = bench
        self._fetcher = fetcher
        self._clock = clock
        self._jobs = jobs
        self._known: OrderedDict[tuple[JobId, int, StateRoot], StateRoot] = OrderedDict()
        """(job, segment, input root) -> output root, where this machine is sure: a panel may ask for it again."""
        self._unfinished: dict[Duty, Progress] = {}

    async def window(self, duty: Duty, segments: list[int]) -> Judgement:
        """What is to be said of these segments of the duty's window, before its verdict is due."""
        if (why := class_refusal(duty.offer, self._bench)) is not None:
            return Judgement(finding=Finding(kind=Verdict.ABSTAIN, reason=why))
        attempt = self.attempt(duty, segments)
        until = duty.seal_by - margin_s(duty.offer.verdict_window_s)
        ended = await self._letting_go(attempt.owner, attempt.once, lambda: until, attempt.wanted)
        self._remember(duty, attempt)
        if ended.result is not None:
            return ended.result
        self._unfinished[duty] = attempt.progress
        if ended.missing is not None:
            return attempt.unavailable(ended.missing)
        return Judgement(finding=Finding(kind=Verdict.ABSTAIN, reason=ended.trouble), is_final=False)

    async def late(self, duty: Duty, segments: list[int], *, said: Collection[str]) -> Evidence | None:
        """Goes on with a window whose verdict came due first, until nobody could challenge it any more.

        A slow machine owes no verdict that it is not sure of, but a lie that it finds a little later is still a lie.
        None where nothing is found that can be charged.

        Args:
            said: charges that were brought against the window. That something is missing is not said twice, for each
                time a bond is staked on it; where a worker served the panel alone, its members serve others now.
        """
        attempt = self.attempt(duty, segments)
        until = partial(self._challenge_until, duty)
        while (job := self._jobs(duty.job_id)) is not None and job.is_open(duty.draw):
            if self._clock.left_s(until()) > 0:
                ended = await self._letting_go(attempt.owner, attempt.once, until, attempt.wanted)
                self._remember(duty, attempt)
                if ended.result is not None:
                    return ended.result.evidence
                found = None if ended.missing is None else attempt.unavailable(ended.missing).evidence
                if found is not None and all(WEIGHT[found.charge] > WEIGHT[charge] for charge in said):
                    return found
            await self._clock.block()  # a dispute may put the end off
        return None

    async def panel(self, duty: PanelDuty) -> tuple[Vote, str]:
        """This machine's vote on a disputed segment, and why."""
        return await self._vote(duty, duty.seal_by - margin_s(int(self._clock.left_s(duty.seal_by))))

    async def again(self, item: Evidence, challenge_by: int) -> tuple[Vote, str]:
        """What this machine would vote, were it on the panel, on a segment that it called unavailable a while ago."""
        assert item.opening is not None, "such a charge comes with its opening"
        claim = Claim(
            dispute_id=dispute_id(item.job_id, item.segment),
            job_id=item.job_id,
            spec_hash=item.offer.spec_hash,
            class_id=item.offer.class_id,
            client=item.offer.client,
            worker=item.offer.worker,
            challenger=NOBODY,
            segment=item.segment,
            input_root=item.opening.input_root,
            output_root=item.opening.output_root,
            claimed_root=NOBODY_SERVES,
        )
        duty = PanelDuty(claim=claim, offer=item.offer, round=NO_ROUND, seal_by=challenge_by, reveal_by=challenge_by)
        return await self._vote(duty, challenge_by - CHALLENGE_TRANSACTIONS * margin_s(item.offer.verdict_window_s))

    async def finds_trace(self, item: Evidence) -> bool:
        """Whether anybody serves the trace that was withheld a while ago."""
        job, window = self._jobs(item.job_id), item.segment // item.offer.segments_per_window
        if job is None:
            return False
        try:
            await self._fetcher.trace(job, window, item.window_root)
        except CheckpointUnavailable:
            return False
        return True

    async def prefetch(self, job: Job, window: int) -> None:
        """Brings what every sample of a window needs before the draw; failures are of no consequence."""
        owner = owner_of(job.job_id, "ahead")
        try:
            trace = await self._fetcher.trace(job, window, job.roots[window])
            if memory_refusal(trace.spec, self._bench) is None:
                await JobFiles(self._fetcher, job.job_id, owner, Wanted(self._clock.passed_s)).inputs(trace.spec)
        except (CheckpointUnavailable, NoRoomHere) as error:
            _log.debug("ahead of the draw: %s", error.message)
        finally:
            with trio.CancelScope(shield=True):
                await self._fetcher.let_go(owner)

    def attempt(self, duty: Duty, segments: list[int]) -> WindowAttempt:
        """A new attempt, which begins where an earlier one of this process stopped."""
        owner = owner_of(duty.job_id, f"{duty.draw.window}-{duty.draw.seed:028x}")
        progress = self._unfinished.pop(duty, None)
        return WindowAttempt(
            duty, segments, self._bench, self._fetcher, self._jobs, owner, now_s=self._clock.passed_s, progress=progress
        )

    async def _vote(self, duty: PanelDuty, until: int) -> tuple[Vote, str]:
        if (why := class_refusal(duty.offer, self._bench)) is not None:
            return Vote.ABSTAIN, why
        attempt = PanelAttempt(duty, self._bench, self._fetcher, self._jobs, self._known, now_s=self._clock.passed_s)
        try:
            ended = await self._letting_go(attempt.owner, attempt.once, lambda: until, attempt.wanted)
        except ReplayFailed as error:
            return Vote.ABSTAIN, error.message
        if ended.result is not None:
            return ended.result
        if ended.missing is None:
            return Vote.ABSTAIN, ended.trouble
        if not self._fetcher.is_connected():
            return Vote.ABSTAIN, f"this verifier is connected to nobody; {ended.missing}"
        return Vote.UNAVAILABLE, ended.missing

    def _remember(self, duty: Duty, attempt: WindowAttempt) -> None:
        for segment, roots in attempt.replayed().items():
            self._known[duty.job_id, segment, roots[0]] = roots[1]
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _challenge_until(self, duty: Duty) -> int:
        """The last moment for what is to be brought against the window; a dispute stops the clock."""
        job = self._jobs(duty.job_id)
        if job is None or not job.is_open(duty.draw):
            return 0
        if job.state is not State.DRAWN:
            return NEVER
        return job.deadline - CHALLENGE_TRANSACTIONS * margin_s(duty.offer.verdict_window_s)

    async def _letting_go(
        self, owner: str, once: Callable[[], Awaitable[T]], until: Callable[[], int], wanted: Wanted
    ) -> Ended[T]:
        """`_until`, after which nothing is pinned for `owner` any more."""
        try:
            return await self._until(once, until, wanted)
        finally:
            with trio.CancelScope(shield=True):
                await self._fetcher.let_go(owner)

    async def _until(self, once: Callable[[], Awaitable[T]], until: Callable[[], int], wanted: Wanted) -> Ended[T]:
        """The first result before `until`, which is asked anew with every block."""
        result: T | None = None
        said, trouble = "", "time was up before the replay came to its end"
        pause_s = PAUSE_FIRST_S
        wanted.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_up, until, nursery.cancel_scope)
            while result is None:
                try:
                    result = await once()
                    break
                except CheckpointUnavailable as error:
                    if said != error.message:
                        _log.info("%s; trying on", error.message)
                    said = error.message
                    wanted.refused(error.message)
                except NoRoomHere as error:
                    _log.warning("%s; trying on", error.message)
                    trouble = error.message
                    wanted.own_trouble()
                await self._pause(min(pause_s, PAUSE_SHARE * self._clock.left_s(until())), until)
                pause_s = min(PAUSE_MOST_S, 2 * pause_s)
            nursery.cancel_scope.cancel()
        return Ended(result=result, missing=wanted.blame(), trouble=trouble)

    async def _pause(self, pause_s: float, until: Callable[[], int]) -> None:
        """Between two tries, by blocks or by the machine, whichever is sooner.

        Over at once where a dispute has moved the end: who was silent may have begun to serve.
        """
        pause_s = max(pause_s, PAUSE_FIRST_S)
        before, over_ts = until(), self._clock.now_ts + pause_s
        with trio.move_on_after(pause_s):
            while until() == before and self._clock.now_ts < over_ts:
                await self._clock.block()

    async def _cancel_when_up(self, until: Callable[[], int], scope: trio.CancelScope) -> None:
        await self._clock.up(until)
        scope.cancel()
