"""
The balance of one quota over time, from its log: what a picture of it shows. Pure.

A balance changes at instants and stays between them. An entry belongs to the latest instant that
any entry up to it tells, as in statements: a clock that was set back does not turn a line around.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from quota_engine import events
from quota_engine.commands import Balance
from quota_engine.history import HistoryEntry
from quota_engine.keys import QuotaName

#: A line has no more points than these, however long the log: each step keeps its extremes.
POINTS_MAX = 2_000

GRANTED, EXPIRED, VOIDED = "granted", "expired", "voided"
_MARKED = {
    events.GRANT_ISSUED: GRANTED,
    events.GRANT_STARTED: GRANTED,
    events.GRANT_EXPIRED: EXPIRED,
    events.GRANT_VOIDED: VOIDED,
}


@dataclass(frozen=True, slots=True)
class Point:
    """What a quota had from an instant on, in units."""

    at: datetime
    balance: int
    held: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A grant that began, ended or was voided: by how much the balance changed, and to what."""

    at: datetime
    what: str
    units: int
    balance: int


@dataclass(frozen=True, slots=True)
class Ending:
    """A grant that will end: what it has left now."""

    at: datetime
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceSeries:
    """
    A quota's balance over time. Units of the quota type.

    ``points``: where it began, and after each entry that changed it or what is held; the last one
    says what it has at ``until``. ``marks``: grants that began to count, expired or were voided,
    so far as that changed the balance. ``endings``: grants that end later, from now on.
    """

    account: str
    quota_type: str
    since: datetime
    until: datetime
    points: tuple[Point, ...]
    marks: tuple[Mark, ...]
    endings: tuple[Ending, ...]


def balance_series(
    quota: QuotaName,
    entries: Iterable[HistoryEntry],
    balance: Balance,
    now: datetime,
    between: tuple[date | None, date | None] = (None, None),
) -> BalanceSeries:
    """Return the series of a period (days in UTC), None: from the first entry, until now."""
    since, until = _midnight(between[0]), _midnight(between[1])
    end = now if until is None else min(until, now)
    points: list[Point] = []
    marks: list[Mark] = []
    opening, latest = Point(since or end, 0, 0), None
    for entry in entries:
        latest = entry.occurred_at if latest is None else max(latest, entry.occurred_at)
        if until is not None and latest >= until:
            break
        end = max(end, latest)
        point = Point(latest, entry.balance_after, entry.held_after)
        if since is not None and latest < since:
            opening = Point(since, point.balance, point.held)
            continue
        what = _MARKED.get(entry.kind)
        if what is not None and entry.delta:
            marks.append(Mark(latest, what, entry.delta, entry.balance_after))
        points.append(point)
    if since is not None:
        points.insert(0, opening)
    begin = since or (points[0].at if points else end)
    last = points[-1] if points else opening
    points.append(Point(max(end, begin), last.balance, last.held))
    return BalanceSeries(
        account=quota.account,
        quota_type=quota.quota_type,
        since=begin,
        until=max(end, begin),
        points=tuple(thinned(points, POINTS_MAX)),
        marks=tuple(marks),
        endings=tuple(_endings(balance, max(now, points[-1].at))),
    )


def _endings(balance: Balance, now: datetime) -> list[Ending]:
    found = [
        Ending(one.expires_at, one.remaining)
        for one in (*balance.grants, *balance.pending_grants)
        if one.expires_at is not None and one.remaining and one.expires_at > now
    ]
    return sorted(found, key=lambda one: (one.at, one.units))


def thinned(points: Sequence[Point], limit: int) -> Sequence[Point]:
    """Return at most about ``limit`` points with the same outline: ends, highest and lowest."""
    if len(points) <= limit:
        return points
    begin, span = points[0].at, points[-1].at - points[0].at
    steps: dict[int, list[int]] = {}
    for number, point in enumerate(points):
        place = int((point.at - begin) / span * (limit // 5)) if span else 0
        steps.setdefault(place, []).append(number)
    kept: set[int] = set()
    for numbers in steps.values():
        kept |= {numbers[0], numbers[-1]}
        kept.add(min(numbers, key=lambda number: points[number].balance))
        kept.add(max(numbers, key=lambda number: points[number].balance))
        kept.add(max(numbers, key=lambda number: points[number].held))
    return [points[number] for number in sorted(kept)]


def _midnight(day: date | None) -> datetime | None:
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC)
