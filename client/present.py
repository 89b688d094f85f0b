"""From what the client knows (offers, logs, progress) to the views that commands print.

Pure. Next: render.py for people, views.py for programs.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable

from tolsey.client import timeline
from tolsey.client.ledger import JobLog, Ledger
from tolsey.client.money import Money
from tolsey.client.plan import Candidate, Plan, paid_after_s
from tolsey.client.plots import Curve
from tolsey.client.records import Purchase
from tolsey.client.views import CandidateView, FetchView, JobLine, JobView, ListingView, OddsView, PlanView
from tolsey.protocol.job import profile_of_class
from tolsey.protocol.lifecycle import FINAL
from tolsey.protocol.listing import Listing
from tolsey.protocol.wire import Progress


def listing(found: Listing) -> ListingView:
    """What one worker sells."""
    return ListingView(
        worker=found.account,
        peer_id=found.peer_id,
        class_name=found.class_name,
        class_id=found.class_id.hex(),
        profiles=found.profiles,
        price_per_petaflop=found.price_per_petaflop,
        min_price=found.min_price,
        bond_bps=found.bond_bps,
        memory_bytes=found.memory_bytes,
        flops_per_s=found.flops_per_s,
        busy=found.busy,
        capacity=found.capacity,
        expires_at=found.expires_at,
    )


def plan(made: Plan) -> PlanView:
    """The plan screen's contents."""
    offer, spec = made.offer, made.spec
    return PlanView(
        name=spec.name,
        spec_hash=spec.spec_hash.hex(),
        profile=spec.profile,
        steps=spec.steps,
        segments=spec.segment_count,
        segments_per_window=min(spec.segments_per_window, spec.segment_count),
        windows=spec.window_count,
        worker=offer.worker,
        price=offer.price,
        verdict_escrow=offer.verdict_escrow,
        escrow=offer.escrow,
        bond=offer.bond,
        forfeit=offer.forfeit,
        eta_s=made.chosen.eta_s,
        paid_after_s=paid_after_s(spec, made.chosen.eta_s, made.terms.clocks),
        clocks=dataclasses.asdict(made.terms.clocks),
        verifiers=offer.verifier_count,
        samples=offer.sample_count,
        pool_size=made.pool_size,
        pool_places=made.pool_places,
        candidates=tuple(_candidate(found, made) for found in made.candidates),
        odds=tuple(OddsView(share=o.share, faked=o.faked, caught=o.caught) for o in made.odds),
    )


def _candidate(found: Candidate, made: Plan) -> CandidateView:
    offer = found.offer
    return CandidateView(
        worker=found.account,
        class_name=found.listing.class_name,
        class_id=found.listing.class_id.hex(),
        price=None if offer is None else offer.price,
        escrow=None if offer is None else offer.escrow,
        bond=None if offer is None else offer.bond,
        eta_s=found.eta_s,
        paid_after_s=paid_after_s(made.spec, found.eta_s, made.terms.clocks),
        dropped=found.dropped,
    )


def job_line(log: JobLog, purchase: Purchase | None) -> JobLine:
    """One line of `tolsey ps`."""
    progress = purchase.progress if purchase else None
    flows = timeline.flows(log.events)
    last = log.last_change
    return JobLine(
        job_id=log.job_id.hex(),
        name=purchase.spec.name if purchase else None,
        worker=log.offer.worker,
        state=log.state.name.lower(),
        window=last.window,
        windows=log.offer.window_count,
        price=log.offer.price,
        paid=flows.paid_worker + flows.paid_verifiers + flows.fee,
        deadline=0 if log.state in FINAL else last.deadline,
        step=progress.step if progress else None,
        steps=progress.steps if progress else None,
        loss=progress.losses[-1][1][:8] if progress and progress.losses else None,
    )


def job(log: JobLog, purchase: Purchase | None, money: Money) -> JobView:
    """`tolsey show`."""
    flows = timeline.flows(log.events)
    offer = log.offer
    return JobView(
        job=job_line(log, purchase),
        client=offer.client,
        profile=profile_of_class(offer.class_id),
        bond=offer.bond,
        escrow=offer.escrow,
        forfeit=offer.forfeit,
        verdict_fee=offer.verdict_fee,
        roots=tuple(root.hex() for root in log.roots),
        timeline=timeline.entries(log.events, money),
        paid_worker=flows.paid_worker,
        paid_verifiers=flows.paid_verifiers,
        refunded=flows.refunded,
        compensated=flows.compensated,
    )


def curve(progress: Progress | None) -> Curve:
    """The losses as the worker told them last."""
    return points(progress.losses if progress else ())


def points(losses: Iterable[tuple[int, str]]) -> list[tuple[int, float]]:
    """The losses as numbers; what is no finite number is left out."""
    found: list[tuple[int, float]] = []
    for step, loss in losses:
        try:
            value = float(loss)
        except ValueError:
            continue
        if math.isfinite(value):
            found.append((step, value))
    return found


def with_plot(found: FetchView, plot: str) -> FetchView:
    """The view with the path of its plot."""
    return dataclasses.replace(found, plot=plot)


def by_state(ledger: Ledger) -> dict[str, int]:
    """Jobs counted by state."""
    return dict(Counter(log.state.name.lower() for log in ledger.jobs.values()))
