"""
Transfers between accounts, and their place in the books.

Revision 0014, after 0013. What each column means is told in quota_engine/ledger/transfers.py.
"""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TRANSFERS = """
CREATE TABLE transfers (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    transfer_id TEXT COLLATE "C" NOT NULL,
    to_account TEXT COLLATE "C" NOT NULL,
    amount BIGINT NOT NULL,
    arrival_id TEXT COLLATE "C" NOT NULL,
    details TEXT NOT NULL,
    state TEXT NOT NULL,
    sent_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account, quota_type, transfer_id)
);
CREATE INDEX transfers_open ON transfers (sent_at) WHERE state = 'open';
CREATE INDEX transfers_to ON transfers (to_account, quota_type);
"""

BOOKS = """
CREATE OR REPLACE VIEW books AS
    SELECT quota_type, 'balances' AS book, sum(balance) AS amount FROM quotas GROUP BY quota_type
    UNION ALL
    SELECT quota_type, book, -sum(delta) AS amount
    FROM (
        SELECT quota_type, delta, CASE
            WHEN kind IN ('grant.issued', 'grant.started') THEN 'issued'
            WHEN kind IN ('hold.captured', 'quota.debited', 'quota.refunded') THEN 'usage'
            WHEN kind = 'grant.expired' THEN 'expired'
            WHEN kind = 'grant.voided' THEN 'voided'
            {transfers}
            ELSE 'other'
        END AS book
        FROM ledger_entries
        WHERE delta <> 0
    ) AS lines
    GROUP BY quota_type, book;
"""
#: What is in this book is on its way: it has left and not arrived.
ON_ITS_WAY = "WHEN kind IN ('quota.transferred_out', 'quota.transferred_in') THEN 'transferred'"


def upgrade() -> None:
    """Make the table, and the book of what is on its way."""
    op.execute(TRANSFERS)
    op.execute(BOOKS.format(transfers=ON_ITS_WAY))


def downgrade() -> None:
    """Drop the table; the books count transfers as other things."""
    op.execute(BOOKS.format(transfers=""))
    op.execute("DROP TABLE transfers")
