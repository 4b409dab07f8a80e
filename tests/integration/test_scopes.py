"""Calls on a path of accounts and on several quota types, through the engine and its stores."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from quota_engine import (
    IdempotencyConflictError,
    InvalidArgumentError,
    QuotaEngine,
    QuotaInsufficientError,
)
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from tests.at_once import call_at_once
from tests.engines import Engines
from tests.shards import dumped
from tests.spools import Away, replayed_by_itself

pytestmark = pytest.mark.anyio

USER, TEAM, ACME = "acme/team-7/user-42", "acme/team-7", "acme"
TOKENS, CREDIT = "text_token", "credit"


async def given(call: Engines, **amounts: int) -> None:
    for name, account in (("user", USER), ("team", TEAM), ("acme", ACME)):
        if name in amounts:
            await call("issue_grant", account, TOKENS, amounts[name])


async def test_the_refusal_names_the_scope_and_tells_of_each(call: Engines) -> None:
    await given(call, user=100, team=50)
    hold = await call("place_hold", USER, TOKENS, 30)
    assert [(scope.account, scope.balance, scope.held) for scope in hold.scopes] == [
        (TEAM, 50, 30)
    ]
    with pytest.raises(QuotaInsufficientError) as refused:
        await call("place_hold", USER, TOKENS, 30)
    error = pickle.loads(pickle.dumps(refused.value))
    assert (error.account, error.required, error.available) == (TEAM, 30, 20)
    assert [(scope.account, scope.available) for scope in error.scopes] == [(USER, 70), (TEAM, 20)]
    assert (await call("read_balance", USER, TOKENS)).held == 30
    assert not await call("has_quota", USER, TOKENS, 21)
    assert await call("has_quota", USER, TOKENS, 20)
    captured = await call("capture_hold", hold, 70)
    assert captured.shortfall == 0
    assert [(scope.account, scope.shortfall) for scope in captured.scopes] == [(TEAM, 20)]


async def test_scopes_narrow_and_widen(call: Engines) -> None:
    await given(call, user=1_000, team=50, acme=500)
    await call("issue_grant", "acme/project", TOKENS, 200)
    alone = await call("place_hold", USER, TOKENS, 60, scopes=())
    assert alone.scopes == ()
    wide = await call("place_hold", USER, TOKENS, 60, scopes=[ACME, "acme/project"])
    assert [scope.account for scope in wide.scopes] == [ACME, "acme/project"]
    await call("capture_hold", wide.hold_id, 60, account=USER, quota_type=TOKENS, scopes=[ACME])
    assert (await call("read_balance", ACME, TOKENS)).balance == 440
    assert (await call("read_balance", "acme/project", TOKENS)).held == 60, "it was not named"
    assert (await call("read_balance", TEAM, TOKENS)).balance == 50
    for scopes in ("acme", ["other"], ["acme/"]):
        with pytest.raises(InvalidArgumentError):
            await call("place_hold", USER, TOKENS, 1, scopes=scopes)
    with pytest.raises(InvalidArgumentError, match="at most"):
        await call("place_hold", USER, TOKENS, 1, scopes=[f"acme/{n}" for n in range(32)])


async def test_a_narrow_hold_is_captured_by_its_id_and_given_back(call: Engines) -> None:
    await given(call, user=100, acme=500)
    await call("place_hold", USER, TOKENS, 60, operation_id="h", scopes=())
    facts = {"account": USER, "quota_type": TOKENS}
    await call("extend_hold", "h", 70, scopes=(), **facts)
    await call("capture_hold", "h", 65, scopes=(), **facts)
    await call("refund", USER, TOKENS, "h", 5)
    await call("correct_usage", "h", 50, **facts)
    balances = [(await call("read_balance", one, TOKENS)).balance for one in (USER, ACME)]
    assert balances == [55, 500]
    await call("place_hold", USER, TOKENS, 10, operation_id="i", scopes=())
    await call("release_hold", "i", scopes=(), **facts)
    assert (await call("read_balance", ACME, TOKENS)).version == 1
    await sound(call)


async def test_several_types_are_held_and_charged_in_one_step(call: Engines) -> None:
    await given(call, user=1_000, acme=5_000)
    await call("issue_grant", USER, CREDIT, 900)
    amounts = {TOKENS: 400, CREDIT: 500}
    hold = await call("place_hold", USER, amounts)
    assert {(scope.account, scope.quota_type) for scope in hold.scopes} == {
        (USER, CREDIT),
        (ACME, TOKENS),
    }
    with pytest.raises(QuotaInsufficientError) as refused:
        await call("place_hold", USER, amounts)
    assert (refused.value.account, refused.value.quota_type) == (USER, CREDIT)
    for wrong in (100, {TOKENS: 5}, {TOKENS: 5, CREDIT: 5, "image": 1}):
        with pytest.raises(InvalidArgumentError):
            await call("capture_hold", hold, wrong)
    await call("extend_hold", hold, {TOKENS: 500, CREDIT: 600})
    used = {TOKENS: 450, CREDIT: 0}
    captured = await call("capture_hold", hold, used)
    again = await call("capture_hold", hold.hold_id, used, account=USER)
    assert again.replayed
    assert again.version == captured.version
    debit = await call("debit", USER, {CREDIT: 100, TOKENS: 50}, operation_id="d")
    assert debit.quota_type == CREDIT
    with pytest.raises(IdempotencyConflictError):
        await call("debit", USER, TOKENS, 50, operation_id="d")
    balances = [(await call("read_balance", USER, kind)).balance for kind in (TOKENS, CREDIT)]
    assert balances == [500, 800]
    assert (await call("read_balance", ACME, TOKENS)).balance == 4_500
    for wrong in ({}, {TOKENS: 0}):
        with pytest.raises(ValueError, match=r"mapping|above|amount"):
            await call("debit", USER, wrong)


async def test_one_call_has_one_usage_record(call: Engines) -> None:
    await given(call, user=1_000, team=1_000, acme=1_000)
    hold = await call("place_hold", USER, TOKENS, 100)
    await call("capture_hold", hold, 80, usage={"input_tokens": 80})
    assert await call("drain") == 9
    records = [await call("usage", account, limit=10) for account in (USER, TEAM, ACME)]
    assert [len(found) for found in records] == [1, 0, 0]
    captured = (await call("history", ACME, TOKENS))[-1]
    assert captured.details == {"account": USER}
    assert (await call("reconcile")).drifts == ()


async def test_what_was_released_or_expired_is_free_above_too(call: Engines) -> None:
    await given(call, user=100, team=50)
    hold = await call("place_hold", USER, TOKENS, 40)
    await call("release_hold", hold)
    assert (await call("read_balance", TEAM, TOKENS)).held == 0
    hold = await call("place_hold", USER, TOKENS, 40)
    await call("release_hold", hold.hold_id, account=USER, quota_type=TOKENS)
    assert (await call("read_balance", TEAM, TOKENS)).held == 0


async def test_a_capture_while_redis_is_away_is_charged_above_too(away: Away) -> None:
    async with away.engine() as call:
        await given(call, user=1_000, team=1_000)
        await call("issue_grant", USER, CREDIT, 1_000)
        hold = await call("place_hold", USER, {TOKENS: 100, CREDIT: 10})
        away.server.kill()
        captured = await call("capture_hold", hold, {TOKENS: 90, CREDIT: 9})
        assert captured.spooled
        away.server.start()
        await replayed_by_itself(call)
        for account, kind, balance in (
            (USER, TOKENS, 910),
            (TEAM, TOKENS, 910),
            (USER, CREDIT, 991),
        ):
            standing = await call("read_balance", account, kind)
            assert (standing.balance, standing.held) == (balance, 0)


def limit(engine: QuotaEngine, account: str, amount: int, by: str) -> None:
    """Let an account use so much: by a grant, or by a limit beside which others pay."""
    if by == "grant":
        engine.issue_grant(account, TOKENS, amount)
    else:
        engine.limits.set(account, TOKENS, amount, per="day")


@pytest.mark.parametrize("by", ["grant", "limit"])
def test_of_two_holds_at_once_the_team_admits_one_and_the_other_leaves_no_trace(
    redis_url: str, database_url: str, by: str
) -> None:
    ids, together = ("hold-one", "hold-two"), Barrier(2)
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.issue_grant(ACME, TOKENS, 1_000)
        limit(engine, USER, 100, by)
        limit(engine, TEAM, 50, by)

        def hold(hold_id: str) -> str | tuple[str, int, int]:
            with QuotaEngine.open(redis_url, database_url) as own:
                own.read_balance(USER, TOKENS)
                together.wait()
                try:
                    return own.place_hold(USER, TOKENS, 30, operation_id=hold_id).hold_id
                except QuotaInsufficientError as error:
                    return error.account, error.required, error.available

        with ThreadPoolExecutor(2) as threads:
            told = dict(zip(ids, threads.map(hold, ids), strict=True))
        refused = next(hold_id for hold_id in ids if told[hold_id] != hold_id)
        assert [*told.values()].count((TEAM, 30, 20)) == 1
        before, together = dumped(redis_url), Barrier(1)
        assert refused not in repr(before)
        assert hold(refused) == (TEAM, 30, 20)
        assert dumped(redis_url) == before
        engine.drain()
        logs = [engine.history(account, TOKENS) for account in (USER, TEAM, ACME)]
        assert [entry.kind for log in logs for entry in log].count("hold.placed") == 3
        assert not [entry for log in logs for entry in log if refused in entry.operation_id]


def test_of_twenty_calls_at_once_a_key_of_a_rich_user_admits_ten(
    redis_url: str, database_url: str
) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        for user, by in (("user:1", "grant"), ("user:2", "limit")):
            engine.issue_grant(user, TOKENS, 1_000_000)
            limit(engine, f"{user}/key", 1_000, by)
        caller = """
def call(number):
    return [hold(f"user:{user}/key") for user in (1, 2)] if number % 5 < 2 else []

def hold(account):
    try:
        return engine.place_hold(account, "text_token", 100).amount
    except QuotaInsufficientError as error:
        return error.account
"""
        told = [one for both in call_at_once(caller, redis_url, database_url) for one in both]
        assert told.count(100) == 20
        for user in ("user:1", "user:2"):
            assert told.count(f"{user}/key") == 10
            assert engine.read_balance(user, TOKENS).held == 1_000


async def sound(call: Engines) -> None:
    await call("drain")
    assert list(verify(call.engine.deployment.ledger)) == []
    assert (await call("reconcile")).drifts == ()


async def refunded_above(call: Engines, operation_id: str, *amount: int) -> list[int]:
    """Give a charge of the user back; return by how much the user, the team and acme have more."""
    before = [(await call("read_balance", one, TOKENS)).balance for one in (USER, TEAM, ACME)]
    await call("refund", USER, TOKENS, operation_id, *amount)
    after = [(await call("read_balance", one, TOKENS)).balance for one in (USER, TEAM, ACME)]
    return [late - early for early, late in zip(before, after, strict=True)]


async def test_a_refund_gives_back_what_the_call_took_above_too(call: Engines) -> None:
    await given(call, user=100, team=50, acme=500)
    hold = await call("place_hold", USER, TOKENS, 30, operation_id="h")
    await call("capture_hold", hold, 70)
    assert await refunded_above(call, "h", 20) == [20, 20, 20]
    assert await refunded_above(call, "h") == [50, 30, 50], "the team had paid 50 of 70"
    await call("debit", USER, TOKENS, 10, operation_id="alone", scopes=())
    assert await refunded_above(call, "alone") == [10, 0, 0]
    await call("debit", USER, TOKENS, 10, operation_id="wide", scopes=[ACME])
    refund = await call("refund", USER, TOKENS, "wide", 4, "r", scopes=[ACME])
    assert [(one.account, one.amount, one.balance) for one in refund.scopes] == [(ACME, 4, 494)]
    again = await call("refund", USER, TOKENS, "wide", 4, "r", scopes=[ACME])
    assert (again.replayed, [one.replayed for one in again.scopes]) == (True, [True])
    await sound(call)


async def test_a_corrected_call_is_settled_above_too(call: Engines) -> None:
    await given(call, user=100, team=100, acme=500)
    await call("debit", USER, TOKENS, 10, operation_id="d", scopes=[TEAM])
    for units, left in ((25, 75), (5, 95), (12, 88)):
        await call("correct_usage", "d", units, account=USER, quota_type=TOKENS)
        balances = [
            (await call("read_balance", one, TOKENS)).balance for one in (USER, TEAM, ACME)
        ]
        assert balances == [left, left, 500]
    await sound(call)


async def test_a_frozen_account_above_gets_its_part_when_it_is_thawed(call: Engines) -> None:
    await given(call, user=100, team=100)
    await call("debit", USER, TOKENS, 10, operation_id="d")
    await call("drain")
    call.engine.deployment.freeze(QuotaName(TEAM, TOKENS), "in doubt")
    refund = await call("refund", USER, TOKENS, "d", 10, "r")
    assert (refund.balance, refund.scopes) == (100, ())
    call.engine.deployment.freeze(QuotaName(TEAM, TOKENS), "")
    await call("run_schedule")
    assert (await call("read_balance", TEAM, TOKENS)).balance == 100
    await sound(call)
