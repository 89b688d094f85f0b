"""What the contracts answer, as values. Amounts are token units, times unix seconds, ids bytes.

Next in the flow: gateway.py, which fills them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tolsey.contracts.events import Claim, Ruling
from tolsey.contracts.reverts import Phase
from tolsey.protocol.lifecycle import State
from tolsey.protocol.units import Account, BasisPoints, Seconds, StateRoot, TokenUnits

__all__ = ["CaseView", "Claim", "DisputeView", "JobView", "Opening", "Params", "Phase", "Registration", "VerdictView"]

NOBODY = Account("0x0000000000000000000000000000000000000000")
BURN = Account("0x000000000000000000000000000000000000dEaD")
"""What nobody gets is credited to this account of the ledger, which cannot withdraw (Ledger.sol)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """The one word that the market holds of a job.

    Attributes:
        window: windows paid so far, so also the number of the one in work.
        drawn_at: time of the last draw; while Committed, of the commitment.
        deadline: last moment for the parties, after which anyone moves the job; in a final state, when it ended.
        pool_size: of the class, as drawn from last. verdicts_paid: verdict fees paid so far, over all windows.
        seed: of the last draw; while Committed, the commitment's block number (low 64 bits) and class pool.
    """

    state: State
    window: int
    drawn_at: int
    deadline: int
    pool_size: int
    verdicts_paid: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeView:
    """The last demand or challenge of a job, or what it was slashed for.

    Attributes:
        challenger: who opened it; NOBODY where a discontinuity was proven.
        time_left_s: what was left of the challenge window when it was opened.
        match_refuted: the judge found the segment's output wrong, so "match" on it was false.
    """

    challenger: Account
    segment: int
    time_left_s: Seconds
    match_refuted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictView:
    """A drawn verifier's word on a window.

    Attributes:
        seal: not zero from sealing to revealing.
        kind: 0 none yet, then as in lifecycle.Verdict, 5 penalized for silence.
        revealed_at: 0 before.
    """

    seal: bytes
    kind: int
    segment: int
    salt: int
    revealed_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A worker, or a verifier of one class.

    Attributes:
        bond: locked token units left. leaving_since: 0 while it stays.
        id: place in the class pool, 0 for a worker.
        secret: hash of the verifier's secret, the secret itself from the exit request on; empty for a worker.
    """

    account: Account
    bond: TokenUnits
    registered_at: int
    leaving_since: int
    id: int = 0
    secret: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """What a deployment was made with and never changes (docs/protocol.md section 4)."""

    token: Account
    treasury: Account
    fee_bps: BasisPoints
    worker_bond: TokenUnits
    verifier_bond: TokenUnits
    challenge_bond: TokenUnits
    panel_fee: TokenUnits
    min_job_bond: TokenUnits
    unbonding_s: Seconds
    max_window_s: Seconds
    min_verdict_window_s: Seconds
    panel_window_s: Seconds
    beacon: Account
    judge: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseView:
    """A dispute before the panel. `phase_since` is a time, `phase_block` a block number."""

    phase: Phase
    round: int
    pool_size: int
    phase_since: int
    phase_block: int
    ruling: Ruling
    finder_earned: bool
    match_refuted: bool


class SegmentOpening(Protocol):
    """What opens one segment against its window's root."""

    @property
    def segment(self) -> int: ...
    @property
    def input_root(self) -> StateRoot: ...
    @property
    def output_root(self) -> StateRoot: ...
    @property
    def siblings(self) -> tuple[bytes, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """The plain SegmentOpening. `siblings` are 32 bytes each, lowest first (protocol/merkle.py `proof`)."""

    segment: int
    input_root: StateRoot
    output_root: StateRoot
    siblings: tuple[bytes, ...]
