"""
Batches of grants by their ids.

Revision 0017, after 0016. What each column means is told in quota_engine/ledger/batches.py.
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

BATCHES = """
CREATE TABLE batches (
    kind TEXT NOT NULL,
    batch_id TEXT COLLATE "C" NOT NULL,
    digest TEXT NOT NULL,
    lines BIGINT NOT NULL,
    actor TEXT,
    begun_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, batch_id)
);
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(BATCHES)


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE batches")
