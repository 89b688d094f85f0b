"""The market rebuilt from its logs alone: accounts, jobs, registrations, disputes. Anybody can do this, and must agree.

A pure fold: `apply` each event in order, nothing is asked of the chain. Money moves exactly as docs/protocol.md section
3 says, by the amounts in the logs; rules.py works the same amounts out from the offers, and where log and rule disagree
the sentence stands in `faults` (as does a seed that its parts do not give, or an account below zero). An honest market
has none. audit.py compares the result with the contract's storage.

Next in the flow: audit.py; `tolsey audit --all`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tolsey.contracts import events as ev
from tolsey.contracts import rules
from tolsey.contracts.entries import (
    Balance,
    DisputeRecord,
    JobRecord,
    RegistrationRecord,
    RoundRecord,
    VerdictRecord,
    WindowRecord,
)
from tolsey.contracts.views import BURN, NOBODY
from tolsey.protocol.lifecycle import State
from tolsey.protocol.units import Account, ClassId, JobId, TokenUnits


class Book:
    """The state of one market after the events applied so far.

    Args:
        treasury: gets the protocol fee (Params.treasury; never in a log by itself).

    Attributes:
        accounts: by account; jobs: by id; workers: by account; verifiers: by (class, account); disputes: by id.
        faults: a sentence for everything that the protocol does not allow.
        block_number: of the last event. paid, slashed, burned: sums over all jobs, token units.
    """

    def __init__(self, treasury: Account = NOBODY) -> None:
        self._treasury = treasury
        self._events: list[ev.Event] = []
        self._clear()

    @classmethod
    def of(cls, events: Iterable[ev.Event], treasury: Account = NOBODY) -> Book:
        """The book after these events."""
        book = cls(treasury)
        for event in events:
            book.apply(event)
        return book

    def apply(self, event: ev.Event) -> None:
        """Takes one event in; they come in the order of `Event.position`, and one that came before changes nothing."""
        if self._events and event.position <= self._events[-1].position:
            return
        self._events.append(event)
        self._fold(event)

    def rewind(self, from_block: int) -> None:
        """Forgets everything from a block on, after a reorganisation."""
        kept = [event for event in self._events if event.block_number < from_block]
        self._events = []
        self._clear()
        for event in kept:
            self.apply(event)

    def account(self, who: Account) -> tuple[TokenUnits, TokenUnits]:
        """(free, locked), as the contract's `account` gives it."""
        balance = self.accounts.get(who, Balance())
        return TokenUnits(balance.free), TokenUnits(balance.locked)

    @property
    def held(self) -> int:
        """What the market must hold in tokens: the sum over all accounts."""
        return sum(balance.free + balance.locked for balance in self.accounts.values())

    def _clear(self) -> None:
        self.accounts: dict[Account, Balance] = {}
        self.jobs: dict[JobId, JobRecord] = {}
        self.workers: dict[Account, RegistrationRecord] = {}
        self.verifiers: dict[tuple[ClassId, Account], RegistrationRecord] = {}
        self.disputes: dict[bytes, DisputeRecord] = {}
        self.faults: list[str] = []
        self.block_number = 0
        self.paid = self.slashed = self.burned = 0

    def _fold(self, event: ev.Event) -> None:
        self.block_number = event.block_number
        try:
            if isinstance(event, ev.JobEvent):
                self._step(event)
            _FOLDS[type(event)](self, event)
        except (LookupError, AssertionError):
            kind = type(event).__name__
            self.faults.append(f"block {event.block_number}: {kind} tells of something that no earlier log made")

    def _nothing(self, event: ev.Event) -> None:
        pass  # a seal of a challenge or a vote: its opening tells

    # money

    def _lock(self, who: Account, amount: int) -> None:
        """Free to locked."""
        self._add(who, free=-amount, locked=amount)

    def _unlock(self, who: Account, amount: int) -> None:
        """Locked to free."""
        self._add(who, free=amount, locked=-amount)

    def _pay(self, payer: Account, to: Account, amount: int) -> None:
        """Locked of one to free of another, who may be the same."""
        self._add(payer, locked=-amount)
        self._add(to, free=amount)

    def _add(self, who: Account, *, free: int = 0, locked: int = 0) -> None:
        if not free and not locked:
            return
        balance = self.accounts.setdefault(who, Balance())
        balance.free += free
        balance.locked += locked
        if balance.free < 0 or balance.locked < 0:
            self.faults.append(f"block {self.block_number}: {who} has {balance.free} free, {balance.locked} locked")

    def _burn(self, payer: Account, amount: int) -> None:
        self._pay(payer, BURN, amount)
        self.burned += amount

    # jobs

    def _step(self, event: ev.JobEvent) -> None:
        """What every state change has: the job stands where the event says, and stood where it says."""
        job = self.jobs.get(event.job_id)
        if job is None:
            offer = event.offer if isinstance(event, ev.JobAccepted) else None
            if event.before is not State.NONE:
                self.faults.append(f"job {event.job_id.hex()[:16]} begins as {event.before.name}")
            job = JobRecord(
                job_id=event.job_id, offer=offer, state=State.NONE, window=event.window, deadline=event.deadline
            )
            self.jobs[event.job_id] = job
        elif job.state is not event.before:
            self.faults.append(
                f"job {event.job_id.hex()[:16]} stood at {job.state.name}, its next log says {event.before.name}"
            )
        self._expect(event, rules.due(event, job))
        job.state, job.window, job.deadline = event.after, event.window, event.deadline

    def _accepted(self, event: ev.JobAccepted) -> None:
        self._lock(event.offer.client, event.offer.escrow)
        self._lock(event.offer.worker, event.offer.bond)

    def _revoked(self, event: ev.OfferRevoked) -> None:
        self.jobs[event.job_id].closed = event

    def _committed(self, event: ev.WindowCommitted) -> None:
        self.jobs[event.job_id].windows[event.window] = WindowRecord(root=event.root, committed_at=event.ts)

    def _drawn(self, event: ev.WindowDrawn) -> None:
        window = self.jobs[event.job_id].windows[event.window]
        window.seed, window.pool_size, window.drawn_at = event.seed, event.pool_size, event.ts
        window.secret = event.secret
        fault = rules.why_not_drawn(event, self.jobs[event.job_id].terms, window.root)
        if fault is not None:
            self.faults.append(fault)

    def _settled(self, event: ev.WindowSettled) -> None:
        job = self.jobs[event.job_id]
        window = job.windows[event.window - 1]
        window.price, window.fee = event.paid + event.fee, event.fee
        self._pay(job.terms.client, job.terms.worker, event.paid)
        self._pay(job.terms.client, self._treasury, event.fee)
        self._unlock(job.terms.client, event.escrow_returned)
        self._unlock(job.terms.worker, event.bond_returned)
        self.paid += event.paid
        if event.after is State.COMPLETED:
            job.closed = event

    def _cancelled(self, event: ev.JobCancelled) -> None:
        job = self.jobs[event.job_id]
        self._pay(job.terms.client, job.terms.worker, event.to_worker)
        self._unlock(job.terms.client, event.escrow_returned)
        self._unlock(job.terms.worker, event.bond_returned)
        job.closed = event

    def _given_up(self, event: ev.JobResigned | ev.JobExpired) -> None:
        job = self.jobs[event.job_id]
        self._pay(job.terms.worker, job.terms.client, event.to_client)
        self._unlock(job.terms.client, event.escrow_returned)
        self._unlock(job.terms.worker, event.bond_returned)
        job.closed = event

    def _disputed(self, event: ev.SegmentDemanded | ev.SegmentChallenged) -> None:
        job = self.jobs[event.job_id]
        job.challenger, job.challenge_bond = event.challenger, event.bond
        self._lock(event.challenger, event.bond)

    def _answered(self, event: ev.SegmentAnswered) -> None:
        self._pay(event.challenger, self.jobs[event.job_id].terms.worker, event.to_worker)
        self._unlock(event.challenger, event.returned)

    def _challenge_failed(self, event: ev.ChallengeFailed) -> None:
        self._pay_panel(event.challenger, event.panel, event.to_panel)
        self._pay(event.challenger, self.jobs[event.job_id].terms.worker, event.to_worker)
        self._burn(event.challenger, event.burned)

    def _slashed(self, event: ev.JobSlashed) -> None:
        job = self.jobs[event.job_id]
        self._pay(job.terms.worker, job.terms.client, event.to_client)
        self._unlock(job.terms.client, event.escrow_returned)
        self._pay_panel(job.terms.worker, event.panel, event.to_panel)
        self._pay(job.terms.worker, event.finder, event.to_finder)
        self._burn(job.terms.worker, event.burned)
        self._unlock(event.challenger, event.challenge_bond_returned)
        self.slashed += job.terms.bond
        job.closed = event

    def _voided(self, event: ev.JobVoided) -> None:
        job = self.jobs[event.job_id]
        self._unlock(job.terms.client, event.escrow_returned)
        self._unlock(job.terms.worker, event.bond_returned)
        self._unlock(event.challenger, event.challenge_bond_returned)
        job.closed = event

    def _pay_panel(self, payer: Account, panel: tuple[Account, ...], total: int) -> None:
        for member in panel:
            self._pay(payer, member, total // len(panel))

    # verdicts

    def _verdict_sealed(self, event: ev.VerdictSealed) -> None:
        window = self.jobs[event.job_id].windows[event.window]
        window.verdicts[event.verifier] = VerdictRecord(verifier=event.verifier, seal=event.seal)

    def _verdict_revealed(self, event: ev.VerdictRevealed) -> None:
        job = self.jobs[event.job_id]
        verdict = job.windows[event.window].verdicts[event.verifier]
        fault = rules.why_not_revealed(event, job.terms, verdict.seal)
        if fault is not None:
            self.faults.append(fault)
        verdict.kind, verdict.segment, verdict.salt = event.kind, event.segment, event.salt
        verdict.paid = event.paid
        if event.paid:
            job.verdicts_paid += 1
            self.paid += event.paid
        self._pay(job.terms.client, event.verifier, event.paid)

    # the ledger and the registry

    def _deposited(self, event: ev.Deposited) -> None:
        self._add(event.account, free=event.amount)

    def _withdrawn(self, event: ev.Withdrawn) -> None:
        self._add(event.account, free=-event.amount)

    def _worker_registered(self, event: ev.WorkerRegistered) -> None:
        self._lock(event.account, event.bond)
        self.workers[event.account] = RegistrationRecord(
            account=event.account,
            bond=event.bond,
            registered_at=event.ts,
            peer_id=event.peer_id,
            peer_signature=event.peer_signature,
        )

    def _worker_leaves(self, event: ev.WorkerExitRequested) -> None:
        self.workers[event.account] = replace(self.workers[event.account], leaving_since=event.ts)

    def _worker_left(self, event: ev.WorkerBondWithdrawn) -> None:
        del self.workers[event.account]
        self._unlock(event.account, event.bond)

    def _verifier_registered(self, event: ev.VerifierRegistered) -> None:
        self._lock(event.account, event.bond)
        self.verifiers[event.class_id, event.account] = RegistrationRecord(
            account=event.account,
            bond=event.bond,
            registered_at=event.ts,
            peer_id=event.peer_id,
            peer_signature=event.peer_signature,
            id=event.id,
            secret=event.secret_hash,
        )

    def _verifier_leaves(self, event: ev.VerifierExitRequested) -> None:
        key = event.class_id, event.account
        self.verifiers[key] = replace(self.verifiers[key], leaving_since=event.ts, secret=event.secret)

    def _verifier_left(self, event: ev.VerifierBondWithdrawn) -> None:
        del self.verifiers[event.class_id, event.account]
        self._unlock(event.account, event.bond)

    def _penalized(self, event: ev.Penalized) -> None:
        key = event.class_id, event.verifier
        taken = event.to_caller + event.burned
        self.verifiers[key] = replace(self.verifiers[key], bond=self.verifiers[key].bond - taken)
        self._pay(event.verifier, event.caller, event.to_caller)
        self._burn(event.verifier, event.burned)

    # disputes

    def _dispute_opened(self, event: ev.DisputeOpened) -> None:
        self.disputes[event.dispute_id] = DisputeRecord(claim=event.claim)

    def _round_opened(self, event: ev.RoundOpened) -> None:
        self.disputes[event.dispute_id].rounds.append(RoundRecord(pool_size=event.pool_size))

    def _panel_drawn(self, event: ev.PanelDrawn) -> None:
        self.disputes[event.dispute_id].rounds[event.round].panel = event.panel

    def _vote_revealed(self, event: ev.VoteRevealed) -> None:
        self.disputes[event.dispute_id].rounds[event.round].votes[event.voter] = event.vote

    def _dispute_closed(self, event: ev.DisputeClosed) -> None:
        self.disputes[event.dispute_id].closed = event

    # inside

    def _expect(self, event: ev.Event, due: dict[str, int]) -> None:
        for name, amount in due.items():
            if getattr(event, name) != amount:
                self.faults.append(
                    f"block {event.block_number}: {type(event).__name__} says {name} = {getattr(event, name)}, "
                    f"the rules give {amount}"
                )


_FOLDS: dict[type[ev.Event], Callable[[Book, Any], None]] = {
    ev.JobAccepted: Book._accepted,
    ev.OfferRevoked: Book._revoked,
    ev.WindowCommitted: Book._committed,
    ev.WindowDrawn: Book._drawn,
    ev.WindowSettled: Book._settled,
    ev.JobCancelled: Book._cancelled,
    ev.JobResigned: Book._given_up,
    ev.JobExpired: Book._given_up,
    ev.SegmentDemanded: Book._disputed,
    ev.SegmentAnswered: Book._answered,
    ev.SegmentChallenged: Book._disputed,
    ev.ChallengeFailed: Book._challenge_failed,
    ev.JobSlashed: Book._slashed,
    ev.JobVoided: Book._voided,
    ev.VerdictSealed: Book._verdict_sealed,
    ev.VerdictRevealed: Book._verdict_revealed,
    ev.ChallengeSealed: Book._nothing,
    ev.VoteSealed: Book._nothing,
    ev.Deposited: Book._deposited,
    ev.Withdrawn: Book._withdrawn,
    ev.WorkerRegistered: Book._worker_registered,
    ev.WorkerExitRequested: Book._worker_leaves,
    ev.WorkerBondWithdrawn: Book._worker_left,
    ev.VerifierRegistered: Book._verifier_registered,
    ev.VerifierExitRequested: Book._verifier_leaves,
    ev.VerifierBondWithdrawn: Book._verifier_left,
    ev.Penalized: Book._penalized,
    ev.DisputeOpened: Book._dispute_opened,
    ev.RoundOpened: Book._round_opened,
    ev.PanelDrawn: Book._panel_drawn,
    ev.VoteRevealed: Book._vote_revealed,
    ev.DisputeClosed: Book._dispute_closed,
}
"""Every event has its line (a test compares with events.py)."""
