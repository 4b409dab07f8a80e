"""The tables of daily sums, beside the ledger's in the same metadata."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Date, Identity, Index, Integer, Numeric, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from quota_engine.ledger.tables import metadata
from quota_engine.reporting import COUNTED, SUMMED


def _name() -> Text:
    return Text(collation="C")


#: Sums of usage records: a line per day (UTC), account and whatever else a report asks by. A name
#: that no record told is empty. ``line`` numbers the lines of a day and account in the order of
#: the names: these may be too long for a key. A correction counts on the day it was made.
#: ``consumed``: units of the quota type that were charged, ``shortfall`` included, less what
#: corrections gave back. ``held`` and ``captured``: units, of the ``held_calls`` that succeeded
#: after a hold. ``latencies``: calls by bucket of ``quota_engine.latencies``.
daily_costs = Table(
    "daily_costs",
    metadata,
    Column("day", Date, primary_key=True),
    Column("account", _name(), primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    *(Column(name, _name(), nullable=False) for name in ("quota_type", "provider", "model")),
    *(Column(name, _name(), nullable=False) for name in ("usage_type", "status", "currency")),
    *(Column(name, BigInteger, nullable=False) for name in COUNTED),
    *(Column(name, Numeric, nullable=False) for name in SUMMED),
    Column("latencies", JSONB, nullable=False),
    Index("daily_costs_of_account", "account", "day"),
)

#: Days of accounts whose sums have to be made again, written by a trigger in the transaction that
#: inserts records. Whoever sums a day deletes its rows first.
usage_changes = Table(
    "usage_changes",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("account", _name(), nullable=False),
    Column("day", Date, nullable=False),
)
