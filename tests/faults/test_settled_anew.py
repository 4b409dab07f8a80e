"""The check of corrections itself: each wrong one is seen, and a right one is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.corrections import Corrections
from tests.faults.history import Call, Window
from tests.faults.shares import suffix_of

pytestmark = pytest.mark.fault

ACCOUNT, POOL = "acme/user", "acme/pool"
SUFFIX = suffix_of(ACCOUNT)


def row(kind: str, operation_id: str, amount: int, **others: Any) -> Any:
    given = {"account": ACCOUNT, "subject": "", "flags": "", "shortfall": 0, **others}
    return SimpleNamespace(
        kind=kind, operation_id=operation_id, amount=amount, quota_type="text_token", **given
    )


def said(amount: int, at: float, outcome: Any = "done", *ids: str) -> Call:
    call = Call("correct_usage", ACCOUNT, f"c{at}", amount, charge_id="d", outcome=outcome)
    call.started, call.ended, call.ids = at, at + 1, ids
    return call


def wrong(calls: list[Call], rows: list[Any], may_lose: Window | None = None) -> str:
    corrections = Corrections.of(calls)
    for one in rows:
        corrections.add(one)
    return "\n".join(corrections.wrong(may_lose))


CHARGE = row("quota.debited", "d", 10)
LESS = row("quota.refunded", "d:correction:1", 4, subject="d")
MORE = row("quota.debited", "d:correction:2", 3)
GIFT = row("quota.refunded", "gift", 2, subject="d")


def test_what_was_said_last_is_what_is_charged() -> None:
    calls = [said(6, 1, "done", "d:correction:1"), said(9, 3, "done", "d:correction:2")]
    assert wrong(calls, [CHARGE, LESS, GIFT, MORE]) == ""
    assert "is charged 6 by 3 entries" in wrong(calls, [CHARGE, LESS, GIFT])
    assert "and is lost" in wrong(calls, [CHARGE, LESS])
    assert "the corrections of" in wrong(calls, [CHARGE, MORE])
    assert "has no charge" in wrong(calls, [])
    assert wrong(calls, [CHARGE, LESS], Window(3, 4)) == "", "the second may be lost"


def test_of_two_at_once_either_may_be_last() -> None:
    first, second = said(6, 1), said(9, 1.5)
    for last in (MORE,), ():
        assert wrong([first, second], [CHARGE, LESS, *last]) == ""
    first.outcome = "refused"
    assert wrong([first, second], [CHARGE, LESS]) == "", "it may have half happened"
    first.ended = 1.2
    assert "is charged 6" in wrong([first, second], [CHARGE, LESS])


def test_what_nobody_asked_for_is_seen() -> None:
    assert "nobody asked" in wrong([], [CHARGE, LESS])
    assert wrong([], [CHARGE, GIFT]) == ""


def test_what_was_not_collected_or_is_gone_is_not_given_back() -> None:
    short = row("quota.debited", "d", 10, shortfall=4)
    assert "is charged 10" in wrong([said(6, 1)], [short])
    assert "is charged 10" in wrong([said(11, 1)], [short]), "more is always charged"
    gift = row("quota.refunded", "gift", 10, subject="d", flags="unreturned 4")
    gone = row("quota.refunded", "d:correction:1", 5, subject="d", flags="unreturned 5")
    assert wrong([said(5, 1)], [short, gift, gone]) == "", "all was given away"
    for units, unreturned, is_right in ((4, 4, True), (4, 0, False), (7, 4, True), (7, 7, False)):
        flags = f"unreturned {unreturned}"
        less = row("quota.refunded", "d:correction:1", units, subject="d", flags=flags)
        assert (wrong([said(10 - units, 1)], [short, less]) == "") is is_right
    more = row("quota.debited", "d:correction:2", 5, shortfall=1)
    calls = [said(6, 1), said(11, 3)]
    less = row("quota.refunded", "d:correction:1", 4, subject="d", flags="unreturned 4")
    assert wrong(calls, [short, less, more]) == ""
    least = row("quota.refunded", "d:correction:3", 3, subject="d", flags="unreturned 1")
    assert wrong([*calls, said(8, 5)], [short, less, more, least]) == ""
    least.flags = ""
    assert "should have 8" in wrong([*calls, said(8, 5)], [short, less, more, least])


def test_who_paid_has_the_same_corrections() -> None:
    by = {"flags": "counted by:acme/pool"}
    own = [row("quota.debited", "d", 10, **by), row("quota.refunded", "d:correction:1", 4, **by)]
    own[1].subject = "d"
    there = [
        row("quota.debited", f"d{SUFFIX}", 10, account=POOL),
        row("quota.refunded", f"d:correction:1{SUFFIX}", 4, account=POOL, subject=f"d{SUFFIX}"),
    ]
    assert wrong([said(6, 1)], [*own, *there]) == ""
    assert "not corrected by [1]" in wrong([said(6, 1)], [*own, there[0]])
    assert "in another quota" in wrong([said(6, 1)], [own[0], *there])
    there[1].amount = 3
    assert "in another quota" in wrong([said(6, 1)], [*own, *there])


def test_above_the_same_is_settled() -> None:
    there = [
        row("quota.debited", f"d{SUFFIX}", 10, account="acme", shortfall=1),
        row("quota.refunded", f"d:correction:1{SUFFIX}", 4, account="acme", subject=f"d{SUFFIX}"),
    ]
    assert "['acme'] collected 5" in wrong([said(6, 1)], [CHARGE, LESS, *there])
    there[1].flags = "unreturned 1"
    assert wrong([said(6, 1)], [CHARGE, LESS, *there]) == ""
    there[1].amount = 5
    assert "in another quota" in wrong([said(6, 1)], [CHARGE, LESS, *there])
    assert "not corrected by [1, 2]" in wrong([said(9, 1)], [CHARGE, LESS, MORE, there[0]])
    there[1:] = [row("quota.debited", f"d:correction:2{SUFFIX}", 2, account="acme")]
    assert "in another quota" in wrong([said(9, 1)], [CHARGE, LESS, MORE, *there])
