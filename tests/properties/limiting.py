"""Limits of the one quota that a walk is on: changed among all the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import rule

from quota_engine.chain import QuotaLog
from quota_engine.commands import Action, SetLimit
from quota_engine.counting import floors
from quota_engine.keys import QuotaName
from quota_engine.limits import checked_limit
from quota_engine.quotas import Quota


class Kind(NamedTuple):
    """What a limit is of, per what, in which window, and where."""

    of: str
    per: str | None = None
    window: str | None = None
    time_zone: str = "UTC"


KINDS = (
    Kind("units", "second"),
    Kind("units", "minute"),
    Kind("units", "second", "calendar"),
    Kind("units", "hour"),
    Kind("units", "day", time_zone="Asia/Kathmandu"),
    Kind("units", "day", time_zone="America/New_York"),
    Kind("units", "hour", "calendar", "Asia/Kathmandu"),
    Kind("calls", "minute", "calendar"),
    Kind("calls", "day", "sliding"),
    Kind("holds"),
)


#: Mostly set: of the others only what is there is changed.
ACTIONS = (Action.SET, Action.SET, *Action)


#: Times in which longer windows go on; after the last the periods that are told are over.
LONG = (40_000, 1_000_000, 5_000_000, 5_000_000, 30 * 3_600_000, 20 * 24 * 3_600_000)


class Limited:
    """Two rules; the walk brings what they need."""

    name: QuotaName
    now_ms: int
    both: Any
    fresh: Any

    @rule(milliseconds=st.sampled_from(LONG))
    def much_time_passes(self, milliseconds: int) -> None:
        """Windows of hours and days go on, too."""
        self.now_ms += milliseconds

    @rule(
        place=st.integers(0, len(KINDS) - 1),
        amount=st.integers(1, 400),
        action=st.sampled_from(ACTIONS),
        due_max=st.sampled_from([1, 32, 32]),
    )
    def set_limit(self, place: int, amount: int, action: Action, due_max: int) -> None:
        kind = KINDS[place]
        if kind.of != "units":
            amount = amount // 40 + 1
        limit = checked_limit(amount, **kind._asdict())
        if action is Action.RAISE:
            until = self.now_ms + 2_000
            limit = replace(limit, raised_to=amount * 2, raised_until_ms=until)
        operation_id = self.fresh("w")
        self.both(
            SetLimit(
                quota=self.name,
                operation_id=operation_id,
                action=action,
                limit=limit,
                at_ms=self.now_ms,
            ),
            due_max,
        )


def check_counts(log: QuotaLog, quota: Quota) -> None:
    """What the ledger counts of the entries is what the model has let through."""
    first = floors(log)
    kept = {
        place: units
        for place, units in log.counts.items()
        if units and place[2] >= first[place[:2]]
    }
    assert kept == quota.kept_counts()
    assert (log.limits, log.last_count_ms) == (quota.limits, quota.last_count_ms)
