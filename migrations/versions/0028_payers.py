"""
Payers: who pays when an account's own quota cannot, and who pays for a hold.

Revision 0028, after 0027. See ``accounts`` in quota_engine/ledger/account_tables.py and ``holds``
in quota_engine/ledger/tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.execute("ALTER TABLE accounts ADD COLUMN pays_after TEXT NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE holds ADD COLUMN paid_by TEXT NOT NULL DEFAULT ''")


def downgrade() -> None:
    """Drop them: every account pays for itself."""
    op.execute("ALTER TABLE holds DROP COLUMN paid_by")
    op.execute("ALTER TABLE accounts DROP COLUMN pays_after")
