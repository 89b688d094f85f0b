"""The life of a job as one table; the same table as docs/protocol.md section 3 and `JobMarket.sol`.

Two rules: every transition stands in TRANSITIONS, nowhere else; this file does not know which side we play, what
time it is, or what a chain is. A job is *live* in Accepted, Committed, Drawn, Demanded and Challenged, and each live
state has a deadline after which a call that is open to anyone moves it on (the `overdue` column): no job can be stuck
because one party sleeps. Final states never change again. Illegal moves raise and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from tolsey.errors import LocalViolation


class State(IntEnum):
    """States in the order of the Solidity enum."""

    NONE = 0
    ACCEPTED = 1
    COMMITTED = 2
    DRAWN = 3
    DEMANDED = 4
    CHALLENGED = 5
    COMPLETED = 6
    CANCELLED = 7
    EXPIRED = 8
    SLASHED = 9
    VOIDED = 10


class Verdict(IntEnum):
    """What a drawn verifier says of its sample."""

    MATCH = 1
    MISMATCH = 2
    UNAVAILABLE = 3
    ABSTAIN = 4


class Vote(IntEnum):
    """What a panel member says of a disputed segment."""

    WORKER = 1
    CHALLENGER = 2
    NEITHER = 3
    UNAVAILABLE = 4
    ABSTAIN = 5


LIVE = frozenset({State.ACCEPTED, State.COMMITTED, State.DRAWN, State.DEMANDED, State.CHALLENGED})
FINAL = frozenset({State.COMPLETED, State.CANCELLED, State.EXPIRED, State.SLASHED, State.VOIDED})


@dataclass(frozen=True, slots=True)
class Transition:
    """One row: `call` by `who` leads from `before` to one of `after`; `overdue` where it needs a passed deadline."""

    before: State
    call: str
    who: str
    after: frozenset[State]
    overdue: bool = False


def _row(before: State, call: str, who: str, *after: State, overdue: bool = False) -> Transition:
    return Transition(before, call, who, frozenset(after), overdue)


TRANSITIONS: tuple[Transition, ...] = (
    _row(State.NONE, "accept", "client", State.ACCEPTED),
    _row(State.NONE, "revokeOffer", "worker", State.CANCELLED),
    _row(State.ACCEPTED, "commit", "worker", State.COMMITTED),
    _row(State.ACCEPTED, "cancel", "client", State.CANCELLED),
    _row(State.ACCEPTED, "resign", "worker", State.CANCELLED),
    _row(State.ACCEPTED, "expire", "anyone", State.EXPIRED, overdue=True),
    _row(State.COMMITTED, "draw", "anyone", State.DRAWN),
    _row(State.COMMITTED, "proveDiscontinuity", "anyone", State.SLASHED),
    _row(State.DRAWN, "settle", "anyone", State.ACCEPTED, State.COMPLETED, overdue=True),
    _row(State.DRAWN, "challenge", "anyone", State.CHALLENGED),
    _row(State.DRAWN, "demand", "anyone", State.DEMANDED),
    _row(State.DRAWN, "proveDiscontinuity", "anyone", State.SLASHED),
    _row(State.DEMANDED, "answer", "anyone", State.DRAWN),
    _row(State.DEMANDED, "resolve", "anyone", State.SLASHED, overdue=True),
    _row(State.CHALLENGED, "resolve", "anyone", State.SLASHED, State.DRAWN, State.VOIDED),
)


def check_transition(before: State, after: State) -> None:
    """Accepts a state change that some row allows.

    Raises:
        LocalViolation: no row leads from `before` to `after` (a log that says so is not from our contract).
    """
    if not any(row.before is before and after in row.after for row in TRANSITIONS):
        raise LocalViolation(f"no rule leads from {before.name} to {after.name}")


def poke(state: State) -> str | None:
    """The call with which anyone moves an overdue job on, or None for a final or unborn one.

    `draw` with no secret and `resolve` (of a decided or undecidable dispute) count: they need no party's consent.
    """
    return {
        State.ACCEPTED: "expire",
        State.COMMITTED: "draw",
        State.DRAWN: "settle",
        State.DEMANDED: "resolve",
        State.CHALLENGED: "resolve",
    }.get(state)
