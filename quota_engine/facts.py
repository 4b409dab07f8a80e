"""
What is compared of a quota's grants, holds and limits: pure values, whoever read them.

Of limits only windows that the ledger keeps are compared, and of each only what counts still.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from quota_engine.limits import HOLDS, parse_limits

#: What counts in each step or period of a limit, by where it begins (ms).
Steps: TypeAlias = Mapping[int, int]


@dataclass(frozen=True, slots=True)
class GrantFacts:
    """A grant: amounts in units, times in ms."""

    remaining: int
    reserved: int
    state: str
    #: Priority, and the instants it starts, expires and was made at.
    terms: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class HoldFacts:
    """An open hold: its total, and the covered parts in the order they were taken."""

    amount: int
    allocations: tuple[tuple[str, int], ...]
    #: Where it counts in limits (ms); whether it does nothing else.
    counts_at_ms: int | None = None
    is_counted: bool = False
    #: The account that pays in its place, percent-encoded; empty: none.
    paid_by: str = ""

    @property
    def held(self) -> int:
        """What the quota holds of it."""
        return 0 if self.is_counted else self.amount

    @property
    def covered(self) -> int:
        """What grants pay of it."""
        return sum(units for _, units in self.allocations)


@dataclass(frozen=True, slots=True)
class LimitFacts:
    """The limits of a quota as one line, the latest count (ms), and what counts in each."""

    text: str = ""
    last_count_ms: int = 0
    counts: Mapping[str, Steps] = field(default_factory=dict)
    #: Limits whose sum is not that of their steps.
    unequal: tuple[str, ...] = ()


NO_LIMITS = LimitFacts()


def limit_facts_of_rows(
    text: str, last_count_ms: int, rows: Iterable[tuple[str, int, int, int]]
) -> LimitFacts:
    """Return what the ledger's rows say: limit, since, beginning, count."""
    live = {(limit.key, limit.since_ms) for limit in parse_limits(text)}
    found: dict[str, dict[int, int]] = {}
    for key, since_ms, starts_at_ms, counted in rows:
        if (key, since_ms) in live:
            found.setdefault(key, {})[starts_at_ms] = counted
    return _facts(text, last_count_ms, found)


def limit_facts_of_fields(fields: Mapping[str, str]) -> LimitFacts:
    """Return what a quota's hash says; raise ``ValueError`` where it says nothing."""
    text = fields.get("limits", "")
    found: dict[str, dict[int, int]] = {}
    unequal = []
    for limit in parse_limits(text):
        head = fields.get(f"w:{limit.key}")
        if limit.of == HOLDS or head is None:
            continue
        _, place, count, *rest = map(int, head.split(" "))
        prefix = f"w:{limit.key}:"
        steps = {
            int(name.removeprefix(prefix)): int(value)
            for name, value in fields.items()
            if name.startswith(prefix)
        }
        found[limit.key] = steps | ({place: count} if place else {})
        if limit.is_sliding and sum(found[limit.key].values()) != rest[1]:
            unequal.append(limit.key)
    last_count_ms = int(fields.get("w:at", "0"))
    facts = _facts(text, last_count_ms, found)
    return LimitFacts(text, last_count_ms, facts.counts, tuple(unequal))


def differences_of_limits(redis: LimitFacts, ledger: LimitFacts) -> Iterator[tuple[str, int, int]]:
    """Yield what counts differently, with both counts: of a limit the first such place."""
    if redis.last_count_ms != ledger.last_count_ms:
        yield "latest count of limits", redis.last_count_ms, ledger.last_count_ms
    for key in sorted(redis.counts.keys() | ledger.counts.keys()):
        mine, theirs = redis.counts.get(key, {}), ledger.counts.get(key, {})
        for place in sorted(mine.keys() | theirs.keys()):
            if mine.get(place, 0) != theirs.get(place, 0):
                yield f"limit {key} at {place}", mine.get(place, 0), theirs.get(place, 0)
                break


def _facts(text: str, last_count_ms: int, found: Mapping[str, Steps]) -> LimitFacts:
    counts = {}
    for limit in parse_limits(text):
        if limit.is_kept:
            floor = limit.floor_of(last_count_ms)
            steps = found.get(limit.key, {})
            counts[limit.key] = {
                place: count for place, count in steps.items() if count and place >= floor
            }
    return LimitFacts(text, last_count_ms, counts)
