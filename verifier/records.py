"""What a verifier must still know after kill -9: what it found, what it accused whom of, how it voted.

A finding is written before its seal is sent: the seal binds to kind and segment, and whoever forgets them cannot
reveal. Evidence is written before the challenge and kept after it. Salts are never stored: all come from the
verifier's secret (docs/protocol.md section 2). Every function is one short transaction that may be run twice.

Tables (made by storage/migrations): `verifier_duties` one row per draw, `verifier_evidence` one per accused segment,
`verifier_votes` one per dispute round. Next in the flow: duty.py, challenger.py and panelist.py write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tolsey.contracts.views import Opening
from tolsey.protocol.content import ContentId
from tolsey.protocol.encoding import canonical_json, parse_canonical_json
from tolsey.protocol.lifecycle import Verdict, Vote
from tolsey.protocol.offer import Offer
from tolsey.protocol.units import JobId, StateRoot, WindowRoot
from tolsey.storage.engine import Database, Session
from tolsey.storage.tables import FixedBytes, metadata
from tolsey.verifier.compare import Finding
from tolsey.verifier.watcher import Draw, Duty

MAX_JSON_BYTES = 8_192

duties = sa.Table(
    "verifier_duties",
    metadata,
    sa.Column("job_id", FixedBytes(32), primary_key=True),
    sa.Column("window", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seed", FixedBytes(14), primary_key=True),
    sa.Column("offer", sa.LargeBinary, nullable=False),
    sa.Column("root", FixedBytes(32), nullable=False),
    sa.Column("pool_size", sa.Integer, nullable=False),
    sa.Column("drawn_at", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("drawn_block", sa.BigInteger, nullable=False),
    sa.Column("is_drawn", sa.Boolean(name="is_drawn"), nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("kind", sa.SmallInteger, nullable=True),
    sa.Column("segment", sa.BigInteger, nullable=False),
    sa.Column("message", sa.String(500), nullable=False),
)
evidence = sa.Table(
    "verifier_evidence",
    metadata,
    sa.Column("job_id", FixedBytes(32), primary_key=True),
    sa.Column("segment", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("charge", sa.String(16), nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("offer", sa.LargeBinary, nullable=False),
    sa.Column("window_root", FixedBytes(32), nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("opening", sa.LargeBinary, nullable=True),
    sa.Column("before", sa.LargeBinary, nullable=True),
    sa.Column("replayed_root", FixedBytes(32), nullable=False),
    sa.Column("start_checkpoint", FixedBytes(32), nullable=True),
    sa.Column("end_checkpoint", FixedBytes(32), nullable=True),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("message", sa.String(500), nullable=False),
)
votes = sa.Table(
    "verifier_votes",
    metadata,
    sa.Column("dispute_id", FixedBytes(32), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("job_id", FixedBytes(32), nullable=False),
    sa.Column("segment", sa.BigInteger, nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("vote", sa.SmallInteger, nullable=True),
    sa.Column("message", sa.String(500), nullable=False),
)

DUE, JUDGED, SEALED, REVEALED, MISSED, WATCHED = "due", "judged", "sealed", "revealed", "missed", "watched"
FOUND, QUEUED, UNFUNDED, OPEN, CLOSED = "found", "queued", "unfunded", "open", "closed"
WEIGHT = {"withheld": 0, "unavailable": 1, "mismatch": 2, "discontinuity": 3}
"""How much a charge says: what is known of a segment gives way only to what says more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyRecord:
    """A duty and how far it got: due, judged, then sealed, revealed, or missed; watched where no verdict is owed."""

    duty: Duty
    stage: str
    kind: Verdict | None
    segment: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything an accusation rests on, enough for a stranger to repeat it.

    Attributes:
        charge: "mismatch", "unavailable" (the checkpoint), "withheld" (the trace) or "discontinuity".
        stage: "found", then "queued" while another dispute stops the job and "unfunded" while no bond is free, "open"
            (on chain), "closed".
        spec: canonical bytes; empty where the trace was withheld. opening: of the segment; before: of the one before.
        replayed_root: what this machine got twice; zero where nothing could be replayed.
        start_checkpoint: content the replay started from, None for the initial state. end_checkpoint: the worker's.
        fingerprint: canonical JSON of this machine's class in profile `pinned`.
    """

    job_id: JobId
    segment: int
    charge: str
    stage: str
    offer: Offer
    window_root: WindowRoot
    spec: bytes
    opening: Opening | None
    before: Opening | None
    replayed_root: StateRoot
    start_checkpoint: ContentId | None
    end_checkpoint: ContentId | None
    fingerprint: bytes
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteRecord:
    """A panel vote and how far it got."""

    dispute_id: bytes
    round: int
    job_id: JobId
    segment: int
    stage: str
    vote: Vote | None
    message: str


class Records:
    """The tables of this room in one database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # duties

    async def begin(self, duty: Duty) -> DutyRecord:
        """The duty's row, made where it is new."""

        def put(session: Session) -> DutyRecord:
            row = session.execute(sa.select(duties).where(*_key(duty))).first()
            if row is None:
                session.execute(sa.insert(duties).values(_duty_row(duty)))
                row = session.execute(sa.select(duties).where(*_key(duty))).one()
            return _duty(row)

        return await self._db.write(put)

    async def judged(self, duty: Duty, finding: Finding) -> DutyRecord:
        """Writes what was found; the first finding of a draw stands, because its seal may be on chain."""

        def put(session: Session) -> DutyRecord:
            values = {"stage": JUDGED, "kind": int(finding.kind), "segment": finding.segment}
            where = (*_key(duty), duties.c.stage == DUE)
            session.execute(sa.update(duties).where(*where).values(message=finding.reason[:500], **values))
            return _duty(session.execute(sa.select(duties).where(*_key(duty))).one())

        return await self._db.write(put)

    async def set_stage(self, duty: Duty, stage: str, message: str | None = None) -> None:
        """Moves a duty on."""
        values: dict[str, Any] = {"stage": stage} | ({} if message is None else {"message": message[:500]})
        await self._run(sa.update(duties).where(*_key(duty)).values(values))

    async def open_duties(self) -> list[DutyRecord]:
        """Duties that were begun and not ended."""
        query = sa.select(duties).where(duties.c.stage.in_((DUE, JUDGED, SEALED)))
        return [_duty(row) for row in await self._db.read(lambda s: s.execute(query).all())]

    async def newest_duties(self, most: int = 50) -> list[DutyRecord]:
        """The last duties by time of the draw, newest first."""
        query = sa.select(duties).order_by(duties.c.drawn_at.desc()).limit(most)
        return [_duty(row) for row in await self._db.read(lambda s: s.execute(query).all())]

    # evidence

    async def keep_evidence(self, item: Evidence) -> None:
        """Writes evidence down; what is known of the same segment stays, unless this weighs more."""

        def put(session: Session) -> None:
            where = (evidence.c.job_id == item.job_id, evidence.c.segment == item.segment)
            known = session.execute(sa.select(evidence.c.charge).where(*where)).first()
            if known is not None and WEIGHT[known.charge] >= WEIGHT[item.charge]:
                return
            session.execute(sa.delete(evidence).where(*where))
            session.execute(sa.insert(evidence).values(_evidence_row(item)))

        await self._db.write(put)

    async def set_evidence_stage(self, item: Evidence, stage: str, message: str) -> None:
        """Moves an accusation on."""
        where = (evidence.c.job_id == item.job_id, evidence.c.segment == item.segment, evidence.c.charge == item.charge)
        await self._run(sa.update(evidence).where(*where).values(stage=stage, message=message[:500]))

    async def charges(self, duty: Duty) -> set[str]:
        """What the duty's window was accused of so far."""
        indices = duty.offer.window_segments(duty.draw.window)
        query = sa.select(evidence.c.charge).where(
            evidence.c.job_id == duty.job_id, evidence.c.segment.between(indices.start, indices.stop - 1)
        )
        return set(await self._db.read(lambda session: session.scalars(query).all()))

    async def all_evidence(self, *, only_open: bool = False) -> list[Evidence]:
        """Accusations, in no order."""
        query = sa.select(evidence)
        if only_open:
            query = query.where(evidence.c.stage != CLOSED)
        return [_evidence(row) for row in await self._db.read(lambda s: s.execute(query).all())]

    # votes

    async def begin_vote(self, dispute_id: bytes, round_: int, job_id: JobId, segment: int) -> VoteRecord:
        """The vote's row, made where it is new."""

        def put(session: Session) -> VoteRecord:
            where = (votes.c.dispute_id == dispute_id, votes.c.round == round_)
            row = session.execute(sa.select(votes).where(*where)).first()
            if row is None:
                values = {"dispute_id": dispute_id, "round": round_, "job_id": job_id, "segment": segment}
                session.execute(sa.insert(votes).values(**values, stage=DUE, vote=None, message=""))
                row = session.execute(sa.select(votes).where(*where)).one()
            return _vote(row)

        return await self._db.write(put)

    async def set_vote(self, dispute_id: bytes, round_: int, stage: str, vote: Vote | None, message: str) -> None:
        """Moves a vote on."""
        where = (votes.c.dispute_id == dispute_id, votes.c.round == round_)
        values = {"stage": stage, "vote": None if vote is None else int(vote), "message": message[:500]}
        await self._run(sa.update(votes).where(*where).values(**values))

    async def all_votes(self) -> list[VoteRecord]:
        """Every vote this verifier was asked for."""
        return [_vote(row) for row in await self._db.read(lambda s: s.execute(sa.select(votes)).all())]

    async def _run(self, statement: sa.Executable) -> None:
        await self._db.write(lambda session: session.execute(statement) and None)


def _key(duty: Duty) -> tuple[sa.ColumnElement[bool], ...]:
    seed = duty.draw.seed.to_bytes(14, "big")
    return (
        duties.c.job_id == duty.job_id,
        duties.c.window == duty.draw.window,
        duties.c.seed == seed,
        duties.c.drawn_at == duty.draw.drawn_at,
    )


def _duty_row(duty: Duty) -> dict[str, Any]:
    return {
        "job_id": duty.job_id,
        "window": duty.draw.window,
        "seed": duty.draw.seed.to_bytes(14, "big"),
        "offer": canonical_json(duty.offer.to_json()),
        "root": duty.draw.root,
        "pool_size": duty.draw.pool_size,
        "drawn_at": duty.draw.drawn_at,
        "drawn_block": duty.draw.block_number,
        "is_drawn": duty.is_drawn,
        "stage": DUE,
        "kind": None,
        "segment": 0,
        "message": "",
    }


def _duty(row: Any) -> DutyRecord:
    draw = Draw(
        window=row.window,
        root=WindowRoot(row.root),
        seed=int.from_bytes(row.seed, "big"),
        pool_size=row.pool_size,
        drawn_at=row.drawn_at,
        block_number=row.drawn_block,
    )
    return DutyRecord(
        duty=Duty(job_id=JobId(row.job_id), offer=_offer_of(row.offer), draw=draw, is_drawn=row.is_drawn),
        stage=row.stage,
        kind=None if row.kind is None else Verdict(row.kind),
        segment=row.segment,
        message=row.message,
    )


def _evidence_row(item: Evidence) -> dict[str, Any]:
    names = ("job_id", "segment", "charge", "stage", "window_root", "spec", "replayed_root", "start_checkpoint",
             "end_checkpoint", "fingerprint")  # fmt: skip
    return {name: getattr(item, name) for name in names} | {
        "offer": canonical_json(item.offer.to_json()),
        "opening": _opening_json(item.opening),
        "before": _opening_json(item.before),
        "message": item.message[:500],
    }


def _evidence(row: Any) -> Evidence:
    return Evidence(
        job_id=JobId(row.job_id),
        segment=row.segment,
        charge=row.charge,
        stage=row.stage,
        offer=_offer_of(row.offer),
        window_root=WindowRoot(row.window_root),
        spec=bytes(row.spec),
        opening=_opening_of(row.opening),
        before=_opening_of(row.before),
        replayed_root=StateRoot(row.replayed_root),
        start_checkpoint=None if row.start_checkpoint is None else ContentId(row.start_checkpoint),
        end_checkpoint=None if row.end_checkpoint is None else ContentId(row.end_checkpoint),
        fingerprint=bytes(row.fingerprint),
        message=row.message,
    )


def _vote(row: Any) -> VoteRecord:
    return VoteRecord(
        dispute_id=bytes(row.dispute_id),
        round=row.round,
        job_id=JobId(row.job_id),
        segment=row.segment,
        stage=row.stage,
        vote=None if row.vote is None else Vote(row.vote),
        message=row.message,
    )


def _offer_of(raw: bytes) -> Offer:
    return Offer.from_json(parse_canonical_json(bytes(raw), max_bytes=MAX_JSON_BYTES))


def _opening_json(opening: Opening | None) -> bytes | None:
    if opening is None:
        return None
    siblings = [sibling.hex() for sibling in opening.siblings]
    return canonical_json([opening.segment, opening.input_root.hex(), opening.output_root.hex(), siblings])


def _opening_of(raw: bytes | None) -> Opening | None:
    if raw is None:
        return None
    segment, input_root, output_root, siblings = parse_canonical_json(bytes(raw), max_bytes=MAX_JSON_BYTES)
    return Opening(
        segment=segment,
        input_root=StateRoot(bytes.fromhex(input_root)),
        output_root=StateRoot(bytes.fromhex(output_root)),
        siblings=tuple(bytes.fromhex(sibling) for sibling in siblings),
    )
