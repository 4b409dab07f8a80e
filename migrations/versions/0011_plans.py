"""
Plans that accounts subscribe to.

Revision 0011, after 0010. What each column means is told in quota_engine/plans.py.
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PLANS = """
CREATE TABLE plans (
    name TEXT COLLATE "C" NOT NULL,
    version INTEGER NOT NULL,
    period TEXT NOT NULL,
    amounts JSON NOT NULL,
    priority INTEGER NOT NULL,
    rollover JSON NOT NULL,
    debt TEXT NOT NULL,
    extras JSON NOT NULL,
    trial_period TEXT,
    trial_amounts JSON NOT NULL,
    description TEXT,
    is_active BOOLEAN NOT NULL DEFAULT true,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, version),
    CONSTRAINT plans_debt CHECK (debt IN ('carry', 'forgive'))
);
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(PLANS)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE plans")
