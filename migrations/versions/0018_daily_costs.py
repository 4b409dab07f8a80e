"""
Daily sums of usage records, and the days of accounts whose sums have to be made again.

Revision 0018, after 0017. Columns are explained in quota_engine/ledger/report_tables.py. Whoever
inserts records, the trigger notes their days in the same transaction, so no day can be missed.
"""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

DAILY_COSTS = """
CREATE TABLE daily_costs (
    day DATE NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    line INTEGER NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    usage_type TEXT COLLATE "C" NOT NULL,
    status TEXT COLLATE "C" NOT NULL,
    currency TEXT COLLATE "C" NOT NULL,
    calls BIGINT NOT NULL,
    corrections BIGINT NOT NULL,
    estimated_calls BIGINT NOT NULL,
    late_calls BIGINT NOT NULL,
    unbilled_calls BIGINT NOT NULL,
    unpriced_calls BIGINT NOT NULL,
    input_tokens NUMERIC NOT NULL,
    cached_input_tokens NUMERIC NOT NULL,
    cache_write_tokens NUMERIC NOT NULL,
    cache_write_1h_tokens NUMERIC NOT NULL,
    output_tokens NUMERIC NOT NULL,
    reasoning_tokens NUMERIC NOT NULL,
    images NUMERIC NOT NULL,
    characters NUMERIC NOT NULL,
    audio_seconds NUMERIC NOT NULL,
    video_seconds NUMERIC NOT NULL,
    requests NUMERIC NOT NULL,
    cost NUMERIC NOT NULL,
    consumed NUMERIC NOT NULL,
    shortfall NUMERIC NOT NULL,
    held_calls BIGINT NOT NULL,
    held NUMERIC NOT NULL,
    captured NUMERIC NOT NULL,
    latencies JSONB NOT NULL,
    PRIMARY KEY (day, account, line)
);
CREATE INDEX daily_costs_of_account ON daily_costs (account, day);
CREATE TABLE usage_changes (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account TEXT COLLATE "C" NOT NULL,
    day DATE NOT NULL
);
CREATE FUNCTION note_usage_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO usage_changes (account, day)
    SELECT DISTINCT account, DATE '1970-01-01' + (at_ms / 86400000)::integer FROM added;
    RETURN NULL;
END
$$;
CREATE TRIGGER usage_records_changes AFTER INSERT ON usage_records
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION note_usage_changes();
"""

# The trigger's making has locked the table: records of transactions under way come after it.
BACKLOG = """
INSERT INTO usage_changes (account, day)
SELECT DISTINCT account, DATE '1970-01-01' + (at_ms / 86400000)::integer FROM usage_records
"""


def upgrade() -> None:
    """Make the tables and the trigger; every day that has records is to be summed."""
    op.execute(DAILY_COSTS)
    op.execute(BACKLOG)


def downgrade() -> None:
    """Drop them: the sums can be made again from the records."""
    op.execute("DROP TRIGGER usage_records_changes ON usage_records")
    op.execute("DROP FUNCTION note_usage_changes")
    op.execute("DROP TABLE usage_changes")
    op.execute("DROP TABLE daily_costs")
