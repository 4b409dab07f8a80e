"""
Others pay when an account's own quota cannot.

Goal: each call is paid whole by one account, which everything that follows finds again. Method:
both engines and their stores; processes that race for the last units; a Redis that is wiped.
"""

from __future__ import annotations

import inspect
import multiprocessing
from collections import Counter
from typing import Any

import pytest

from quota_engine import (
    InvalidArgumentError,
    QuotaEngine,
    QuotaInsufficientError,
)
from quota_engine.jobs.verify import verify
from tests.commands import Cli
from tests.engines import Engines
from tests.paying import POOL, TOKENS, USER, WALLET, balance, family, forget_payers, say

pytestmark = pytest.mark.anyio


async def test_the_own_quota_first_then_the_pool_then_the_wallet(call: Engines) -> None:
    await family(call)
    own = await call("place_hold", USER, TOKENS, 10)
    assert own.paid_by is None
    first = await call("place_hold", USER, TOKENS, 70)
    assert (first.paid_by, first.scopes[0].account, first.scopes[0].held) == (POOL, POOL, 70)
    assert (await call("place_hold", USER, TOKENS, 40, dry_run=True)).paid_by == WALLET
    assert (await call("debit", USER, TOKENS, 40)).paid_by == WALLET
    assert await call("has_quota", USER, TOKENS, 30)
    assert not await call("has_quota", USER, TOKENS, 31)
    told = await call("explain", USER, TOKENS, 30)
    assert (told.admitted, told.paid_by) == (True, POOL)
    with pytest.raises(QuotaInsufficientError) as refused:
        await call("debit", USER, TOKENS, 31)
    assert (refused.value.account, refused.value.available) == (USER, 0)
    had = {one.account: one.available for one in refused.value.scopes}
    assert had == {USER: 0, POOL: 30, WALLET: 10}
    told = await call("explain", USER, TOKENS, 31)
    assert [(one.account, one.available) for one in told.cannot_pay] == [(POOL, 30), (WALLET, 10)]
    captured = await call("capture_hold", first, 75)
    assert (captured.paid_by, captured.shortfall) == (POOL, 0)
    assert (await call("capture_hold", own, 5)).paid_by is None
    assert [await balance(call, one) for one in (USER, POOL, WALLET)] == [5, 25, 10]
    await call("drain")
    history = await call("history", USER, TOKENS)
    assert [(one.kind, one.paid_by) for one in history if one.paid_by] == [
        ("hold.placed", POOL),
        ("quota.debited", WALLET),
        ("hold.captured", POOL),
    ]
    assert (await call("statement", USER, TOKENS)).closing == 5
    assert list(verify(call.engine.deployment.ledger)) == []
    assert (await call("reconcile")).drifts == ()


async def test_whoever_comes_later_finds_who_paid(call: Engines) -> None:
    """By a bare hold id, from a Redis that was wiped, for a part, a growth and a refund."""
    await family(call)
    facts = {"account": USER, "quota_type": TOKENS}
    for name in ("kept", "released"):
        await call("place_hold", USER, TOKENS, 20, operation_id=name)
    await call("drain")
    call.engine.deployment.client.flushall()
    await say(call, "acme/team-7", ())
    forget_payers(call)
    assert (await call("extend_hold", "kept", 30, **facts)).amount == 30
    forget_payers(call)
    assert (await call("capture_hold", "kept", 12, final=False, **facts)).paid_by == POOL
    forget_payers(call)
    await call("release_hold", "released", **facts)
    captured = await call("capture_hold", "kept", 8, **facts)
    assert captured.paid_by == POOL
    assert (await call("capture_hold", "kept", 8, **facts)).replayed
    assert [await balance(call, one) for one in (USER, POOL)] == [10, 80]
    back = await call("refund", USER, TOKENS, "kept", refund_id="r")
    assert (back.account, back.amount) == (POOL, 8)
    assert (await call("refund", USER, TOKENS, "kept", refund_id="r")).replayed
    assert [await balance(call, one) for one in (USER, POOL)] == [10, 88]
    with pytest.raises(QuotaInsufficientError):
        await call("place_hold", USER, TOKENS, 20)
    await call("drain")
    assert list(verify(call.engine.deployment.ledger)) == []
    assert (await call("reconcile")).drifts == ()


async def test_an_account_without_a_quota_of_its_own_is_paid_for(call: Engines) -> None:
    await family(call)
    hold = await call("place_hold", "acme/team-7/new", {TOKENS: 5})
    assert hold.paid_by == POOL
    assert (await call("debit", "acme/team-7/newer", TOKENS, 5, already_used=True)).paid_by == POOL
    assert not await call("has_quota", "acme/team-8/new", TOKENS, 5)


async def test_a_call_that_a_known_payer_pays_costs_one_round_trip(call: Engines) -> None:
    await family(call)
    calls: Any = call.engine.deployment.client.info
    await call("debit", USER, TOKENS, 11)
    before = calls("commandstats")["cmdstat_evalsha"]["calls"]
    await call("debit", USER, TOKENS, 11)
    assert calls("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
    await call("debit", USER, TOKENS, 10)
    assert await balance(call, USER) == 0, "its own pays what it can, whoever is known"


async def test_who_may_pay_is_checked_when_it_is_said(call: Engines) -> None:
    await family(call)
    for payers in (
        (USER,),
        ("globex/pool",),
        (POOL, POOL),
        ("a/b", "a/c"),
        [f"acme/{i}" for i in range(4)],
    ):
        with pytest.raises(InvalidArgumentError):
            await say(call, USER, payers)
    said = await say(call, USER, WALLET, [TOKENS], operation_id="once")
    assert said.pays_after == {TOKENS: (WALLET,)}
    assert (await say(call, USER, WALLET, [TOKENS], operation_id="once")).replayed
    result: Any = call.engine.accounts.get(USER)
    standing = await result if inspect.isawaitable(result) else result
    assert standing.pays_after == {"*": (POOL, WALLET), TOKENS: (WALLET,)}
    assert (await say(call, USER, None, [TOKENS])).pays_after == {}
    assert (await say(call, USER, ())).pays_after == {"*": ()}
    with pytest.raises(QuotaInsufficientError):
        await call("debit", USER, TOKENS, 11)


def take(redis_url: str, database_url: str, number: int) -> list[str | None]:
    """Debit until nobody can pay; return who paid for each."""
    paid: list[str | None] = []
    with QuotaEngine.open(redis_url, database_url) as engine:
        for place in range(100):
            try:
                done = engine.debit(USER, TOKENS, 3, operation_id=f"{number}-{place}")
            except QuotaInsufficientError:
                break
            paid.append(done.paid_by)
    return paid


def test_the_last_units_are_paid_once_by_however_many_processes(
    redis_url: str, database_url: str
) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        for account, amount in ((USER, 20), (POOL, 40), (WALLET, 10)):
            engine.issue_grant(account, TOKENS, amount, source="purchase")
        engine.accounts.set_pays_after(USER, (POOL, WALLET))
        with multiprocessing.get_context("forkserver").Pool(4) as workers:
            asked = [(redis_url, database_url, number) for number in range(4)]
            paid = Counter(one for found in workers.starmap(take, asked) for one in found)
        assert paid == {None: 6, POOL: 13, WALLET: 3}
        left = [engine.read_balance(one, TOKENS).balance for one in (USER, POOL, WALLET)]
        assert left == [2, 1, 1]
        engine.drain()
        assert list(verify(engine.deployment.ledger)) == []


def test_payers_go_along_with_an_account_that_moves(redis_url: str, database_url: str) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        for account in (USER, "acme/team-7/pool", POOL):
            engine.issue_grant(account, TOKENS, 10, source="purchase")
        engine.accounts.set_pays_after(USER, ("acme/team-7/pool", POOL))
        engine.accounts.move("acme/team-7", "globex/team-7", reason="sold")
        standing = engine.accounts.get("globex/team-7/user-42")
        assert standing.pays_after == {"*": ("globex/team-7/pool",)}
        assert engine.debit("globex/team-7/user-42", TOKENS, 10).paid_by is None
        assert engine.debit("globex/team-7/user-42", TOKENS, 10).paid_by == "globex/team-7/pool"


def test_payers_are_set_and_shown_by_the_command_line(
    cli: Cli, redis_url: str, database_url: str
) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.issue_grant(POOL, TOKENS, 10, source="purchase")
        said = cli.json("accounts", "pays-after", USER, POOL, "--type", TOKENS)
        assert said["pays_after"] == {TOKENS: [POOL]}
        assert "pays after its own quota" in cli.done("accounts", "policy", USER)
        assert f"{POOL} would pay" in cli.done("accounts", "explain", USER, TOKENS, "5")
        assert engine.debit(USER, TOKENS, 5).paid_by == POOL
        assert cli.json("accounts", "pays-after", USER, "--inherit")["pays_after"] == {}
