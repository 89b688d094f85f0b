"""The verifier's tables: what it found, whom it accuses of what, how it votes (verifier/records.py)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tolsey.storage.tables import FixedBytes

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "verifier_duties",
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
    op.create_table(
        "verifier_evidence",
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
    op.create_table(
        "verifier_votes",
        sa.Column("dispute_id", FixedBytes(32), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("job_id", FixedBytes(32), nullable=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("vote", sa.SmallInteger, nullable=True),
        sa.Column("message", sa.String(500), nullable=False),
    )


def downgrade() -> None:
    for table in ("verifier_votes", "verifier_evidence", "verifier_duties"):
        op.drop_table(table)
