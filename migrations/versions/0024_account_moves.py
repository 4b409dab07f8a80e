"""
Moves of accounts: which went where, and which of their grants keep their ids.

Revision 0024, after 0023. Columns are explained in quota_engine/ledger/account_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

MOVES = """
ALTER TABLE accounts ADD COLUMN moved_to TEXT COLLATE "C";
CREATE INDEX accounts_moved ON accounts (account) WHERE moved_to IS NOT NULL;
CREATE TABLE account_moves (
    operation_id TEXT COLLATE "C" PRIMARY KEY,
    account TEXT COLLATE "C" NOT NULL,
    target TEXT COLLATE "C" NOT NULL,
    operator TEXT,
    reason TEXT,
    was TEXT NOT NULL,
    begun_at TIMESTAMPTZ NOT NULL,
    planned_at TIMESTAMPTZ,
    finished_at TIMESTAMPTZ
);
CREATE INDEX account_moves_of_account ON account_moves (account);
CREATE INDEX account_moves_open ON account_moves (begun_at) WHERE finished_at IS NULL;
CREATE TABLE account_move_grants (
    operation_id TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    grant_id TEXT COLLATE "C" NOT NULL,
    is_voided BOOLEAN NOT NULL DEFAULT false,
    issued BIGINT NOT NULL DEFAULT 0,
    pieces INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (operation_id, account, quota_type, grant_id)
);
"""


def upgrade() -> None:
    """Make the tables and the column."""
    op.execute(MOVES)


def downgrade() -> None:
    """Drop them: where accounts went is forgotten."""
    op.execute("DROP TABLE account_move_grants")
    op.execute("DROP TABLE account_moves")
    op.execute("DROP INDEX accounts_moved")
    op.execute("ALTER TABLE accounts DROP COLUMN moved_to")
