"""
What is given back of charges, promised before it is applied; and which call a record corrects.

Revision 0005, after 0004.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

REFUNDS = """
CREATE TABLE refunds (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    refund_id TEXT COLLATE "C" NOT NULL,
    operation_id TEXT COLLATE "C" NOT NULL,
    amount BIGINT NOT NULL,
    parts TEXT NOT NULL,
    grace_ms BIGINT NOT NULL,
    details TEXT NOT NULL DEFAULT '',
    intended_at TIMESTAMPTZ NOT NULL,
    applied_version BIGINT,
    PRIMARY KEY (account, quota_type, refund_id)
);
CREATE INDEX refunds_of_charge ON refunds (account, quota_type, operation_id);
CREATE INDEX refunds_intended ON refunds (intended_at) WHERE applied_version IS NULL;
"""

COLUMNS = ("service_tier", "corrects")


def upgrade() -> None:
    """Make the table and the columns."""
    op.execute(REFUNDS)
    for name in COLUMNS:
        op.execute(f"ALTER TABLE usage_records ADD COLUMN {name} TEXT")


def downgrade() -> None:
    """Drop them."""
    for name in COLUMNS:
        op.execute(f"ALTER TABLE usage_records DROP COLUMN {name}")
    op.execute("DROP TABLE refunds")
