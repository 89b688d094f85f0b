"""The entries of a book: what the logs tell about each account, job, registration and dispute.

Plain records without rules; book.py fills them. Amounts are token units, times unix seconds. Next: book.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tolsey.contracts import events as ev
from tolsey.contracts import rules
from tolsey.contracts.views import NOBODY
from tolsey.protocol.lifecycle import State
from tolsey.protocol.offer import Offer
from tolsey.protocol.units import Account, JobId, PeerId, WindowRoot


@dataclass(slots=True, kw_only=True)
class Balance:
    """One account in the market, token units."""

    free: int = 0
    locked: int = 0


@dataclass(slots=True, kw_only=True)
class VerdictRecord:
    """A drawn verifier's word on one window; `kind` 0 until it is revealed."""

    verifier: Account
    seal: bytes
    kind: int = 0
    segment: int = 0
    salt: int = 0
    paid: int = 0


@dataclass(slots=True, kw_only=True)
class WindowRecord:
    """One window of a job; `seed` None until it is drawn, `price` (paid to the worker, with fee) 0 until settled."""

    root: WindowRoot
    committed_at: int
    seed: int | None = None
    pool_size: int = 0
    drawn_at: int = 0
    secret: bytes = bytes(32)
    verdicts: dict[Account, VerdictRecord] = field(default_factory=dict)
    price: int = 0
    fee: int = 0


@dataclass(slots=True, kw_only=True)
class JobRecord:
    """One job. `window`: paid so far. `closed`: the event that ended it."""

    job_id: JobId
    offer: Offer | None
    state: State
    window: int
    deadline: int
    windows: dict[int, WindowRecord] = field(default_factory=dict)
    verdicts_paid: int = 0
    challenger: Account = NOBODY
    challenge_bond: int = 0
    closed: ev.JobEvent | None = None

    @property
    def terms(self) -> Offer:
        """The offer; only a revoked job, which never lived, has none."""
        assert self.offer is not None
        return self.offer

    @property
    def escrow_left(self) -> int:
        """The client's units that are still locked for it."""
        return 0 if self.closed is not None else rules.escrow_left(self.terms, self.window, self.verdicts_paid)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationRecord:
    """A worker, or a verifier of one class (`id`, `secret` are empty for a worker). See views.Registration."""

    account: Account
    bond: int
    registered_at: int
    peer_id: PeerId
    peer_signature: bytes
    leaving_since: int = 0
    id: int = 0
    secret: bytes = b""


@dataclass(slots=True, kw_only=True)
class RoundRecord:
    """One panel of a dispute: who sat, and what each has voted (lifecycle.Vote)."""

    pool_size: int
    panel: tuple[Account, ...] = ()
    votes: dict[Account, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class DisputeRecord:
    """One dispute before the panel judge."""

    claim: ev.Claim
    rounds: list[RoundRecord] = field(default_factory=list)
    closed: ev.DisputeClosed | None = None
