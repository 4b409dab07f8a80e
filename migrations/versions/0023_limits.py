"""
Limits: what each quota's are, and what counts in those windows that outlive Redis.

Revision 0023, after 0022. Holds that were placed before their quota had limits count in none, so
nothing is filled in. Columns are explained in quota_engine/ledger/tables.py and window_counts.py.
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

LIMITS = """
ALTER TABLE quotas
    ADD COLUMN limits TEXT NOT NULL DEFAULT '',
    ADD COLUMN last_count_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE holds
    ADD COLUMN counts_at_ms BIGINT,
    ADD COLUMN is_counted BOOLEAN NOT NULL DEFAULT false;
CREATE TABLE window_counts (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    limit_key TEXT COLLATE "C" NOT NULL,
    since_ms BIGINT NOT NULL,
    starts_at_ms BIGINT NOT NULL,
    counted BIGINT NOT NULL,
    PRIMARY KEY (account, quota_type, limit_key, since_ms, starts_at_ms)
);
"""
NO_LIMITS = """
DROP TABLE window_counts;
ALTER TABLE holds DROP COLUMN counts_at_ms, DROP COLUMN is_counted;
ALTER TABLE quotas DROP COLUMN limits, DROP COLUMN last_count_ms;
"""


def upgrade() -> None:
    """Add the columns and the table."""
    op.execute(LIMITS)


def downgrade() -> None:
    """Drop them: limits are forgotten, their entries stay."""
    op.execute(NO_LIMITS)
