"""
Packages of quota that are sold, and the orders of them.

Revision 0008, after 0007. What each column means is told in quota_engine/packages.py.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

PACKAGES = """
CREATE TABLE token_packages (
    name TEXT COLLATE "C" NOT NULL,
    version INTEGER NOT NULL,
    quota_type TEXT COLLATE "C" NOT NULL,
    amount BIGINT NOT NULL,
    bonus BIGINT NOT NULL,
    price NUMERIC NOT NULL,
    currency TEXT NOT NULL,
    original_price NUMERIC,
    valid_for INTERVAL,
    per_user_limit BIGINT,
    priority INTEGER NOT NULL,
    sort_order INTEGER NOT NULL,
    description TEXT,
    is_active BOOLEAN NOT NULL DEFAULT true,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, version)
);
"""

PURCHASES = """
CREATE TABLE purchases (
    order_id TEXT COLLATE "C" NOT NULL,
    line INTEGER NOT NULL,
    account TEXT COLLATE "C" NOT NULL,
    package TEXT COLLATE "C" NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    ordered_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    paid_at TIMESTAMPTZ,
    expires_at TIMESTAMPTZ,
    refunded_at TIMESTAMPTZ,
    PRIMARY KEY (order_id, line),
    CONSTRAINT purchases_of_a_package FOREIGN KEY (package, version)
        REFERENCES token_packages (name, version),
    CONSTRAINT purchases_state CHECK (state IN ('pending', 'paid', 'refunded', 'cancelled'))
);
CREATE INDEX purchases_of_account ON purchases (account, package);
"""


def upgrade() -> None:
    """Make the tables."""
    op.execute(PACKAGES)
    op.execute(PURCHASES)


def downgrade() -> None:
    """Drop the tables."""
    op.execute("DROP TABLE purchases, token_packages")
