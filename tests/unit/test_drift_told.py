"""What a reconciliation says can be read back, and what it could not compare becomes an alarm."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from quota_engine.drift import Cause, Drift, ReconcileReport
from quota_engine.jobs.drift_told import Found, found_last, told_of
from quota_engine.ledger.duties import DutyRun

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATE = timedelta(minutes=30)
DRIFT = Drift("user:42", "image", Cause.HELD_EDITED, "held", 1, 0, ())


def run_that_said(outcome: str, duty: str = "reconcile") -> DutyRun:
    return DutyRun(duty=duty, claimed_at=NOON, finished_at=NOON, outcome=outcome, is_ok=True)


def test_nothing_was_found_before_the_first_one_ended() -> None:
    assert found_last([]) is None
    assert (
        found_last([run_that_said(""), run_that_said("9 quotas compared, 2 differ", "x")]) is None
    )
    assert found_last([run_that_said("failed: Redis does not answer")]) is None


@pytest.mark.parametrize("drifts", [(), (DRIFT,)])
@pytest.mark.parametrize("not_compared", [0, 7])
def test_what_is_said_is_read_back(drifts: tuple[Drift, ...], not_compared: int) -> None:
    report = ReconcileReport(checked=9, drifts=drifts, not_compared=not_compared)
    text, is_ok = told_of(report, [], NOON, LATE)
    since = NOON if not_compared else None
    assert found_last([run_that_said(text)]) == Found(len(drifts), not_compared, since)
    assert is_ok == (not drifts)


def test_some_that_are_not_compared_for_too_long_are_an_alarm() -> None:
    report = ReconcileReport(checked=9, drifts=(), not_compared=7)
    runs, alarms = [], []
    for minutes in (0, 10, 30, 31):
        text, is_ok = told_of(report, runs, NOON + timedelta(minutes=minutes), LATE)
        runs = [run_that_said(text)]
        alarms.append(not is_ok)
    assert alarms == [False, False, False, True]
    text, is_ok = told_of(ReconcileReport(checked=9, drifts=()), runs, NOON, LATE)
    assert (text, is_ok) == ("9 quotas compared, 0 differ", True)
    text, is_ok = told_of(report, [run_that_said(text)], NOON + timedelta(hours=2), LATE)
    assert is_ok, "it begins anew"
