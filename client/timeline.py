"""A job's logs as a story: one sentence per event, and where the money went.

Pure: events in, views out. Everything here comes from the chain's logs, so it reads the same on every machine.
Next in the flow: render.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tolsey.client.money import Money
from tolsey.client.views import TimelineEntry
from tolsey.contracts import events as ev
from tolsey.protocol.lifecycle import State, Verdict, Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """Where a job's money went so far, token units.

    Attributes:
        paid_worker: prices of settled windows, after the fee. fee: to the treasury.
        paid_verifiers: verdict fees.
        refunded: escrow back to the client. compensated: from the worker's bond or forfeit to the client.
        forfeited: from the escrow to the worker on a cancel.
        bond_lost: of the worker. finder, panel, burned: where it went beside the client.
    """

    paid_worker: int = 0
    fee: int = 0
    paid_verifiers: int = 0
    refunded: int = 0
    compensated: int = 0
    forfeited: int = 0
    finder: int = 0
    panel: int = 0
    burned: int = 0

    @property
    def bond_lost(self) -> int:
        """What the worker's bond paid to others."""
        return self.compensated + self.finder + self.panel + self.burned


def of_job(events: Sequence[ev.Event], job_id: bytes) -> list[ev.Event]:
    """The events that belong to one job, its disputes included, in order."""
    disputes = {e.dispute_id for e in events if isinstance(e, ev.SegmentChallenged) and e.job_id == job_id}
    return sorted(
        (
            e
            for e in events
            if getattr(e, "job_id", None) == job_id
            or getattr(e, "dispute_id", None) in disputes
            or (isinstance(e, ev.Penalized) and e.subject in (job_id, *disputes))
        ),
        key=lambda e: e.position,
    )


def entries(events: Sequence[ev.Event], money: Money) -> tuple[TimelineEntry, ...]:
    """One entry per event of a job."""
    return tuple(
        TimelineEntry(
            block=event.block_number,
            ts=event.ts,
            event=type(event).__name__,
            text=sentence(event, money),
            before=event.before.name.lower() if isinstance(event, ev.JobEvent) else None,
            after=event.after.name.lower() if isinstance(event, ev.JobEvent) else None,
        )
        for event in events
    )


def flows(events: Sequence[ev.Event]) -> Flows:
    """The sums over a job's events."""
    sums = dict.fromkeys(Flows.__dataclass_fields__, 0)
    for event in events:
        for name, amount in _flows_of(event).items():
            sums[name] += amount
    return Flows(**sums)


def _flows_of(event: ev.Event) -> dict[str, int]:
    match event:
        case ev.WindowSettled():
            return {"paid_worker": event.paid, "fee": event.fee, "refunded": event.escrow_returned}
        case ev.VerdictRevealed():
            return {"paid_verifiers": event.paid}
        case ev.JobCancelled():
            return {"forfeited": event.to_worker, "refunded": event.escrow_returned}
        case ev.JobResigned() | ev.JobExpired():
            return {"compensated": event.to_client, "refunded": event.escrow_returned}
        case ev.JobSlashed():
            return {
                "compensated": event.to_client,
                "refunded": event.escrow_returned,
                "finder": event.to_finder,
                "panel": event.to_panel,
                "burned": event.burned,
            }
        case ev.JobVoided():
            return {"refunded": event.escrow_returned}
    return {}


def sentence(event: ev.Event, money: Money) -> str:
    """What happened, for a person."""
    match event:
        case ev.JobEvent():
            return _job_sentence(event, money)
        case ev.VerdictSealed():
            return f"verifier {short(event.verifier)} sealed its verdict on window {event.window}"
        case ev.VerdictRevealed():
            verdict = Verdict(event.kind).name.lower()
            where = f" at segment {event.segment}" if event.kind in (Verdict.MISMATCH, Verdict.UNAVAILABLE) else ""
            return f"verifier {short(event.verifier)}: {verdict}{where}, paid {money.text(event.paid)}"
        case ev.DisputeOpened():
            return f"dispute {event.dispute_id.hex()[:8]} over segment {event.claim.segment} opened"
        case ev.RoundOpened():
            return f"dispute round {event.round}: a panel is drawn from {event.pool_size} verifiers"
        case ev.PanelDrawn():
            return f"panel of round {event.round}: {', '.join(map(short, event.panel))}"
        case ev.VoteSealed():
            return f"panel member {short(event.voter)} sealed its vote"
        case ev.VoteRevealed():
            return f"panel member {short(event.voter)} votes {Vote(event.vote).name.lower()}"
        case ev.DisputeClosed():
            return f"ruling: {event.ruling.name.lower().replace('_', ' ')}"
        case ev.Penalized():
            return f"verifier {short(event.verifier)} penalized for {event.fault.name.lower().replace('_', ' ')}"
    return type(event).__name__


def _job_sentence(event: ev.JobEvent, money: Money) -> str:
    match event:
        case ev.JobAccepted():
            offer = event.offer
            return f"accepted: {money.text(offer.escrow)} in escrow, bond {money.text(offer.bond)} at risk"
        case ev.WindowCommitted():
            return f"worker committed window {event.window}: root {event.root.hex()[:12]}"
        case ev.WindowDrawn():
            kept = "with the client's secret" if any(event.secret) else "without the client's secret"
            return f"window {event.window} drawn {kept}: {event.pool_size} verifiers in the pool"
        case ev.WindowSettled():
            back = f"; {money.text(event.escrow_returned)} returned" if event.escrow_returned else ""
            done = "last window" if event.after is State.COMPLETED else f"window {event.window - 1}"
            return f"{done} settled: worker paid {money.text(event.paid)}{back}"
        case ev.JobCancelled():
            return f"cancelled: {money.text(event.to_worker)} to the worker, {money.text(event.escrow_returned)} back"
        case ev.JobResigned():
            return (
                f"worker resigned: forfeit {money.text(event.to_client)} and {money.text(event.escrow_returned)} back"
            )
        case ev.JobExpired():
            return f"worker missed its deadline: {money.text(event.to_client + event.escrow_returned)} to the client"
        case ev.SegmentDemanded():
            return f"{short(event.challenger)} demands segment {event.segment}"
        case ev.SegmentAnswered():
            return f"segment {event.segment} was opened"
        case ev.SegmentChallenged():
            return f"{short(event.challenger)} challenges segment {event.segment}, bond {money.text(event.bond)}"
        case ev.ChallengeFailed():
            return f"challenge of segment {event.segment} failed: {money.text(event.to_worker)} to the worker"
        case ev.JobSlashed():
            return (
                f"worker slashed over segment {event.segment}: client {money.text(event.to_client)} from the bond and "
                f"{money.text(event.escrow_returned)} escrow back, finder {money.text(event.to_finder)}, panel "
                f"{money.text(event.to_panel)}, burned {money.text(event.burned)}"
            )
        case ev.JobVoided():
            return f"no ruling: {money.text(event.escrow_returned)} back to the client"
        case ev.OfferRevoked():
            return "worker revoked its offer"
    return type(event).__name__


def is_payment(event: ev.Event) -> bool:
    """Whether the event paid a window."""
    return isinstance(event, ev.WindowSettled)


def unvouched(events: Sequence[ev.Event], windows: int) -> tuple[int, ...]:
    """Paid windows of a job for which no verifier said that its sample matches."""
    paid = sum(1 for event in events if is_payment(event))
    matched = {e.window for e in events if isinstance(e, ev.VerdictRevealed) and e.kind == Verdict.MATCH}
    return tuple(window for window in range(min(paid, windows)) if window not in matched)


def short(account: str) -> str:
    """An account for a line of text."""
    return f"{account[:8]}…{account[-4:]}"
