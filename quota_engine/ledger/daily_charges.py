"""
What quotas are charged, day by day: the pace of a forecast, and what a period's rules compare.

Daily costs tell of calls that left a record, with the account that made them. A quota is charged
by the calls of accounts below it too, by those that it pays for, and as one of several types of a
call. A trigger adds up in the statement that appends the entries: the sums are those of the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Date, Index, Row, Table, Text, func, select

from quota_engine.commands.refunds import CALLER
from quota_engine.corrections import CORRECTION_ID
from quota_engine.events import CHARGES, QUOTA_REFUNDED
from quota_engine.keys import QuotaName
from quota_engine.ledger.tables import metadata

DAY_MS = 86_400_000
EPOCH = date(1970, 1, 1)

#: Days are UTC, by the instants of the entries. ``charged``: units that were taken for good,
#: ``shortfall`` and what only counts included, less what corrections gave back; refunds are gifts
#: and not in it. ``called``: of them, those of the account's own calls: over all accounts, each
#: call counts once.
daily_charges = Table(
    "daily_charges",
    metadata,
    Column("account", Text(collation="C"), primary_key=True),
    Column("quota_type", Text(collation="C"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("charged", BigInteger, nullable=False),
    Column("called", BigInteger, nullable=False),
    Index("daily_charges_of_day", "day"),
)


def charged_by(entry: Row[Any]) -> tuple[int, int]:
    """Return the units that an entry's row charges its quota, and those of its account's calls."""
    if entry.kind in CHARGES:
        units = int(entry.amount)
    elif entry.kind == QUOTA_REFUNDED and CORRECTION_ID.search(entry.operation_id):
        units = -int(entry.amount)
    else:
        return 0, 0
    return units, 0 if CALLER.search(entry.operation_id) else units


def read_charges(connection: Connection, quota: QuotaName, since: date) -> tuple[int, date | None]:
    """Return what a quota was charged from a day on, and the first day that it ever was."""
    table = daily_charges.c
    charged = func.sum(table.charged).filter(table.day >= since)
    asked = select(func.coalesce(charged, 0), func.min(table.day))
    asked = asked.where(table.account == quota.account, table.quota_type == quota.quota_type)
    row = connection.execute(asked).one()
    return int(row[0]), row[1]


def wrong_days(found: Mapping[int, tuple[int, int]], rows: Iterable[Row[Any]]) -> Iterator[str]:
    """Say which days are charged otherwise than the entries say. ``found``: by days since 1970."""
    said = {(row.day - EPOCH).days: (row.charged, row.called) for row in rows}
    for day in sorted(found.keys() | said.keys()):
        entries, sums = found.get(day, (0, 0)), said.get(day, (0, 0))
        if entries != sums:
            at = EPOCH + timedelta(days=day)
            told = f"the entries charge {entries[0]}, {entries[1]} by the account's own calls"
            yield f"on {at} {told}, but the daily charges say {sums[0]}, {sums[1]}"
