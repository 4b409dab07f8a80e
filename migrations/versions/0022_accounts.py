"""
Account policies: the state of accounts, and every change of it.

Revision 0022, after 0021. Columns are explained in quota_engine/ledger/account_tables.py. The
function returns an account and those above it.
"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

ACCOUNTS = """
CREATE TABLE accounts (
    account TEXT COLLATE "C" PRIMARY KEY,
    revision BIGINT NOT NULL,
    state TEXT NOT NULL CONSTRAINT accounts_state
        CHECK (state IN ('active', 'suspended', 'closed')),
    since TIMESTAMPTZ,
    reason TEXT,
    changed_by TEXT,
    changed_at TIMESTAMPTZ NOT NULL,
    sent_revision BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX accounts_unsent ON accounts (account) WHERE sent_revision < revision;
CREATE INDEX accounts_of_state ON accounts (state, account) WHERE state <> 'active';
CREATE TABLE account_changes (
    operation_id TEXT COLLATE "C" PRIMARY KEY,
    account TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    action TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    before TEXT NOT NULL,
    after TEXT NOT NULL,
    operator TEXT,
    reason TEXT,
    at TIMESTAMPTZ NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX account_changes_of_account ON account_changes (account, recorded_at);
CREATE TRIGGER account_changes_append_only BEFORE UPDATE OR DELETE ON account_changes
    FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only();
CREATE TRIGGER account_changes_no_truncate BEFORE TRUNCATE ON account_changes
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only();
CREATE FUNCTION account_path(account TEXT) RETURNS TEXT[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(array_to_string(parts[1:n], '/') ORDER BY n)
    FROM string_to_array(account, '/') AS parts, generate_series(1, cardinality(parts)) AS n
$$;
"""


def upgrade() -> None:
    """Make the tables and the function."""
    op.execute(ACCOUNTS)


def downgrade() -> None:
    """Drop them: every account is active, and who changed it is forgotten."""
    op.execute("DROP FUNCTION account_path")
    op.execute("DROP TABLE account_changes")
    op.execute("DROP TABLE accounts")
