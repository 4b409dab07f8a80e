"""
Reports: sums of usage records by day, account, model and the like, as a caller asks. Pure.

Days are UTC. Money of two currencies is never added, nor units of two quota types: what has a
currency or a quota type is told apart by it. Every report is made of the same pieces by the same
function, so details add up to their total.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from quota_engine.amounts import checked_amount
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_account, checked_quota_type
from quota_engine.latencies import percentile_ms
from quota_engine.prices.price import EXACT, plain
from quota_engine.viewing import check_seen, checked_viewer

#: What a report can be asked by. ``team``: the account's path without its last part.
DIMENSIONS = (
    *("day", "month", "account", "team", "provider", "model", "usage_type", "quota_type"),
    *("status", "currency"),
)
#: Columns of the daily sums, and of a report's row.
COUNTED = (
    *("calls", "corrections", "estimated_calls", "late_calls", "unbilled_calls"),
    *("unpriced_calls", "held_calls"),
)
TOKENS = (
    *("input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("output_tokens", "reasoning_tokens"),
)
USED = (*TOKENS, "images", "characters", "audio_seconds", "video_seconds", "requests")
#: Told apart by quota type.
UNITS = ("consumed", "shortfall", "held", "captured")
SUMMED = (*USED, "cost", *UNITS)
SECONDS = frozenset({"audio_seconds", "video_seconds"})
#: What a call's status adds to, beside ``calls``.
BY_STATUS = {
    "success": "succeeded",
    "failed": "failed",
    "timeout": "timed_out",
    "cancelled": "cancelled",
}
ROWS_MAX = 100_000
_FILTERS = ("provider", "model", "usage_type", "status", "currency")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """
    What is asked. ``since`` counts, ``until`` does not; days in UTC; None: no bound.

    ``viewer``: who asks, and sees only this account and those below its path (None: an operator,
    who sees all). ``team``: accounts below this path, and itself; ``team_depth``: how many parts
    of a path name a team (None: all but the last). ``order_by``: ``cost``, ``calls`` or
    ``consumed``, greatest first, in ``unit`` (a currency or quota type); None: by its names.
    """

    by: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None
    account: str | None = None
    team: str | None = None
    team_depth: int | None = None
    viewer: str | None = None
    quota_type: str | None = None
    provider: str | None = None
    model: str | None = None
    usage_type: str | None = None
    status: str | None = None
    currency: str | None = None
    order_by: str | None = None
    unit: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """
    What calls used and cost. What the report is not asked by is None, as is what no record told.

    ``month``: such as ``2026-01``. ``calls`` leaves corrections out; what these change is in every
    sum, on the day they were made. ``costs``: by currency. ``consumed``: units charged, by quota
    type, ``shortfall`` included. ``held`` and ``captured``: units of the calls that succeeded
    after a hold; ``accuracy``: held / captured. ``error_rate``: of all calls, those that failed,
    timed out or were cancelled. Percentiles of latency: at most 5 % off.
    """

    day: date | None = None
    month: str | None = None
    account: str | None = None
    team: str | None = None
    provider: str | None = None
    model: str | None = None
    usage_type: str | None = None
    quota_type: str | None = None
    status: str | None = None
    currency: str | None = None
    calls: int = 0
    succeeded: int = 0
    failed: int = 0
    timed_out: int = 0
    cancelled: int = 0
    error_rate: Decimal | None = None
    corrections: int = 0
    estimated_calls: int = 0
    late_calls: int = 0
    unbilled_calls: int = 0
    unpriced_calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0
    characters: int = 0
    audio_seconds: Decimal = Decimal(0)
    video_seconds: Decimal = Decimal(0)
    requests: int = 0
    costs: Mapping[str, Decimal] = field(default_factory=dict)
    consumed: Mapping[str, int] = field(default_factory=dict)
    shortfall: Mapping[str, int] = field(default_factory=dict)
    held_calls: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    captured: Mapping[str, int] = field(default_factory=dict)
    accuracy: Mapping[str, Decimal] = field(default_factory=dict)
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """A report's rows, and their ``total``, which counts what a ``limit`` left out, too."""

    by: tuple[str, ...]
    since: date | None
    until: date | None
    rows: tuple[ReportRow, ...]
    total: ReportRow


@dataclass(frozen=True, slots=True)
class Piece:
    """Sums of what has the same names, quota type, status and currency, read from the ledger."""

    names: tuple[Any, ...]
    quota_type: str
    status: str
    currency: str
    sums: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Timed:
    """Calls of the same names whose latency is in a bucket."""

    names: tuple[Any, ...]
    bucket: int
    calls: int


class _Sums:
    """A row in the making."""

    def __init__(self) -> None:
        self.numbers: dict[str, Any] = dict.fromkeys((*COUNTED, *USED, *BY_STATUS.values()), 0)
        self.by_unit: dict[str, dict[str, Any]] = {name: {} for name in ("costs", *UNITS)}
        self.buckets: dict[int, int] = {}

    def add(self, piece: Piece) -> None:
        sums = piece.sums
        for name in COUNTED:
            self.numbers[name] += int(sums[name])
        for name in USED:
            value = sums[name] if name in SECONDS else int(sums[name])
            self.numbers[name] = _added(self.numbers[name], value)
        if (counted_as := BY_STATUS.get(piece.status)) is not None:
            self.numbers[counted_as] += int(sums["calls"])
        if piece.currency or sums["cost"]:
            costs = self.by_unit["costs"]
            costs[piece.currency] = _added(costs.get(piece.currency, Decimal(0)), sums["cost"])
        for name in UNITS:
            units = self.by_unit[name]
            if sums[name] or name == "consumed":
                units[piece.quota_type] = units.get(piece.quota_type, 0) + int(sums[name])

    def time(self, timed: Timed) -> None:
        self.buckets[timed.bucket] = self.buckets.get(timed.bucket, 0) + timed.calls

    def row(self, names: Mapping[str, Any]) -> ReportRow:
        numbers, units = self.numbers, self.by_unit
        wrong = numbers["failed"] + numbers["timed_out"] + numbers["cancelled"]
        told: dict[str, Any] = {name: _sorted(values) for name, values in units.items()}
        told["costs"] = {unit: plain(cost) for unit, cost in told["costs"].items()}
        for name in SECONDS:
            numbers[name] = plain(Decimal(numbers[name]))
        return ReportRow(
            **names,
            **numbers,
            **told,
            error_rate=ratio(wrong, numbers["calls"]),
            accuracy={
                unit: part
                for unit, captured in told["captured"].items()
                if (part := ratio(told["held"].get(unit, 0), captured)) is not None
            },
            p50_ms=percentile_ms(self.buckets, 50),
            p95_ms=percentile_ms(self.buckets, 95),
            p99_ms=percentile_ms(self.buckets, 99),
        )


def ratio(part: int | Decimal, whole: int | Decimal) -> Decimal | None:
    """Return a part of a whole to six places; None of nothing."""
    if not whole:
        return None
    return plain((Decimal(part) / Decimal(whole)).quantize(Decimal("0.000001")))


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    return EXACT.add(Decimal(one), Decimal(other))


def _sorted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in sorted(values)}


def usage_report(
    query: ReportQuery, pieces: Iterable[Piece], timed: Iterable[Timed]
) -> UsageReport:
    """Put a report together; an account, model or day without calls has no row."""
    total, groups = _Sums(), dict[tuple[Any, ...], _Sums]()
    for piece in pieces:
        groups.setdefault(piece.names, _Sums()).add(piece)
        total.add(piece)
    for one in timed:
        groups.setdefault(one.names, _Sums()).time(one)
        total.time(one)
    rows = [
        sums.row(dict(zip(query.by, (name or None for name in names), strict=True)))
        for names, sums in groups.items()
    ]
    rows.sort(key=lambda row: _place(query, row))
    return UsageReport(
        by=query.by,
        since=query.since,
        until=query.until,
        rows=tuple(rows[: query.limit]),
        total=total.row({}),
    )


def _place(query: ReportQuery, row: ReportRow) -> tuple[Any, ...]:
    """Return where a row stands: greatest first, then by its names, nameless ones last."""
    names = [getattr(row, name) for name in query.by]
    by_name = tuple((name is None, "" if name is None else str(name)) for name in names)
    return (-measured(row, query.order_by, query.unit), by_name) if query.order_by else by_name


def measured(row: ReportRow, measure: str, unit: str | None) -> Decimal:
    """Return one figure of a row; cost and consumed in a unit."""
    if measure == "calls":
        return Decimal(row.calls)
    values = row.costs if measure == "cost" else row.consumed
    return Decimal(values.get(unit or "", 0))


# -- what may be asked


def checked_report_query(**asked: Any) -> ReportQuery:
    """Return what is asked for; raise ``InvalidArgumentError`` for what cannot be meant."""
    unknown = sorted(asked.keys() - {one.name for one in fields(ReportQuery)})
    if unknown:
        raise InvalidArgumentError(f"a report knows no {', '.join(unknown)}")
    by = asked.get("by") or ()
    by = (by,) if isinstance(by, str) else tuple(by)
    if wrong := [name for name in by if name not in DIMENSIONS]:
        raise InvalidArgumentError(
            f"a report is asked by {', '.join(DIMENSIONS)}, not by {wrong[0]!r:.80}"
        )
    since, until = checked_days(asked.get("since"), asked.get("until"))
    known: dict[str, Any] = {name: _checked_text(asked.get(name), name) for name in _FILTERS}
    viewer = checked_viewer(asked.get("viewer"))
    for name in ("account", "team"):
        known[name] = None if asked.get(name) is None else checked_account(asked[name])
        if known[name] is not None:
            check_seen(known[name], viewer)
    quota_type = asked.get("quota_type")
    for name in ("team_depth", "limit"):
        value = asked.get(name)
        known[name] = None if value is None else checked_amount(value, name=name)
    if known["provider"] is not None:
        known["provider"] = known["provider"].lower()
    query = ReportQuery(
        by=tuple(dict.fromkeys(by)),
        since=since,
        until=until,
        viewer=viewer,
        quota_type=None if quota_type is None else checked_quota_type(quota_type),
        order_by=asked.get("order_by"),
        unit=_checked_text(asked.get("unit"), "unit"),
        **known,
    )
    _check_order(query)
    return query


def _check_order(query: ReportQuery) -> None:
    if query.order_by not in (None, "calls", "cost", "consumed"):
        raise InvalidArgumentError(
            f"a report is ordered by calls, cost or consumed, not by {query.order_by!r:.80}"
        )
    if query.order_by in ("cost", "consumed") and query.unit is None:
        what = "currency" if query.order_by == "cost" else "quota type"
        raise InvalidArgumentError(f"say in which {what}: those of two are never compared")


def checked_days(since: object, until: object) -> tuple[date | None, date | None]:
    """Return two days; raise ``InvalidArgumentError`` for what is none, or no range."""
    for name, day in (("since", since), ("until", until)):
        if day is not None and (not isinstance(day, date) or isinstance(day, datetime)):
            raise InvalidArgumentError(
                f"{name} must be a date: reports know whole days in UTC, not {day!r:.80}"
            )
    if isinstance(since, date) and isinstance(until, date) and until <= since:
        raise InvalidArgumentError(f"until must be after since: since {since}, until {until}")
    return since, until  # type: ignore[return-value]


def _checked_text(value: object, name: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(f"{name} must be a text, not {value!r:.80}")
    return value
