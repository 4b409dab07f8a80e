"""
The price book's tables, beside the ledger's in the same metadata: providers, models and prices.

A row of ``prices`` is never changed or removed; a trigger refuses it. Instants here are compared
with instants of the outside world, so they are TIMESTAMPTZ with PostgreSQL's microseconds.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Numeric,
    Table,
    Text,
    func,
    text,
)

from quota_engine.ledger.tables import metadata


def _name() -> Text:
    return Text(collation="C")


def _instant() -> DateTime:
    return DateTime(timezone=True)


providers = Table(
    "providers",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("created_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
)

#: Limits in tokens, null where not known. ``usage_type``: what the model is for.
models = Table(
    "models",
    metadata,
    Column("provider", _name(), ForeignKey("providers.name"), primary_key=True),
    Column("name", _name(), primary_key=True),
    Column("usage_type", Text),
    Column("context_tokens_max", BigInteger),
    Column("output_tokens_max", BigInteger),
    Column("is_enabled", Boolean, nullable=False, server_default=text("true")),
    Column("created_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
)

#: Versions of prices: see quota_engine.prices.price.Price. ``number``: the order of recording.
#: ``source``: of an imported price, the list it is from.
prices = Table(
    "prices",
    metadata,
    Column("price_id", _name(), primary_key=True),
    Column("number", BigInteger, Identity(always=True), nullable=False),
    Column("provider", _name(), nullable=False),
    Column("model", _name(), nullable=False),
    Column("pricing_type", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("price", Numeric, nullable=False),
    Column("currency", Text, nullable=False),
    Column("min_charge_units", Numeric, nullable=False, server_default=text("0")),
    Column("above_tokens", BigInteger),
    Column("service_tier", Text),
    Column("resolution", Text),
    Column("effective_at", _instant(), nullable=False),
    Column("expires_at", _instant()),
    Column("origin", Text, nullable=False),
    Column("source", Text),
    Column("recorded_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    ForeignKeyConstraint(
        ["provider", "model"], ["models.provider", "models.name"], name="prices_of_a_model"
    ),
    CheckConstraint("price >= 0 AND min_charge_units >= 0", name="prices_from_zero"),
    CheckConstraint("expires_at > effective_at", name="prices_end_after_they_begin"),
    CheckConstraint("origin IN ('own', 'imported')", name="prices_origin"),
    Index("prices_by_model", "provider", "model", "effective_at"),
)
