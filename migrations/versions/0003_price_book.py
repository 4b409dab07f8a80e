"""
The price book: providers, their models, and prices that are never changed.

Revision 0003, after 0002. What each table means is told in quota_engine/ledger/price_tables.py.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CATALOG = """
CREATE TABLE providers (
    name TEXT COLLATE "C" PRIMARY KEY,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE models (
    provider TEXT COLLATE "C" NOT NULL REFERENCES providers (name),
    name TEXT COLLATE "C" NOT NULL,
    usage_type TEXT,
    context_tokens_max BIGINT,
    output_tokens_max BIGINT,
    is_enabled BOOLEAN NOT NULL DEFAULT true,
    created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (provider, name)
);
"""

PRICES = """
CREATE TABLE prices (
    price_id TEXT COLLATE "C" PRIMARY KEY,
    number BIGINT GENERATED ALWAYS AS IDENTITY NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    pricing_type TEXT NOT NULL,
    unit TEXT NOT NULL,
    price NUMERIC NOT NULL,
    currency TEXT NOT NULL,
    min_charge_units NUMERIC NOT NULL DEFAULT 0,
    above_tokens BIGINT,
    service_tier TEXT,
    resolution TEXT,
    effective_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ,
    origin TEXT NOT NULL,
    source TEXT,
    recorded_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT prices_of_a_model FOREIGN KEY (provider, model) REFERENCES models (provider, name),
    CONSTRAINT prices_from_zero CHECK (price >= 0 AND min_charge_units >= 0),
    CONSTRAINT prices_end_after_they_begin CHECK (expires_at > effective_at),
    CONSTRAINT prices_origin CHECK (origin IN ('own', 'imported'))
);
CREATE INDEX prices_by_model ON prices (provider, model, effective_at);

CREATE FUNCTION prices_are_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a price is never changed: % of % is refused, set a new version', TG_OP,
        TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER prices_immutable BEFORE UPDATE OR DELETE ON prices
    FOR EACH ROW EXECUTE FUNCTION prices_are_immutable();
CREATE TRIGGER prices_no_truncate BEFORE TRUNCATE ON prices
    FOR EACH STATEMENT EXECUTE FUNCTION prices_are_immutable();
"""


def upgrade() -> None:
    """Make the tables, and the trigger that keeps prices as they are."""
    op.execute(CATALOG)
    op.execute(PRICES)


def downgrade() -> None:
    """Drop the tables."""
    op.execute("DROP TABLE prices, models, providers")
    op.execute("DROP FUNCTION prices_are_immutable()")
