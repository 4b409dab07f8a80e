"""
Reminders of grants that end soon.

Revision 0015, after 0014. Its columns are explained in quota_engine/ledger/reminder_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

REMINDERS = """
CREATE TABLE reminders (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    grant_id TEXT COLLATE "C" NOT NULL,
    days INTEGER NOT NULL,
    remaining BIGINT NOT NULL,
    source TEXT,
    reference TEXT,
    expires_at TIMESTAMPTZ NOT NULL,
    reminded_at TIMESTAMPTZ NOT NULL,
    claimed_at TIMESTAMPTZ,
    delivered_at TIMESTAMPTZ,
    PRIMARY KEY (account, quota_type, grant_id, days)
);
CREATE INDEX reminders_made ON reminders (reminded_at);
CREATE INDEX reminders_undelivered ON reminders (reminded_at) WHERE delivered_at IS NULL;
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(REMINDERS)


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE reminders")
