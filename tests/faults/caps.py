"""
Whether a limit let through more than it may: a quota's log, walked with a list of what counts.

Only limits of an hour and more and those of open holds: shorter windows begin anew when Redis is
lost, and the log does not tell when. It must not know the engine's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

HOUR_MS = 3_600_000
LENGTHS_MS = {"hour": HOUR_MS, "day": 24 * HOUR_MS, "week": 168 * HOUR_MS, "month": 720 * HOUR_MS}


@dataclass(slots=True)
class Counted:
    """Something that a limit let through: when, and how much of it counts by now."""

    place: int
    at: int
    units: int
    calls: int


@dataclass(slots=True)
class Cap:
    """One limit, as the nine words of an entry ``limit.set`` tell it."""

    of: str
    per: str
    window: str
    time_zone: str
    amount: int
    raised_to: int
    raised_until: int
    since: int
    marks: tuple[int, ...]

    def at(self, now: int) -> int:
        return self.raised_to if now < self.raised_until else self.amount

    def begins(self, now: int) -> int:
        """Return the first instant that counts now."""
        first = self.since + 1
        if self.window == "sliding":
            return max(first, now - LENGTHS_MS[self.per] + 1)
        if self.per == "hour":
            return max(first, now - (now - sum(self.marks)) % HOUR_MS)
        return max(first, *(mark for mark in self.marks if mark <= now))


def parsed(line: str) -> list[Cap]:
    """Return the limits of a line that can be judged."""
    caps = []
    for words in filter(None, line.split(";")):
        of, per, window, zone, *numbers, marks = words.split(",")
        told = tuple(int(mark) for mark in marks.split(":")) if marks else ()
        if of == "holds" or per in LENGTHS_MS:
            caps.append(Cap(of, per, window, zone, *map(int, numbers), told))
    return caps


@dataclass(slots=True)
class _Tally:
    """How much of one limit is used: the sum of what was counted from a place of the list on."""

    cap: Cap
    first: int = 0
    used: int = 0

    def value(self, one: Counted) -> int:
        return one.units if self.cap.of == "units" else one.calls


@dataclass(slots=True)
class _Counts:
    now: int = 0
    tallies: list[_Tally] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    #: Of each open hold what counts of it, and what it holds.
    holds: dict[str, tuple[Counted, int]] = field(default_factory=dict)

    def limit(self, line: str) -> None:
        """Let these limits be those of the quota."""
        self.tallies = [_Tally(cap) for cap in parsed(line)]
        for tally in self.tallies:
            self.now = max(self.now, tally.cap.since + 1)
            tally.used = sum(map(tally.value, self.counted))

    def count(self, row: Any, calls: int) -> Counted:
        """Count an entry's amount, and so many calls."""
        self.now = max(self.now, row.at_ms)
        one = Counted(len(self.counted), self.now, row.amount, calls)
        self.counted.append(one)
        for tally in self.tallies:
            tally.used += tally.value(one)
        return one

    def correct(self, one: Counted, units: int) -> None:
        """Let something count for more units, or fewer."""
        one.units += units
        for tally in self.tallies:
            if tally.cap.of == "units" and one.place >= tally.first:
                tally.used += units

    def apply(self, row: Any) -> set[str]:
        """Move over a row; return of what it was admitted: units, calls, holds."""
        flags, hold = row.flags.split(), self.holds.get(row.subject)
        match row.kind:
            case "limit.set":
                self.limit(row.terms)
            case "quota.debited":
                self.count(row, 1)
                return set() if "used" in flags else {"units", "calls"}
            case "hold.placed":
                self.holds[row.subject] = (self.count(row, 1), row.amount)
                return {"units", "calls", "holds"}
            case "hold.captured" if "late" in flags:
                self.count(row, 0)
            case "hold.extended" if hold:
                self.correct(hold[0], -hold[1])
                self.holds[row.subject] = (self.count(row, 0), row.amount)
                return {"units"}
            case "hold.captured" if hold:
                given_up = min(row.amount, hold[1]) if "part" in flags else hold[1]
                self.correct(hold[0], row.amount - given_up)
                self.holds[row.subject] = (hold[0], hold[1] - given_up)
                if "part" not in flags:
                    del self.holds[row.subject]
            case "hold.released" | "hold.expired" if hold:
                self.correct(hold[0], -hold[1])
                del self.holds[row.subject]
        return set()

    def used(self, tally: _Tally) -> int:
        """Return how much of a limit is used now."""
        if tally.cap.of == "holds":
            return len(self.holds)
        begins = tally.cap.begins(self.now)
        while tally.first < len(self.counted) and self.counted[tally.first].at < begins:
            tally.used -= tally.value(self.counted[tally.first])
            tally.first += 1
        return tally.used


def exceeded(entries: Iterable[Any]) -> Iterator[str]:
    """Say which entry of one quota's log was let through above a limit. In order of versions."""
    counts = _Counts()
    for row in entries:
        if row.kind == "quota.repaired":  # what was set aside counted, too
            return
        admitted = counts.apply(row)
        for tally in counts.tallies:
            cap = tally.cap
            if cap.of in admitted and (used := counts.used(tally)) > cap.at(counts.now):
                yield (
                    f"{row.account} version {row.version}: {row.operation_id} was let through,"
                    f" {used} of {cap.at(counts.now)} {cap.of} per {cap.per or 'moment'}"
                )
