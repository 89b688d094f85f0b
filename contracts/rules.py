"""What each state change must pay, worked out from the offer: the money column of docs/protocol.md section 3 again.

book.py holds these against the amounts in the logs. They are integers in token units and divide as Solidity does.
Nothing here is asked of the chain, so a contract that paid otherwise would show.
"""

from __future__ import annotations

from typing import Protocol

from tolsey.contracts import events as ev
from tolsey.contracts.views import NOBODY
from tolsey.protocol.encoding import TAG_SEAL, keccak256, tag
from tolsey.protocol.lifecycle import State, Verdict
from tolsey.protocol.offer import Offer
from tolsey.protocol.sampling import verdict_seal, window_seed
from tolsey.protocol.units import WindowRoot

ANSWER_SHARE = 10
"""A tenth of the challenger's bond for the worker that answers a demand (Disputes.sol)."""


class LiveJob(Protocol):
    """What the rules must know of a job (book.JobRecord)."""

    offer: Offer | None
    window: int
    verdicts_paid: int
    challenge_bond: int


def escrow_left(offer: Offer, window: int, verdicts_paid: int) -> int:
    """The client's locked units of a live job with so many windows and verdicts paid."""
    return offer.escrow - offer.price * window // offer.window_count - verdicts_paid * offer.verdict_fee


def due(event: ev.JobEvent, job: LiveJob) -> dict[str, int]:
    """The amounts that `event` must carry, by field; `job` as it stood before.

    Amounts that depend on what the judge found are not among them, but for their sum.
    """
    if job.offer is None:
        return {}
    offer, left = job.offer, escrow_left(job.offer, job.window, job.verdicts_paid)
    if isinstance(event, ev.WindowSettled):
        price = offer.window_price(job.window)
        is_last = event.after is State.COMPLETED
        return {
            "window": job.window + 1,
            "paid": price - event.fee,
            "escrow_returned": left - price if is_last else 0,
            "bond_returned": offer.bond if is_last else 0,
        }
    if isinstance(event, ev.JobCancelled):
        to_worker = min(offer.forfeit, left)
        return {"to_worker": to_worker, "escrow_returned": left - to_worker, "bond_returned": offer.bond}
    if isinstance(event, ev.JobResigned | ev.JobExpired):
        return {
            "to_client": offer.forfeit,
            "escrow_returned": left,
            "bond_returned": offer.bond - offer.forfeit,
        }
    if isinstance(event, ev.SegmentAnswered):
        to_worker = job.challenge_bond // ANSWER_SHARE
        return {"to_worker": to_worker, "returned": job.challenge_bond - to_worker}
    if isinstance(event, ev.ChallengeFailed):
        to_worker = (job.challenge_bond - event.to_panel) // 2
        return {"to_worker": to_worker, "burned": job.challenge_bond - event.to_panel - to_worker}
    if isinstance(event, ev.JobSlashed):
        to_client = min(offer.escrow - left, offer.bond)
        rest = offer.bond - to_client - event.to_panel
        return {
            "to_client": to_client,
            "escrow_returned": left,
            "to_finder": 0 if event.finder == NOBODY else rest // 2,
            "burned": rest - event.to_finder,
            "challenge_bond_returned": 0 if event.challenger == NOBODY else job.challenge_bond,
        }
    if isinstance(event, ev.JobVoided):
        return {"escrow_returned": left, "bond_returned": offer.bond, "challenge_bond_returned": job.challenge_bond}
    return {}


def why_not_drawn(event: ev.WindowDrawn, offer: Offer, root: WindowRoot) -> str | None:
    """What is wrong with a draw: its seed is not made of its parts, or its secret is not under the client's seal."""
    beacon = int.from_bytes(event.beacon, "big")
    seed = window_seed(event.job_id, event.window, root, event.secret, beacon)
    if seed != event.seed:
        return f"block {event.block_number}: the seed is {event.seed}, root, secret and beacon give {seed}"
    if any(event.secret):
        hashed = event.secret
        for _ in range(event.window + 1):
            hashed = keccak256(tag(TAG_SEAL), hashed)
        if hashed != offer.client_seal:
            return f"block {event.block_number}: the secret gives the seal {hashed.hex()[:16]}, the offer has another"
    return None


def why_not_revealed(event: ev.VerdictRevealed, offer: Offer, seal: bytes) -> str | None:
    """What is wrong with a verdict: it is not what was sealed, or not paid as it should be."""
    opened = verdict_seal(event.job_id, event.window, event.verifier, event.kind, event.segment, event.salt)
    if opened != seal:
        return f"block {event.block_number}: {event.verifier} sealed {seal.hex()[:16]} and revealed {opened.hex()[:16]}"
    fee = 0 if event.kind == Verdict.ABSTAIN else offer.verdict_fee
    if event.paid != fee:
        return f"block {event.block_number}: a verdict was paid {event.paid}, its fee is {fee}"
    return None
