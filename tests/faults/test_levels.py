"""Checks of calls on several quotas, and of limits: each wrong log is seen, a right one is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.caps import HOUR_MS, exceeded
from tests.faults.history import Call, Verdict, check
from tests.faults.shares import Sums, spread, suffix_of

pytestmark = pytest.mark.fault

ROOT, TEAM, USER = "acme", "acme/team", "acme/team/user"
ACTING = {(ROOT, "token"), (TEAM, "token")}
AT = suffix_of(USER)


def row(account: str, version: int, kind: str, operation_id: str, amount: int, **told: Any) -> Any:
    given = {"subject": "", "flags": "", "delta": 0, "shortfall": 0, "held_after": 0, "terms": ""}
    moved = {"grant.issued": amount, "quota.debited": -amount, "hold.captured": -amount}
    return SimpleNamespace(
        **{**given, "delta": moved.get(kind, 0), "at_ms": version, **told},
        account=account,
        quota_type="token",
        version=version,
        kind=kind,
        operation_id=operation_id,
        amount=amount,
    )


def call(verb: str, operation_id: str, amount: int, at: float, **told: Any) -> Call:
    given: dict[str, Any] = {"quota_type": "token", "outcome": "done", "account": USER, **told}
    return Call(
        verb, operation_id=operation_id, amount=amount, started=at, ended=at + 0.5, **given
    )


@pytest.fixture
def calls() -> list[Call]:
    return [
        *(call("issue_grant", "g", 100, 1, account=name) for name in (ROOT, TEAM, USER)),
        call("debit", "d", 30, 3),
        call("place_hold", "h", 50, 5, hold_id="h"),
        call("capture_hold", "h:capture", 20, 7, hold_id="h"),
    ]


@pytest.fixture
def rows() -> list[Any]:
    return [
        one
        for account, at in ((ROOT, AT), (TEAM, AT), (USER, ""))
        for one in (
            row(account, 1, "grant.issued", "g", 100, balance_after=100),
            row(account, 2, "quota.debited", f"d{at}", 30, balance_after=70),
            row(
                *(account, 3, "hold.placed", f"h{at}", 50),
                subject=f"h{at}",
                balance_after=70,
                held_after=50,
            ),
            row(
                *(account, 4, "hold.captured", f"h{at}:capture", 20),
                subject=f"h{at}",
                balance_after=50,
            ),
        )
    ]


def judged(calls: list[Call], rows: list[Any]) -> Verdict:
    return check(spread(calls, ACTING), rows)


def without(rows: list[Any], account: str, operation_id: str) -> list[Any]:
    return [one for one in rows if (one.account, one.operation_id) != (account, operation_id)]


def test_a_call_on_three_levels_is_one_call(calls: list[Call], rows: list[Any]) -> None:
    verdict = judged(calls, rows)
    assert (verdict.wrong, verdict.torn, verdict.done, verdict.kept) == ([], [], 6, 6)


def test_a_share_that_is_missing_is_seen(calls: list[Call], rows: list[Any]) -> None:
    verdict = judged(calls, without(rows, TEAM, f"h{AT}:capture"))
    assert verdict.torn == [calls[5]]
    assert any("is lost" in one for one in verdict.wrong)


def test_an_unknown_call_is_in_all_of_its_quotas_or_in_none(
    calls: list[Call], rows: list[Any]
) -> None:
    calls[5].outcome = "unknown"
    assert judged(calls, rows).torn == []
    everywhere = [one for one in rows if one.kind != "hold.captured"]
    assert judged(calls, everywhere).torn == []
    assert judged(calls, without(rows, ROOT, f"h{AT}:capture")).torn == [calls[5]]


def test_a_refused_call_that_left_a_share_is_seen(calls: list[Call], rows: list[Any]) -> None:
    calls[3].outcome = "refused"
    verdict = judged(calls, without(rows, USER, "d"))
    assert sum("was refused" in one for one in verdict.wrong) == 2


def test_a_call_that_chose_its_scopes_is_asked_for_there_alone(
    calls: list[Call], rows: list[Any]
) -> None:
    calls[3].scopes = ()
    verdict = judged(calls, rows)
    assert [one for one in verdict.wrong if "nobody asked" in one] == [
        f"nobody asked for ['quota.debited'] d{AT} on {name}" for name in (ROOT, TEAM)
    ]


def wrong_sums(rows: list[Any]) -> list[str]:
    sums = Sums()
    for one in rows:
        sums.add(one, USER if AT in one.operation_id else "")
    return list(sums.wrong(ACTING))


def test_an_account_is_charged_the_sum_of_what_is_below(rows: list[Any]) -> None:
    assert wrong_sums(rows) == []
    rows[3].amount += 1
    assert wrong_sums(rows) == [
        "acme was not charged what those below it were, in token: {'acme/team/user': (50, 51)}"
    ]
    assert len(wrong_sums(without(rows, TEAM, f"d{AT}"))) == 2


def limited(*told: tuple[str, int, dict[str, Any]], limit: str) -> list[Any]:
    """Return a log under a limit; each entry begins 20 minutes after the one before."""
    rows = [row(ROOT, 1, "limit.set", "l", 0, terms=limit, at_ms=0)]
    for number, (kind, amount, more) in enumerate(told, 1):
        given = {"at_ms": number * HOUR_MS // 3, **more}
        rows.append(row(ROOT, number + 1, kind, f"op-{number}", amount, **given))
    return rows


UNITS = "units,hour,sliding,,100,0,0,0,"


@pytest.mark.parametrize(
    ("amounts", "wrong"),
    [((60, 40, 0, 60), 0), ((60, 41), 1), ((60, 40, 1), 1), ((60, 40, 0, 61), 1)],
)
def test_what_an_hour_lets_through_is_counted(amounts: tuple[int, ...], wrong: int) -> None:
    told = (("quota.debited", amount, {}) for amount in amounts)
    assert len(list(exceeded(limited(*told, limit=UNITS)))) == wrong


def test_what_was_used_already_counts_and_is_not_refused() -> None:
    used = ("quota.debited", 500, {"flags": "used"})
    assert list(exceeded(limited(used, limit=UNITS))) == []
    assert len(list(exceeded(limited(used, ("quota.debited", 1, {}), limit=UNITS)))) == 1


@pytest.mark.parametrize(("used", "wrong"), [(60, 0), (61, 1)])
def test_a_hold_is_corrected_to_what_was_used(used: int, wrong: int) -> None:
    hold = ("hold.placed", 100, {"subject": "h"})
    captured = ("hold.captured", used, {"subject": "h"})
    log = limited(hold, captured, ("quota.debited", 40, {"at_ms": HOUR_MS}), limit=UNITS)
    assert len(list(exceeded(log))) == wrong


def test_open_holds_and_calls_are_counted() -> None:
    holds = [("hold.placed", 1, {"subject": f"h{number}"}) for number in range(3)]
    assert len(list(exceeded(limited(*holds, limit="holds,,,,2,0,0,0,")))) == 1
    released = ("hold.released", 1, {"subject": "h0"})
    log = limited(*holds[:2], released, holds[2], limit="holds,,,,2,0,0,0,")
    assert list(exceeded(log)) == []
    assert len(list(exceeded(limited(*holds, limit="calls,hour,sliding,,2,0,0,0,")))) == 1


def test_a_calendar_period_and_a_raise_are_counted() -> None:
    debits = [("quota.debited", 60, {"at_ms": at}) for at in (10, 90, 110)]
    marked = "units,day,calendar,UTC,100,{},{},0,0:100:200"
    assert [one.split()[2] for one in exceeded(limited(*debits, limit=marked.format(0, 0)))] == [
        "3:"
    ]
    assert list(exceeded(limited(*debits, limit=marked.format(120, 95)))) == []
