"""
A quota's log beside the plainest model of it: what each entry may do, and what no entry may.

Nothing is taken from the engine but the words of an entry. Limits are read from the log itself
and counted event by event, each window by what it means; sums are added up anew each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from quota_engine.events import Entry

DAY = timedelta(days=1)
LENGTHS = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": DAY,
    "week": 7 * DAY,
    "month": 30 * DAY,
}
SHOWN = {
    "second": "%Y-%m-%d %H:%M:%S",
    "minute": "%Y-%m-%d %H:%M",
    "hour": "%Y-%m-%d %H",
    "day": "%Y-%m-%d",
    "week": "%G %V",
    "month": "%Y-%m",
}
ADMISSIONS = frozenset({"hold.placed", "hold.extended", "quota.debited"})


@dataclass
class Event:
    """Units or a call that count in one limit, where they do."""

    at_ms: int
    units: int


class Limit:
    """One limit as its nine words tell it, and every event that it counts."""

    def __init__(self, words: str) -> None:
        self.of, self.per, self.window, self.zone, *numbers, _ = words.split(",")
        self.amount, self.raised_to, self.raised_until, self.since = map(int, numbers)
        self.events: list[Event] = []

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.of, self.per, self.window, self.since

    def cap(self, at_ms: int) -> int:
        return self.raised_to if at_ms < self.raised_until else self.amount

    def used(self, at_ms: int) -> int:
        """Return what counts at an instant that is later than every event."""
        return sum(event.units for event in self.events if self._counts(event.at_ms, at_ms))

    def _counts(self, then: int, now: int) -> bool:
        if self.window == "sliding":
            return then > now - LENGTHS[self.per] // timedelta(milliseconds=1)
        return self._period(then) == self._period(now)

    def _period(self, at_ms: int) -> str:
        instant = datetime.fromtimestamp(at_ms // 1000, UTC).astimezone(ZoneInfo(self.zone))
        return instant.strftime(SHOWN[self.per])


@dataclass
class Hold:
    """An open hold, and its events in the limits of units that it counts in."""

    amount: int
    is_counted: bool
    events: list[Event] = field(default_factory=list)

    def correct(self, units: int) -> None:
        for event in self.events:
            event.units += units


class PlainQuota:
    """One quota, entry by entry."""

    def __init__(self) -> None:
        self.version = self.balance = self.held = 0
        self.is_granted = False
        #: None: unlimited.
        self.overdraft: int | None = 0
        self.limits: list[Limit] = []
        self.latest_ms = 0
        self.grants = Counter[str]()
        self.holds: dict[str, Hold] = {}
        self.operations: set[str] = set()
        self.admissions = Counter[str]()

    @property
    def acts(self) -> bool:
        """Whether calls of accounts below act on it, too."""
        return self.is_granted or self.overdraft != 0 or bool(self.limits)

    def apply(self, entry: Entry) -> Iterator[str]:
        """Take the next entry; yield what is wrong with it."""
        self.version += 1
        self.balance += entry.delta
        self.held += entry.held_delta
        for move in entry.movements:
            self.grants[move.grant_id] += move.remaining
            if self.grants[move.grant_id] < 0:
                yield f"grant {move.grant_id} has less than nothing"
        if (entry.version, entry.balance, entry.held) != (self.version, self.balance, self.held):
            yield "its numbers are not those of the entries before it"
        if entry.operation_id in self.operations:
            yield f"{entry.operation_id} happened before"
        self.operations.add(entry.operation_id)
        handle = getattr(self, "_" + entry.kind.replace(".", "_"), None)
        if handle is not None:
            handle(entry)
        if entry.kind in ADMISSIONS and "used" not in entry.flags:
            yield from self._exceeded(entry)
        open_holds = sum(hold.amount for hold in self.holds.values() if not hold.is_counted)
        if open_holds != self.held:
            yield f"{self.held} are held, the open holds are of {open_holds}"

    def _exceeded(self, entry: Entry) -> Iterator[str]:
        """Yield each limit that an admission is beyond."""
        self.admissions[entry.kind] += 1
        if not entry.is_counted and self.overdraft is not None:
            left = self.balance - self.held + self.overdraft
            if left < 0:
                yield f"{-left} more were admitted than were spendable"
        for limit in self.limits:
            used = len(self.holds) if limit.of == "holds" else limit.used(self.latest_ms)
            asked = {
                "units": True,
                "calls": entry.kind != "hold.extended",
                "holds": entry.kind == "hold.placed",
            }[limit.of]
            if asked and used > (cap := limit.cap(self.latest_ms)):
                yield f"{used} of {cap} {limit.of} per {limit.per or 'nothing'} {limit.window}"

    def _count(self, entry: Entry, calls: int) -> list[Event]:
        """Count an entry's units and perhaps a call; never before what counted before."""
        if not self.limits:
            return []
        self.latest_ms = max(self.latest_ms, entry.at_ms)
        counted = []
        for limit in self.limits:
            if limit.of == "units":
                counted.append(Event(self.latest_ms, entry.amount))
                limit.events.append(counted[-1])
            elif limit.of == "calls" and calls:
                limit.events.append(Event(self.latest_ms, calls))
        return counted

    # -- what each kind does

    def _grant_issued(self, _: Entry) -> None:
        self.is_granted = True

    def _overdraft_limit_set(self, entry: Entry) -> None:
        self.overdraft = None if entry.terms == "unlimited" else int(entry.terms)

    def _limit_set(self, entry: Entry) -> None:
        told = [Limit(words) for words in entry.terms.split(";") if words]
        known = {limit.key: limit.events for limit in self.limits}
        for limit in told:
            limit.events = known.get(limit.key, [])
            self.latest_ms = max(self.latest_ms, limit.since + 1)
        self.limits = told

    def _hold_placed(self, entry: Entry) -> None:
        events = self._count(entry, 1)
        self.holds[entry.subject] = Hold(entry.amount, entry.is_counted, events)

    def _hold_extended(self, entry: Entry) -> None:
        hold = self.holds[entry.subject]
        hold.correct(-hold.amount)
        hold.amount, hold.events = entry.amount, self._count(entry, 0)

    def _hold_captured(self, entry: Entry) -> None:
        if "late" in entry.flags:
            self._count(entry, 0)
            return
        hold, is_part = self.holds[entry.subject], "part" in entry.flags
        given_up = min(entry.amount, hold.amount) if is_part else hold.amount
        hold.correct(entry.amount - given_up)
        hold.amount -= given_up
        if not is_part:
            del self.holds[entry.subject]

    def _hold_released(self, entry: Entry) -> None:
        hold = self.holds.pop(entry.subject)
        hold.correct(-hold.amount)

    _hold_expired = _hold_released

    def _quota_debited(self, entry: Entry) -> None:
        self._count(entry, 1)
