"""What a worker must still know after kill -9: offers that bind it, jobs it runs, segments it has made.

Every function is one short transaction; no chain call, peer call or training happens inside. The chain is the truth
about a job's state and money, these tables only about what this machine has promised and done; worker.py compares the
two at every turn. Amounts stand inside the offer's own JSON, because 96-bit numbers do not fit an SQL integer.

Tables (made by storage/migrations): `worker_offers` signed and not yet accepted; `worker_jobs` accepted;
`worker_segments` checkpoints that are durable in the blob store; `worker_facts` measured once (class, speed, sequence).
Next in the flow: bidding.py writes the first row of a job, worker.py the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tolsey.errors import LocalViolation
from tolsey.protocol.content import ContentId
from tolsey.protocol.encoding import canonical_json, parse_canonical_json
from tolsey.protocol.job import JobSpec
from tolsey.protocol.lifecycle import FINAL, State
from tolsey.protocol.offer import Offer
from tolsey.protocol.units import JobId, StateRoot
from tolsey.storage.engine import Database, Session
from tolsey.storage.tables import FixedBytes, metadata

MAX_OFFER_JSON_BYTES = 8_192
MAX_LOSSES_BYTES = 1 << 20

offers = sa.Table(
    "worker_offers",
    metadata,
    sa.Column("job_id", FixedBytes(32), primary_key=True),
    sa.Column("request_hash", FixedBytes(32), nullable=False, index=True),
    sa.Column("offer", sa.LargeBinary, nullable=False),
    sa.Column("signature", FixedBytes(65), nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("client_peer_id", sa.String(64), nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)
jobs = sa.Table(
    "worker_jobs",
    metadata,
    sa.Column("job_id", FixedBytes(32), primary_key=True),
    sa.Column("offer", sa.LargeBinary, nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("client_peer_id", sa.String(64), nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("window", sa.Integer, nullable=False),
    sa.Column("message", sa.String(500), nullable=False),
    sa.Column("initial", FixedBytes(32), nullable=True),
    sa.Column("closed_at", sa.BigInteger, nullable=True),
)
segments = sa.Table(
    "worker_segments",
    metadata,
    sa.Column("job_id", FixedBytes(32), sa.ForeignKey("worker_jobs.job_id"), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("input_root", FixedBytes(32), nullable=False),
    sa.Column("output_root", FixedBytes(32), nullable=False),
    sa.Column("checkpoint", FixedBytes(32), nullable=False),
    sa.Column("losses", sa.LargeBinary, nullable=False),
    sa.Column("step_us", sa.BigInteger, nullable=False),
)
facts = sa.Table(
    "worker_facts",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferRecord:
    """A signed offer that still binds.

    Attributes:
        request_hash: keccak256 of the client's account and its request, so that asking twice gives one offer.
    """

    job_id: JobId
    request_hash: bytes
    offer: Offer
    signature: bytes
    spec: JobSpec
    client_peer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """An accepted job.

    Attributes:
        phase: as in wire.Progress.
        state, window: what the chain said last.
        initial: content id of the checkpoint at step 0, once made; never served, anyone can derive it.
        closed_at: block time at which it was seen to be final and its blobs were let go.
    """

    job_id: JobId
    offer: Offer
    spec: JobSpec
    client_peer_id: str
    phase: str
    state: State
    window: int
    message: str
    initial: ContentId | None
    closed_at: int | None

    @property
    def is_final(self) -> bool:
        """Whether the chain has closed this job."""
        return self.state in FINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRecord:
    """A segment whose checkpoint is on disk.

    Attributes:
        losses: (step, loss as decimal string) for each step. step_us: microseconds a step, on average.
    """

    index: int
    input_root: StateRoot
    output_root: StateRoot
    checkpoint: ContentId
    losses: tuple[tuple[int, str], ...] = ()
    step_us: int = 0


class Records:
    """The tables of this room in one database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def keep_offer(self, record: OfferRecord) -> None:
        """Writes a signed offer down; it must be durable before it leaves the machine."""
        row = {
            "job_id": record.job_id,
            "request_hash": record.request_hash,
            "offer": canonical_json(record.offer.to_json()),
            "signature": record.signature,
            "spec": record.spec.encode(),
            "client_peer_id": record.client_peer_id,
            "expires_at": record.offer.expires_at,
        }
        await self._run(sa.insert(offers), [row])

    async def open_offers(self) -> list[OfferRecord]:
        """All offers kept, expired ones included until `forget_offers`."""
        return [_offer(row) for row in await self._db.read(lambda s: s.execute(sa.select(offers)).all())]

    async def forget_offers(self, before_ts: int) -> None:
        """Drops offers that expired before `before_ts` (block time)."""
        await self._run(sa.delete(offers).where(offers.c.expires_at < before_ts))

    async def begin_job(self, job_id: JobId) -> JobRecord:
        """Turns an accepted offer into a job; the same job again where it has begun already.

        Raises:
            LocalViolation: no such offer was kept.
        """

        def move(session: Session) -> Any:
            if (known := session.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).first()) is not None:
                return known
            row = session.execute(sa.select(offers).where(offers.c.job_id == job_id)).first()
            if row is None:
                raise LocalViolation(f"job {job_id.hex()} was accepted, but no such offer is on record")
            values = {name: getattr(row, name) for name in ("job_id", "offer", "spec", "client_peer_id")}
            values |= {"phase": "fetching", "state": int(State.ACCEPTED), "window": 0, "message": "accepted"}
            session.execute(sa.insert(jobs), [{**values, "initial": None, "closed_at": None}])
            session.execute(sa.delete(offers).where(offers.c.job_id == job_id))
            return session.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).first()

        return _job(await self._db.write(move))

    async def jobs(self) -> list[JobRecord]:
        """Every job this worker ever had, in no order."""
        return await self._db.read(all_jobs)

    async def job(self, job_id: JobId) -> JobRecord | None:
        """One job."""
        row = await self._db.read(lambda s: s.execute(sa.select(jobs).where(jobs.c.job_id == job_id)).first())
        return None if row is None else _job(row)

    async def note(self, job_id: JobId, **values: Any) -> None:
        """Updates columns of a job: phase, state, window, message, initial, closed_at."""
        if "message" in values:
            values["message"] = str(values["message"])[:500]
        if "state" in values:
            values["state"] = int(values["state"])
        statement = sa.update(jobs).where(jobs.c.job_id == job_id).values(**values)
        await self._run(statement)

    async def add_segment(self, job_id: JobId, record: SegmentRecord) -> None:
        """Writes a finished segment down; its checkpoint is durable already."""
        row = dataclasses.asdict(record) | {
            "job_id": job_id,
            "losses": canonical_json([list(p) for p in record.losses]),
        }
        await self._run(sa.insert(segments), [row])

    async def segments(self, job_id: JobId, indices: range | None = None) -> list[SegmentRecord]:
        """Finished segments in order; `indices` narrows them."""
        statement = sa.select(segments).where(segments.c.job_id == job_id).order_by(segments.c.index)
        if indices is not None:
            statement = statement.where(segments.c.index >= indices.start, segments.c.index < indices.stop)
        return [_segment(row) for row in await self._db.read(lambda s: s.execute(statement).all())]

    async def last_segment(self, job_id: JobId) -> SegmentRecord | None:
        """The newest finished segment."""
        statement = sa.select(segments).where(segments.c.job_id == job_id).order_by(segments.c.index.desc()).limit(1)
        row = await self._db.read(lambda s: s.execute(statement).first())
        return None if row is None else _segment(row)

    async def _run(self, statement: sa.Executable, rows: list[dict[str, Any]] | None = None) -> None:
        def run(session: Session) -> None:
            session.execute(statement, rows) if rows else session.execute(statement)

        await self._db.write(run)

    async def fact(self, name: str) -> bytes | None:
        """A measured value."""
        row = await self._db.read(lambda s: s.execute(sa.select(facts.c.value).where(facts.c.name == name)).first())
        return None if row is None else bytes(row.value)

    async def keep_fact(self, name: str, value: bytes) -> None:
        """Writes a measured value down, over an older one."""

        def put(session: Session) -> None:
            session.execute(sa.delete(facts).where(facts.c.name == name))
            session.execute(sa.insert(facts), [{"name": name, "value": value}])

        await self._db.write(put)


def all_jobs(session: Session) -> list[JobRecord]:
    """Every job on record, in no order."""
    return [_job(row) for row in session.execute(sa.select(jobs)).all()]


def _offer(row: Any) -> OfferRecord:
    return OfferRecord(
        job_id=JobId(bytes(row.job_id)),
        request_hash=bytes(row.request_hash),
        offer=_offer_of(row.offer),
        signature=bytes(row.signature),
        spec=JobSpec.decode(bytes(row.spec)),
        client_peer_id=row.client_peer_id,
    )


def _job(row: Any) -> JobRecord:
    return JobRecord(
        job_id=JobId(bytes(row.job_id)),
        offer=_offer_of(row.offer),
        spec=JobSpec.decode(bytes(row.spec)),
        client_peer_id=row.client_peer_id,
        phase=row.phase,
        state=State(row.state),
        window=row.window,
        message=row.message,
        initial=None if row.initial is None else ContentId(bytes(row.initial)),
        closed_at=row.closed_at,
    )


def _segment(row: Any) -> SegmentRecord:
    pairs: Sequence[Any] = parse_canonical_json(bytes(row.losses), max_bytes=MAX_LOSSES_BYTES)
    return SegmentRecord(
        index=row.index,
        input_root=StateRoot(bytes(row.input_root)),
        output_root=StateRoot(bytes(row.output_root)),
        checkpoint=ContentId(bytes(row.checkpoint)),
        losses=tuple((step, loss) for step, loss in pairs),
        step_us=row.step_us,
    )


def _offer_of(raw: bytes) -> Offer:
    return Offer.from_json(parse_canonical_json(bytes(raw), max_bytes=MAX_OFFER_JSON_BYTES))
