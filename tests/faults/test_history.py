"""The history check itself: each wrong history is seen, and a right one is not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.history import Call, Window, check, extension_id
from tests.faults.shares import payers_in, spread, suffix_of

pytestmark = pytest.mark.fault

ACCOUNT = "user:1"


def row(version: int, kind: str, operation_id: str, amount: int, **others: Any) -> Any:
    given = {
        "account": ACCOUNT,
        "quota_type": "text_token",
        "subject": "",
        "flags": "",
        "delta": 0,
        "shortfall": 0,
        "held_after": 0,
    }
    return SimpleNamespace(
        **{**given, **others}, version=version, kind=kind, operation_id=operation_id, amount=amount
    )


def told(verb: str, operation_id: str, amount: int, at: float, **others: Any) -> Call:
    outcome = others.pop("outcome", "done")
    return Call(
        *(verb, ACCOUNT, operation_id, amount),
        started=at,
        ended=at + 1,
        outcome=outcome,
        **others,
    )


@pytest.fixture
def calls() -> list[Call]:
    return [
        told("issue_grant", "g", 100, 1, version=1, balance=100),
        told("debit", "d", 30, 3, version=2, balance=70, shortfall=0),
        told("place_hold", "h", 50, 5, version=3, balance=70, hold_id="h"),
        told("capture_hold", "h:capture", 80, 7, version=4, balance=0, shortfall=10, hold_id="h"),
        told("debit", "denied", 9, 9, outcome="refused"),
        told("debit", "dropped", 9, 9, outcome="unknown"),
    ]


@pytest.fixture
def rows() -> list[Any]:
    return [
        row(1, "grant.issued", "g", 100, delta=100, balance_after=100),
        row(2, "quota.debited", "d", 30, delta=-30, balance_after=70),
        row(3, "hold.placed", "h", 50, subject="h", balance_after=70, held_after=50),
        row(
            *(4, "hold.captured", "h:capture", 80),
            subject="h",
            delta=-70,
            shortfall=10,
            balance_after=0,
        ),
    ]


def test_a_right_history_is_right(calls: list[Call], rows: list[Any]) -> None:
    verdict = check(calls, rows)
    assert verdict.wrong == []
    assert str(verdict) == (
        "4 done, 1 refused, 0 cancelled, 1 unknown (0 applied), 0 lost, 0 restored"
    )


def test_a_lost_call_is_permitted_in_its_window_only(calls: list[Call], rows: list[Any]) -> None:
    lost = told("debit", "late", 5, 10, version=5, balance=0)
    assert check([*calls, lost], rows).wrong == [
        "debit late of 5 on user:1 was answered at 11.000 and is lost"
    ]
    verdict = check([*calls, lost], rows, may_lose=Window(11, 12))
    assert (verdict.wrong, verdict.lost) == ([], [lost])
    assert check([*calls, lost], rows, may_lose=Window(11.5, 12)).wrong
    assert check([*calls, lost], rows, may_lose=Window(8, 9.5)).wrong
    assert check([*calls, lost], rows, elsewhere={lost.key}).wrong == []


def test_an_answer_that_the_ledger_does_not_have_is_seen(
    calls: list[Call], rows: list[Any]
) -> None:
    calls[1].balance = 71
    assert check(calls, rows).wrong == [
        "debit d of 30 on user:1: balance_after was told as 71, the ledger says 70"
    ]


def test_a_double_is_seen(calls: list[Call], rows: list[Any]) -> None:
    again = row(5, "quota.debited", "d", 30, delta=-30, balance_after=-30)
    assert check(calls, [*rows, again]).wrong[0] == "debit d of 30 on user:1 is there 2 times"


def test_a_refused_call_that_is_there_is_seen(calls: list[Call], rows: list[Any]) -> None:
    calls[1].outcome = "refused"
    assert "was refused" in check(calls, rows).wrong[0]


def test_a_refused_capture_of_a_hold_that_is_there_is_seen(
    calls: list[Call], rows: list[Any]
) -> None:
    calls[3].outcome = "refused"
    assert "the hold is there" in check(calls, rows[:3]).wrong[0]


def test_what_nobody_asked_for_is_seen(calls: list[Call], rows: list[Any]) -> None:
    del calls[1]
    assert check(calls, rows).wrong == ["nobody asked for ['quota.debited'] d on user:1"]


def test_a_wrong_order_is_seen(calls: list[Call], rows: list[Any]) -> None:
    calls[0].started = calls[0].ended = 20
    assert "began after debit d" not in check(calls, rows).wrong[0]
    assert "issue_grant g of 100 on user:1 (version 1) began after" in check(calls, rows).wrong[0]


def test_a_wrong_sum_is_seen(calls: list[Call], rows: list[Any]) -> None:
    rows[1].balance_after = calls[1].balance = 75
    assert "the model has (70, 0, 0)" in check(calls, rows).wrong[0]


def test_what_no_quota_covered_is_seen(calls: list[Call], rows: list[Any]) -> None:
    rows[1].amount = calls[1].amount = 130
    assert any("was not covered" in wrong for wrong in check(calls, rows).wrong)


def test_a_cancelled_call_is_absent_and_its_cancelling_is_there(
    calls: list[Call], rows: list[Any]
) -> None:
    cancelled = told("debit", "never", 5, 11, outcome="cancelled")
    tombstone = row(5, "operation.cancelled", "never", 0, balance_after=0)
    assert check([*calls, cancelled], [*rows, tombstone]).wrong == []
    assert "that is lost" in check([*calls, cancelled], rows).wrong[0]
    applied = row(5, "quota.debited", "never", 5, delta=-5, balance_after=-5)
    assert "was cancelled" in check([*calls, cancelled], [*rows, applied]).wrong[0]


def test_a_hold_s_growth_is_known_by_its_total(calls: list[Call], rows: list[Any]) -> None:
    extended = told("extend_hold", extension_id("h", 60), 60, 6, hold_id="h")
    calls[3].version = rows[3].version = 5
    grown = row(4, "hold.extended", "op-x", 60, subject="h", balance_after=70, held_after=60)
    rows.insert(3, grown)
    assert check([*calls, extended], rows).wrong == []
    refused = replace(extended, outcome="refused", attempts=1)
    assert "and is there" in check([*calls, refused], rows).wrong[0]
    refused.attempts = 2
    assert check([*calls, refused], rows).wrong == [], "it was said to the second attempt"
    grown.amount = 61
    assert check([*calls, extended], rows).wrong != []


def test_more_given_back_than_was_taken_is_seen(calls: list[Call], rows: list[Any]) -> None:
    refunds = [told("refund", name, 20, at) for name, at in (("r1", 11), ("r2", 13))]
    returned = [
        row(
            *(5 + place, "quota.refunded", one.operation_id, 20),
            subject="d",
            delta=20,
            balance_after=20 + 20 * place,
        )
        for place, one in enumerate(refunds)
    ]
    assert check([*calls, refunds[0]], [*rows, returned[0]]).wrong == []
    assert check([*calls, *refunds], [*rows, *returned]).wrong == [
        "('user:1', 'text_token', 'd') took 30, 40 were given back"
    ]


PAID = {(ACCOUNT, "text_token", "d"): "pool"}
SUFFIX = suffix_of(ACCOUNT)


def spread_check(
    calls: list[Call], rows: list[Any], acting: Any = (), payers: Any = PAID
) -> list[str]:
    return check(spread(calls, acting, payers), rows).wrong


@pytest.fixture
def paid() -> tuple[list[Call], list[Any]]:
    """A debit that the pool pays for, and its refund."""
    calls = [
        told("debit", "d", 30, 1, version=1, balance=0, shortfall=0, paid_by="pool"),
        told("refund", "r", 20, 3, version=3, balance=90, charge_id="d"),
        told("issue_grant", "g", 100, 0, version=1, balance=100),
    ]
    calls[2].account = "pool"
    rows = [
        row(1, "quota.debited", "d", 30, flags="counted by:pool", balance_after=0),
        row(1, "grant.issued", "g", 100, account="pool", delta=100, balance_after=100),
        row(
            *(2, "quota.debited", f"d{SUFFIX}", 30),
            account="pool",
            delta=-30,
            balance_after=70,
        ),
        row(
            *(3, "quota.refunded", "r", 20),
            account="pool",
            subject=f"d{SUFFIX}",
            delta=20,
            balance_after=90,
        ),
    ]
    return calls, rows


Paid = tuple[list[Call], list[Any]]


def test_what_another_pays_is_charged_to_it_once_and_whole(paid: Paid) -> None:
    calls, rows = paid
    assert spread_check(calls, rows) == []
    assert "is lost" in " ".join(spread_check(calls, rows[:2]))
    twice = row(4, "quota.debited", "d2", 30, account="pool", delta=-30, balance_after=60)
    assert spread_check(calls, [*rows, twice]) == ["nobody asked for ['quota.debited'] d2 on pool"]
    assert "nobody asked for" in " ".join(spread_check(calls, rows, payers={}))
    rows[2].amount, rows[2].delta = 20, -20
    assert "is there with 20" in " ".join(spread_check(calls, rows))


def test_an_own_quota_that_is_charged_beside_who_pays_is_seen(paid: Paid) -> None:
    calls, rows = paid
    rows[0].delta, rows[0].balance_after = -30, -30
    assert "the model has (0, 0, 0)" in " ".join(spread_check(calls, rows))


def test_an_own_quota_that_could_have_paid_is_seen(paid: Paid) -> None:
    calls, rows = paid
    rows[0].version, rows[0].balance_after = 2, 30
    calls[0].version, calls[0].balance = 2, 30
    grant = row(1, "grant.issued", "own", 30, delta=30, balance_after=30)
    calls.append(told("issue_grant", "own", 30, 0, version=1, balance=30))
    assert spread_check(calls, [grant, *rows]) == [
        "user:1 version 2: counted by:pool, and 30 were free"
    ]


def test_another_payer_than_was_told_is_seen(paid: Paid) -> None:
    calls, rows = paid
    calls[0].paid_by = ""
    assert "'' was told to pay" in " ".join(spread_check(calls, rows))


def test_what_was_lost_and_is_done_again_may_be_paid_by_another() -> None:
    calls = [
        told("issue_grant", "own", 30, 0, version=1, balance=30),
        told("debit", "d", 30, 1, version=1, balance=0, shortfall=0, paid_by="pool"),
    ]
    rows = [
        row(1, "grant.issued", "own", 30, delta=30, balance_after=30),
        row(2, "quota.debited", "d", 30, delta=-30, balance_after=0),
    ]
    verdict = check(spread(calls, (), payers_in(rows)), rows, may_lose=Window(0, 10))
    assert (verdict.torn, verdict.wrong) == ([], [])
    assert [call.operation_id for call in verdict.restored] == ["d"]
    verdict = check(spread(calls, (), payers_in(rows)), rows)
    assert "was told to pay" in " ".join(verdict.wrong), "nothing was lost"


def test_a_refund_goes_to_who_paid_once(paid: Paid) -> None:
    calls, rows = paid
    own = row(2, "quota.refunded", "r", 20, subject="d", delta=20, balance_after=20)
    assert spread_check(calls, [*rows, own]) == [
        "nobody asked for ['quota.refunded'] r on user:1",
        "('user:1', 'text_token', 'd') took 0, 20 were given back",
    ]


def test_what_is_given_back_above_belongs_to_a_refund() -> None:
    acting = {("acme", "text_token")}
    refund = told("refund", "r", 20, 11, charge_id="d")
    refund.account = "acme/user"
    name = f"r{suffix_of('acme/user')}"
    above = row(
        *(2, "quota.refunded", name, 20), account="acme", subject="x", delta=0, balance_after=0
    )
    assert "nobody asked for" not in " ".join(spread_check([refund], [above], acting))
    assert "nobody asked for" in " ".join(spread_check([], [above], acting))
    refund.outcome = "cancelled"
    assert "was cancelled" in " ".join(spread_check([refund], [above], acting))


def test_what_a_hold_gives_back_to_a_voided_grant_was_asked_for_by_nobody() -> None:
    calls = [
        told("issue_grant", "g", 100, 1, version=1, balance=100),
        told("place_hold", "h", 60, 3, version=2, balance=100, hold_id="h"),
        told("void_grant", "g:void", 0, 5, version=3, balance=60),
        told("release_hold", "h:release", 0, 7, version=5, balance=0, hold_id="h"),
    ]
    calls[2].amount, calls[3].amount = 40, 60
    rows = [
        row(1, "grant.issued", "g", 100, delta=100, balance_after=100),
        row(2, "hold.placed", "h", 60, subject="h", balance_after=100, held_after=60),
        row(3, "grant.voided", "g:void", 40, delta=-40, balance_after=60, held_after=60),
        row(4, "grant.voided", "g:void:h", 60, delta=-60, balance_after=0, held_after=60),
        row(5, "hold.released", "h:release", 60, subject="h", balance_after=0),
    ]
    assert check(calls, rows).wrong == []
    assert check(calls[:2] + calls[3:], rows).wrong == [
        "nobody asked for ['grant.voided'] g:void on user:1"
    ]
