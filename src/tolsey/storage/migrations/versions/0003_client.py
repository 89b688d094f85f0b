"""The buyer's table (client/records.py)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tolsey.storage.tables import FixedBytes

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "client_purchases",
        sa.Column("seal", FixedBytes(32), primary_key=True),
        sa.Column("secret", FixedBytes(32), nullable=False),
        sa.Column("peer_key", FixedBytes(32), nullable=False),
        sa.Column("listen", sa.String(256), nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("initial_root", FixedBytes(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("job_id", FixedBytes(32), nullable=True),
        sa.Column("offer", sa.LargeBinary, nullable=True),
        sa.Column("signature", FixedBytes(65), nullable=True),
        sa.Column("worker_peer_id", sa.String(64), nullable=True),
        sa.Column("progress", sa.LargeBinary, nullable=True),
        sa.UniqueConstraint("job_id"),
    )


def downgrade() -> None:
    raise NotImplementedError("the copy made before a migration is the way back")
