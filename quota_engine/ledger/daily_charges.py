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

from sqlalchemy import Column, Connection, Date, Index, Numeric, Row, Table, Text, func, select

from quota_engine.commands.refunds import CALLER
from quota_engine.corrections import CORRECTION_ID
from quota_engine.events import CHARGES, COUNTED, QUOTA_REFUNDED, unreturned_in
from quota_engine.keys import QuotaName
from quota_engine.ledger.tables import metadata

DAY_MS = 86_400_000
EPOCH = date(1970, 1, 1)

#: Days are UTC, by the instants of the entries. ``charged``: units that were taken for good,
#: ``shortfall`` and what only counts included, less what corrections gave back; refunds are gifts
#: and not in it. ``called``: of them, those of the account's own calls: over all accounts, each
#: call counts once. ``paid``: those that the quota itself was to pay: not what it only counts, as
#: where another account pays. They have no bound, so that no sum can keep an entry out.
daily_charges = Table(
    "daily_charges",
    metadata,
    Column("account", Text(collation="C"), primary_key=True),
    Column("quota_type", Text(collation="C"), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("charged", Numeric, nullable=False),
    Column("called", Numeric, nullable=False),
    Column("paid", Numeric, nullable=False),
    Index("daily_charges_of_day", "day"),
)


def charged_by(entry: Row[Any]) -> tuple[int, int, int]:
    """Return what an entry's row adds to ``charged``, ``called`` and ``paid``."""
    if entry.kind in CHARGES:
        units = int(entry.amount)
    elif entry.kind == QUOTA_REFUNDED and CORRECTION_ID.search(entry.operation_id):
        units = -int(entry.amount)
    else:
        return 0, 0, 0
    is_of_another = CALLER.search(entry.operation_id) and '"account"' in entry.details
    is_counted = COUNTED in entry.flags.split()
    paid = 0 if is_counted else units + unreturned_in(entry.flags, entry.amount)
    return units, 0 if is_of_another else units, paid


def read_charges(connection: Connection, quota: QuotaName, since: date) -> tuple[int, date | None]:
    """Return what a quota was to pay from a day on, and the first day that it was charged."""
    table = daily_charges.c
    paid = func.sum(table.paid).filter(table.day >= since)
    asked = select(func.coalesce(paid, 0), func.min(table.day))
    asked = asked.where(table.account == quota.account, table.quota_type == quota.quota_type)
    row = connection.execute(asked).one()
    return int(row[0]), row[1]


def wrong_days(found: Mapping[int, tuple[int, ...]], rows: Iterable[Row[Any]]) -> Iterator[str]:
    """Say which days are charged otherwise than the entries say. ``found``: by days since 1970."""
    nothing = (0, 0, 0)
    said = {(row.day - EPOCH).days: (row.charged, row.called, row.paid) for row in rows}
    for day in sorted(found.keys() | said.keys()):
        entries, sums = found.get(day, nothing), said.get(day, nothing)
        if entries != sums:
            at = EPOCH + timedelta(days=day)
            told = "{}, {} by the account's own calls, {} to be paid by it"
            yield (
                f"on {at} the entries charge {told.format(*entries)}, but the daily charges say"
                f" {told.format(*map(int, sums))}"
            )
