"""
What a quota's log says: a log is the tuple of its operation ids, the newest last.

A log is its own chain (two logs are equal when their chains are), its length is the version. The
operations are "debit x" (1 unit), "place x" (2 units held), "capture x" (1 unit used), "release x"
and "expire x".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

Log = tuple[str, ...]

DEBIT, HOLD, CAPTURE = 1, 2, 1


class Sums(NamedTuple):
    """What a log adds up to."""

    used: int
    held: int
    open_holds: frozenset[str]


@cache
def sums(log: Log, granted: int) -> Sums:
    """Return what a log adds up to; a late capture takes what is there, the rest is shortfall."""
    used, held, open_holds = 0, 0, frozenset[str]()
    for operation in log:
        verb, subject = operation.split()
        if verb == "debit":
            used += DEBIT
        elif verb == "place":
            held, open_holds = held + HOLD, open_holds | {subject}
        elif subject in open_holds:
            held, open_holds = held - HOLD, open_holds - {subject}
            used += CAPTURE if verb == "capture" else 0
        elif verb == "capture":
            used += min(CAPTURE, max(granted - used - held, 0))
    return Sums(used, held, open_holds)


def cost(operation: str) -> int:
    """Return what an operation must find spendable, 0 for those that are never denied."""
    return {"debit": DEBIT, "place": HOLD}.get(operation.split(maxsplit=1)[0], 0)


@cache
def spendable(log: Log, granted: int) -> int:
    """Return what a gate may admit after this log."""
    added = sums(log, granted)
    return granted - added.used - added.held


def spendable_of_union(operations: Iterable[str], granted: int, *, is_due: bool) -> int:
    """Return what would be spendable if all of these had happened, in whichever order."""
    happened = set(operations)
    used = held = 0
    for operation in happened:
        verb, subject = operation.split()
        if verb == "debit":
            used += DEBIT
        elif verb == "capture":
            used += CAPTURE
        elif verb == "place" and not is_due:
            ends = {f"capture {subject}", f"release {subject}", f"expire {subject}"}
            held += 0 if happened & ends else HOLD
    return granted - used - held


def is_prefix(one: Log, other: Log) -> bool:
    """Return whether one log begins another (or is it)."""
    return one == other[: len(one)]


@cache
def first_wrong(log: Log, granted: int) -> str:
    """Return the first operation that a log should not have admitted, or nothing."""
    for place, operation in enumerate(log):
        before = log[:place]
        verb, subject = operation.split()
        if operation not in before and cost(operation) > spendable(before, granted):
            return operation
        if verb in ("release", "expire") and subject not in sums(before, granted).open_holds:
            return operation
    return ""
