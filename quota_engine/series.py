"""
Series: the numbers that a picture shows, one value for each step of time. Pure.

A picture draws them as they are, so whoever adds up a picture has the sums of its report. Money of
two currencies is in two series, never added; so are units of two quota types.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from quota_engine.amounts import checked_amount
from quota_engine.errors import InvalidArgumentError
from quota_engine.reporting import (
    DIMENSIONS,
    ReportQuery,
    ReportRow,
    UsageReport,
    checked_report_query,
)

#: What a picture of usage can count, beside ``consumed``, which needs a quota type.
MEASURES = {
    "tokens": "tokens (input and output)",
    "calls": "calls",
    "images": "images",
    "characters": "characters",
    "audio_seconds": "seconds of audio",
    "video_seconds": "seconds of video",
    "requests": "requests",
}
CONSUMED = "consumed"
#: More layers than these are not told apart in print; the others are one layer.
LAYERS = 7
#: Up to so many days each is a step of its own; then weeks, then months.
DAYS_MAX, WEEKS_MAX = 100, 100
STEPS_MAX = 4_000
DAY, WEEK, MONTH = "day", "week", "month"

Number = int | Decimal


@dataclass(frozen=True, slots=True)
class Layer:
    """One value for each step. ``name`` None: what no record named. ``rest``: so many others."""

    name: str | None
    values: tuple[Number, ...]
    rest: int = 0

    @property
    def total(self) -> Number:
        """The sum of all steps."""
        return sum(self.values, start=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSeries:
    """
    Usage over time, in layers, the greatest first; those beyond the first few are the last one.

    ``starts``: the first day of each step (``step``: day, week from Monday, or month) from the
    first to the last, also where nothing was used. ``unit``: what is counted. ``total``: all of
    it. ``viewer``: whose subtree of accounts it is; None: of all.
    """

    measure: str
    unit: str
    by: str
    step: str
    starts: tuple[date, ...]
    layers: tuple[Layer, ...]
    total: Number
    viewer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSeries:
    """Cost over time, one layer for each currency, by name; steps are those of ``UsageSeries``."""

    step: str
    starts: tuple[date, ...]
    currencies: tuple[Layer, ...]
    viewer: str | None = None


def checked_usage_series(
    by: str, measure: str, layers: int, **asked: Any
) -> tuple[ReportQuery, int]:
    """Return what to ask for a series of usage, and how many layers it may have at most."""
    if by not in DIMENSIONS or by in ("day", "month"):
        known = ", ".join(name for name in DIMENSIONS if name not in ("day", "month"))
        raise InvalidArgumentError(f"layers are made by one of {known}, not by {by!r:.80}")
    if measure not in (*MEASURES, CONSUMED):
        raise InvalidArgumentError(
            f"a picture counts {', '.join((*MEASURES, CONSUMED))}, not {measure!r:.80}"
        )
    query = checked_report_query(by=(DAY, by), **asked)
    if measure == CONSUMED and query.quota_type is None:
        raise InvalidArgumentError("say of which quota type: units of two are never added")
    return query, checked_amount(layers, name="layers")


def usage_series(
    report: UsageReport, query: ReportQuery, measure: str, layers: int
) -> UsageSeries:
    """Put a report by day and something else into layers over time."""
    by = report.by[1]
    step, starts = steps_of(report.rows, query)
    found: dict[str | None, list[Number]] = {}
    for row in report.rows:
        values = found.setdefault(getattr(row, by), [0] * len(starts))
        values[_place(starts, step, row.day)] += _counted(row, measure, query.quota_type)
    made = [Layer(name, tuple(values)) for name, values in found.items() if any(values)]
    made.sort(key=lambda one: (-abs(Decimal(one.total)), one.name is None, one.name or ""))
    return UsageSeries(
        measure=measure,
        unit=f"units of {query.quota_type}" if measure == CONSUMED else MEASURES[measure],
        by=by,
        step=step,
        starts=starts,
        layers=_with_rest(made, layers),
        total=_counted(report.total, measure, query.quota_type),
        viewer=query.viewer,
    )


def cost_series(report: UsageReport, query: ReportQuery) -> CostSeries:
    """Put a report by day into a layer for each currency."""
    step, starts = steps_of(report.rows, query)
    found = {unit: [Decimal(0)] * len(starts) for unit in report.total.costs}
    for row in report.rows:
        for unit, cost in row.costs.items():
            found[unit][_place(starts, step, row.day)] += cost
    return CostSeries(
        step=step,
        starts=starts,
        currencies=tuple(Layer(unit or None, tuple(found[unit])) for unit in sorted(found)),
        viewer=query.viewer,
    )


def _counted(row: ReportRow, measure: str, quota_type: str | None) -> Number:
    if measure == CONSUMED:
        return row.consumed.get(quota_type or "", 0)
    if measure == "tokens":
        return row.input_tokens + row.output_tokens
    counted: Number = getattr(row, measure)
    return counted


def _with_rest(made: Sequence[Layer], layers: int) -> tuple[Layer, ...]:
    """Return the first layers, and one for all others where these are more than one."""
    if len(made) <= layers + 1:
        return tuple(made)
    others = made[layers:]
    sums = tuple(sum(values) for values in zip(*(one.values for one in others), strict=True))
    return (*made[:layers], Layer(None, sums, rest=len(others)))


def steps_of(rows: Iterable[ReportRow], query: ReportQuery) -> tuple[str, tuple[date, ...]]:
    """Return how long each step is, and the first day of each, over the whole range asked for."""
    days = [row.day for row in rows if row.day is not None]
    if not days:
        return DAY, ()
    first = query.since or min(days)
    last = max(days) if query.until is None else query.until - timedelta(days=1)
    count = (last - first).days + 1
    if count <= DAYS_MAX:
        step = DAY
    elif count <= 7 * WEEKS_MAX:
        step = WEEK
    else:
        step = MONTH
    starts = [_start(first, step)]
    while (following := _next(starts[-1], step)) <= last:
        starts.append(following)
        if len(starts) > STEPS_MAX:
            raise InvalidArgumentError("the range is too long for a picture: name its first day")
    return step, tuple(starts)


def _start(day: date, step: str) -> date:
    """Return the first day of the step that a day is in."""
    if step == WEEK:
        return date.fromordinal(max(day.toordinal() - day.weekday(), 1))
    return day.replace(day=1) if step == MONTH else day


def _next(start: date, step: str) -> date:
    if step == MONTH:
        return (start + timedelta(days=31)).replace(day=1)
    return start + timedelta(days=7 if step == WEEK else 1)


def _place(starts: Sequence[date], step: str, day: date | None) -> int:
    """Return the number of the step that a day is in."""
    assert day is not None
    start, first = _start(day, step), starts[0]
    if step == MONTH:
        return 12 * (start.year - first.year) + start.month - first.month
    return (start - first).days // (7 if step == WEEK else 1)


def ends_of(starts: Sequence[date], step: str) -> tuple[date, ...]:
    """Return the day after each step."""
    return tuple(_next(start, step) for start in starts)
