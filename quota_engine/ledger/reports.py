"""
Reports read from the daily sums: the one place where these are asked, whatever the report.

Sums and latencies are read as of one instant. What records wait to be summed is summed first.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    cast,
    func,
    or_,
    select,
    text,
    true,
)

from quota_engine.keys import QuotaName
from quota_engine.ledger.daily_charges import read_charges
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.refusals import refusals
from quota_engine.ledger.report_tables import daily_costs
from quota_engine.ledger.rollups import Rollups
from quota_engine.refusals import RefusalPiece
from quota_engine.reporting import COUNTED, SUMMED, Piece, ReportQuery, Timed
from quota_engine.viewing import bounds_below

_AS_OF_NOW = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")


class ReportTables:
    """Reports from one ledger. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.rollups = Rollups(ledger)

    def read_sums(self, query: ReportQuery) -> tuple[Sequence[Piece], Sequence[Timed]]:
        """Return what a report is made of, as of one instant of the ledger."""
        self.rollups.roll_up_all()
        with self._ledger.transaction() as connection:
            connection.execute(_AS_OF_NOW)
            return _pieces(connection, query), _timed(connection, query)

    def read_refusals(self, query: ReportQuery) -> Sequence[RefusalPiece]:
        """Return how often calls were refused, and why, as far as clients have written it."""
        names = _names(query, refusals)
        reason, count = refusals.c.reason, func.sum(refusals.c.refused)
        asked = _asked(query, select(*names, reason, count), refusals).group_by(*names, reason)
        with self._ledger.transaction() as connection:
            return [
                RefusalPiece(tuple(row[:-2]), row[-2], int(row[-1]))
                for row in connection.execute(asked)
            ]

    def rebuild_day(self, day: date) -> int:
        """Sum a whole day again; return its number of lines."""
        return self.rollups.rebuild_day(day)

    def wrong_on(self, day: date) -> Sequence[str]:
        """Return the accounts whose sums of a day are not those of the records."""
        return self.rollups.wrong_on(day)

    def days(self, since: date | None, until: date | None) -> Sequence[date]:
        """Return the days of a range that have anything."""
        return self.rollups.days(since, until)

    def charged(self, quota: QuotaName, since: date) -> tuple[int, date | None]:
        """Return what a quota was to pay from a day on, and the first day that it was charged."""
        with self._ledger.transaction() as connection:
            return read_charges(connection, quota, since)


def _names(query: ReportQuery, table: Table = daily_costs) -> list[ColumnElement[Any]]:
    return [_dimension(query, name, table).label(f"by_{name}") for name in query.by]


def _dimension(query: ReportQuery, name: str, table: Table) -> ColumnElement[Any]:
    columns = table.c
    if name == "month":
        return func.to_char(columns.day, text("'YYYY-MM'"))
    if name == "team":
        parts = func.string_to_array(columns.account, text("'/'"))
        depth: ColumnElement[Any] = func.cardinality(parts) - 1
        if query.team_depth is not None:
            depth = func.least(depth, query.team_depth)
        return func.array_to_string(_first(parts, depth), text("'/'"))
    return columns[name]


def _first(parts: ColumnElement[Any], count: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the first elements of an array."""
    return func.trim_array(parts, func.cardinality(parts) - count)


def _asked(query: ReportQuery, selected: Select[Any], table: Table = daily_costs) -> Select[Any]:
    """Return a selection of the lines that a report is about."""
    columns = table.c
    names = ("account", "quota_type", "provider", "model", "usage_type", "status", "currency")
    for name in names:
        if (asked := getattr(query, name)) is not None:
            selected = selected.where(columns[name] == asked)
    if query.since is not None:
        selected = selected.where(columns.day >= query.since)
    if query.until is not None:
        selected = selected.where(columns.day < query.until)
    for path in (query.viewer, query.team):
        if path is not None:
            selected = selected.where(within(columns.account, path))
    return selected


def within(account: ColumnElement[str], path: str) -> ColumnElement[bool]:
    """Return whether an account (``COLLATE "C"``) is a path's own, or below it."""
    first, after = bounds_below(path)
    return or_(account == path, and_(account >= first, account < after))


def _pieces(connection: Connection, query: ReportQuery) -> list[Piece]:
    columns, names = daily_costs.c, _names(query)
    units = (columns.quota_type, columns.status, columns.currency)
    sums = [func.sum(columns[name]).label(name) for name in (*COUNTED, *SUMMED)]
    asked = _asked(query, select(*names, *units, *sums)).group_by(*names, *units)
    count = len(names)
    return [
        Piece(
            names=tuple(row[:count]),
            quota_type=row[count],
            status=row[count + 1],
            currency=row[count + 2],
            sums=dict(zip((*COUNTED, *SUMMED), row[count + 3 :], strict=True)),
        )
        for row in connection.execute(asked)
    ]


def _timed(connection: Connection, query: ReportQuery) -> list[Timed]:
    names = _names(query)
    buckets = func.jsonb_each_text(daily_costs.c.latencies).table_valued("key", "value")
    calls = func.sum(cast(buckets.c.value, BigInteger))
    each = daily_costs.join(buckets, true())
    asked = _asked(query, select(*names, buckets.c.key, calls).select_from(each))
    asked = asked.group_by(*names, buckets.c.key)
    count = len(names)
    return [
        Timed(tuple(row[:count]), int(row[count]), int(row[count + 1]))
        for row in connection.execute(asked)
    ]
