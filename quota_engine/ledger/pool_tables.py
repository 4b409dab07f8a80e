"""The tables of provider pools, beside the ledger's in the same metadata."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    func,
)

from quota_engine.ledger.tables import metadata


def _name() -> Text:
    return Text(collation="C")


def _instant() -> DateTime:
    return DateTime(timezone=True)


#: Pools. ``warning`` and ``critical``: thresholds as they were said, an amount or per cent.
#: ``starts_at_ms``: records from then on count. ``summed_at`` is null until ``pool_days`` was made
#: from the records that were there when the pool was defined.
provider_pools = Table(
    "provider_pools",
    metadata,
    Column("provider", _name(), primary_key=True),
    Column("currency", _name(), primary_key=True),
    Column("starts_at_ms", BigInteger, nullable=False),
    Column("warning", Text, nullable=False),
    Column("critical", Text),
    Column("created_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Column("summed_at", _instant()),
)

#: What was done to pools, append-only. ``amount`` is signed, and 0 of a definition, whose
#: thresholds its remark tells.
pool_entries = Table(
    "pool_entries",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("provider", _name(), nullable=False),
    Column("currency", _name(), nullable=False),
    Column("entry_id", _name(), nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", Numeric(48, 12), nullable=False),
    Column("operator", Text),
    Column("remark", Text),
    Column("at", _instant(), nullable=False),
    Column("recorded_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    UniqueConstraint("provider", "currency", "entry_id", name="pool_entries_once"),
    ForeignKeyConstraint(
        ["provider", "currency"],
        ["provider_pools.provider", "provider_pools.currency"],
        name="pool_entries_of_a_pool",
    ),
    CheckConstraint("kind IN ('defined', 'recharged', 'corrected')", name="pool_entries_kind"),
)

#: What the usage records of a pool cost per day (UTC), as far as their notes were taken up.
pool_days = Table(
    "pool_days",
    metadata,
    Column("provider", _name(), primary_key=True),
    Column("currency", _name(), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("cost", Numeric, nullable=False),
)

#: What records cost that were inserted, by pool and day: written by a trigger in the transaction
#: that inserts them, taken up into ``pool_days`` in one that deletes them.
pool_notes = Table(
    "pool_notes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("provider", _name(), nullable=False),
    Column("currency", _name(), nullable=False),
    Column("day", Date, nullable=False),
    Column("cost", Numeric, nullable=False),
)
