"""
What comes back of a call whose quotas collected different amounts of it.

Goal: each quota gives back of its own what it collected, whatever the caller's could pay. Method:
both engines and their stores, keys that only count, quotas that are short or in the shadow.
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import (
    IdempotencyConflictError,
    InvalidAmountError,
    InvalidArgumentError,
    QuotaFrozenError,
)
from quota_engine.jobs.thaw import Order
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from tests.engines import NOON, Engines, TestClock

pytestmark = pytest.mark.anyio

KEY, ACME, TOKENS = "acme/key", "acme", "text_token"
FACTS = {"account": KEY, "quota_type": TOKENS}


async def limited_key(call: Engines) -> None:
    """The key has a limit and nothing granted: it counts what the organisation pays."""
    await said(call.engine.limits.set(KEY, TOKENS, 1_000, per="hour"))
    await call("issue_grant", ACME, TOKENS, 1_000)


async def said(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


async def balances(call: Engines) -> tuple[int, int]:
    own, above = [(await call("read_balance", one, TOKENS)).balance for one in (KEY, ACME)]
    return own, above


async def sound(call: Engines) -> None:
    await call("drain")
    assert list(verify(call.engine.deployment.ledger)) == []
    assert (await call("reconcile")).drifts == ()


async def test_a_refund_of_a_key_that_only_counts_goes_to_who_paid(call: Engines) -> None:
    await limited_key(call)
    await call("debit", KEY, TOKENS, 100, operation_id="d")
    refund = await call("refund", KEY, TOKENS, "d", 50, "r")
    assert (refund.amount, refund.unreturned, refund.forfeited) == (50, 50, 0)
    assert [(one.account, one.amount, one.unreturned) for one in refund.scopes] == [(ACME, 50, 0)]
    assert await balances(call) == (0, 950)
    again = await call("refund", KEY, TOKENS, "d", 50, "r")
    assert (again.replayed, again.unreturned) == (True, 50)
    with pytest.raises(InvalidAmountError, match="50 of the 100 units"):
        await call("refund", KEY, TOKENS, "d", 51)
    await said(call.engine.limits.remove(KEY, TOKENS, per="hour"))
    rest = await call("refund", KEY, TOKENS, "d")
    assert (rest.amount, rest.scopes[0].balance) == (50, 1_000)
    statement = await call("statement", KEY, TOKENS)
    assert (statement.refunded, statement.closing, statement.difference) == (0, 0, 0)
    await sound(call)


async def test_a_correction_of_a_key_that_only_counts_goes_to_who_paid(call: Engines) -> None:
    await limited_key(call)
    await call("debit", KEY, TOKENS, 100, operation_id="d", usage={"input_tokens": 100})
    for units, left in ((60, 940), (60, 940), (80, 920), (10, 990), (0, 1_000)):
        await call("correct_usage", "d", {"input_tokens": units}, **FACTS)
        assert await balances(call) == (0, left)
    await call("drain")
    records = await call("usage", KEY)
    assert sum(one.counted("input_tokens") for one in records) == 0
    assert sum(one.amount for one in records) == 0
    await sound(call)


@pytest.mark.parametrize("is_in_shadow", [False, True])
async def test_each_quota_gives_back_what_it_collected(call: Engines, is_in_shadow: bool) -> None:
    if is_in_shadow:
        await said(call.engine.accounts.set_enforcement(KEY, "shadow"))
    await call("issue_grant", KEY, TOKENS, 10)
    await call("issue_grant", ACME, TOKENS, 100)
    hold = await call("place_hold", KEY, TOKENS, 10, operation_id="h")
    await call("capture_hold", hold, 50)
    assert await balances(call) == (0, 50)
    refund = await call("refund", KEY, TOKENS, "h", 20)
    assert (refund.amount, refund.unreturned) == (20, 10)
    assert await balances(call) == (10, 70)
    await call("refund", KEY, TOKENS, "h")
    assert await balances(call) == (10, 100)
    with pytest.raises(InvalidAmountError, match="0 of the 50 units"):
        await call("refund", KEY, TOKENS, "h", 1)
    await sound(call)


async def test_corrections_leave_no_quota_charged_more_than_was_used(call: Engines) -> None:
    await call("issue_grant", KEY, TOKENS, 10)
    await call("issue_grant", ACME, TOKENS, 100)
    hold = await call("place_hold", KEY, TOKENS, 10, operation_id="h")
    await call("capture_hold", hold, 50)
    for units, left in ((30, (0, 70)), (5, (5, 95)), (5, (5, 95)), (25, (0, 75)), (0, (10, 100))):
        corrected = await call("correct_usage", "h", units, **FACTS)
        assert (corrected.units, await balances(call)) == (units, left)
    await sound(call)


async def test_what_an_account_above_could_not_pay_is_not_given_back_there(call: Engines) -> None:
    await call("issue_grant", KEY, TOKENS, 100)
    await call("issue_grant", ACME, TOKENS, 50)
    hold = await call("place_hold", KEY, TOKENS, 30, operation_id="h")
    await call("capture_hold", hold, 70)
    assert await balances(call) == (30, 0)
    await call("correct_usage", "h", 60, **FACTS)
    assert await balances(call) == (40, 0)
    await call("correct_usage", "h", 40, **FACTS)
    assert await balances(call) == (60, 10)
    await sound(call)


async def test_what_one_charge_of_a_call_left_unpaid_counts_for_all_of_it(call: Engines) -> None:
    await call("issue_grant", KEY, TOKENS, 10)
    await call("issue_grant", ACME, TOKENS, 200)
    options = {"operation_id": "d", "already_used": True}
    await call("debit", KEY, TOKENS, 50, **options)
    await call("issue_grant", KEY, TOKENS, 20)
    await call("correct_usage", "d", 70, **FACTS)
    assert await balances(call) == (0, 130)
    await call("correct_usage", "d", 20, **FACTS)
    assert await balances(call) == (10, 180), "30 were collected of the key, 20 were used"
    await call("refund", KEY, TOKENS, "d", 5)
    await call("correct_usage", "d", 8, **FACTS)
    assert await balances(call) == (27, 197), "a gift is no measurement"
    await sound(call)


async def test_a_grace_is_for_what_was_paid_alone(timed: Engines, clock: TestClock) -> None:
    await timed("issue_grant", KEY, TOKENS, 10, expires_at=NOON + timedelta(hours=1))
    await timed("issue_grant", ACME, TOKENS, 100)
    hold = await timed("place_hold", KEY, TOKENS, 10, operation_id="h")
    await timed("capture_hold", hold, 50)
    clock.forward(hours=2)
    refund = await timed("refund", KEY, TOKENS, "h", 20, grace=timedelta(days=1))
    assert (refund.regranted, refund.unreturned, refund.forfeited) == (10, 10, 0)
    assert await balances(timed) == (10, 70)
    await sound(timed)


@pytest.mark.parametrize("how", ["debit", "hold"])
async def test_a_charge_knows_the_accounts_that_its_call_named(call: Engines, how: str) -> None:
    project = "acme/project"
    for account in (KEY, ACME, project):
        await call("issue_grant", account, TOKENS, 100)

    async def of_all() -> list[int]:
        found = [await call("read_balance", one, TOKENS) for one in (KEY, ACME, project)]
        return [one.balance for one in found]

    if how == "debit":
        await call("debit", KEY, TOKENS, 50, operation_id="d", scopes=[project])
    else:
        hold = await call("place_hold", KEY, TOKENS, 30, operation_id="d", scopes=[project])
        await call("capture_hold", hold, 50)
    assert await of_all() == [50, 100, 50]
    await call("refund", KEY, TOKENS, "d", 5)
    assert await of_all() == [55, 100, 55]
    for units, left in ((40, 65), (60, 45), (20, 85)):
        await call("correct_usage", "d", units, **FACTS)
        assert await of_all() == [left, 100, left]
    await call("refund", KEY, TOKENS, "d", 5, scopes=())
    await call("refund", KEY, TOKENS, "d", 5, scopes=[project])
    assert await of_all() == [95, 100, 90]
    await sound(call)


async def test_so_does_what_it_took_of_another_type(call: Engines) -> None:
    for account in (KEY, "acme/project"):
        for quota_type in (TOKENS, "image"):
            await call("issue_grant", account, quota_type, 100)
    both = {TOKENS: 50, "image": 2}
    await call("debit", KEY, both, operation_id="d", scopes=["acme/project"])
    await call("refund", KEY, "image", "d")
    found = [(await call("read_balance", one, "image")).balance for one in (KEY, "acme/project")]
    assert found == [100, 100]
    await sound(call)


@pytest.mark.parametrize("how", ["hold", "hold with scopes", "record"])
async def test_a_failed_call_that_is_charged_after_all_is_so_above_too(
    call: Engines, how: str
) -> None:
    for account in (KEY, ACME):
        await call("issue_grant", account, TOKENS, 100)
    failed = {"requests": 1}
    if how == "record":
        await call("record_usage", KEY, TOKENS, failed, operation_id="h")
    else:
        scopes = [ACME] if how == "hold with scopes" else None
        hold = await call("place_hold", KEY, TOKENS, 50, operation_id="h", scopes=scopes)
        await call("release_hold", hold, usage=failed)
    for units, left in ((40, 60), (60, 40), (10, 90), (0, 100), (5, 95)):
        await call("correct_usage", "h", units, **FACTS)
        assert await balances(call) == (left, left)
    await sound(call)


@pytest.mark.parametrize("how", ["debit", "hold"])
async def test_the_own_quota_and_who_paid_for_it_are_one_purse(call: Engines, how: str) -> None:
    pool = "acme/pool"
    await call("issue_grant", KEY, TOKENS, 70)
    await call("issue_grant", pool, TOKENS, 200)
    await said(call.engine.accounts.set_pays_after(KEY, [pool]))
    if how == "debit":
        await call("debit", KEY, TOKENS, 70, operation_id="d")
    else:
        hold = await call("place_hold", KEY, TOKENS, 70, operation_id="d")
        await call("capture_hold", hold, 70)
    for units, left in ((90, (0, 180)), (75, (0, 195)), (75, (0, 195)), (60, (10, 200))):
        await call("correct_usage", "d", units, **FACTS)
        found = [await call("read_balance", one, TOKENS) for one in (KEY, pool)]
        assert tuple(one.balance for one in found) == left
    await call("correct_usage", "d", 0, **FACTS)
    assert [(await call("read_balance", one, TOKENS)).balance for one in (KEY, pool)] == [70, 200]
    await sound(call)


async def test_what_was_not_collected_uses_up_no_charge_that_was(call: Engines) -> None:
    await call("issue_grant", KEY, TOKENS, 5)
    await call("debit", KEY, TOKENS, 40, operation_id="d", already_used=True)
    await call("issue_grant", KEY, TOKENS, 3)
    for units in (50, 8, 0, 0):
        await call("correct_usage", "d", units, **FACTS)
    assert (await call("read_balance", KEY, TOKENS)).balance == 8
    await sound(call)


async def test_gifts_to_some_leave_the_others_theirs(call: Engines) -> None:
    for account in (KEY, ACME):
        await call("issue_grant", account, TOKENS, 200)
    await call("debit", KEY, TOKENS, 50, operation_id="d")
    await call("correct_usage", "d", 70, **FACTS)
    for scopes in ((), None):
        await call("refund", KEY, TOKENS, "d:correction:1", 20, scopes=scopes)
    assert await balances(call) == (170, 150)
    for _ in range(3):
        await call("correct_usage", "d", 60, **FACTS)
        assert await balances(call) == (180, 160)
    again = await call("correct_usage", "d", 0, **FACTS)
    assert (again.units, await balances(call)) == (0, (200, 200))
    await sound(call)


async def test_nothing_is_settled_while_an_account_above_is_in_doubt(call: Engines) -> None:
    for account in (KEY, ACME):
        await call("issue_grant", account, TOKENS, 100)
    hold = await call("place_hold", KEY, TOKENS, 50, operation_id="h")
    await call("drain")
    deployment, quota = call.engine.deployment, QuotaName(ACME, TOKENS)
    deployment.freeze_by_hand(quota, actor="ann", reason="in doubt")
    await call("capture_hold", hold, 50)
    await call("drain")
    for doing in (("correct_usage", "h", 10), ("correct_usage", "h", 70)):
        with pytest.raises(QuotaFrozenError, match="acme"):
            await call(*doing, **FACTS)
    with pytest.raises(QuotaFrozenError, match="acme"):
        await call("refund", KEY, TOKENS, "h")
    deployment.thaw(quota, Order("ann", "ticket 7"))
    await call("correct_usage", "h", 10, **FACTS)
    assert await balances(call) == (90, 90)
    await sound(call)


async def test_a_promise_made_again_from_its_entry_takes_no_debt(
    timed: Engines, clock: TestClock
) -> None:
    """It does not know what it forfeited; so more would seem to be left of ended grants."""
    await timed("issue_grant", KEY, TOKENS, 50, expires_at=NOON + timedelta(hours=1))
    await timed("issue_grant", KEY, TOKENS, 50)
    await timed("debit", KEY, TOKENS, 100, operation_id="d")
    clock.forward(hours=2)
    await timed("refund", KEY, TOKENS, "d", 60, "r1")
    with timed.engine.deployment.ledger.transaction() as sql:
        sql.execute(text("DELETE FROM refunds"))
    await timed("drain")
    rest = await timed("refund", KEY, TOKENS, "d", None, "r2")
    assert (rest.amount, rest.forfeited) == (40, 40)
    balance = await timed("read_balance", KEY, TOKENS)
    assert (balance.balance, balance.debt) == (50, 0)


async def test_one_refund_id_for_two_charges_at_once_is_a_conflict(call: Engines) -> None:
    await call("issue_grant", KEY, TOKENS, 100)
    for id_ in ("a", "b"):
        await call("debit", KEY, TOKENS, 10, operation_id=id_)
    await call("refund", KEY, TOKENS, "a", 5, "r")
    with pytest.raises(IdempotencyConflictError):
        await call("refund", KEY, TOKENS, "b", 5, "r")
    for id_ in ("a:correction:1", "x:correction:12"):
        with pytest.raises(InvalidArgumentError, match="correction"):
            await call("debit", KEY, TOKENS, 1, operation_id=id_)
