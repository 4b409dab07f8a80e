"""
Follow an account's entries in their order, and count each of its limits by what it means.

A sliding window: what came less than its length before. A calendar one: what is in the same
minute or month of its zone. Holds: those that are open. A call counts at its hold with what it
asks, from its capture on with what it used; where a clock is behind, when the hold before it did.
Nothing here knows how the engine counts: no steps, no periods written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from quota_engine import events
from quota_engine.limits import CALLS, HOLDS, SLIDING, UNITS
from quota_engine.replay.tree.planning import PlannedLimit

SECOND_MS = 1_000
LENGTHS_MS = {"minute": 60 * SECOND_MS, "month": 30 * 86_400 * SECOND_MS}
#: Entries that count in no limit.
SILENT = frozenset(
    {events.GRANT_ISSUED, events.GRANT_STARTED, events.GRANT_EXPIRED, events.LIMIT_SET}
)


class Line(NamedTuple):
    """What is read of an entry."""

    version: int
    kind: str
    at_ms: int
    subject: str
    amount: int
    flags: str


class _Count:
    """What one limit counts, and the most of its amount that was used at an admission."""

    def __init__(self, limit: PlannedLimit) -> None:
        self.limit = limit
        self.fullest = 0.0
        self._is_in = _window(limit)
        self._counted: list[list[int]] = []
        self._first = self._sum = 0

    def add(self, at_ms: int, units: int) -> int:
        """Let units count from an instant on, none earlier than before; return their place."""
        while self._first < len(self._counted) and not self._is_in(
            self._counted[self._first][0], at_ms
        ):
            self._sum -= self._counted[self._first][1]
            self._first += 1
        self._counted.append([at_ms, units])
        self._sum += units
        return len(self._counted) - 1

    def correct(self, place: int, units: int) -> None:
        """Let more units count, or less, where some count."""
        self._counted[place][1] += units
        if place >= self._first:
            self._sum += units

    @property
    def used(self) -> int:
        """What counts at the latest instant."""
        return self._sum

    def excess(self, used: int) -> str | None:
        """Note what is used at an admission; return what is wrong with it."""
        self.fullest = max(self.fullest, used / self.limit.amount)
        if used <= self.limit.amount:
            return None
        return f"{used:,} of {self.limit.amount:,} {self.limit.words}"


def _window(limit: PlannedLimit) -> Callable[[int, int], bool]:
    """Return whether what came at an instant counts at a later one."""
    if limit.per is None:
        return lambda then, now: True
    if limit.window == SLIDING:
        length = LENGTHS_MS[limit.per]
        return lambda then, now: then > now - length
    zone, shown = ZoneInfo(limit.time_zone), "%Y-%m" if limit.per == "month" else "%Y-%m-%d %H:%M"

    def period(at_ms: int) -> str:
        return datetime.fromtimestamp(at_ms // SECOND_MS, UTC).astimezone(zone).strftime(shown)

    return lambda then, now: period(then) == period(now)


class Walk:
    """One account's entries, one after the other, beside the limits that it was given."""

    def __init__(self, account: str, limits: Sequence[PlannedLimit]) -> None:
        self.account = account
        self.counts = [_Count(limit) for limit in limits]
        self._latest_ms = 0
        #: Of each open hold what it asked, and where it counts in each limit.
        self._open: dict[str, tuple[int, list[int]]] = {}

    def follow(self, lines: Iterable[Line]) -> Iterator[str]:
        """Follow entries; yield where a limit was exceeded, or what cannot be followed."""
        for line in lines:
            for problem in self._next(line):
                yield f"{self.account} version {line.version}: {problem}"
        if self._open:
            yield f"{self.account}: {len(self._open)} holds are open in the end"

    def _next(self, line: Line) -> Iterator[str]:
        if line.kind in SILENT:
            return
        if line.kind == events.HOLD_PLACED:
            yield from self._place(line)
        elif line.kind in {events.HOLD_CAPTURED, events.HOLD_RELEASED, events.HOLD_EXPIRED}:
            if line.subject not in self._open:
                yield f"{line.kind} of a hold that is not open"
                return
            asked, places = self._open.pop(line.subject)
            used = line.amount if line.kind == events.HOLD_CAPTURED else 0
            for count, place in zip(self.counts, places, strict=True):
                if count.limit.of == UNITS:
                    count.correct(place, used - asked)
        else:
            yield f"{line.kind}, which no call of a replay makes"

    def _place(self, line: Line) -> Iterator[str]:
        places = []
        self._latest_ms = max(self._latest_ms, line.at_ms)
        for count in self.counts:
            units = {UNITS: line.amount, CALLS: 1, HOLDS: 0}[count.limit.of]
            places.append(count.add(self._latest_ms, units))
        self._open[line.subject] = (line.amount, places)
        for count in self.counts:
            used = len(self._open) if count.limit.of == HOLDS else count.used
            problem = count.excess(used)
            if problem is not None:
                yield problem
