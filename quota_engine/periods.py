"""
Periods of a plan: which one an instant is in, exactly, by the anchor and the time zone. Pure.

A period begins at the anchor's local time of day, whatever the offset is then. An anchor on the
31st means the last day of shorter months and comes back to the 31st; one on 29 February means the
28th in common years. A local time that a clock change skips means the instant the change leads to;
one that comes twice means the first. A period ends where the next begins: no gap, no overlap.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from quota_engine.errors import InvalidArgumentError

LENGTH_MAX = 10_000
_NAMED = {
    "day": (0, 1),
    "week": (0, 7),
    "month": (1, 0),
    "quarter": (3, 0),
    "year": (12, 0),
}
_CUSTOM = re.compile(r"([1-9][0-9]{0,4}) (day|week|month|quarter|year)s?\Z")


@dataclass(frozen=True, slots=True)
class PeriodLength:
    """How long each period is: so many calendar months, or so many days. One of both is 0."""

    months: int
    days: int


@dataclass(frozen=True, slots=True)
class Period:
    """One period of a subscription. ``number`` counts from 0; ``ends_at`` is not in it. UTC."""

    number: int
    starts_at: datetime
    ends_at: datetime


def checked_period(text: object) -> PeriodLength:
    """
    Return the length that ``day``, ``week``, ``month``, ``quarter``, ``year`` or ``10 days`` mean.

    Raises ``InvalidArgumentError`` for anything else.
    """
    if isinstance(text, str):
        if text in _NAMED:
            return PeriodLength(*_NAMED[text])
        if (said := _CUSTOM.match(text)) and int(said[1]) <= LENGTH_MAX:
            months, days = _NAMED[said[2]]
            return PeriodLength(months * int(said[1]), days * int(said[1]))
    raise InvalidArgumentError(
        f"period must be {', '.join(_NAMED)}, or so many of them, such as '10 days',"
        f" not {text!r:.80}"
    )


def checked_time_zone(name: object) -> ZoneInfo:
    """Return a time zone by its IANA name, such as Asia/Shanghai."""
    try:
        if isinstance(name, str):
            return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # what it says of names that are none
        pass
    raise InvalidArgumentError(
        f"time_zone must be a name such as UTC or Asia/Shanghai, not {name!r:.80}"
    )


def starts_at(length: PeriodLength, anchor: datetime, zone: ZoneInfo, number: int) -> datetime:
    """
    Return when the period ``number`` after the anchor's begins, in UTC.

    ``anchor``: aware. Raises ``InvalidArgumentError`` beyond the calendar's end.
    """
    local = anchor.astimezone(zone)
    try:
        if length.months:
            moved = _months_later(local, length.months * number)
        else:
            moved = local.replace(tzinfo=None) + timedelta(days=length.days * number)
        return _instant(moved, zone)
    except (ValueError, OverflowError):
        raise InvalidArgumentError(
            f"period {number} after {anchor.isoformat()} is beyond the calendar"
        ) from None


def period_at(
    length: PeriodLength, anchor: datetime, zone: ZoneInfo, instant: datetime
) -> Period | None:
    """Return the period that an instant is in; None before the anchor."""
    if instant < anchor:
        return None
    local, now = anchor.astimezone(zone), instant.astimezone(zone)
    if length.months:
        months = (now.year - local.year) * 12 + now.month - local.month
        number = max(months // length.months - 1, 0)
    else:
        number = max((now.date() - local.date()).days // length.days - 1, 0)
    begins = _begins(length, anchor, zone, number)
    while True:
        ends = starts_at(length, anchor, zone, number + 1)
        if instant < ends:
            return Period(number, begins, ends)
        number, begins = number + 1, ends


def _begins(length: PeriodLength, anchor: datetime, zone: ZoneInfo, number: int) -> datetime:
    """Return a period's start; the first is the anchor itself, also in a repeated hour."""
    return anchor.astimezone(UTC) if number == 0 else starts_at(length, anchor, zone, number)


def _months_later(local: datetime, months: int) -> datetime:
    years, month = divmod(local.month - 1 + months, 12)
    year = local.year + years
    day = min(local.day, monthrange(year, month + 1)[1])
    return local.replace(year=year, month=month + 1, day=day, tzinfo=None)


def _instant(local: datetime, zone: ZoneInfo) -> datetime:
    """Return the instant of a local time. In a gap the offset before it counts: so it is after."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)
