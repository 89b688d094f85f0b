"""The plan: what would happen to the client's money, before anything is signed.

Pure: offers in, a choice and every reason out. It refuses an offer that differs from what was asked in any term, is
dearer than the worker's listing or the cap (protocol/offer.py `why_not`), or asks for a forfeit larger than a window's
price. Next in the flow: render.py shows it, market.py accepts the chosen offer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

from tolsey.errors import NoOffer
from tolsey.protocol import sampling
from tolsey.protocol.job import JobSpec
from tolsey.protocol.listing import Listing
from tolsey.protocol.offer import Clocks, Offer, why_not
from tolsey.protocol.units import Account, TokenUnits
from tolsey.protocol.wire import OfferRequest

FAKED_SHARES = (0.01, 0.10, 0.50)
"""For the odds on the plan screen: one segment in a hundred, in ten, in two; at least one whole segment each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the client wants of any worker.

    Attributes:
        max_cost: the most that the whole escrow may be, token units; None for no cap.
        verifier_count: verifiers drawn per window, 0 to 7. sample_count: segments each replays, 1 to 1024.
        verdict_fee: token units for each verdict.
        clocks: seconds of block time.
        on: accounts that may work, lower case; empty for anybody.
    """

    max_cost: TokenUnits | None
    verifier_count: int
    sample_count: int
    verdict_fee: TokenUnits
    clocks: Clocks
    on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One worker that was considered.

    Attributes:
        listing: who it is, and what it says it sells.
        eta_s: seconds of training that it expects.
        offer, signature: what it signed; None and empty where it made none.
        dropped: why it is out of the question, or "".
    """

    listing: Listing
    eta_s: float
    offer: Offer | None = None
    signature: bytes = b""
    dropped: str = ""

    @property
    def account(self) -> Account:
        """The worker's, as listed."""
        return self.listing.account


@dataclass(frozen=True, slots=True, kw_only=True)
class Odds:
    """How likely a worker that fakes `faked` of a window's segments is caught in that window; share: of the window."""

    share: float
    faked: int
    caught: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole screen.

    Attributes:
        candidates: everybody considered, cheapest fitting offer first, the dropped last.
        chosen: the first that fits.
        pool_size: verifiers registered for the job's profile (`pinned`: in its class); odds count on no more.
        pool_places: places that are drawn from: theirs, and the empty ones of verifiers that left.
        odds: for each number of segments that FAKED_SHARES come to, over one full window.
    """

    spec: JobSpec
    terms: Terms
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    pool_size: int
    pool_places: int
    odds: tuple[Odds, ...]

    @property
    def offer(self) -> Offer:
        """The chosen worker's offer."""
        assert self.chosen.offer is not None, "make_plan chooses among offers"
        return self.chosen.offer


def examine(candidate: Candidate, request: OfferRequest, *, max_cost: TokenUnits | None, now_ts: int) -> Candidate:
    """The candidate with its `dropped` reason filled in where its offer does not fit."""
    if candidate.dropped or candidate.offer is None:
        return candidate if candidate.dropped else dataclasses.replace(candidate, dropped="made no offer")
    offer = candidate.offer
    reason = why_not(offer, request=request, listing=candidate.listing, now_ts=now_ts, max_escrow=max_cost)
    if reason is None and offer.forfeit > max(offer.window_price(w) for w in range(min(2, offer.window_count))):
        reason = f"asks for a forfeit of {offer.forfeit} units, more than one window's price"
    return dataclasses.replace(candidate, dropped=reason) if reason else candidate


def make_plan(
    candidates: Sequence[Candidate], *, spec: JobSpec, terms: Terms, pool_size: int, pool_places: int
) -> Plan:
    """The plan over candidates that were examined.

    Raises:
        NoOffer: none fits; carries every reason.
    """
    fitting = sorted((c for c in candidates if not c.dropped), key=_rank)
    dropped = sorted((c for c in candidates if c.dropped), key=lambda c: c.account.lower())
    if not fitting:
        raise NoOffer(
            _nobody(dropped),
            dropped={c.account: c.dropped for c in dropped},
            fix=_way_out([c.dropped for c in dropped]),
        )
    drawn = likely_drawn(terms.verifier_count, pool_size, pool_places)
    return Plan(
        spec=spec,
        terms=terms,
        candidates=(*fitting, *dropped),
        chosen=fitting[0],
        pool_size=pool_size,
        pool_places=pool_places,
        odds=odds(min(spec.segments_per_window, spec.segment_count), drawn, terms.sample_count),
    )


def likely_drawn(verifier_count: int, pool_size: int, pool_places: int) -> dict[int, float]:
    """How likely so many of the drawn places hold a verifier: number to probability."""
    drawn, empty = min(verifier_count, pool_places), pool_places - pool_size
    return {
        held: comb(pool_size, held) * comb(empty, drawn - held) / comb(pool_places, drawn) for held in range(drawn + 1)
    }


def odds(segments: int, drawn: Mapping[int, float], samples: int) -> tuple[Odds, ...]:
    """The odds table for a window of `segments`; fewest faked first.

    Args:
        drawn: how many honest verifiers sample it, as `likely_drawn` gives it. samples: segments each replays.
    """
    counts = sorted({max(1, round(share * segments)) for share in FAKED_SHARES})
    return tuple(
        Odds(
            share=faked / segments,
            faked=faked,
            caught=sum(p * sampling.detection_odds(segments, faked, [samples] * held) for held, p in drawn.items()),
        )
        for faked in counts
    )


def paid_after_s(spec: JobSpec, eta_s: float, clocks: Clocks) -> float:
    """Seconds until the last window is paid, if everybody is prompt: a window is committed when it is trained and the
    one before is paid, and paid when its challenge window is over.

    Args:
        eta_s: seconds of training of the whole job.
    """
    window_s = eta_s * min(spec.segments_per_window, spec.segment_count) / spec.segment_count
    later = (spec.window_count - 1) * max(window_s, clocks.challenge_window_s)
    return window_s + later + clocks.challenge_window_s


def _rank(candidate: Candidate) -> tuple[int, float, str]:
    assert candidate.offer is not None
    return candidate.offer.escrow, candidate.eta_s, candidate.account.lower()


def _nobody(dropped: Sequence[Candidate]) -> str:
    if not dropped:
        return "no worker sells on this market now: nobody's listing was heard"
    reasons = "".join(f"\n    {c.account[:10]}…  {c.dropped}" for c in dropped[:20])
    more = f"\n    and {len(dropped) - 20} more" if len(dropped) > 20 else ""
    return f"none of {len(dropped)} workers fits:{reasons}{more}"


def _way_out(reasons: Sequence[str]) -> str:
    if not reasons:
        return "tolsey status (is the market up?), or start a worker: tolsey worker start"
    if all("your cap is" in reason for reason in reasons):
        return "raise --max-cost, or lower --verifiers"
    if all("busy" in reason for reason in reasons):
        return "try again when one is free (tolsey offers), or start another: tolsey worker start"
    return "tolsey offers shows what each sells"
