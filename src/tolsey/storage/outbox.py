"""Transactions that must be sent exactly once, however often the machine stops on the way.

    meant ──mark_signed──> signed ──mark_sent──> sent ──mark_mined──> mined | reverted
      │                      ^  └──────────────────│──mark_mined────────^ (crash between sending and writing it)
      │                      └────mark_signed──────┘ (dearer copy, same nonce)
      └──mark_refused──> refused

The rule: an action is `put` in the same transaction as the decision that causes it, and its signed bytes are written
before they are sent. After a crash the sender finds either a meaning (and signs) or signed bytes (and sends the very
same bytes again, which a chain takes once). All copies of an action carry one nonce, so at most one is ever mined.
No two actions of a sender hold the same nonce: the table forbids it.

The sender's day, in contracts/sender.py, every step a `Database.write` of its own:

    while action := next_unsent(...):   meant: sign with next_nonce(...), mark_signed
                                        then send the newest attempt, mark_sent
    for action in in_flight(...):       ask for the receipts of all its attempts, mark_mined where one is there
    a block is gone:                    unmine(block_hash), unmine_above(block), unmine_from(nonce)

Nothing here signs, sends or reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tolsey.errors import LocalViolation
from tolsey.storage.tables import attempts, outbox

ActionState = Literal["meant", "signed", "sent", "mined", "reverted", "refused"]
MAX_DATA_BYTES = 128 * 1024
"""Calldata of one action; a node's pool takes no larger transaction (geth: 128 KiB)."""
MAX_ATTEMPTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One signed form of an action. `raw`: what eth_sendRawTransaction takes. `is_sent`: a node has taken it."""

    tx_hash: bytes
    raw: bytes
    is_sent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One intended transaction and how far it has come.

    Attributes:
        action_id: unique for ever, such as "commit:<job>:<window>".
        sender, nonce: set once signed.
        attempts: oldest first.
        tx_hash, block_number, block_hash: of the attempt that was mined.
        reason: why it reverted or was refused.
    """

    action_id: str
    chain_id: int
    to: bytes
    data: bytes
    value_wei: int
    state: ActionState
    sender: bytes | None
    nonce: int | None
    attempts: tuple[Attempt, ...]
    tx_hash: bytes | None
    block_number: int | None
    block_hash: bytes | None
    reason: str | None

    @property
    def is_final(self) -> bool:
        """Whether nothing is left to do, short of a reorganisation."""
        return self.state in ("mined", "reverted", "refused")


def put(session: Session, action_id: str, *, chain_id: int, to: bytes, data: bytes, value_wei: int = 0) -> bool:
    """Means an action; False where it is meant already with the same content.

    Raises:
        LocalViolation: the id stands for another content, or the content is out of bounds.
    """
    if not 0 < len(action_id) <= 200 or len(data) > MAX_DATA_BYTES:
        raise LocalViolation(
            f"action id of {len(action_id)} characters, data of {len(data)} bytes; limits are 200 and {MAX_DATA_BYTES}"
        )
    before = find(session, action_id)
    if before is None:
        row = {"action_id": action_id, "chain_id": chain_id, "to": to, "data": data, "value_wei": value_wei}
        session.execute(sa.insert(outbox).values(state="meant", **row))
        return True
    if (before.chain_id, before.to, before.data, before.value_wei) != (chain_id, to, data, value_wei):
        raise LocalViolation(
            f"action {action_id} was meant as {before.data[:36].hex()}… to 0x{before.to.hex()}, "
            f"now as {data[:36].hex()}… to 0x{to.hex()}"
        )
    return False


def find(session: Session, action_id: str) -> Action | None:
    """An action by its id."""
    return _one(session, outbox.c.action_id == action_id)


def find_by_hash(session: Session, tx_hash: bytes) -> Action | None:
    """The action that one of whose signed forms has this hash."""
    owner = sa.select(attempts.c.action_id).where(attempts.c.tx_hash == tx_hash).scalar_subquery()
    return _one(session, outbox.c.action_id == owner)


def next_unsent(session: Session, chain_id: int) -> Action | None:
    """The oldest action to sign or to send; None where all are on their way or done."""
    return _one(session, outbox.c.chain_id == chain_id, outbox.c.state.in_(("meant", "signed")))


def in_flight(session: Session, chain_id: int, limit: int = 100) -> list[Action]:
    """Actions any attempt of which may have been mined, in the order of their nonces: none is mined before the last."""
    where = (outbox.c.chain_id == chain_id, outbox.c.state.in_(("signed", "sent")))
    return _many(session, limit, *where, order=outbox.c.nonce)


def next_nonce(session: Session, chain_id: int, sender: bytes, chain_nonce: int) -> int:
    """The nonce to sign with: above all of ours, and not below `chain_nonce`, the chain's pending count."""
    ours = (outbox.c.chain_id == chain_id, outbox.c.sender == sender)
    highest = session.execute(sa.select(sa.func.max(outbox.c.nonce)).where(*ours)).scalar_one()
    return chain_nonce if highest is None else max(chain_nonce, highest + 1)


def mark_signed(session: Session, action_id: str, *, sender: bytes, nonce: int, tx_hash: bytes, raw: bytes) -> None:
    """Keeps signed bytes; must be durable before they are sent. A further call adds a dearer copy.

    Raises:
        LocalViolation: another nonce than before, too many copies, a final action, or a nonce that another action has.
    """
    action = _require(session, action_id, "meant", "signed", "sent")
    if action.nonce is not None and (action.sender, action.nonce) != (sender, nonce):
        raise LocalViolation(f"action {action_id} has nonce {action.nonce}, a copy with {nonce} could be mined too")
    if any(attempt.tx_hash == tx_hash for attempt in action.attempts):
        return
    if len(action.attempts) >= MAX_ATTEMPTS:
        raise LocalViolation(f"action {action_id} was signed {MAX_ATTEMPTS} times already")
    rival = _one(
        session, outbox.c.chain_id == action.chain_id, outbox.c.sender == sender, outbox.c.nonce == nonce,
        outbox.c.action_id != action_id,
    )  # fmt: skip
    if rival is not None:
        raise LocalViolation(f"nonce {nonce} belongs to action {rival.action_id}, asked for by {action_id}")
    _set(session, action_id, state="signed", sender=sender, nonce=nonce)
    row = {"tx_hash": tx_hash, "action_id": action_id, "number": len(action.attempts), "raw": raw, "is_sent": False}
    session.execute(sa.insert(attempts).values(row))


def mark_sent(session: Session, tx_hash: bytes) -> None:
    """A node has taken these bytes (or says that it knows them)."""
    action = _owner(session, tx_hash)
    session.execute(sa.update(attempts).where(attempts.c.tx_hash == tx_hash).values(is_sent=True))
    if action.state == "signed" and action.attempts[-1].tx_hash == tx_hash:
        _set(session, action.action_id, state="sent")


def mark_mined(
    session: Session, tx_hash: bytes, *, block_number: int, block_hash: bytes, ok: bool, reason: str | None = None
) -> bool:
    """One attempt is in a block; False where that was known. `ok`: receipt status 1. `reason`: why not.

    Raises:
        LocalViolation: another attempt of the same action is mined already, or nobody signed this hash.
    """
    action = _owner(session, tx_hash)
    if action.is_final and action.tx_hash != tx_hash:
        before = (action.tx_hash or b"").hex()
        raise LocalViolation(f"action {action.action_id} is {action.state} as 0x{before}, not as 0x{tx_hash.hex()}")
    _set(
        session, action.action_id, state="mined" if ok else "reverted", tx_hash=tx_hash, block_number=block_number,
        block_hash=block_hash, reason=None if reason is None else reason[:1000],
    )  # fmt: skip
    return not action.is_final


def mark_refused(session: Session, action_id: str, reason: str) -> None:
    """Gives up an action that was never signed, because the contract would revert it."""
    _require(session, action_id, "meant")
    _set(session, action_id, state="refused", reason=reason[:1000])


def unmine(session: Session, chain_id: int, block_hash: bytes) -> int:
    """A block is gone: what was mined in it is under way again. Gives how many."""
    return _unmine(session, chain_id, outbox.c.block_hash == block_hash)


def unmine_above(session: Session, chain_id: int, block_number: int) -> int:
    """All blocks above this one are gone. Harmless where one is not: the receipt is found again. Gives how many."""
    return _unmine(session, chain_id, outbox.c.block_number > block_number)


def unmine_from(session: Session, chain_id: int, sender: bytes, nonce: int) -> int:
    """The chain knows no transaction with this nonce or a later one: what was mined as such is not. Gives how many."""
    return _unmine(session, chain_id, outbox.c.sender == sender, outbox.c.nonce >= nonce)


def mined_above(session: Session, chain_id: int, block_number: int) -> list[tuple[int, bytes]]:
    """Number and hash of each block above this one in which an action was mined."""
    above = (outbox.c.chain_id == chain_id, outbox.c.block_number > block_number)
    rows = session.execute(sa.select(outbox.c.block_number, outbox.c.block_hash).where(*above).distinct()).all()
    return [(number, block_hash) for number, block_hash in rows]


def release(session: Session, action_id: str) -> None:
    """Back to `meant`, without nonce and copies.

    Warning: only where a final block shows that the nonce was used by a transaction that is none of its attempts;
    otherwise the action may happen twice.
    """
    _require(session, action_id, "signed", "sent")
    session.execute(sa.delete(attempts).where(attempts.c.action_id == action_id))
    _set(session, action_id, state="meant", sender=None, nonce=None)


def _unmine(session: Session, chain_id: int, *where: sa.ColumnElement[bool]) -> int:
    gone = sa.update(outbox).where(outbox.c.chain_id == chain_id, outbox.c.block_hash.is_not(None), *where)
    done = session.execute(gone.values(state="sent", tx_hash=None, block_number=None, block_hash=None, reason=None))
    return int(done.rowcount)  # type: ignore[attr-defined]  # an UPDATE gives a CursorResult


def _set(session: Session, action_id: str, **values: Any) -> None:
    session.execute(sa.update(outbox).where(outbox.c.action_id == action_id).values(**values))


def _owner(session: Session, tx_hash: bytes) -> Action:
    action = find_by_hash(session, tx_hash)
    if action is None:
        raise LocalViolation(f"no action was signed as 0x{tx_hash.hex()}")
    return action


def _require(session: Session, action_id: str, *states: ActionState) -> Action:
    action = find(session, action_id)
    if action is None or action.state not in states:
        found = action.state if action else "unknown"
        raise LocalViolation(f"action {action_id} is {found}, expected {' or '.join(states)}")
    return action


def _one(session: Session, *where: sa.ColumnElement[bool]) -> Action | None:
    found = _many(session, 1, *where)
    return found[0] if found else None


def _many(
    session: Session, limit: int, *where: sa.ColumnElement[bool], order: sa.ColumnElement[int] = outbox.c.place
) -> list[Action]:
    rows = session.execute(sa.select(outbox).where(*where).order_by(order).limit(limit)).all()
    ids = [row.action_id for row in rows]
    copies: dict[str, list[Attempt]] = {action_id: [] for action_id in ids}
    query = sa.select(attempts).where(attempts.c.action_id.in_(ids)).order_by(attempts.c.number)
    for row in session.execute(query) if ids else ():
        copies[row.action_id].append(Attempt(tx_hash=row.tx_hash, raw=bytes(row.raw), is_sent=row.is_sent))
    return [_action(row, copies[row.action_id]) for row in rows]


def _action(row: Any, copies: Iterable[Attempt]) -> Action:
    return Action(
        action_id=row.action_id, chain_id=row.chain_id, to=row.to, data=bytes(row.data), value_wei=row.value_wei,
        state=row.state, sender=row.sender, nonce=row.nonce, attempts=tuple(copies), tx_hash=row.tx_hash,
        block_number=row.block_number, block_hash=row.block_hash, reason=row.reason,
    )  # fmt: skip
