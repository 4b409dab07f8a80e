"""
The ledger: append-only entries, the state they add up to, and what did not fit.

Revision 0001, after nothing. What each table means is told in quota_engine/ledger/tables.py; a
test compares the two. Ids are compared byte by byte (COLLATE "C"), so no update of the system's
locales can break an index, and SQL and Python sort them alike.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PARTITIONS = 8

SHARDS = """
CREATE TABLE deployment (
    is_single BOOLEAN PRIMARY KEY DEFAULT true,
    deployment_id TEXT NOT NULL,
    shards INTEGER NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT deployment_is_single CHECK (is_single),
    CONSTRAINT deployment_has_shards CHECK (shards > 0)
);

CREATE TABLE shards (
    shard INTEGER PRIMARY KEY,
    epoch BIGINT NOT NULL DEFAULT 0,
    cursor_epoch BIGINT NOT NULL DEFAULT 0,
    cursor_n BIGINT NOT NULL DEFAULT 0,
    incarnation TEXT NOT NULL DEFAULT '',
    opened_at TIMESTAMPTZ,
    stopped TEXT,
    last_drain_at TIMESTAMPTZ,
    trim_mark_epoch BIGINT NOT NULL DEFAULT 0,
    trim_mark_n BIGINT NOT NULL DEFAULT 0,
    trim_mark_at TIMESTAMPTZ
);

CREATE TABLE superseded_incarnations (
    incarnation TEXT COLLATE "C" PRIMARY KEY,
    superseded_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
"""

QUOTAS = """
CREATE TABLE quotas (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    shard INTEGER NOT NULL,
    version BIGINT NOT NULL,
    balance BIGINT NOT NULL,
    held BIGINT NOT NULL,
    debt BIGINT NOT NULL,
    chain TEXT NOT NULL,
    overdraft_limit BIGINT DEFAULT 0,
    frozen TEXT NOT NULL DEFAULT '',
    updated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account, quota_type)
);
CREATE INDEX quotas_by_shard ON quotas (shard, account, quota_type);
"""

ENTRIES = """
CREATE TABLE ledger_entries (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    format TEXT NOT NULL,
    kind TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    operation_id TEXT COLLATE "C" NOT NULL,
    fingerprint TEXT NOT NULL,
    amount BIGINT NOT NULL,
    delta BIGINT NOT NULL,
    held_delta BIGINT NOT NULL,
    balance_after BIGINT NOT NULL,
    held_after BIGINT NOT NULL,
    debt_after BIGINT NOT NULL,
    shortfall BIGINT NOT NULL,
    subject TEXT NOT NULL,
    flags TEXT NOT NULL,
    terms TEXT NOT NULL,
    movements TEXT NOT NULL,
    details TEXT NOT NULL,
    chain TEXT NOT NULL,
    event_id TEXT NOT NULL,
    duplicate_of BIGINT,
    late BOOLEAN NOT NULL,
    reference TEXT,
    occurred_at TIMESTAMPTZ GENERATED ALWAYS AS (to_timestamp(at_ms / 1000.0)) STORED,
    recorded_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account, quota_type, version)
) PARTITION BY HASH (account);
CREATE UNIQUE INDEX ledger_entries_operation
    ON ledger_entries (account, quota_type, operation_id) WHERE duplicate_of IS NULL;
CREATE INDEX ledger_entries_recorded ON ledger_entries (account, quota_type, recorded_at);

CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % of % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only();
CREATE TRIGGER ledger_entries_no_truncate BEFORE TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only();
"""

ENTRIES_PARTITION = """
CREATE TABLE ledger_entries_{number} PARTITION OF ledger_entries
    FOR VALUES WITH (MODULUS {partitions}, REMAINDER {number});
CREATE TRIGGER ledger_entries_no_truncate BEFORE TRUNCATE ON ledger_entries_{number}
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only();
"""

GRANTS_AND_HOLDS = """
CREATE TABLE holds (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    hold_id TEXT COLLATE "C" NOT NULL,
    state TEXT NOT NULL,
    amount BIGINT NOT NULL,
    allocations JSON NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    placed_version BIGINT NOT NULL,
    closed_version BIGINT,
    expires_at TIMESTAMPTZ GENERATED ALWAYS AS (to_timestamp(expires_at_ms / 1000.0)) STORED,
    PRIMARY KEY (account, quota_type, hold_id),
    CONSTRAINT holds_state CHECK (state IN ('open', 'captured', 'released', 'expired'))
);
CREATE INDEX holds_open ON holds (expires_at_ms) WHERE state = 'open';
CREATE INDEX holds_open_of_quota ON holds (account, quota_type, expires_at_ms)
    WHERE state = 'open';

CREATE TABLE grants (
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    grant_id TEXT COLLATE "C" NOT NULL,
    state TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    amount BIGINT NOT NULL,
    remaining BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    starts_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    source TEXT,
    reference TEXT,
    description TEXT,
    details TEXT NOT NULL DEFAULT '',
    intended_at TIMESTAMPTZ,
    applied_version BIGINT,
    starts_at TIMESTAMPTZ GENERATED ALWAYS AS (to_timestamp(starts_at_ms / 1000.0)) STORED,
    expires_at TIMESTAMPTZ GENERATED ALWAYS AS (
        CASE WHEN expires_at_ms < 9007199254740991 THEN to_timestamp(expires_at_ms / 1000.0) END
    ) STORED,
    PRIMARY KEY (account, quota_type, grant_id),
    CONSTRAINT grants_state CHECK (state IN ('intent', 'pending', 'live', 'expired', 'voided'))
);
CREATE INDEX grants_intended ON grants (intended_at) WHERE state = 'intent';
CREATE INDEX grants_starting ON grants (starts_at_ms) WHERE state = 'pending';
CREATE INDEX grants_ending ON grants (expires_at_ms)
    WHERE state = 'live' AND (remaining > 0 OR reserved > 0);
CREATE INDEX grants_counting ON grants (account, quota_type, priority, expires_at_ms)
    WHERE state = 'pending' OR remaining > 0 OR reserved > 0;
"""

OTHERS = """
CREATE TABLE quarantine (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    quota TEXT,
    raw_entry BYTEA NOT NULL,
    raw_chain BYTEA NOT NULL,
    cause TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    resolved_at TIMESTAMPTZ
);
CREATE INDEX quarantine_unresolved ON quarantine (quota, id) WHERE resolved_at IS NULL;

CREATE TABLE usage_records (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    operation_id TEXT NOT NULL,
    amount BIGINT NOT NULL,
    shortfall BIGINT NOT NULL,
    late BOOLEAN NOT NULL,
    usage JSON NOT NULL,
    at_ms BIGINT NOT NULL,
    occurred_at TIMESTAMPTZ GENERATED ALWAYS AS (to_timestamp(at_ms / 1000.0)) STORED,
    recorded_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT usage_records_entry UNIQUE (account, quota_type, version)
);
CREATE INDEX usage_records_occurred ON usage_records (at_ms);

CREATE VIEW books AS
    SELECT quota_type, 'balances' AS book, sum(balance) AS amount FROM quotas GROUP BY quota_type
    UNION ALL
    SELECT quota_type, book, -sum(delta) AS amount
    FROM (
        SELECT quota_type, delta, CASE
            WHEN kind IN ('grant.issued', 'grant.started') THEN 'issued'
            WHEN kind IN ('hold.captured', 'quota.debited') THEN 'usage'
            WHEN kind = 'grant.expired' THEN 'expired'
            WHEN kind = 'grant.voided' THEN 'voided'
            ELSE 'other'
        END AS book
        FROM ledger_entries
        WHERE delta <> 0
    ) AS lines
    GROUP BY quota_type, book;
"""


def upgrade() -> None:
    """Create every table, the append-only triggers and the view of the books."""
    op.execute(SHARDS)
    op.execute(QUOTAS)
    op.execute(ENTRIES)
    for number in range(PARTITIONS):
        op.execute(ENTRIES_PARTITION.format(number=number, partitions=PARTITIONS))
    op.execute(GRANTS_AND_HOLDS)
    op.execute(OTHERS)


def downgrade() -> None:
    """Drop everything. Whoever asks for it asks for an empty database."""
    op.execute("DROP VIEW books")
    op.execute(
        "DROP TABLE usage_records, quarantine, grants, holds, ledger_entries, quotas,"
        " superseded_incarnations, shards, deployment"
    )
    op.execute("DROP FUNCTION ledger_is_append_only()")
