"""What a follower of the chain has seen, so that each event takes effect once and a reorganisation can be undone.

The follower calls these inside one `Database.write` together with the effects of the events: block hashes, events,
effects, outbox rows and cursor stand or fall together. Nothing here talks to a chain; contracts/ does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tolsey.storage.tables import cursors, events, seen_blocks

KEPT_BLOCKS = 128
"""Two epochs and twice the depth (64) beyond which a reorganisation is for a human."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBlock:
    """A block that was applied. `timestamp` in unix seconds."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenEvent:
    """A decoded log. `args`: amounts as decimal strings, bytes as 0x hex. `job_id` None where it concerns no job."""

    block_number: int
    block_hash: bytes
    log_index: int
    tx_hash: bytes
    address: bytes
    name: str
    job_id: bytes | None
    args: dict[str, Any]


def cursor(session: Session, chain_id: int, name: str) -> tuple[int, bytes] | None:
    """Number and hash of the last applied block of follower `name`; None before the first."""
    query = sa.select(cursors.c.block_number, cursors.c.block_hash)
    row = session.execute(query.where(cursors.c.chain_id == chain_id, cursors.c.name == name)).first()
    return None if row is None else (row.block_number, row.block_hash)


def set_cursor(session: Session, chain_id: int, name: str, block_number: int, block_hash: bytes) -> None:
    """Everything up to and including this block is applied."""
    session.execute(sa.delete(cursors).where(cursors.c.chain_id == chain_id, cursors.c.name == name))
    row = {"chain_id": chain_id, "name": name, "block_number": block_number, "block_hash": block_hash}
    session.execute(sa.insert(cursors).values(row))


def add_blocks(session: Session, chain_id: int, blocks: Sequence[SeenBlock]) -> None:
    """Remembers block hashes, and forgets those more than KEPT_BLOCKS below the newest."""
    if not blocks:
        return
    numbers = [block.number for block in blocks]
    where = seen_blocks.c.chain_id == chain_id
    session.execute(sa.delete(seen_blocks).where(where, seen_blocks.c.number.in_(numbers)))
    session.execute(
        sa.insert(seen_blocks),
        [
            {"chain_id": chain_id, "number": block.number, "hash": block.hash, "parent_hash": block.parent_hash,
             "timestamp": block.timestamp}
            for block in blocks
        ],
    )  # fmt: skip
    newest = session.execute(sa.select(sa.func.max(seen_blocks.c.number)).where(where)).scalar_one()
    session.execute(sa.delete(seen_blocks).where(where, seen_blocks.c.number <= newest - KEPT_BLOCKS))


def blocks_seen(session: Session, chain_id: int) -> list[SeenBlock]:
    """The remembered blocks, newest first."""
    query = sa.select(seen_blocks).where(seen_blocks.c.chain_id == chain_id).order_by(seen_blocks.c.number.desc())
    return [
        SeenBlock(number=row.number, hash=row.hash, parent_hash=row.parent_hash, timestamp=row.timestamp)
        for row in session.execute(query)
    ]


def add_event(session: Session, chain_id: int, event: SeenEvent) -> bool:
    """Writes an event down; False where it is there already, and then its effect must not be applied again."""
    here = (events.c.block_hash == event.block_hash, events.c.log_index == event.log_index)
    if session.execute(sa.select(events.c.name).where(events.c.chain_id == chain_id, *here)).first() is not None:
        return False
    row = {name: getattr(event, name) for name in SeenEvent.__dataclass_fields__}
    session.execute(sa.insert(events).values(chain_id=chain_id, **row))
    return True


def events_of_job(session: Session, chain_id: int, job_id: bytes) -> list[SeenEvent]:
    """A job's events in chain order."""
    query = sa.select(events).where(events.c.chain_id == chain_id, events.c.job_id == job_id)
    return [_event(row) for row in session.execute(query.order_by(events.c.block_number, events.c.log_index))]


def forget_above(session: Session, chain_id: int, number: int) -> list[SeenEvent]:
    """Drops blocks and events above `number` after a reorganisation; gives the events, newest first, to undo."""
    above = (events.c.chain_id == chain_id, events.c.block_number > number)
    order = (events.c.block_number.desc(), events.c.log_index.desc())
    gone = [_event(row) for row in session.execute(sa.select(events).where(*above).order_by(*order))]
    session.execute(sa.delete(events).where(*above))
    session.execute(sa.delete(seen_blocks).where(seen_blocks.c.chain_id == chain_id, seen_blocks.c.number > number))
    return gone


def _event(row: Any) -> SeenEvent:
    return SeenEvent(**{name: getattr(row, name) for name in SeenEvent.__dataclass_fields__})
