"""
A refund of an order is recorded before anything is voided, so that the schedule can finish it.

Revision 0026, after 0025. See ``purchases`` in quota_engine/ledger/sale_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

REFUNDS = """
ALTER TABLE purchases ADD COLUMN refund_begun_at TIMESTAMPTZ;
ALTER TABLE purchases ADD COLUMN refund_actor TEXT;
CREATE INDEX purchases_being_refunded ON purchases (refund_begun_at)
    WHERE state = 'paid' AND refund_begun_at IS NOT NULL;
"""


def upgrade() -> None:
    """Add the columns."""
    op.execute(REFUNDS)


def downgrade() -> None:
    """Drop them."""
    op.execute("ALTER TABLE purchases DROP COLUMN refund_begun_at, DROP COLUMN refund_actor")
