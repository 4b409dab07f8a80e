"""
Account policies: whether an account's quotas refuse, or only tell what they would.

Revision 0027, after 0026. See ``accounts`` in quota_engine/ledger/account_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE accounts ADD COLUMN enforcement TEXT NOT NULL DEFAULT ''")


def downgrade() -> None:
    """Drop it: every account enforces."""
    op.execute("ALTER TABLE accounts DROP COLUMN enforcement")
