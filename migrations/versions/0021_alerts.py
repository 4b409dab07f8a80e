"""
Alert rules, alerts, their transitions, channels and messages.

Revision 0021, after 0020. Columns are explained in quota_engine/ledger/alert_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

ALERTS = """
CREATE TABLE alert_changes (
    revision BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    what TEXT NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    action TEXT NOT NULL,
    terms JSON NOT NULL,
    operator TEXT,
    remark TEXT
);
CREATE INDEX alert_changes_of ON alert_changes (what, name);
CREATE TRIGGER alert_changes_append_only BEFORE UPDATE OR DELETE ON alert_changes
    FOR EACH ROW EXECUTE FUNCTION ledger_is_append_only();
CREATE TRIGGER alert_changes_no_truncate BEFORE TRUNCATE ON alert_changes
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only();
CREATE TABLE alert_rules (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    account TEXT COLLATE "C",
    subtree BOOLEAN NOT NULL,
    quota_type TEXT COLLATE "C",
    warning TEXT,
    critical TEXT,
    period TEXT,
    currency TEXT COLLATE "C",
    provider TEXT COLLATE "C",
    each BOOLEAN NOT NULL,
    channels TEXT[],
    revision BIGINT NOT NULL,
    scanned BIGINT NOT NULL DEFAULT 0,
    changed_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    changed_by TEXT
);
CREATE TABLE alerts (
    alert_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    rule TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C",
    quota_type TEXT COLLATE "C",
    period TEXT,
    currency TEXT,
    severity TEXT NOT NULL CONSTRAINT alerts_severity
        CHECK (severity IN ('warning', 'critical')),
    value NUMERIC NOT NULL,
    threshold NUMERIC,
    sequence INTEGER NOT NULL,
    opened_at TIMESTAMPTZ NOT NULL,
    acknowledged_at TIMESTAMPTZ,
    acknowledged_by TEXT,
    resolved_at TIMESTAMPTZ,
    resolved_by TEXT,
    recovered_at TIMESTAMPTZ
);
CREATE UNIQUE INDEX alerts_once ON alerts (rule, subject) WHERE recovered_at IS NULL;
CREATE INDEX alerts_of_subject ON alerts (subject) WHERE recovered_at IS NULL;
CREATE INDEX alerts_open ON alerts (severity) WHERE resolved_at IS NULL;
CREATE INDEX alerts_opened ON alerts (opened_at);
CREATE INDEX alerts_of_account ON alerts (account, opened_at);
CREATE TABLE alert_steps (
    alert_id TEXT COLLATE "C" NOT NULL REFERENCES alerts (alert_id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    action TEXT NOT NULL,
    severity TEXT NOT NULL,
    value NUMERIC,
    threshold NUMERIC,
    at TIMESTAMPTZ NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    operator TEXT,
    remark TEXT,
    PRIMARY KEY (alert_id, sequence)
);
CREATE TABLE alert_channels (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    target TEXT NOT NULL,
    secret TEXT,
    per_minute INTEGER NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    window_at TIMESTAMPTZ,
    window_count INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE alert_deliveries (
    delivery_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    channel TEXT COLLATE "C" NOT NULL,
    alert_id TEXT COLLATE "C" REFERENCES alerts (alert_id) ON DELETE CASCADE,
    sequence INTEGER,
    action TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CONSTRAINT alert_deliveries_state
        CHECK (state IN ('pending', 'delivered', 'dead', 'joined')),
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    due_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    ended_at TIMESTAMPTZ,
    error TEXT,
    joined_to TEXT COLLATE "C"
);
CREATE INDEX alert_deliveries_pending ON alert_deliveries (channel, due_at)
    WHERE state = 'pending';
CREATE INDEX alert_deliveries_dead ON alert_deliveries (channel) WHERE state = 'dead';
CREATE INDEX alert_deliveries_of_alert ON alert_deliveries (alert_id);
CREATE INDEX alert_deliveries_joined ON alert_deliveries (joined_to)
    WHERE joined_to IS NOT NULL;
ALTER TABLE shards ADD COLUMN rules_revision BIGINT NOT NULL DEFAULT 0;
CREATE INDEX quotas_frozen ON quotas (account, quota_type) WHERE frozen <> '';
"""

#: Every deployment can tell by its workers' log.
LOG = "INSERT INTO alert_channels (name, kind, target, per_minute) VALUES ('log', 'log', '', 600)"


def upgrade() -> None:
    """Make the tables."""
    op.execute(ALERTS)
    op.execute(LOG)


def downgrade() -> None:
    """Drop them: rules, alerts and what was not delivered are forgotten."""
    op.execute("DROP INDEX quotas_frozen")
    op.execute("ALTER TABLE shards DROP COLUMN rules_revision")
    tables = ("deliveries", "channels", "steps")
    for table in (*(f"alert_{name}" for name in tables), "alerts", "alert_rules", "alert_changes"):
        op.execute(f"DROP TABLE {table}")
