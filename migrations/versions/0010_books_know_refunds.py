"""
The view of the books knows refunds: they come back from where usage went.

Revision 0010, after 0009.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BOOKS = """
CREATE OR REPLACE VIEW books AS
    SELECT quota_type, 'balances' AS book, sum(balance) AS amount FROM quotas GROUP BY quota_type
    UNION ALL
    SELECT quota_type, book, -sum(delta) AS amount
    FROM (
        SELECT quota_type, delta, CASE
            WHEN kind IN ('grant.issued', 'grant.started') THEN 'issued'
            WHEN kind IN ({usage}) THEN 'usage'
            WHEN kind = 'grant.expired' THEN 'expired'
            WHEN kind = 'grant.voided' THEN 'voided'
            ELSE 'other'
        END AS book
        FROM ledger_entries
        WHERE delta <> 0
    ) AS lines
    GROUP BY quota_type, book;
"""
CHARGES = "'hold.captured', 'quota.debited'"


def upgrade() -> None:
    """Count refunds as usage given back."""
    op.execute(BOOKS.format(usage=f"{CHARGES}, 'quota.refunded'"))


def downgrade() -> None:
    """Count them apart again."""
    op.execute(BOOKS.format(usage=CHARGES))
