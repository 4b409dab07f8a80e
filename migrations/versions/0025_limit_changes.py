"""
Changes of limits are found without reading a whole log.

Revision 0025, after 0024.
"""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the index."""
    op.execute("""
        CREATE INDEX ledger_entries_limits ON ledger_entries (account, quota_type, version)
            WHERE kind = 'limit.set'
    """)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP INDEX ledger_entries_limits")
