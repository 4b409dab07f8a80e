"""
What one engine of this process decided, counted in memory. Who counts is told each duration.

One lock, a few additions and no new object a call: it costs about a microsecond, beside some
hundred that the call itself takes.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from quota_engine import errors
from quota_engine.metrics.described import Sample, Timings

#: Upper bounds in seconds: a call takes fractions of a millisecond, and no more than its timeout.
BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)

ADMITTED, REFUSED, FAILED = "admitted", "refused", "failed"
NEW, REPLAYED, SPOOLED, OFFLINE = "new", "replayed", "spooled", "offline"

#: Operations whose answers tell of a shortfall of their own.
CHARGES = frozenset({"debit", "debit_used", "capture_hold"})
#: Operations whose answers tell which quotas would have refused.
ADMISSIONS = frozenset({"place_hold", "extend_hold", "debit"})

#: What an error counts as; of several classes that fit, the nearest. Others are ``other``.
REASONS: Mapping[type[errors.QuotaError], tuple[str, str]] = {
    errors.LimitExceededError: (REFUSED, "limited"),
    errors.QuotaInsufficientError: (REFUSED, "insufficient"),
    errors.BackpressureError: (REFUSED, "backpressure"),
    errors.AccountSuspendedError: (REFUSED, "suspended"),
    errors.AccountClosedError: (REFUSED, "closed"),
    errors.QuotaFrozenError: (REFUSED, "frozen"),
    errors.IdempotencyConflictError: (REFUSED, "conflict"),
    errors.OperationCancelledError: (REFUSED, "cancelled"),
    errors.HoldClosedError: (REFUSED, "hold_closed"),
    errors.HoldNotFoundError: (REFUSED, "not_found"),
    errors.GrantNotFoundError: (REFUSED, "not_found"),
    errors.LimitNotFoundError: (REFUSED, "not_found"),
    errors.OperationNotFoundError: (REFUSED, "not_found"),
    errors.InvalidArgumentError: (REFUSED, "invalid"),
    errors.EngineUnavailableError: (FAILED, "unavailable"),
    errors.EngineFault: (FAILED, "fault"),
    errors.QuotaError: (REFUSED, "other"),
}


def reason_of(error: errors.QuotaError) -> tuple[str, str]:
    """Return what an error counts as: outcome and reason."""
    return next(REASONS[kind] for kind in type(error).__mro__ if kind in REASONS)


class _Operation:
    """The counts of one operation."""

    __slots__ = ("counts", "late", "outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], int] = {(ADMITTED, NEW): 0}
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.late = 0


class Metrics:
    """
    Counts since the engine was opened; a forked child begins anew. Safe in threads.

    ``quota_engine.metrics.prometheus.EngineCollector(engine)`` exports them.
    """

    def __init__(self) -> None:
        self.forget()
        #: What makes spans of the same calls: see ``quota_engine.tracing``. None: nobody asked.
        self.spans: Any = None
        self._sources: list[Callable[[], Iterator[Sample]]] = []

    def forget(self) -> None:
        """Begin anew: a forked child's counts are its own."""
        self._lock = threading.Lock()
        self._operations: dict[str, _Operation] = {}
        self._shortfalls: dict[str, int] = {}
        self._shadowed: dict[tuple[str, str], int] = {}

    def add_source(self, source: Callable[[], Iterator[Sample]]) -> None:
        """Let ``samples`` yield what ``source`` counts, too."""
        self._sources.append(source)

    def done(self, operation: str, seconds: float, result: Any) -> None:
        """Count a call that was answered. ``result`` may say that it was replayed, or late."""
        if getattr(result, "replayed", False):
            reason = REPLAYED
        elif getattr(result, "offline", False):
            reason = OFFLINE
        elif getattr(result, "spooled", False):
            reason = SPOOLED
        else:
            reason = NEW
        is_charge = reason == NEW and operation in CHARGES
        shortfall = result.shortfall if is_charge else 0
        is_late = is_charge and getattr(result, "late", False)
        is_admission = reason == NEW and operation in ADMISSIONS
        is_made = is_admission and not getattr(result, "dry_run", False)
        shadowed = result.shadowed if is_made else ()
        if self.spans is not None:
            self.spans.done(operation, seconds, result)
        with self._lock:
            counted = self._count(operation, seconds, (ADMITTED, reason))
            for one in shadowed:
                place = operation, one.reason
                self._shadowed[place] = self._shadowed.get(place, 0) + 1
            if shortfall:
                kind = result.quota_type
                self._shortfalls[kind] = self._shortfalls.get(kind, 0) + shortfall
            if is_late:
                counted.late += 1

    def failed(self, operation: str, seconds: float, error: errors.QuotaError) -> None:
        """Count a call that was refused, or whose outcome is unknown."""
        outcome = reason_of(error)
        if self.spans is not None:
            self.spans.failed(operation, seconds, error)
        with self._lock:
            self._count(operation, seconds, outcome)

    def _count(self, operation: str, seconds: float, outcome: tuple[str, str]) -> _Operation:
        counted = self._operations.get(operation)
        if counted is None:
            counted = self._operations[operation] = _Operation()
        outcomes = counted.outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        counted.counts[bisect_left(BOUNDS, seconds)] += 1
        counted.seconds += seconds
        return counted

    def calls(self, operation: str, outcome: str = ADMITTED, reason: str = NEW) -> int:
        """Return how many calls came to this."""
        counted = self._operations.get(operation)
        return 0 if counted is None else counted.outcomes.get((outcome, reason), 0)

    def samples(self) -> list[Sample]:
        """Return every count but the durations."""
        found = []
        late = 0
        with self._lock:
            for operation, counted in self._operations.items():
                named = {"operation": operation}
                for (outcome, reason), count in counted.outcomes.items():
                    labels = named | {"outcome": outcome, "reason": reason}
                    found.append(Sample("calls_total", count, labels))
                late += counted.late
            for quota_type, units in self._shortfalls.items():
                found.append(Sample("shortfall_units_total", units, {"quota_type": quota_type}))
            for (operation, reason), count in self._shadowed.items():
                named = {"operation": operation, "reason": reason}
                found.append(Sample("shadowed_total", count, named))
        found.append(Sample("late_captures_total", late))
        for source in self._sources:
            found += source()
        return found

    def timings(self) -> list[Timings]:
        """Return how long calls took, by operation."""
        with self._lock:
            return [
                Timings(
                    "call_seconds",
                    {"operation": operation},
                    BOUNDS,
                    tuple(counted.counts),
                    counted.seconds,
                )
                for operation, counted in self._operations.items()
            ]
