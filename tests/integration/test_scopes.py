"""Calls on a path of accounts and on several quota types, through the engine and its stores."""

from __future__ import annotations

import pickle

import pytest

from quota_engine import (
    IdempotencyConflictError,
    InvalidArgumentError,
    QuotaEngine,
    QuotaInsufficientError,
)
from quota_engine.jobs.verify import verify
from quota_engine.ledger import Ledger
from tests.at_once import call_at_once
from tests.engines import Engines
from tests.programs import Program
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


def test_of_many_calls_at_once_the_key_admits_what_it_has(
    redis_url: str, database_url: str
) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.issue_grant("user:1", TOKENS, 1_000_000)
        engine.issue_grant("user:1/key", TOKENS, 1_000)
        caller = """
def call(number):
    try:
        return engine.place_hold("user:1/key", "text_token", 100).amount
    except QuotaInsufficientError as error:
        return error.account
"""
        told = call_at_once(caller, redis_url, database_url)
        assert [told.count(100), told.count("user:1/key")] == [10, 40]
        assert engine.read_balance("user:1", TOKENS).held == 1_000


#: One of many processes: random calls on a tree whose every quota is limited.
CALLER = """
import random, sys
from quota_engine import QuotaEngine, QuotaInsufficientError
redis_url, database_url, seed = sys.argv[1:]
chance = random.Random(int(seed))
with QuotaEngine.open(redis_url, database_url, call_timeout_seconds=60) as engine:
    for number in range(60):
        account = f"org/t{chance.randrange(2)}/u{chance.randrange(3)}"
        amounts = {"text_token": chance.randint(1, 40)}
        if chance.random() < 0.4:
            amounts["credit"] = chance.randint(1, 40)
        try:
            if chance.random() < 0.3:
                engine.debit(account, amounts)
                continue
            hold = engine.place_hold(account, amounts)
        except QuotaInsufficientError:
            continue
        if chance.random() < 0.2:
            engine.release_hold(hold)
        else:
            used = {kind: chance.randint(0, held) for kind, held in amounts.items()}
            engine.capture_hold(hold, used)
"""


def test_no_limit_is_passed_and_each_scope_is_the_sum_of_what_is_below(
    redis_url: str, database_url: str
) -> None:
    users = [f"org/t{team}/u{user}" for team in range(2) for user in range(3)]
    limits = {**dict.fromkeys(users, 700), "org/t0": 1_500, "org/t1": 1_500, "org": 2_700}
    with QuotaEngine.open(redis_url, database_url) as engine:
        for account, limit in limits.items():
            for kind in (TOKENS, CREDIT):
                engine.issue_grant(account, kind, limit)
        processes = [Program(CALLER, redis_url, database_url, str(seed)) for seed in range(8)]
        assert [process.wait(timeout=120) for process in processes] == [0] * 8
        engine.drain()
        for kind in (TOKENS, CREDIT):
            standing = {name: engine.read_balance(name, kind) for name in limits}
            assert all(found.balance >= 0 == found.held for found in standing.values())
            used = {name: limits[name] - found.balance for name, found in standing.items()}
            for team in ("org/t0", "org/t1"):
                below = sum(used[name] for name in users if name.startswith(f"{team}/"))
                assert used[team] == below
            assert used["org"] == used["org/t0"] + used["org/t1"]
            assert used["org"] > 400
        assert engine.reconcile().drifts == ()
    with Ledger.open(database_url) as ledger:
        assert list(verify(ledger)) == []
