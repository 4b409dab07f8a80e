"""A period beside the one of the same length before it, and what an account did in all. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

from quota_engine.commands import Balance
from quota_engine.errors import InvalidArgumentError
from quota_engine.reporting import (
    ReportQuery,
    ReportRow,
    UsageReport,
    checked_report_query,
    ratio,
)
from quota_engine.statements import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """
    What a group of calls did in a period, and in the one before it.

    ``calls_change``, ``costs_change`` (by currency), ``consumed_change`` (by quota type): 0.25 is
    a quarter more; None or left out where there was nothing before.
    """

    names: Mapping[str, Any]
    now: ReportRow
    before: ReportRow
    calls_change: Decimal | None
    costs_change: Mapping[str, Decimal]
    consumed_change: Mapping[str, Decimal]


def checked_trend_query(
    *, since: date, until: date, **asked: Any
) -> tuple[ReportQuery, ReportQuery]:
    """Return what to ask of a period, and of the one before it."""
    query = checked_report_query(since=since, until=until, **asked)
    if query.since is None or query.until is None:
        raise InvalidArgumentError("a trend needs a first day, and a day after the last")
    if {"day", "month"} & {*query.by}:
        raise InvalidArgumentError("a trend compares two periods: ask usage by day or month")
    try:
        before = query.since - (query.until - query.since)
    except OverflowError:
        raise InvalidArgumentError(f"before {query.since} there is no such period") from None
    return query, replace(query, since=before, until=query.since)


def trend(now: UsageReport, before: UsageReport) -> list[Trend]:
    """Return each group of either period, and at last all of them together (no names)."""
    rows = {_names(now, row): row for row in now.rows}
    rows_before = {_names(before, row): row for row in before.rows}
    places = [*rows, *(names for names in rows_before if names not in rows)]
    found = [
        _trend(
            dict(zip(now.by, names, strict=True)),
            rows.get(names, ReportRow()),
            rows_before.get(names, ReportRow()),
        )
        for names in places
        if names
    ]
    return [*found, _trend({}, now.total, before.total)]


def _names(report: UsageReport, row: ReportRow) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in report.by)


def _trend(names: Mapping[str, Any], now: ReportRow, before: ReportRow) -> Trend:
    return Trend(
        names=names,
        now=now,
        before=before,
        calls_change=ratio(now.calls - before.calls, before.calls),
        costs_change=_changes(now.costs, before.costs),
        consumed_change=_changes(now.consumed, before.consumed),
    )


def _changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Decimal]:
    changes = {unit: ratio(now.get(unit, 0) - was, was) for unit, was in before.items()}
    return {unit: change for unit, change in changes.items() if change is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatistics:
    """
    What an account was granted, used and has of a quota type, in units, and a period of its calls.

    ``granted`` to ``voided``: ever, as its statement tells; ``used_part``: (used - refunded) /
    granted. ``period_used``, ``period_refunded``, ``period_shortfall`` (charged, not collected):
    of the period alone, calls of accounts below included; ``period_calls``, costs, ``error_rate``
    and the percentile of latency: of the account's own calls kept with this quota type.
    """

    account: str
    quota_type: str
    granted: int
    used: int
    refunded: int
    expired: int
    voided: int
    used_part: Decimal | None
    balance: int
    held: int
    available: int
    spendable: int | None
    period_since: date | None
    period_until: date | None
    period_calls: int
    period_used: int
    period_refunded: int
    period_shortfall: int
    period_costs: Mapping[str, Decimal]
    error_rate: Decimal | None
    p95_ms: float | None


def account_statistics(
    ever: Statement, period: Statement, balance: Balance, report: UsageReport
) -> AccountStatistics:
    """Put together what the ledger, Redis and the daily sums say of a quota."""
    total = report.total
    return AccountStatistics(
        account=ever.account,
        quota_type=ever.quota_type,
        granted=ever.granted,
        used=ever.used,
        refunded=ever.refunded,
        expired=ever.expired,
        voided=ever.voided,
        used_part=ratio(ever.used - ever.refunded, ever.granted),
        balance=balance.balance,
        held=balance.held,
        available=balance.available,
        spendable=balance.spendable,
        period_since=report.since,
        period_until=report.until,
        period_calls=total.calls,
        period_used=period.used,
        period_refunded=period.refunded,
        period_shortfall=period.shortfall,
        period_costs=total.costs,
        error_rate=total.error_rate,
        p95_ms=total.p95_ms,
    )
