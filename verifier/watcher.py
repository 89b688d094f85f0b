"""Events seen -> duties due: a fold over the market's log, without I/O and without a clock.

It keeps what a verifier must know of everybody's jobs: terms, roots, draws, who said what, where disputes stand, and
who sits behind which peer id. Three things come out of it: a `Duty` when this verifier is drawn for a window (or may
watch one), a `PanelDuty` when it is drawn into a dispute's panel, and the facts that pokes.py acts on.

The same events give the same facts, so after a crash or a reorganisation the whole is folded again from the chain.
Final jobs are forgotten once nothing can be claimed about them. Next in the flow: duty.py, panelist.py, pokes.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tolsey.contracts import events as ev
from tolsey.contracts.views import Opening
from tolsey.protocol.lifecycle import FINAL, LIVE, State
from tolsey.protocol.offer import Offer
from tolsey.protocol.sampling import drawn_verifier_ids
from tolsey.protocol.units import Account, ClassId, JobId, PeerId, WindowRoot

Binding = ev.WorkerRegistered | ev.VerifierRegistered
OPEN_TO_CHALLENGE = frozenset({State.DRAWN, State.DEMANDED, State.CHALLENGED})
"""A window in these states is challenged, or will be open to it again."""
MAX_FINAL_JOBS = 1_024
"""Jobs that ended and are still remembered, for penalties and for `status`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One draw of a window. Times are unix seconds of block time."""

    window: int
    root: WindowRoot
    seed: int
    pool_size: int
    drawn_at: int
    block_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """A window to judge. `is_drawn` is False for one that is only watched."""

    job_id: JobId
    offer: Offer
    draw: Draw
    is_drawn: bool

    @property
    def seal_by(self) -> int:
        """Last moment for sealing a verdict; revealing is from then on."""
        return self.draw.drawn_at + self.offer.verdict_window_s

    @property
    def reveal_by(self) -> int:
        """Last moment for revealing it."""
        return self.draw.drawn_at + 2 * self.offer.verdict_window_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelDuty:
    """A dispute to vote on."""

    claim: ev.Claim
    offer: Offer
    round: int
    seal_by: int
    reveal_by: int


@dataclass(slots=True)
class Dispute:
    """Where a dispute stands. `phase` is "drawing", "voting" or "closed"."""

    claim: ev.Claim
    phase: str = "drawing"
    round: int = 0
    since_block: int = 0
    draw_until: int = 0
    seal_until: int = 0
    reveal_until: int = 0
    panel: tuple[Account, ...] = ()
    is_refuted: bool = False
    revealed: set[Account] = field(default_factory=set)


@dataclass(slots=True)
class Job:
    """What the log says of one job.

    Attributes:
        opened: segments of the window in work that a demand made their worker open. challenged: of the job, those that
            were before the judge; none is a second time.
    """

    job_id: JobId
    offer: Offer
    state: State
    window: int
    deadline: int
    roots: dict[int, WindowRoot] = field(default_factory=dict)
    draw: Draw | None = None
    sealed: set[Account] = field(default_factory=set)
    verdicts: dict[tuple[int, Account], ev.VerdictRevealed] = field(default_factory=dict)
    draws: dict[int, Draw] = field(default_factory=dict)
    opened: dict[int, Opening] = field(default_factory=dict)
    challenged: set[int] = field(default_factory=set)
    slashed_segment: int | None = None
    penalized: set[tuple[ev.Fault, Account]] = field(default_factory=set)

    def is_open(self, draw: Draw) -> bool:
        """Whether what is found of this draw's window can still be brought against it, now or after a dispute."""
        return self.draw == draw and self.state in OPEN_TO_CHALLENGE

    def opening(self) -> Opening | None:
        """An opening of the window in work that is on chain and can be challenged; None where there is none."""
        left = [opening for segment, opening in self.opened.items() if segment not in self.challenged]
        return left[0] if left else None


@dataclass(slots=True)
class Seat:
    """A verifier's place in the pool of a class."""

    account: Account
    id: int
    since_ts: int
    leaving_since: int | None = None
    secret: bytes | None = None


class Watcher:
    """The fold.

    Args:
        account: whose duties these are.
        is_bound: whether the peer id in a registration is signed by that peer.
        watch_all: also give duties for windows it is not drawn for, in classes it sits in.
    """

    def __init__(self, account: Account, *, is_bound: Callable[[Binding], bool], watch_all: bool = False) -> None:
        self.account = account
        self.jobs: dict[JobId, Job] = {}
        self.disputes: dict[bytes, Dispute] = {}
        self.seats: dict[ClassId, dict[Account, Seat]] = {}
        self.peers: dict[Account, PeerId] = {}
        self.earned: Counter[str] = Counter()
        """Token units by source: "verdicts", "finds", "panels", "penalties" (taken from others), "fined" (negative)."""
        self.position = (-1, -1)
        """Place of the last event folded."""
        self._is_bound = is_bound
        self._watch_all = watch_all
        self._closed: list[JobId] = []

    def my_seat(self, class_id: ClassId) -> Seat | None:
        """This verifier's seat in the class, or None."""
        return self.seats.get(class_id, {}).get(self.account)

    def drawn(self, job: Job, draw: Draw) -> list[Seat]:
        """The verifiers that owe a verdict on the window of this draw."""
        ids = set(drawn_verifier_ids(draw.seed, draw.pool_size, job.offer.verifier_count))
        seats = self.seats.get(job.offer.class_id, {}).values()
        return [seat for seat in seats if seat.id in ids and seat.since_ts < draw.drawn_at]

    def apply(self, event: ev.Event) -> list[Duty | PanelDuty]:
        """Folds one event; returns what this verifier now owes. An event folded before changes nothing."""
        if event.position <= self.position:
            return []
        self.position = event.position
        if isinstance(event, ev.JobEvent):
            return self._apply_job(event)
        if isinstance(event, ev.DisputeOpened | ev.RoundOpened | ev.PanelDrawn | ev.VoteRevealed | ev.DisputeClosed):
            return self._apply_dispute(event)
        self._apply_other(event)
        return []

    # jobs

    def _apply_job(self, event: ev.JobEvent) -> list[Duty | PanelDuty]:
        if isinstance(event, ev.JobAccepted):
            self.jobs[event.job_id] = Job(event.job_id, event.offer, event.after, event.window, event.deadline)
            return []
        job = self.jobs.get(event.job_id)
        if job is None:  # an offer revoked before anybody accepted it
            return []
        job.state, job.window, job.deadline = event.after, event.window, event.deadline
        if isinstance(event, ev.WindowCommitted):
            job.roots[event.window], job.opened = event.root, {}
        elif isinstance(event, ev.WindowDrawn):
            return self._drawn(job, event)
        elif isinstance(event, ev.SegmentAnswered):
            job.opened[event.segment] = _opening_in(event)
        elif isinstance(event, ev.SegmentChallenged):
            job.challenged.add(event.segment)
        elif isinstance(event, ev.JobSlashed):
            job.slashed_segment = event.segment
            self._earn_slash(event)
        elif isinstance(event, ev.ChallengeFailed) and self.account in event.panel:
            self.earned["panels"] += event.to_panel // len(event.panel)
        if event.after in FINAL:
            self._forget_later(event.job_id)
        return []

    def _drawn(self, job: Job, event: ev.WindowDrawn) -> list[Duty | PanelDuty]:
        draw = Draw(
            window=event.window,
            root=job.roots[event.window],
            seed=event.seed,
            pool_size=event.pool_size,
            drawn_at=event.ts,
            block_number=event.block_number,
        )
        job.draw, job.sealed = draw, set()
        job.draws[event.window] = draw
        seat = self.my_seat(job.offer.class_id)
        if seat is None:
            return []
        is_drawn = seat.leaving_since is None and seat in self.drawn(job, draw)
        if not is_drawn and not self._watch_all:
            return []
        return [Duty(job_id=job.job_id, offer=job.offer, draw=draw, is_drawn=is_drawn)]

    def _earn_slash(self, event: ev.JobSlashed) -> None:
        if event.finder == self.account:
            self.earned["finds"] += event.to_finder
        if self.account in event.panel:
            self.earned["panels"] += event.to_panel // len(event.panel)

    def _forget_later(self, job_id: JobId) -> None:
        self._closed.append(job_id)
        while len(self._closed) > MAX_FINAL_JOBS:
            gone = self._closed.pop(0)
            self.jobs.pop(gone, None)
            for dispute_id in [d for d, dispute in self.disputes.items() if dispute.claim.job_id == gone]:
                del self.disputes[dispute_id]

    # disputes

    def _apply_dispute(self, event: ev.Event) -> list[Duty | PanelDuty]:
        if isinstance(event, ev.DisputeOpened):
            self.disputes[event.dispute_id] = Dispute(claim=event.claim, since_block=event.block_number)
            return []
        dispute = self.disputes.get(event.dispute_id)  # type: ignore[attr-defined]  # apply() lets only such pass
        if dispute is None:
            return []
        if isinstance(event, ev.RoundOpened):
            dispute.phase, dispute.round, dispute.since_block = "drawing", event.round, event.block_number
            dispute.draw_until, dispute.panel, dispute.revealed = event.draw_until, (), set()
        elif isinstance(event, ev.PanelDrawn):
            dispute.phase, dispute.round, dispute.panel = "voting", event.round, event.panel
            dispute.seal_until, dispute.reveal_until = event.seal_until, event.reveal_until
            return self._panel_duty(dispute)
        elif isinstance(event, ev.VoteRevealed):
            dispute.revealed.add(event.voter)
        elif isinstance(event, ev.DisputeClosed):
            dispute.phase, dispute.is_refuted = "closed", event.match_refuted
        return []

    def _panel_duty(self, dispute: Dispute) -> list[Duty | PanelDuty]:
        job = self.jobs.get(dispute.claim.job_id)
        if self.account not in dispute.panel or job is None:
            return []
        return [
            PanelDuty(
                claim=dispute.claim,
                offer=job.offer,
                round=dispute.round,
                seal_by=dispute.seal_until,
                reveal_by=dispute.reveal_until,
            )
        ]

    # everything else

    def _apply_other(self, event: ev.Event) -> None:
        if isinstance(event, ev.VerdictSealed):
            if (job := self.jobs.get(event.job_id)) is not None:
                job.sealed.add(event.verifier)
        elif isinstance(event, ev.VerdictRevealed):
            if (job := self.jobs.get(event.job_id)) is not None:
                job.verdicts[event.window, event.verifier] = event
            if event.verifier == self.account:
                self.earned["verdicts"] += event.paid
        elif isinstance(event, ev.Penalized):
            self._penalized(event)
        elif isinstance(event, ev.WorkerRegistered):
            self._bind(event)
        elif isinstance(event, ev.VerifierRegistered):
            self._bind(event)
            pool = self.seats.setdefault(event.class_id, {})
            pool[event.account] = Seat(account=event.account, id=event.id, since_ts=event.ts)
        elif isinstance(event, ev.VerifierExitRequested):
            if (seat := self.seats.get(event.class_id, {}).get(event.account)) is not None:
                seat.leaving_since, seat.secret = event.ts, event.secret
        elif isinstance(event, ev.VerifierBondWithdrawn):
            self.seats.get(event.class_id, {}).pop(event.account, None)

    def _bind(self, event: Binding) -> None:
        if self._is_bound(event):
            self.peers[event.account] = event.peer_id

    def _penalized(self, event: ev.Penalized) -> None:
        job = self.jobs.get(JobId(event.subject))
        if job is not None:
            job.penalized.add((event.fault, event.verifier))
        if event.caller == self.account:
            self.earned["penalties"] += event.to_caller
        if event.verifier == self.account:
            self.earned["fined"] -= event.to_caller + event.burned

    def live_jobs(self) -> list[Job]:
        """Jobs that still move."""
        return [job for job in self.jobs.values() if job.state in LIVE]


def _opening_in(event: ev.SegmentAnswered) -> Opening:
    return Opening(
        segment=event.segment,
        input_root=event.input_root,
        output_root=event.output_root,
        siblings=tuple(event.proof),
    )
