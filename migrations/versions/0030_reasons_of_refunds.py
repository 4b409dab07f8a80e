"""
The refund of an order keeps its reason beside its actor, so that whoever finishes it tells it.

Revision 0030, after 0029. See ``purchases`` in quota_engine/ledger/sale_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE purchases ADD COLUMN refund_reason TEXT")


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE purchases DROP COLUMN refund_reason")
