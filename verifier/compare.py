"""Equal or not: what replayed bits say of a worker's claim. Pure; a distance between states never enters.

A root is equal or it is not. How far apart two states are says nothing about guilt (honest runs of other classes lie
as far apart as strangers), so there is no tolerance here and nobody may add one. Next in the flow: duty.py seals the
finding, challenger.py acts on it, panelist.py votes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tolsey.protocol.lifecycle import Verdict, Vote
from tolsey.protocol.units import StateRoot

NOBODY_SERVES = StateRoot(bytes(32))
"""The claimed root of a challenge that says: nobody serves the committed checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What this verifier says of one window, and why.

    Attributes:
        kind: the verdict. segment: of the job; the one in question for MISMATCH and UNAVAILABLE, else 0.
        replayed_root: what this machine's replay of `segment` gave twice, for a MISMATCH found by replay.
        is_break: the segment does not start where the one before it ended: provable without a panel.
        has_opening: the trace was served, so that the segment can be opened on chain.
        reason: one sentence for people.
    """

    kind: Verdict
    segment: int = 0
    replayed_root: StateRoot | None = None
    is_break: bool = False
    has_opening: bool = False
    reason: str = ""


def compare(claimed: StateRoot, replayed: StateRoot, again: StateRoot | None) -> Verdict:
    """The verdict on one segment.

    Args:
        claimed: output root in the worker's trace.
        replayed: what the replay gave. again: what a second replay in a fresh process gave; needed to accuse.
    """
    if replayed == claimed:
        return Verdict.MATCH
    if again != replayed:  # this machine does not agree with itself: silent data corruption is nobody's crime
        return Verdict.ABSTAIN
    return Verdict.MISMATCH


def vote_of(*, output_root: StateRoot, claimed_root: StateRoot, replayed: StateRoot, again: StateRoot | None) -> Vote:
    """A panel member's vote on a dispute between a worker's output root and a challenger's claimed root.

    A replay that bears out either party is its own second witness; only one that contradicts both is run again.
    """
    if replayed == output_root:
        return Vote.WORKER
    if replayed == claimed_root:
        return Vote.CHALLENGER
    if again != replayed:
        return Vote.ABSTAIN
    return Vote.NEITHER
