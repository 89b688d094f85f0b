"""The worker's tables: offers that bind it, jobs it runs, segments it has made, facts it has measured."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tolsey.storage.tables import FixedBytes

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "worker_offers",
        sa.Column("job_id", FixedBytes(32), primary_key=True),
        sa.Column("request_hash", FixedBytes(32), nullable=False, index=True),
        sa.Column("offer", sa.LargeBinary, nullable=False),
        sa.Column("signature", FixedBytes(65), nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("client_peer_id", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "worker_jobs",
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
    op.create_table(
        "worker_segments",
        sa.Column("job_id", FixedBytes(32), sa.ForeignKey("worker_jobs.job_id"), primary_key=True),
        sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("input_root", FixedBytes(32), nullable=False),
        sa.Column("output_root", FixedBytes(32), nullable=False),
        sa.Column("checkpoint", FixedBytes(32), nullable=False),
        sa.Column("losses", sa.LargeBinary, nullable=False),
        sa.Column("step_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "worker_facts",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    for table in ("worker_facts", "worker_segments", "worker_jobs", "worker_offers"):
        op.drop_table(table)
