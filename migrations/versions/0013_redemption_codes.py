"""
Redemption codes.

Revision 0013, after 0012. What each column means is told in quota_engine/ledger/sale_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

CODES = """
CREATE TABLE redemption_codes (
    code_hash TEXT COLLATE "C" NOT NULL,
    code_id TEXT COLLATE "C" NOT NULL,
    batch_id TEXT COLLATE "C" NOT NULL,
    package TEXT COLLATE "C" NOT NULL,
    version INTEGER NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ,
    redeemed_by TEXT COLLATE "C",
    redeemed_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    PRIMARY KEY (code_hash),
    CONSTRAINT redemption_codes_id UNIQUE (code_id),
    CONSTRAINT redemption_codes_of_a_package FOREIGN KEY (package, version)
        REFERENCES token_packages (name, version),
    CONSTRAINT redemption_codes_end_once CHECK (redeemed_by IS NULL OR revoked_at IS NULL)
);
CREATE INDEX redemption_codes_batch ON redemption_codes (batch_id);
CREATE INDEX redemption_codes_account ON redemption_codes (redeemed_by)
    WHERE redeemed_by IS NOT NULL;
"""


def upgrade() -> None:
    """Make the table."""
    op.execute(CODES)


def downgrade() -> None:
    """Drop the table."""
    op.execute("DROP TABLE redemption_codes")
