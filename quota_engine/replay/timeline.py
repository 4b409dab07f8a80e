"""
Simulated days: when each call of a trace happens if the trace takes days instead of an hour.

Every process of a run has a clock of its own, which shows the instant of its call. So that no
clock is a day ahead of the schedule that renews subscriptions, all make the calls of one day, then
those of the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from quota_engine.replay.trace import Call


@dataclass(frozen=True, slots=True)
class Timeline:
    """``days`` from ``starts_at`` on, for a trace whose last call comes at ``span_seconds``."""

    starts_at: datetime
    days: int
    span_seconds: float

    @property
    def ends_at(self) -> datetime:
        """When the last day is over."""
        return self.starts_at + timedelta(days=self.days)

    def instant_of(self, call: Call) -> datetime:
        """Return when a call happens; the last one a moment before the end."""
        share = call.offset_seconds / self.span_seconds if self.span_seconds else 0.0
        spare = timedelta(minutes=1)
        return self.starts_at + (self.ends_at - spare - self.starts_at) * share

    def day_of(self, instant: datetime) -> int:
        """Return which day an instant is in, from 0."""
        return (instant - self.starts_at) // timedelta(days=1)

    def begin_of(self, day: int) -> datetime:
        """Return when a day begins."""
        return self.starts_at + timedelta(days=day)


class SimulatedClock:
    """A clock that shows what it was set to."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now
