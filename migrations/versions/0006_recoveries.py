"""
What each recovery of Redis did: why it was, which entries were missing, and who accepted that.

Revision 0006, after 0005.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

RECOVERIES = """
CREATE TABLE recoveries (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    opened_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    epoch BIGINT NOT NULL,
    reason TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    accepted_by TEXT,
    entries BIGINT NOT NULL,
    gaps JSON NOT NULL,
    lost JSON NOT NULL
)
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(RECOVERIES)


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE recoveries")
