"""What a buyer must still know after kill -9: the secret behind each seal, the offer it accepted, how to be found.

The secret is written before any worker sees the seal, and the chosen offer before `accept` is sent: whatever happens
in between, `tolsey follow` finds enough here to reveal, settle or cancel. The chain is the truth about states and
money; nothing here is needed for `tolsey audit --all`. Every function is one short transaction.

Table (made by storage/migrations): `client_purchases`, one row per seal. Amounts stand inside the offer's own JSON,
because 96-bit numbers do not fit an SQL integer. Next in the flow: market.py writes, serve.py reads.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
import trio

from tolsey.protocol.encoding import canonical_json, parse_canonical_json
from tolsey.protocol.job import JobSpec
from tolsey.protocol.offer import Offer
from tolsey.protocol.units import JobId, StateRoot
from tolsey.protocol.wire import PROGRESS, Progress
from tolsey.storage.engine import Database, Session, metadata
from tolsey.storage.tables import FixedBytes

MAX_OFFER_JSON_BYTES = 8_192
FORGET_S = 3_600
"""An intent that was not bought is forgotten after an hour; no offer binds that long."""
T = TypeVar("T")

purchases = sa.Table(
    "client_purchases",
    metadata,
    sa.Column("seal", FixedBytes(32), primary_key=True),
    sa.Column("secret", FixedBytes(32), nullable=False),
    sa.Column("peer_key", FixedBytes(32), nullable=False),
    sa.Column("listen", sa.String(256), nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("initial_root", FixedBytes(32), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("job_id", FixedBytes(32), nullable=True, unique=True),
    sa.Column("offer", sa.LargeBinary, nullable=True),
    sa.Column("signature", FixedBytes(65), nullable=True),
    sa.Column("worker_peer_id", sa.String(64), nullable=True),
    sa.Column("progress", sa.LargeBinary, nullable=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """One intended or made purchase.

    Attributes:
        seal: head of the hash chain; secret: its foot, 32 random bytes (protocol/offer.py `seal_chain`).
        peer_key: Ed25519 seed of the peer that serves the inputs; listen: multiaddr it listens on. Both stay the same
            for the life of the job, so that the worker finds a restarted client.
        created_at: unix seconds of this machine.
        offer, signature, worker_peer_id: what is accepted and from whom; None before the choice.
        progress: what the worker said last; None before it said anything.
    """

    seal: bytes
    secret: bytes = field(repr=False)
    peer_key: bytes = field(repr=False)
    listen: str
    spec: JobSpec
    initial_root: StateRoot
    created_at: int
    job_id: JobId | None = None
    offer: Offer | None = None
    signature: bytes = b""
    worker_peer_id: str = ""
    progress: Progress | None = None


class Purchases:
    """The table of this room.

    A database belongs to one process at a time (storage/lock.py), and a buyer has several: a follower for each job and
    whatever is typed meanwhile. So it is opened for one transaction and closed again; a file lock that the kernel
    queues makes them take turns.

    Args:
        path: of the SQLite file; made where missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def _run(self, work: Callable[[Session], T], *, write: bool) -> T:
        return await trio.to_thread.run_sync(self._run_now, work, write)

    def _run_now(self, work: Callable[[Session], T], write: bool) -> T:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self._path.with_suffix(".turn"), "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            database = Database.open(self._path)
            try:
                return database.write_now(work) if write else database.read_now(work)
            finally:
                database.close()

    async def keep(self, purchase: Purchase) -> None:
        """Writes a purchase down before anybody hears of its seal; those long given up are forgotten."""
        row = {
            "seal": purchase.seal,
            "secret": purchase.secret,
            "peer_key": purchase.peer_key,
            "listen": purchase.listen,
            "spec": purchase.spec.encode(),
            "initial_root": purchase.initial_root,
            "created_at": purchase.created_at,
        }
        stale = purchases.c.created_at < purchase.created_at - FORGET_S
        given_up = sa.delete(purchases).where(
            purchases.c.job_id.is_(None), sa.or_(stale, purchases.c.seal == purchase.seal)
        )

        def put(session: Session) -> None:
            session.execute(given_up)
            session.execute(sa.insert(purchases), [row])

        await self._run(put, write=True)

    async def choose(self, seal: bytes, job_id: JobId, offer: Offer, signature: bytes, worker_peer_id: str) -> None:
        """Writes the chosen offer down; it must be durable before `accept` is sent."""
        await self._set(
            purchases.c.seal == seal,
            job_id=job_id,
            offer=canonical_json(offer.to_json()),
            signature=signature,
            worker_peer_id=worker_peer_id,
        )

    async def note_progress(self, job_id: JobId, progress: Progress) -> None:
        """Keeps what the worker said last, so that the loss curve outlives the worker."""
        await self._set(purchases.c.job_id == job_id, progress=progress.encode())

    async def all(self) -> list[Purchase]:
        """Every purchase with a chosen offer, oldest first."""
        statement = (
            sa.select(purchases)
            .where(purchases.c.job_id.is_not(None))
            .order_by(purchases.c.created_at, purchases.c.seal)
        )
        return [_purchase(row) for row in await self._run(lambda s: s.execute(statement).all(), write=False)]

    async def of_job(self, job_id: JobId) -> Purchase | None:
        """The purchase that made this job; None where this client did not."""
        statement = sa.select(purchases).where(purchases.c.job_id == job_id)
        row = await self._run(lambda s: s.execute(statement).first(), write=False)
        return None if row is None else _purchase(row)

    async def _set(self, where: sa.ColumnElement[bool], **values: Any) -> None:
        statement = sa.update(purchases).where(where).values(**values)
        await self._run(lambda s: _nothing(s.execute(statement)), write=True)


def _nothing(_result: object) -> None:
    return None


def _purchase(row: Any) -> Purchase:
    offer = None
    if row.offer is not None:
        offer = Offer.from_json(parse_canonical_json(bytes(row.offer), max_bytes=MAX_OFFER_JSON_BYTES))
    progress = None
    if row.progress is not None and len(row.progress) <= PROGRESS.max_reply_bytes:
        progress = Progress.decode(bytes(row.progress))
    return Purchase(
        seal=bytes(row.seal),
        secret=bytes(row.secret),
        peer_key=bytes(row.peer_key),
        listen=row.listen,
        spec=JobSpec.decode(bytes(row.spec)),
        initial_root=StateRoot(bytes(row.initial_root)),
        created_at=row.created_at,
        job_id=None if row.job_id is None else JobId(bytes(row.job_id)),
        offer=offer,
        signature=b"" if row.signature is None else bytes(row.signature),
        worker_peer_id=row.worker_peer_id or "",
        progress=progress,
    )
