"""
The workers' duties: when each was taken up last, and what came of it.

Revision 0002, after 0001.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DUTIES = """
CREATE TABLE duties (
    duty TEXT COLLATE "C" PRIMARY KEY,
    claimed_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ,
    outcome TEXT NOT NULL DEFAULT '',
    is_ok BOOLEAN NOT NULL DEFAULT true
)
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(DUTIES)


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE duties")
