"""Limits as the engine's callers and administrators meet them, on both engines."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from quota_engine import (
    InvalidAmountError,
    InvalidArgumentError,
    LimitExceededError,
    LimitNotFoundError,
    QuotaEngine,
    QuotaInsufficientError,
)
from tests.commands import Cli
from tests.engines import Engines, TestClock

pytestmark = pytest.mark.anyio

USER, TEAM, ACME = "acme/team-7/user-42", "acme/team-7", "acme"
TOKENS = "text_token"


class Limits:
    """``engine.limits`` of either engine."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self._engines.engine.limits, method)(*args, **kwargs)
        return await result if hasattr(result, "__await__") else result

    async def used(self, account: str = USER) -> list[tuple[str, int, int]]:
        standings = await self("list", account, TOKENS)
        return [(f"{one.of}/{one.per}", one.used, one.headroom) for one in standings]


async def refused(engines: Engines, account: str, amount: int) -> LimitExceededError:
    with pytest.raises(LimitExceededError) as error:
        await engines("place_hold", account, TOKENS, amount)
    return error.value


async def test_a_limit_lets_through_what_it_says_and_says_when_more(
    timed: Engines, clock: TestClock
) -> None:
    limits = Limits(timed)
    await timed("issue_grant", USER, TOKENS, 1_000)
    await limits("set", USER, TOKENS, 5, per="day")
    hold = await timed("place_hold", USER, TOKENS, 4)
    error = await refused(timed, USER, 2)
    assert (error.account, error.required, error.available) == (USER, 2, 1)
    assert (error.limit.of, error.limit.per, error.limit.amount) == ("units", "day", 5)
    assert (error.retry_after, error.http_status) == (12 * 3600, 429)
    assert error.http_headers == {"Retry-After": "43200"}
    assert isinstance(error, QuotaInsufficientError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert "limited to 5 units a day in UTC of text_token" in str(error)
    assert not await timed("has_quota", USER, TOKENS, 2)
    await timed("capture_hold", hold, 1)
    assert await limits.used() == [("units/day", 1, 4)]
    clock.forward(hours=12)
    assert await limits.used() == [("units/day", 0, 5)]
    [standing] = await limits("list", USER)
    assert standing.resets_at == clock.now + timedelta(days=1)


async def test_a_limit_above_refuses_in_its_own_name_and_nothing_changes(call: Engines) -> None:
    limits = Limits(call)
    await call("issue_grant", USER, TOKENS, 1_000)
    await limits("set", TEAM, TOKENS, 100, per="minute")
    await limits("set", ACME, TOKENS, 2, per=None, of="holds")
    await call("place_hold", USER, TOKENS, 80, operation_id="h")
    error = await refused(call, USER, 30)
    assert (error.account, error.required, error.available) == (TEAM, 30, 20)
    assert 0 < error.retry_after <= 61
    assert [scope.account for scope in error.scopes] == [USER, TEAM, ACME]
    await call("place_hold", USER, TOKENS, 20)
    error = await refused(call, USER, 1)
    assert (error.account, error.limit.of) == (TEAM, "units"), "which is known to end"
    await call("release_hold", "h", account=USER, quota_type=TOKENS)
    assert await limits.used(TEAM) == [("units/minute", 20, 80)]
    assert await limits.used(ACME) == [("holds/None", 1, 1)]
    balance = await call("read_balance", TEAM, TOKENS)
    assert (balance.balance, balance.held, balance.is_limited) == (0, 0, True)


@pytest.mark.parametrize("how", ["limit", "grant"])
def test_twenty_calls_at_once_on_a_limited_key_of_a_rich_user(
    redis_url: str, database_url: str, how: str
) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.issue_grant("user", TOKENS, 1_000_000)
        if how == "limit":
            engine.limits.set("user/key", TOKENS, 1_000, per="hour")
        else:
            engine.issue_grant("user/key", TOKENS, 1_000)
        kinds = {"limit": LimitExceededError, "grant": QuotaInsufficientError}

        def place(number: int) -> bool:
            try:
                engine.place_hold("user/key", TOKENS, 100, operation_id=f"h{number}")
            except kinds[how]:
                return False
            return True

        with ThreadPoolExecutor(20) as threads:
            admitted = list(threads.map(place, range(20)))
        assert sum(admitted) == 10
        assert engine.read_balance("user", TOKENS).held == 1_000
        engine.drain()
        assert engine.reconcile().drifts == ()


async def test_without_anybody_who_pays_a_limit_admits_nothing(call: Engines) -> None:
    await Limits(call)("set", USER, TOKENS, 100, per="minute")
    with pytest.raises(QuotaInsufficientError) as error:
        await call("place_hold", USER, TOKENS, 1)
    assert not isinstance(error.value, LimitExceededError)


async def test_what_was_only_counted_is_used_and_comes_back_to_who_paid(call: Engines) -> None:
    limits = Limits(call)
    await limits("set", USER, TOKENS, 1_000, per="hour")
    await call("issue_grant", ACME, TOKENS, 500)
    hold = await call("place_hold", USER, TOKENS, 300)
    captured = await call("capture_hold", hold, 200, usage={"input_tokens": 200})
    assert (captured.amount, captured.shortfall, captured.balance) == (200, 0, 0)
    assert [(scope.account, scope.balance) for scope in captured.scopes] == [(ACME, 300)]
    assert await limits.used() == [("units/hour", 200, 800)]
    await call("drain")
    statement = await call("statement", USER, TOKENS)
    assert (statement.used, statement.closing, statement.difference) == (0, 0, 0)
    [record] = await call("usage", USER, TOKENS)
    assert record.amount == 200
    refund = await call("refund", USER, TOKENS, captured.operation_id, 150)
    assert (refund.unreturned, refund.scopes[0].balance) == (150, 450)
    assert await limits.used() == [("units/hour", 200, 800)], "a gift is no room in a limit"
    report = await call("reconcile")
    assert report.drifts == ()


async def test_periods_are_renewed_when_they_are_needed(timed: Engines, clock: TestClock) -> None:
    limits = Limits(timed)
    await timed("issue_grant", USER, TOKENS, 1_000)
    await limits("set", USER, TOKENS, 5, per="day", time_zone="Asia/Shanghai")
    hold = await timed("place_hold", USER, TOKENS, 5, ttl=60)
    clock.forward(days=40)
    assert (await timed("capture_hold", hold, 3)).late
    assert (await refused(timed, USER, 3)).available == 2
    clock.forward(days=1)
    await timed("debit", USER, TOKENS, 5)
    assert await limits.used() == [("units/day", 5, 0)]
    clock.forward(days=400)
    assert await limits.used() == [("units/day", 0, 5)]
    await timed("drain")
    assert (await timed("reconcile")).drifts == ()
    changes = await limits("history", USER, TOKENS)
    assert [change.action for change in changes] == ["set"], "renewals are nobody's"


async def test_a_limit_is_raised_to_more_and_until_later(timed: Engines, clock: TestClock) -> None:
    limits = Limits(timed)
    await limits("set", ACME, TOKENS, 100, per="minute")
    until = clock.now + timedelta(hours=2)
    for amount in (100, 99):
        with pytest.raises(InvalidAmountError, match="limited to 100 already"):
            await limits("raise_until", ACME, TOKENS, amount, until, per="minute")
    for over in (clock.now, clock.now - timedelta(seconds=1)):
        with pytest.raises(InvalidArgumentError, match="that is over"):
            await limits("raise_until", ACME, TOKENS, 300, over, per="minute")
    assert len(await limits("history", ACME, TOKENS)) == 1
    facts = {"per": "minute", "operation_id": "raise-1"}
    await limits("raise_until", ACME, TOKENS, 300, until, **facts)
    await limits("raise_until", ACME, TOKENS, 101, until, per="minute")
    clock.forward(hours=3)
    assert (await limits("raise_until", ACME, TOKENS, 300, until, **facts)).replayed


async def test_each_change_says_who_and_why_and_happens_once(
    timed: Engines, clock: TestClock
) -> None:
    limits = Limits(timed)
    by = {"operator": "ann", "reason": "abuse", "operation_id": "change-1"}
    first = await limits("set", ACME, TOKENS, 100, per="minute", **by)
    again = await limits("set", ACME, TOKENS, 100, per="minute", **by)
    assert (first.replayed, again.replayed) == (False, True)
    assert first.version == again.version
    until = clock.now + timedelta(hours=2)
    await limits("raise_until", ACME, TOKENS, 300, until, per="minute", operator="bob")
    [standing] = await limits("list", ACME)
    assert (standing.amount, standing.cap, standing.raised_until) == (100, 300, until)
    clock.forward(hours=2)
    [standing] = await limits("list", ACME)
    assert standing.cap == 100
    await limits("remove", ACME, TOKENS, per="minute")
    with pytest.raises(LimitNotFoundError, match="units:minute:sliding"):
        await limits("remove", ACME, TOKENS, per="minute")
    with pytest.raises(LimitNotFoundError):
        await limits("raise_until", "nobody", TOKENS, 9, clock.now + timedelta(1), per="day")
    assert await limits("list", ACME) == []
    told = [
        (change.action, change.amount or change.raised_to, change.operator, change.reason)
        for change in await limits("history", ACME, TOKENS)
    ]
    assert told == [
        ("set", 100, "ann", "abuse"),
        ("raise", 300, "bob", None),
        ("remove", None, None, None),
    ]


async def test_a_limit_that_refuses_is_explained_and_reported(
    timed: Engines, clock: TestClock
) -> None:
    limits = Limits(timed)
    await timed("issue_grant", USER, TOKENS, 1_000)
    await limits("set", TEAM, TOKENS, 100, per="minute")
    await timed("debit", USER, TOKENS, 70)
    told = await timed("explain", USER, TOKENS, 40)
    assert (told.admitted, told.reason, told.refused_by) == (False, "limited", TEAM)
    assert (told.required, told.available, told.retry_after) == (40, 30, 61)
    assert (told.limit.per, told.limit.amount) == ("minute", 100)
    for words in (f"limits raise {TEAM} {TOKENS} 110 --per minute", "at most 30", "wait 61.0 s"):
        assert words in told.fix
    own, team = told.scopes
    assert (own.is_counted, team.is_counted, team.headroom, team.admits) == (False, True, 30, 30)
    assert (await timed("explain", USER, TOKENS, 30)).available == 30
    clock.forward(seconds=told.retry_after)
    assert (await timed("explain", USER, TOKENS, 40)).admitted
    await refused(timed, USER, 101)
    assert timed.engine.metrics.calls("place_hold", "refused", "limited") == 1


def test_limits_by_the_command_line(cli: Cli, tmp_path: Path) -> None:
    set_ = ("limits", "set", ACME, TOKENS, "100", "--per", "minute", "--operator", "ann")
    assert cli.json(*set_)["limits"][0]["amount"] == 100
    cli.done("limits", "raise", ACME, TOKENS, "300", "--per", "minute", "--until", "+2h")
    [listed] = cli.json("limits", "list", ACME)
    assert (listed["cap"], listed["headroom"]) == (300, 300)
    assert "minute" in cli.done("limits", "list", ACME)
    cli.done("limits", "remove", ACME, TOKENS, "--per", "minute", "--reason", "a test")
    changes = cli.json("limits", "history", ACME, TOKENS)
    assert [change["action"] for change in changes] == ["set", "raise", "remove"]
    assert "ann" in cli.done("limits", "history", ACME, TOKENS)
    assert cli.run("limits", "remove", ACME, TOKENS, "--per", "minute").code == 1
    assert cli.run("limits", "set", ACME, TOKENS, "5", "--per", "eon").code == 2

    table = tmp_path / "keys.csv"
    table.write_text(
        "account,quota_type,amount,per,of,window,time_zone\n"
        f"acme/k1,{TOKENS},500,minute,,,\n"
        f"acme/k2,{TOKENS},20,,holds,,\n"
        f"acme/k2,{TOKENS},9,day,calls,,Asia/Shanghai\n",
        encoding="utf-8",
    )
    assert cli.json("limits", "import", str(table), "--dry-run")["outcomes"] == {"planned": 3}
    assert cli.json("limits", "list", "acme/k1") == []
    assert cli.json("limits", "import", str(table))["outcomes"] == {"set": 3}
    again = cli.json("limits", "import", str(table))
    assert (again["outcomes"], again["is_done"]) == ({"there": 3}, True)
    assert len(cli.json("limits", "history", "acme/k2", TOKENS)) == 2
    table.write_text(
        f"account,quota_type,amount,per\na b/,{TOKENS},5,day\nx,tokens,5,day\nx,{TOKENS},0,day\n"
        f"x,{TOKENS},5,day\nx,{TOKENS},6,day\nx,{TOKENS},6,\n",
        encoding="utf-8",
    )
    wrong = cli.run("limits", "import", str(table))
    assert wrong.code == 2
    for line in (2, 3, 4, 6, 7):
        assert f"line {line}:" in wrong.err
    assert "nothing was changed" in wrong.err
