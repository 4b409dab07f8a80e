"""Why a call would be admitted or refused: by whom, what comes back, and what to do."""

from __future__ import annotations

import inspect
from datetime import timedelta

import pytest

from quota_engine import LimitExceededError, QuotaInsufficientError
from tests.commands import Cli
from tests.engines import Engines, TestClock

pytestmark = pytest.mark.anyio

USER, TEAM = "acme/team-7/user-42", "acme/team-7"
TOKENS = "text_token"


async def test_the_quota_that_refuses_is_named_with_what_would_help(
    timed: Engines, clock: TestClock
) -> None:
    await timed("issue_grant", USER, TOKENS, 1_000)
    await timed("issue_grant", TEAM, TOKENS, 100)
    await timed("place_hold", USER, TOKENS, 80, operation_id="h", ttl=60)
    soon = clock.now + timedelta(seconds=30)
    await timed("issue_grant", TEAM, TOKENS, 10, grant_id="g", starts_at=soon)
    told = await timed("explain", USER, TOKENS, 90)
    assert (told.admitted, told.reason, told.refused_by) == (False, "insufficient", TEAM)
    assert (told.required, told.available) == (90, 20)
    own, team = told.scopes
    assert (own.account, own.shortage, own.available) == (USER, 0, 920)
    assert [(relief.cause, relief.subject[:1], relief.amount) for relief in team.relief] == [
        ("grant.started", "g", 10),
        ("hold.expired", "h", 80),
    ]
    assert told.retry_after == 60
    for words in ("grant 70 more", f"grants issue {TEAM} {TOKENS} 70", "at most 20", "wait until"):
        assert words in told.fix
    assert told.statement.granted == 1_000
    clock.now += timedelta(seconds=told.retry_after)
    assert (await timed("explain", USER, TOKENS, 90)).admitted
    await timed("place_hold", USER, TOKENS, 90)


async def test_what_is_explained_as_admitted_is_admitted(call: Engines) -> None:
    await call("issue_grant", USER, TOKENS, 50)
    for amount, admitted in ((50, True), (51, False)):
        told = await call("explain", USER, TOKENS, amount)
        assert (told.admitted, told.retry_after) == (admitted, None)
        assert [scope.account for scope in told.scopes] == [USER]
        if not admitted:
            with pytest.raises(QuotaInsufficientError):
                await call("place_hold", USER, TOKENS, amount)
    unknown = await call("explain", "nobody", TOKENS, 1)
    assert (unknown.admitted, unknown.refused_by, unknown.available) == (False, "nobody", 0)
    assert (await call("read_balance", USER, TOKENS)).held == 0


async def test_all_that_has_to_change_is_named(timed: Engines, clock: TestClock) -> None:
    await timed("issue_grant", USER, TOKENS, 5)
    for account, amount, per in ((USER, 3, "day"), (TEAM, 4, "hour"), (TEAM, 20, "month")):
        made = timed.engine.limits.set(account, TOKENS, amount, per=per)
        if inspect.isawaitable(made):
            await made
    told = await timed("explain", USER, TOKENS, 10)
    assert (told.reason, told.refused_by, told.retry_after) == ("insufficient", USER, None)
    missing, of_user, of_team = told.fix.split("; and ")
    assert "grant 5 more" in missing
    assert "ask for at most 3" in missing
    assert f"limits raise {USER} {TOKENS} 10 --per day" in of_user
    assert f"limits raise {TEAM} {TOKENS} 10 --per hour" in of_team
    await timed("issue_grant", USER, TOKENS, 5)
    told = await timed("explain", USER, TOKENS, 10)
    assert (told.reason, told.refused_by, told.limit.per) == ("limited", USER, "day")
    assert [told.fix.count(f"limits raise {account} ") for account in (USER, TEAM)] == [1, 1]
    told = await timed("explain", USER, TOKENS, 4)
    assert (told.reason, told.fix.count("; and ")) == ("limited", 0)


def test_the_command_says_it_in_words_and_by_its_exit_code(
    cli: Cli, redis_url: str, database_url: str
) -> None:
    cli.aim(redis_url, database_url)
    with cli.engine() as engine:
        engine.issue_grant(USER, TOKENS, 50)
        engine.issue_grant(TEAM, TOKENS, 10)
    ended = cli.run("accounts", "explain", USER, TOKENS, "11")
    assert ended.code == 1
    assert "would be refused: insufficient" in ended.out
    assert f"grants issue {TEAM} {TOKENS} 1" in ended.out
    told = cli.json("accounts", "explain", USER, TOKENS, "10")
    assert told["admitted"] is True


def test_the_command_shows_all_that_made_it_so(
    cli: Cli, redis_url: str, database_url: str
) -> None:
    cli.aim(redis_url, database_url)
    with cli.engine() as engine:
        engine.issue_grant(USER, TOKENS, 50, grant_id="mine")
        engine.issue_grant(USER, "image", 3)
        engine.issue_grant(TEAM, TOKENS, 500, grant_id="ours")
        engine.limits.set(TEAM, TOKENS, 400, per="day")
        engine.place_hold(USER, TOKENS, 30, operation_id="open")
        for number in range(12):
            engine.debit(USER, TOKENS, 1, operation_id=f"d{number}")
    asked = ("accounts", "explain", USER, TOKENS, "5", "--also", "image=4")
    ended = cli.run(*asked)
    assert ended.code == 1
    assert f"a call of 5 {TOKENS} and 4 image on {USER} would be refused" in ended.out
    for said in ("mine", "ours", "hold.expired", "open", "d11", "the last 10 of its 14 entries"):
        assert said in ended.out, said
    assert f"{USER} image" in ended.out
    told = cli.json(*asked[:5], "--scopes", "none")
    assert [scope["account"] for scope in told["scopes"]] == [USER]
    assert [entry["operation_id"] for entry in told["entries"]][-2:] == ["d10", "d11"]
    assert told["statement"]["closing"] == told["entries"][-1]["balance_after"] == 38
    assert [scope["account"] for scope in cli.json(*asked[:5])["scopes"]] == [USER, TEAM]
    wrong = cli.run(*asked[:5], "--also", "image")
    assert (wrong.code, "TYPE=UNITS" in wrong.err) == (2, True)


async def test_when_a_sliding_window_lets_through_is_told(
    timed: Engines, clock: TestClock
) -> None:
    """As the refusal itself tells it, also when something else is in the way."""
    await timed("issue_grant", USER, TOKENS, 100)
    for account, amount, per in ((USER, 10, "minute"), (TEAM, 10, "hour")):
        made = timed.engine.limits.set(account, TOKENS, amount, per=per)
        if inspect.isawaitable(made):
            await made
    await timed("debit", USER, TOKENS, 8)
    clock.forward(seconds=10)
    with pytest.raises(LimitExceededError) as refused:
        await timed("place_hold", USER, TOKENS, 5)
    told = await timed("explain", USER, TOKENS, 5)
    assert refused.value.account == TEAM
    assert 3_500 < refused.value.retry_after == told.retry_after <= 3_700
    clock.forward(seconds=told.retry_after)
    assert (await timed("explain", USER, TOKENS, 5)).admitted


async def test_periods_that_are_over_and_open_holds_tell_no_instant(
    timed: Engines, clock: TestClock
) -> None:
    await timed("issue_grant", USER, TOKENS, 5)
    for amount, of, per in ((3, "units", "day"), (1, "holds", None)):
        made = timed.engine.limits.set(USER, TOKENS, amount, of=of, per=per)
        if inspect.isawaitable(made):
            await made
    clock.forward(days=20)
    told = await timed("explain", USER, TOKENS, 10)
    assert (told.reason, told.retry_after) == ("insufficient", None)
    await timed("issue_grant", USER, TOKENS, 100)
    await timed("place_hold", USER, TOKENS, 2, ttl=7_200)
    with pytest.raises(LimitExceededError) as refused:
        await timed("place_hold", USER, TOKENS, 2)
    told = await timed("explain", USER, TOKENS, 2)
    assert refused.value.retry_after == told.retry_after
    assert told.retry_after
    clock.forward(days=1)
    await timed("place_hold", USER, TOKENS, 1)
    told = await timed("explain", USER, TOKENS, 1)
    assert (told.limit.of, told.retry_after) == ("holds", None)
