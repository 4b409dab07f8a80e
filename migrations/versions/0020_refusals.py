"""
Refused calls by day, account, model and reason.

Revision 0020, after 0019. Columns are explained in quota_engine/ledger/refusals.py.
"""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

REFUSALS = """
CREATE TABLE refusals (
    day DATE NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    refused BIGINT NOT NULL,
    PRIMARY KEY (day, account, quota_type, provider, model, reason)
);
CREATE INDEX refusals_of_account ON refusals (account, day);
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(REFUSALS)


def downgrade() -> None:
    """Drop the table: what was refused is forgotten."""
    op.execute("DROP TABLE refusals")
