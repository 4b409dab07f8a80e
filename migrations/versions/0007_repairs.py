"""
Repairs: who mended a quota and why, and what became of each quarantined entry.

Revision 0007, after 0006. What each column means is told in quota_engine/ledger/tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

QUARANTINE = """
ALTER TABLE quarantine
    ADD COLUMN kind TEXT,
    ADD COLUMN operation_id TEXT COLLATE "C",
    ADD COLUMN repair_id TEXT,
    ADD COLUMN resolution TEXT,
    ADD COLUMN resolved_by TEXT;
CREATE INDEX quarantine_operation ON quarantine (quota, operation_id)
    WHERE operation_id IS NOT NULL;
"""

REPAIRS = """
CREATE TABLE repairs (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    repair_id TEXT COLLATE "C" NOT NULL,
    cause TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    details TEXT NOT NULL,
    begun_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    finished_at TIMESTAMPTZ,
    PRIMARY KEY (account, quota_type, repair_id)
);
CREATE INDEX repairs_open ON repairs (begun_at) WHERE finished_at IS NULL;
"""


def upgrade() -> None:
    """Add the columns and the table."""
    op.execute(QUARANTINE)
    op.execute(REPAIRS)


def downgrade() -> None:
    """Drop both."""
    op.execute("DROP TABLE repairs")
    op.execute("DROP INDEX quarantine_operation")
    op.execute(
        "ALTER TABLE quarantine DROP COLUMN kind, DROP COLUMN operation_id,"
        " DROP COLUMN repair_id, DROP COLUMN resolution, DROP COLUMN resolved_by"
    )
