"""The tables that every role shares, and the column types that all tables use.

How another room adds its own tables: define them with SQLAlchemy on `metadata` in its own module (names prefixed by
the room: `worker_jobs`), and add the next file to storage/migrations/versions (`0002_worker.py`, `down_revision`
naming the file before) that makes them with alembic's `op`. One line of history for all rooms: two files that name the
same predecessor are refused at start. A released migration is never edited.

Amounts of wei and tokens do not fit an SQL integer (2^63 wei are 9.2 ETH); hashes are bytes, never hex text.
Next: engine.py opens a database, outbox.py and chain_log.py read and write these tables.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_UINT256_DIGITS = 78


class Amount(sa.types.TypeDecorator[int]):
    """0 to 2^256 - 1: NUMERIC(78,0) on PostgreSQL, 78 zero-padded digits elsewhere, so that text sorts as numbers."""

    impl = sa.String(_UINT256_DIGITS)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.Numeric(_UINT256_DIGITS, 0))
        return dialect.type_descriptor(sa.String(_UINT256_DIGITS))

    def process_bind_param(self, value: int | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if not 0 <= value < 2**256:
            raise ValueError(f"amount {value} is not in 0 to 2^256 - 1")
        return value if dialect.name == "postgresql" else f"{value:0{_UINT256_DIGITS}d}"

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


class FixedBytes(sa.types.TypeDecorator[bytes]):
    """Exactly `size` bytes: 32 for hashes and ids, 20 for accounts."""

    impl = sa.LargeBinary
    cache_ok = True

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        if value is not None and len(value) != self.size:
            raise ValueError(f"{len(value)} bytes for a column of {self.size}")
        return None if value is None else bytes(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:
        return None if value is None else bytes(value)


cursors = sa.Table(
    "chain_cursor",
    metadata,
    sa.Column("chain_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("block_number", sa.BigInteger, nullable=False),
    sa.Column("block_hash", FixedBytes(32), nullable=False),
)
"""How far a follower of one chain has read: everything up to and including this block is applied."""

seen_blocks = sa.Table(
    "seen_block",
    metadata,
    sa.Column("chain_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", FixedBytes(32), nullable=False),
    sa.Column("parent_hash", FixedBytes(32), nullable=False),
    sa.Column("timestamp", sa.BigInteger, nullable=False),
)
"""The newest blocks' hashes, to find where another branch left ours."""

events = sa.Table(
    "chain_event",
    metadata,
    sa.Column("chain_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("block_hash", FixedBytes(32), primary_key=True),
    sa.Column("log_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("block_number", sa.BigInteger, nullable=False),
    sa.Column("tx_hash", FixedBytes(32), nullable=False),
    sa.Column("address", FixedBytes(20), nullable=False),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("job_id", FixedBytes(32), nullable=True),
    sa.Column("args", sa.JSON, nullable=False),
    sa.Index(None, "chain_id", "block_number", "log_index"),
    sa.Index(None, "job_id", "block_number"),
)
"""Decoded logs. `args` holds amounts as decimal strings and bytes as 0x hex: JSON numbers stop at 2^53."""

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("action_id", sa.String(200), nullable=False, unique=True),
    sa.Column("chain_id", sa.BigInteger, nullable=False),
    sa.Column("to", FixedBytes(20), nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("value_wei", Amount, nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("sender", FixedBytes(20), nullable=True),
    sa.Column("nonce", sa.BigInteger, nullable=True),
    sa.Column("tx_hash", FixedBytes(32), nullable=True),
    sa.Column("block_number", sa.BigInteger, nullable=True),
    sa.Column("block_hash", FixedBytes(32), nullable=True),
    sa.Column("reason", sa.String(1000), nullable=True),
    sa.UniqueConstraint("chain_id", "sender", "nonce"),
    sa.Index(None, "state", "place"),
)
"""One row per intended transaction; see outbox.py for the states."""

attempts = sa.Table(
    "outbox_attempt",
    metadata,
    sa.Column("tx_hash", FixedBytes(32), primary_key=True),
    sa.Column("action_id", sa.String(200), sa.ForeignKey("outbox.action_id", ondelete="CASCADE"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),
    sa.Column("is_sent", sa.Boolean, nullable=False),
    sa.UniqueConstraint("action_id", "number"),
)
"""Every signed form of an action; all have its nonce, so that at most one of them is ever mined."""

settings = sa.Table(
    "setting",
    metadata,
    sa.Column("key", sa.String(100), primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
)
"""Small facts of this database, such as which network it belongs to."""
