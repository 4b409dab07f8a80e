"""
Subscriptions to plans, what was done to them, and the grants that they promised.

Revision 0012, after 0011. What each column means is told in quota_engine/ledger/plan_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SUBSCRIPTIONS = """
CREATE TABLE subscriptions (
    subscription_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    account TEXT COLLATE "C" NOT NULL,
    time_zone TEXT NOT NULL,
    state TEXT NOT NULL,
    phases JSON NOT NULL,
    starts_at TIMESTAMPTZ NOT NULL,
    revision INTEGER NOT NULL,
    ends_at TIMESTAMPTZ,
    paused_until TIMESTAMPTZ,
    period INTEGER NOT NULL DEFAULT 0,
    due_at TIMESTAMPTZ,
    fingerprint TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT subscriptions_state CHECK (state IN ('active', 'paused', 'ended'))
);
CREATE INDEX subscriptions_of_account ON subscriptions (account);
CREATE INDEX subscriptions_due ON subscriptions (due_at) WHERE due_at IS NOT NULL;
"""

CHANGES = """
CREATE TABLE subscription_changes (
    subscription_id TEXT COLLATE "C" NOT NULL,
    number INTEGER NOT NULL,
    operation_id TEXT COLLATE "C" NOT NULL,
    verb TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    plan TEXT COLLATE "C" NOT NULL,
    version INTEGER NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    effective_at TIMESTAMPTZ NOT NULL,
    actor TEXT,
    reference TEXT,
    recorded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (subscription_id, number),
    CONSTRAINT subscription_changes_once UNIQUE (subscription_id, operation_id)
);
"""

GRANTS = """
CREATE TABLE subscription_grants (
    subscription_id TEXT COLLATE "C" NOT NULL,
    grant_id TEXT COLLATE "C" NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    period INTEGER NOT NULL,
    amount BIGINT NOT NULL,
    priority INTEGER NOT NULL,
    starts_at TIMESTAMPTZ NOT NULL,
    ends_at TIMESTAMPTZ,
    plan TEXT COLLATE "C" NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    voided BIGINT,
    rollover_at TIMESTAMPTZ,
    forgive_at TIMESTAMPTZ,
    PRIMARY KEY (subscription_id, grant_id),
    CONSTRAINT subscription_grants_state CHECK (state IN ('promised', 'voiding', 'voided'))
);
CREATE INDEX subscription_grants_voiding ON subscription_grants (subscription_id)
    WHERE state = 'voiding';
CREATE INDEX subscription_grants_rollover ON subscription_grants (rollover_at)
    WHERE rollover_at IS NOT NULL;
CREATE INDEX subscription_grants_forgive ON subscription_grants (forgive_at)
    WHERE forgive_at IS NOT NULL;
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(SUBSCRIPTIONS)
    op.execute(CHANGES)
    op.execute(GRANTS)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TABLE subscription_grants, subscription_changes, subscriptions")
