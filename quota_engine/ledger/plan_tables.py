"""The tables of plans and subscriptions, beside the ledger's in the same metadata."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Integer,
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


#: Every version of every plan. Terms are never changed; ``is_active`` is that of all versions.
plans = Table(
    "plans",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("period", Text, nullable=False),
    Column("amounts", JSON, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("rollover", JSON, nullable=False),
    Column("debt", Text, nullable=False),
    Column("extras", JSON, nullable=False),
    Column("trial_period", Text),
    Column("trial_amounts", JSON, nullable=False),
    Column("description", Text),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    Column("created_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("debt IN ('carry', 'forgive')", name="plans_debt"),
)
