"""
Limits of a quota: at most so many units, calls or open holds in a window of time. Pure.

A quota's limits are one line of text, told whole by each entry ``limit.set`` and kept in the
quota's hash: the limits, ``;`` between them, each nine words, ``,`` between them::

    of              units, calls, or holds (open at once)
    per             second, minute, hour, day, week, month; empty for holds
    window          sliding or calendar; empty for holds
    time_zone       of a calendar window: its IANA name
    amount          how many
    raised_to       how many for a while, 0: no more than usual ...
    raised_until    ... until this instant (ms)
    since           what counts later than this instant (ms) counts
    marks           where its periods begin (ms, ``:`` between), and where the last one ends; of
                    calendar hours how far they are shifted

A sliding window goes forward in steps. What stands in the step of an instant, and in as many full
steps before it as the window has, counts at that instant: so a window of any length up to the
limit's never has more than the limit, and units come free up to one step late.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from quota_engine.amounts import checked_amount
from quota_engine.errors import InvalidArgumentError
from quota_engine.instants import from_ms, to_ms
from quota_engine.periods import checked_period, checked_time_zone, period_at, starts_at

UNITS, CALLS, HOLDS = "units", "calls", "holds"
SLIDING, CALENDAR = "sliding", "calendar"
UTC = "UTC"

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: How long each window is, and its steps. A month's is 30 days.
LENGTHS_MS: Mapping[str, int] = {
    "second": 1_000,
    "minute": 60_000,
    "hour": HOUR_MS,
    "day": DAY_MS,
    "week": 7 * DAY_MS,
    "month": 30 * DAY_MS,
}
STEPS_MS: Mapping[str, int] = {
    "second": 100,
    "minute": 1_000,
    "hour": 60_000,
    "day": HOUR_MS // 4,
    "week": 2 * HOUR_MS,
    "month": 6 * HOUR_MS,
}
#: Windows whose calendar periods differ in length, so that each one's beginning is written down.
MARKED = frozenset({"day", "week", "month"})
#: Windows whose counts the ledger keeps, too; shorter ones start anew when Redis was lost.
KEPT = frozenset({"hour", "day", "week", "month"})
#: Calendar periods that are written down ahead.
PERIODS_AHEAD = 16
#: A Monday that begins a month and a year.
_ANCHOR = datetime(1973, 1, 1)
#: How far ahead a zone's hours are looked at.
_HOURS_LOOK = timedelta(days=800)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One limit, as the module says it. Amounts in what ``of`` names, instants in ms."""

    of: str
    amount: int
    per: str = ""
    window: str = ""
    time_zone: str = ""
    raised_to: int = 0
    raised_until_ms: int = 0
    since_ms: int = 0
    marks: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """What names it among its quota's limits."""
        return f"{self.of}:{self.per}:{self.window}"

    @property
    def is_sliding(self) -> bool:
        """Whether its window goes with time, in steps."""
        return self.window == SLIDING

    @property
    def is_marked(self) -> bool:
        """Whether its marks tell its periods."""
        return self.window == CALENDAR and self.per in MARKED

    @property
    def is_kept(self) -> bool:
        """Whether the ledger keeps its counts."""
        return self.per in KEPT

    def cap_at(self, at_ms: int) -> int:
        """Return how many are let through at an instant."""
        return self.raised_to if at_ms < self.raised_until_ms else self.amount

    def place_of(self, at_ms: int) -> int | None:
        """
        Return where the step or period begins that an instant counts in; None: it is over.

        After the last mark, the last period goes on.
        """
        if self.is_sliding:
            return at_ms - at_ms % STEPS_MS[self.per]
        if self.is_marked:
            found = bisect_right(self.marks, at_ms)
            return self.marks[found - 1] if found else None
        shift = self.marks[0] if self.marks else 0
        return at_ms - (at_ms - shift) % LENGTHS_MS[self.per]

    def end_of(self, place: int) -> int:
        """Return where the step or period ends that begins at a place; 0: nobody knows."""
        if self.is_marked:
            return next((mark for mark in self.marks if mark > place), 0)
        return place + (STEPS_MS if self.is_sliding else LENGTHS_MS)[self.per]

    def floor_of(self, at_ms: int) -> int:
        """Return the first place that counts at an instant."""
        place = self.place_of(at_ms) or 0
        return place - LENGTHS_MS[self.per] if self.is_sliding else place

    def text(self) -> str:
        """Return it as the nine words of a quota's limits."""
        numbers = (self.amount, self.raised_to, self.raised_until_ms, self.since_ms)
        marks = ":".join(map(str, self.marks))
        words = (self.of, self.per, self.window, self.time_zone, *map(str, numbers), marks)
        return ",".join(words)


def limits_text(limits: Iterable[Limit]) -> str:
    """Return limits as one line."""
    return ";".join(limit.text() for limit in limits)


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Return the limits that a line tells; raise ``ValueError`` for one that tells none."""
    return tuple(_parse(words) for words in text.split(";")) if text else ()


def _parse(text: str) -> Limit:
    of, per, window, time_zone, amount, raised_to, until, since, marks = text.split(",")
    limit = Limit(
        of=of,
        per=per,
        window=window,
        time_zone=time_zone,
        amount=int(amount),
        raised_to=int(raised_to),
        raised_until_ms=int(until),
        since_ms=int(since),
        marks=tuple(map(int, marks.split(":"))) if marks else (),
    )
    is_window = of in {UNITS, CALLS} and per in LENGTHS_MS and window in {SLIDING, CALENDAR}
    if not (is_window or (of, per, window) == (HOLDS, "", "")) or limit.text() != text:
        raise ValueError(f"not a limit: {text!r}")
    if limit.is_marked and (len(limit.marks) < 2 or sorted(set(limit.marks)) != [*limit.marks]):
        raise ValueError(f"not the beginnings of periods: {marks!r}")
    return limit


def checked_limit(
    amount: object, *, of: object, per: object, window: object, time_zone: object
) -> Limit:
    """Return the limit that a caller names; raise ``InvalidArgumentError`` for what cannot be."""
    if of not in (UNITS, CALLS, HOLDS):
        raise InvalidArgumentError(f"a limit is of units, calls or holds, not of {of!r:.80}")
    number = checked_amount(amount)
    if of == HOLDS:
        if per is not None or window is not None:
            raise InvalidArgumentError(
                "a limit of holds counts those that are open at once: it has no per and no window"
            )
        return Limit(of=HOLDS, amount=number)
    if per not in LENGTHS_MS:
        raise InvalidArgumentError(
            f"a limit is per {', '.join(LENGTHS_MS)}, not per {per!r:.80}; of=holds is per nothing"
        )
    assert isinstance(per, str)
    usual = CALENDAR if per in MARKED else SLIDING
    kind = usual if window is None else window
    if kind not in (SLIDING, CALENDAR):
        raise InvalidArgumentError(f"a window is sliding or calendar, not {window!r:.80}")
    zone = checked_time_zone(time_zone).key
    if kind == SLIDING and zone != UTC:
        raise InvalidArgumentError(
            f"a sliding window has no time zone: leave {zone} out, or take window='calendar'"
        )
    named = zone if kind == CALENDAR else ""
    return Limit(of=str(of), amount=number, per=per, window=str(kind), time_zone=named)


def marks_at(limit: Limit, at_ms: int) -> tuple[int, ...]:
    """
    Return where a limit's periods begin, from the one before an instant's on.

    Of calendar hours how far they are shifted in their zone. Raises ``InvalidArgumentError`` for a
    zone whose hours will not stay where they are.
    """
    if limit.window != CALENDAR or limit.per in {"second", "minute"}:
        return ()
    zone = ZoneInfo(limit.time_zone)
    if limit.per == "hour":
        shift = _shift_of(zone, from_ms(at_ms))
        return (shift,) if shift else ()
    length = checked_period(limit.per)
    anchor = _ANCHOR.replace(tzinfo=zone)
    period = period_at(length, anchor, zone, from_ms(at_ms))
    if period is None:
        raise InvalidArgumentError(f"calendar periods are counted from {_ANCHOR:%Y-%m-%d} on")
    first = max(period.number - 1, 0)
    numbers = range(first, period.number + PERIODS_AHEAD)
    return tuple(
        to_ms(starts_at(length, anchor, zone, number), name="a period's start")
        for number in numbers
    )


def _shift_of(zone: ZoneInfo, now: datetime) -> int:
    """Return by how many milliseconds the hours of a zone are later than those of UTC."""
    if zone.key == UTC:
        return 0
    found = {_offset_ms(zone, now + timedelta(days=day)) for day in range(_HOURS_LOOK.days)}
    if len(found) > 1:
        raise InvalidArgumentError(
            f"the clocks of {zone.key} change by parts of an hour: take a sliding window, or UTC"
        )
    return -found.pop() % HOUR_MS


def _offset_ms(zone: ZoneInfo, instant: datetime) -> int:
    offset = instant.astimezone(zone).utcoffset() or timedelta()
    return offset // timedelta(milliseconds=1) % HOUR_MS
