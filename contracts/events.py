"""The contracts' logs as values: one frozen class for each event, and the door that makes them.

Everything the market ever did can be rebuilt from these (book.py does). Order is (block_number, log_index). A log is
known by (block_hash, log_index): after a reorganisation the same transaction may stand in another block and is another
event then. Names say what happened to what (`WindowSettled`), fields are the Solidity names in snake case, `from` and
`to` of a state change are `before` and `after`; a test compares every class with the ABI.

Refused: a log whose topic is ours and whose bytes are not (ChainUnavailable: wrong contract or lying node). Logs of
other contracts are not asked for. Next in the flow: follower.py, book.py.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from eth_abi.exceptions import DecodingError

from tolsey.contracts.abi import Interface, interface
from tolsey.errors import ChainUnavailable, LocalViolation
from tolsey.protocol.lifecycle import State, check_transition
from tolsey.protocol.offer import Offer
from tolsey.protocol.units import Account, ClassId, JobId, PeerId, StateRoot, TokenUnits, WindowRoot


class Fault(IntEnum):
    """Why a verifier lost (part of) its bond; `IRegistry.Fault`."""

    SILENCE = 0
    FALSE_MATCH = 1
    FALSE_SALT = 2
    PANEL_SILENCE = 3


class Ruling(IntEnum):
    """What the judge found; `IStepJudge.Ruling`."""

    PENDING = 0
    WORKER_RIGHT = 1
    WORKER_WRONG = 2
    NONE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Where and when a log stands. `ts` is the block's time in unix seconds."""

    block_number: int
    block_hash: bytes
    log_index: int
    tx_hash: bytes
    ts: int

    @property
    def key(self) -> tuple[bytes, int]:
        """What makes this log unique for ever."""
        return self.block_hash, self.log_index

    @property
    def position(self) -> tuple[int, int]:
        """Its place in the order of all logs of one chain."""
        return self.block_number, self.log_index


@dataclass(frozen=True, slots=True, kw_only=True)
class Reorg:
    """Not a log: tells followers that every event from `from_block` on, told before, did not happen after all."""

    from_block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent(Event):
    """A state change of a job. `window` and `deadline` (unix seconds) are those after it."""

    job_id: JobId
    before: State
    after: State
    window: int
    deadline: int


# A job's state changes. Amounts are token units; who is paid what stands in IJobMarket.sol and in book.py.


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAccepted(JobEvent):
    client: Account
    worker: Account
    offer: Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRevoked(JobEvent):
    worker: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCommitted(JobEvent):
    root: WindowRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowDrawn(JobEvent):
    """`secret` is the client's for this window, 32 zero bytes where it kept silent."""

    seed: int
    pool_size: int
    secret: bytes
    beacon: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettled(JobEvent):
    """Window `window - 1` was paid; `paid` to the worker after `fee`."""

    paid: TokenUnits
    fee: TokenUnits
    escrow_returned: TokenUnits
    bond_returned: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCancelled(JobEvent):
    to_worker: TokenUnits
    escrow_returned: TokenUnits
    bond_returned: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResigned(JobEvent):
    to_client: TokenUnits
    escrow_returned: TokenUnits
    bond_returned: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class JobExpired(JobEvent):
    to_client: TokenUnits
    escrow_returned: TokenUnits
    bond_returned: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDemanded(JobEvent):
    challenger: Account
    segment: int
    bond: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentAnswered(JobEvent):
    """Holds the whole opening; `proof` are the siblings, lowest first."""

    challenger: Account
    segment: int
    input_root: StateRoot
    output_root: StateRoot
    proof: tuple[bytes, ...]
    to_worker: TokenUnits
    returned: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentChallenged(JobEvent):
    challenger: Account
    dispute_id: bytes
    segment: int
    input_root: StateRoot
    output_root: StateRoot
    claimed_root: StateRoot
    bond: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeFailed(JobEvent):
    challenger: Account
    segment: int
    panel: tuple[Account, ...]
    to_panel: TokenUnits
    to_worker: TokenUnits
    burned: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSlashed(JobEvent):
    segment: int
    finder: Account
    challenger: Account
    panel: tuple[Account, ...]
    to_client: TokenUnits
    escrow_returned: TokenUnits
    to_panel: TokenUnits
    to_finder: TokenUnits
    burned: TokenUnits
    challenge_bond_returned: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class JobVoided(JobEvent):
    challenger: Account
    escrow_returned: TokenUnits
    bond_returned: TokenUnits
    challenge_bond_returned: TokenUnits


# Beside the job's state: verdicts, seals, registrations, money in and out.


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictSealed(Event):
    job_id: JobId
    verifier: Account
    window: int
    seal: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRevealed(Event):
    """`kind` is a lifecycle.Verdict."""

    job_id: JobId
    verifier: Account
    window: int
    kind: int
    segment: int
    salt: int
    paid: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeSealed(Event):
    challenger: Account
    seal: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposited(Event):
    account: Account
    amount: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(Event):
    account: Account
    to: Account
    amount: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRegistered(Event):
    """`peer_id` and `peer_signature` are as the sender wrote them: check the binding before use (bindings.py)."""

    account: Account
    bond: TokenUnits
    peer_id: PeerId
    peer_signature: bytes

    @property
    def signature(self) -> bytes:
        """The peer's signature over the binding."""
        return self.peer_signature


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerExitRequested(Event):
    account: Account
    bond_free_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBondWithdrawn(Event):
    account: Account
    bond: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierRegistered(Event):
    """`id` is its place in the class pool; for `peer_id` see WorkerRegistered."""

    class_id: ClassId
    account: Account
    id: int
    bond: TokenUnits
    secret_hash: bytes
    peer_id: PeerId
    peer_signature: bytes

    @property
    def signature(self) -> bytes:
        """The peer's signature over the binding."""
        return self.peer_signature


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierExitRequested(Event):
    class_id: ClassId
    account: Account
    secret: bytes
    bond_free_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierBondWithdrawn(Event):
    class_id: ClassId
    account: Account
    id: int
    bond: TokenUnits


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalized(Event):
    """`subject` is a job id, or a dispute id for PANEL_SILENCE."""

    class_id: ClassId
    verifier: Account
    fault: Fault
    subject: bytes
    caller: Account
    to_caller: TokenUnits
    burned: TokenUnits


# The judge's.


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is in dispute; `claimed_root` is 32 zero bytes where the challenger says that nobody serves it."""

    dispute_id: bytes
    job_id: JobId
    spec_hash: bytes
    class_id: ClassId
    client: Account
    worker: Account
    challenger: Account
    segment: int
    input_root: StateRoot
    output_root: StateRoot
    claimed_root: StateRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeOpened(Event):
    dispute_id: bytes
    job_id: JobId
    claim: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpened(Event):
    dispute_id: bytes
    round: int
    pool_size: int
    draw_until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelDrawn(Event):
    """Votes are sealed until `seal_until` and revealed until `reveal_until` (unix seconds)."""

    dispute_id: bytes
    round: int
    beacon: bytes
    panel: tuple[Account, ...]
    seal_until: int
    reveal_until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteSealed(Event):
    dispute_id: bytes
    voter: Account
    round: int
    seal: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRevealed(Event):
    """`vote` is a lifecycle.Vote."""

    dispute_id: bytes
    voter: Account
    round: int
    vote: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeClosed(Event):
    dispute_id: bytes
    ruling: Ruling
    finder_earned: bool
    match_refuted: bool
    majority: tuple[Account, ...]


MARKET_EVENTS: Mapping[str, type[Event]] = {
    "Accepted": JobAccepted,
    "Revoked": OfferRevoked,
    "Committed": WindowCommitted,
    "Drawn": WindowDrawn,
    "Settled": WindowSettled,
    "Cancelled": JobCancelled,
    "Resigned": JobResigned,
    "Expired": JobExpired,
    "Demanded": SegmentDemanded,
    "Answered": SegmentAnswered,
    "Challenged": SegmentChallenged,
    "ChallengeFailed": ChallengeFailed,
    "Slashed": JobSlashed,
    "Voided": JobVoided,
    **{
        kind.__name__: kind
        for kind in (
            VerdictSealed, VerdictRevealed, ChallengeSealed, Deposited, Withdrawn, WorkerRegistered,
            WorkerExitRequested, WorkerBondWithdrawn, VerifierRegistered, VerifierExitRequested,
            VerifierBondWithdrawn, Penalized,
        )
    },
}  # fmt: skip
JUDGE_EVENTS: Mapping[str, type[Event]] = {
    kind.__name__: kind for kind in (DisputeOpened, RoundOpened, PanelDrawn, VoteSealed, VoteRevealed, DisputeClosed)
}
IGNORED = frozenset({"EIP712DomainChanged"})
"""Inherited from OpenZeppelin's EIP712 and never emitted by a contract that is not upgradable."""


class EventDecoder:
    """Turns raw JSON-RPC logs of one market and its judge into events."""

    def __init__(self, market: Account, judge: Account) -> None:
        self._doors: dict[str, tuple[Interface, Mapping[str, type[Event]]]] = {
            market.lower(): (interface("JobMarket"), MARKET_EVENTS),
            judge.lower(): (interface("PanelJudge"), JUDGE_EVENTS),
        }

    def decode(self, log: Mapping[str, Any], ts: int) -> Event | None:
        """The event of one log, or None for a topic that no contract of ours declares.

        Args:
            log: as eth_getLogs gives it. ts: time of its block.

        Raises:
            ChainUnavailable: the node's log cannot be what it claims to be.
        """
        try:
            source, kinds = self._doors[log["address"].lower()]
            found = source.log([bytes.fromhex(t[2:]) for t in log["topics"]], bytes.fromhex(log["data"][2:]))
            if found is None or found[0] in IGNORED:
                return None
            event = kinds[found[0]](
                **_place(log, ts),
                **{field_name(found[0], key): value for key, value in _typed(kinds[found[0]], *found).items()},
            )
            if isinstance(event, JobEvent):
                check_transition(event.before, event.after)
        except (KeyError, TypeError, ValueError, DecodingError, LocalViolation) as error:
            raise ChainUnavailable(
                f"log {log.get('logIndex')} of block {log.get('blockNumber')} is not what our contracts write: {error}",
                fix="another rpc_url in the network file",
            ) from error
        return event


def to_claim(value: Mapping[str, Any]) -> Claim:
    """The judge's `Claim` struct as a value."""
    return Claim(**{_snake(key): part for key, part in value.items()})


def field_name(event: str, solidity_name: str) -> str:
    """The Python field for a parameter of an event (the name by which the ABI knows the event)."""
    if event in MARKET_EVENTS and issubclass(MARKET_EVENTS[event], JobEvent) and solidity_name in ("from", "to"):
        return {"from": "before", "to": "after"}[solidity_name]
    return _snake(solidity_name)


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name)


def _place(log: Mapping[str, Any], ts: int) -> dict[str, Any]:
    return {
        "block_number": int(log["blockNumber"], 16),
        "block_hash": bytes.fromhex(log["blockHash"][2:]),
        "log_index": int(log["logIndex"], 16),
        "tx_hash": bytes.fromhex(log["transactionHash"][2:]),
        "ts": ts,
    }


_ENUMS: Mapping[str, type[IntEnum]] = {"before": State, "after": State, "fault": Fault, "ruling": Ruling}


def _typed(kind: type[Event], name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """ABI values as the types that the class declares; a struct of amounts is laid flat."""
    typed: dict[str, Any] = {}
    for key, value in values.items():
        field = field_name(name, key)
        if isinstance(value, dict) and field not in ("offer", "claim"):
            typed |= _typed(kind, name, value)
            continue
        if field in _ENUMS:
            value = _ENUMS[field](value)
        elif field == "offer":
            value = Offer.from_abi(value)
        elif field == "claim":
            value = to_claim(value)
        elif field == "peer_id":
            value = PeerId(value.decode("ascii", "replace"))
        elif isinstance(value, list):
            value = tuple(value)
        typed[key] = value
    return typed


def fields_of(kind: type[Event]) -> set[str]:
    """The fields that an event class adds to Event."""
    own = {field.name for field in dataclasses.fields(typing.cast(Any, kind))}
    return own - {field.name for field in dataclasses.fields(Event)}
