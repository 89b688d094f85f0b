"""The shared tables: chain cursor, seen blocks, events, outbox, settings.

Written out rather than taken from tables.py: tables.py goes on changing, history does not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tolsey.storage.tables import Amount, FixedBytes

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chain_cursor",
        sa.Column("chain_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("block_number", sa.BigInteger, nullable=False),
        sa.Column("block_hash", FixedBytes(32), nullable=False),
    )
    op.create_table(
        "seen_block",
        sa.Column("chain_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("hash", FixedBytes(32), nullable=False),
        sa.Column("parent_hash", FixedBytes(32), nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "chain_event",
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
    op.create_table(
        "outbox",
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
    op.create_table(
        "outbox_attempt",
        sa.Column("tx_hash", FixedBytes(32), primary_key=True),
        sa.Column("action_id", sa.String(200), sa.ForeignKey("outbox.action_id", ondelete="CASCADE"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("is_sent", sa.Boolean, nullable=False),
        sa.UniqueConstraint("action_id", "number"),
    )
    op.create_table(
        "setting",
        sa.Column("key", sa.String(100), primary_key=True),
        sa.Column("value", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    raise NotImplementedError("the copy made before a migration is the way back")
