"""
What open holds give back of grants that a change of plan has replaced is granted anew.

Revision 0016, after 0015. See ``subscription_grants`` in quota_engine/ledger/plan_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

RETURNS = """
ALTER TABLE subscription_grants ADD COLUMN returns_at TIMESTAMPTZ;
CREATE INDEX subscription_grants_returns ON subscription_grants (returns_at)
    WHERE returns_at IS NOT NULL;
"""


def upgrade() -> None:
    """Add the column."""
    op.execute(RETURNS)


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE subscription_grants DROP COLUMN returns_at")
