"""What is counted of refused calls, in bounded memory, and how a report tells it. No I/O."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from quota_engine import errors
from quota_engine.keys import QuotaName
from quota_engine.metrics import refused
from quota_engine.metrics.refused import Refusals
from quota_engine.refusals import (
    DAY_MS,
    NAME_LENGTH_MAX,
    REASONS,
    RefusalPiece,
    Refused,
    checked_refusal_query,
    reason_of,
    refusal_report,
)
from quota_engine.reporting import ReportRow, UsageReport

QUOTA = QuotaName("acme/ann", "text_token")
TODAY = 20_000
NOW_MS = TODAY * DAY_MS + 5
INSUFFICIENT = errors.QuotaInsufficientError("acme/ann", "text_token", required=2, available=1)


def test_equal_refusals_are_one_count_and_tell_once_that_something_waits() -> None:
    refusals, told = Refusals(), []
    refusals.on_waiting = lambda: told.append(1)
    for _ in range(3):
        refusals.add(QUOTA, INSUFFICIENT, NOW_MS, provider=" OpenAI ", model="gpt-x")
    refusals.add(QUOTA, errors.RedisAwayError("away"), NOW_MS + DAY_MS)
    refusals.add(QUOTA, errors.IdempotencyConflictError("a mistake"), NOW_MS)
    assert told == [1]
    taken = refusals.take()
    assert taken == {
        Refused(TODAY, *("acme/ann", "text_token", "openai", "gpt-x"), "insufficient"): 3,
        Refused(TODAY + 1, *("acme/ann", "text_token", "", ""), "unavailable"): 1,
    }
    assert next(iter(taken)).date == date(2024, 10, 4)
    assert refusals.take() == {}
    refusals.add(QUOTA, INSUFFICIENT, NOW_MS)
    assert told == [1, 1]
    refusals.give_back(taken)
    assert sum(refusals.take().values()) == 5


def test_memory_is_bounded_and_nothing_goes_uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused, "PLACES_MAX", 10)
    refusals = Refusals()
    for number in range(100):
        refusals.add(QuotaName(f"u{number}", "image"), INSUFFICIENT, NOW_MS, model="m")
    taken = refusals.take()
    assert len(taken) == 11
    assert taken[Refused(TODAY, "", "image", "", "", "insufficient")] == 90


def test_a_caller_may_call_a_model_anything() -> None:
    refusals = Refusals()
    refusals.add(QUOTA, INSUFFICIENT, NOW_MS, provider="\ud800\x00", model="x" * 10_000)
    [one] = refusals.take()
    assert (one.provider, len(one.model)) == ("?\ufffd", NAME_LENGTH_MAX)


def test_which_errors_are_refusals() -> None:
    assert reason_of(errors.RedisAwayError("away")) == "unavailable"
    assert reason_of(errors.InvalidAmountError("no amount")) is None
    assert len({*REASONS.values()}) == len(REASONS)


def test_a_report_puts_calls_and_refusals_side_by_side() -> None:
    rows = (ReportRow(model="a", calls=6, failed=2, timed_out=1, error_rate=Decimal("0.5")),)
    usage = UsageReport(by=("model",), since=None, until=None, rows=rows, total=rows[0])
    pieces = [
        RefusalPiece(("a",), "insufficient", 1),
        RefusalPiece(("a",), "frozen", 1),
        RefusalPiece(("",), "insufficient", 4),
    ]
    report = refusal_report(usage, pieces)
    first, unnamed = report.rows
    assert (first.refused, first.refusal_rate, first.failed) == (2, Decimal("0.25"), 3)
    assert (unnamed.model, unnamed.calls, unnamed.refusal_rate) == (None, 0, 1)
    assert report.total.reasons == {"frozen": 1, "insufficient": 5}
    assert report.total.refusal_rate == Decimal("0.5")


@pytest.mark.parametrize("wrong", [{"by": "status"}, {"currency": "USD"}, {"limit": 3}])
def test_what_no_refusal_has_is_not_asked(wrong: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        checked_refusal_query(**wrong)
