"""
Provider pools: what was paid in, and what usage records cost of it.

Revision 0019, after 0018. Columns are explained in quota_engine/ledger/pool_tables.py. Whoever
inserts records, the trigger notes what they cost in the same transaction: nothing while there are
no pools.
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

POOLS = """
CREATE TABLE provider_pools (
    provider TEXT COLLATE "C" NOT NULL,
    currency TEXT COLLATE "C" NOT NULL,
    starts_at_ms BIGINT NOT NULL,
    warning TEXT NOT NULL,
    critical TEXT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    summed_at TIMESTAMPTZ,
    PRIMARY KEY (provider, currency)
);
CREATE TABLE pool_entries (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider TEXT COLLATE "C" NOT NULL,
    currency TEXT COLLATE "C" NOT NULL,
    entry_id TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL CONSTRAINT pool_entries_kind
        CHECK (kind IN ('defined', 'recharged', 'corrected')),
    amount NUMERIC(48, 12) NOT NULL,
    operator TEXT,
    remark TEXT,
    at TIMESTAMPTZ NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pool_entries_once UNIQUE (provider, currency, entry_id),
    CONSTRAINT pool_entries_of_a_pool FOREIGN KEY (provider, currency)
        REFERENCES provider_pools (provider, currency)
);
CREATE TRIGGER pool_entries_append_only BEFORE UPDATE OR DELETE ON pool_entries
    FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only();
CREATE TRIGGER pool_entries_no_truncate BEFORE TRUNCATE ON pool_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only();
CREATE TABLE pool_days (
    provider TEXT COLLATE "C" NOT NULL,
    currency TEXT COLLATE "C" NOT NULL,
    day DATE NOT NULL,
    cost NUMERIC NOT NULL,
    PRIMARY KEY (provider, currency, day)
);
CREATE TABLE pool_notes (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider TEXT COLLATE "C" NOT NULL,
    currency TEXT COLLATE "C" NOT NULL,
    day DATE NOT NULL,
    cost NUMERIC NOT NULL
);
CREATE FUNCTION note_pool_costs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pool_notes (provider, currency, day, cost)
    SELECT p.provider, p.currency, DATE '1970-01-01' + (a.at_ms / 86400000)::integer, sum(a.cost)
    FROM provider_pools p
    JOIN added a ON a.provider = p.provider COLLATE "C" AND a.currency = p.currency COLLATE "C"
        AND a.at_ms >= p.starts_at_ms
    WHERE a.cost <> 0
    GROUP BY 1, 2, 3;
    RETURN NULL;
END
$$;
CREATE TRIGGER usage_records_pools AFTER INSERT ON usage_records
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION note_pool_costs();
"""


def upgrade() -> None:
    """Make the tables and the trigger."""
    op.execute(POOLS)


def downgrade() -> None:
    """Drop them, and what was recharged with them."""
    op.execute("DROP TRIGGER usage_records_pools ON usage_records")
    op.execute("DROP FUNCTION note_pool_costs")
    for table in ("pool_notes", "pool_days", "pool_entries", "provider_pools"):
        op.execute(f"DROP TABLE {table}")
