"""What a reconciliation's duty says when it ends, and how its numbers are read back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from quota_engine.drift import ReconcileReport
from quota_engine.ledger.duties import DutyRun

COMPARED = "{checked} quotas compared, {differ} differ"
BY_SUMS = "; {count} by their sums alone, some at each look since {since}"
_BY_SUMS = BY_SUMS.format(count=r"(\d+)", since=r"([^\s;]+)")
_TOLD = re.compile(COMPARED.format(checked=r"\d+", differ=r"(\d+)") + f"(?:{_BY_SUMS})?")
DRIFTS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Found:
    """What the last reconciliation that ended found, in numbers."""

    differ: int
    #: Quotas whose grants, holds and limits were not compared, and since when there are some.
    by_sums: int = 0
    by_sums_since: datetime | None = None


def found_last(runs: Sequence[DutyRun]) -> Found | None:
    """Return what was found at the last reconciliation, None where none has ended."""
    for run in runs:
        if run.duty == "reconcile" and (told := _TOLD.match(run.outcome)):
            differ, by_sums, since = told.groups()
            if by_sums is None:
                return Found(int(differ))
            return Found(int(differ), int(by_sums), datetime.fromisoformat(since))
    return None


def told_of(
    report: ReconcileReport, runs: Sequence[DutyRun], now: datetime, late: timedelta
) -> tuple[str, bool]:
    """
    Return what to say of a reconciliation that ended ``now``, and whether nobody need look at it.

    ``runs`` are those before it. Quotas that could not be compared in full are an alarm once
    there are some at each look for longer than ``late``.
    """
    text = COMPARED.format(checked=report.checked, differ=len(report.drifts))
    is_late = False
    if report.not_compared:
        before = found_last(runs)
        since = (before and before.by_sums_since) or now
        text += BY_SUMS.format(count=report.not_compared, since=since.isoformat("T", "seconds"))
        is_late = now - since > late
    if report.drifts:
        shown = "; ".join(str(drift) for drift in report.drifts[:DRIFTS_SHOWN])
        text += f"; the first: {shown}"
    return text, report.is_clean and not is_late
