"""
What becomes of a call that another account paid: settled anew, given back, mended.

Goal: each unit is charged to, and given back to, the account that paid, once. Method: both engines
and their stores; makers that die in between; quotas that are frozen and thawed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from quota_engine import (
    InvalidArgumentError,
    QuotaEngine,
    QuotaFrozenError,
    Usage,
    refunding,
)
from quota_engine.commands import Flow, Refunded
from quota_engine.jobs.thaw import Order
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.metering.record import UsageRecord
from tests.engines import Engines
from tests.paying import POOL, TOKENS, USER, balance, family, forget_payers, say

pytestmark = pytest.mark.anyio

FACTS = {"account": USER, "quota_type": TOKENS}
ORDER = Order("ann", "ticket 7")


async def sound(call: Engines) -> None:
    """Check that every book agrees."""
    await call("drain")
    assert list(verify(call.engine.deployment.ledger)) == []
    assert (await call("reconcile")).drifts == ()


async def test_a_call_that_another_paid_is_settled_anew_with_who_paid(call: Engines) -> None:
    """Whatever is said of payers by then, and in the accounts above; a refund of it is a gift."""
    await family(call)
    await call("issue_grant", "acme", TOKENS, 1_000)
    await call("debit", USER, TOKENS, 20, operation_id="d", usage={"input_tokens": 20})
    await say(call, "acme/team-7", ())
    forget_payers(call)
    for used, pool, acme in ((35, 65, 965), (15, 85, 985), (15, 85, 985), (8, 92, 992)):
        corrected = await call("correct_usage", "d", {"input_tokens": used}, **FACTS)
        assert corrected.units == used
        found = [await balance(call, one) for one in (USER, POOL, "acme")]
        assert found == [10, pool, acme]
    await call("refund", USER, TOKENS, "d", 3, refund_id="gift")
    await call("correct_usage", "d", {"input_tokens": 12}, **FACTS)
    assert [await balance(call, one) for one in (USER, POOL, "acme")] == [10, 91, 991]
    await call("drain")
    records = await call("usage", USER, limit=20)
    assert [sum(one.counted("input_tokens") for one in records), len(records)] == [12, 5]
    entries = await call("history", USER, TOKENS)
    assert {one.paid_by for one in entries[1:]} == {POOL}
    statement = await call("statement", USER, TOKENS)
    assert (statement.closing, statement.refunded, statement.used) == (10, 0, 0)
    assert await call("usage", POOL, limit=20) == []
    await sound(call)


async def test_a_correction_whose_maker_dies_is_finished_for_who_paid_too(
    call: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    await family(call)
    await call("debit", USER, TOKENS, 20, operation_id="d", usage={"input_tokens": 20})

    def die(*_: object) -> Flow[Refunded]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(refunding, "_made_together", die)
        with pytest.raises(KeyboardInterrupt):
            await call("correct_usage", "d", {"input_tokens": 15}, **FACTS)
    assert await balance(call, POOL) == 80
    await call("run_schedule")
    assert await balance(call, POOL) == 85
    again = await call("correct_usage", "d", {"input_tokens": 15}, **FACTS)
    assert (again.difference, again.operation_ids) == (0, ())
    call.engine.deployment.freeze(QuotaName(POOL, TOKENS), "in doubt")
    await call("correct_usage", "d", {"input_tokens": 12}, **FACTS)
    assert await balance(call, POOL) == 85, "it can take nothing now"
    call.engine.deployment.freeze(QuotaName(POOL, TOKENS), "")
    await call("run_schedule")
    assert [await balance(call, one) for one in (USER, POOL)] == [10, 88]
    await call("drain")
    assert list(verify(call.engine.deployment.ledger)) == []


def test_rerating_settles_with_who_paid(redis_url: str, database_url: str) -> None:
    began = datetime.now(UTC) - timedelta(minutes=1)
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.prices.set("openai", "gpt-x", "input_token", "3", effective_at=began)
        engine.issue_grant(POOL, "credit", 10**9, source="purchase")
        engine.accounts.set_pays_after(USER, (POOL,))
        told = UsageRecord(
            usage=Usage(input_tokens=1000),
            cost="0.003",
            currency="USD",
            provider="openai",
            model="gpt-x",
            usage_type="text_generation",
        )
        hold = engine.place_hold(USER, "credit", 10_000_000)
        assert engine.capture_hold(hold, 3_000_000, usage=told).paid_by == POOL
        between = {"since": began, "until": began + timedelta(hours=1), "dry_run": False}
        for price, left in (("2", 998_000_000), ("5", 995_000_000), ("5", 995_000_000)):
            engine.prices.set("openai", "gpt-x", "input_token", price, effective_at=began)
            assert engine.rerate("openai", "gpt-x", **between).unpriced == 0
            found = [engine.read_balance(one, "credit").balance for one in (USER, POOL)]
            assert found == [0, left]
        costs = [one.cost or 0 for one in engine.usage(USER)]
        assert (sum(costs), len(costs)) == (Decimal("0.005"), 3)
        engine.drain()
        assert list(verify(engine.deployment.ledger)) == []


@pytest.mark.parametrize("used", [0, 8])
async def test_who_tries_a_correction_again_finishes_what_was_promised(
    call: Engines, monkeypatch: pytest.MonkeyPatch, used: int
) -> None:
    """What is promised is not given back yet: it must not look as if nothing were left to do."""
    await family(call)
    await call("issue_grant", USER, TOKENS, 90)
    for id_, paid in (("own", 20), ("paid", 90)):
        await call("debit", USER, TOKENS, paid, operation_id=id_, usage={"input_tokens": paid})
    assert [await balance(call, one) for one in (USER, POOL)] == [80, 10]

    def die(*_: object) -> Flow[Refunded]:
        raise KeyboardInterrupt

    for id_ in ("own", "paid"):
        with monkeypatch.context() as patched:
            patched.setattr(refunding, "_made_together", die)
            with pytest.raises(KeyboardInterrupt):
                await call("correct_usage", id_, {"input_tokens": used}, **FACTS)
        corrected = await call("correct_usage", id_, {"input_tokens": used}, **FACTS)
        assert (corrected.units, len(corrected.operation_ids)) == (used, 1)
    assert [await balance(call, one) for one in (USER, POOL)] == [100 - used, 100 - used]
    await call("run_schedule")
    assert [await balance(call, one) for one in (USER, POOL)] == [100 - used, 100 - used]
    await sound(call)


async def test_a_charge_that_another_paid_is_thawed_without_being_paid_again(
    call: Engines,
) -> None:
    """By neither: not by an own quota that can pay now, nor by a payer that has forgotten it."""
    await family(call)
    await call("place_hold", USER, TOKENS, 30, operation_id="h")
    await call("debit", USER, TOKENS, 20, operation_id="d", usage={"input_tokens": 20})
    await call("drain")
    deployment, quota = call.engine.deployment, QuotaName(USER, TOKENS)
    deployment.freeze_by_hand(quota, actor="ann", reason="in doubt")
    await call("correct_usage", "d", {"input_tokens": 25}, **FACTS)
    await call("capture_hold", "h", 15, **FACTS)
    await call("debit", USER, TOKENS, 11, operation_id="used", already_used=True)
    await call("drain")
    assert await balance(call, POOL) == 100 - 25 - 15 - 11
    with pytest.raises(QuotaFrozenError, match="must be mended first"):
        await call("refund", USER, TOKENS, "d")
    await call("issue_grant", POOL, TOKENS, 900)
    await call("drain")
    deployment.client.flushall()
    await say(call, "acme/team-7", ())
    forget_payers(call)
    report = deployment.thaw(quota, ORDER)
    assert report.refused == ()
    assert [await balance(call, one) for one in (USER, POOL)] == [10, 949]
    again = await call("capture_hold", "h", 15, **FACTS)
    assert (again.replayed, again.paid_by) == (True, POOL)
    await call("correct_usage", "d", {"input_tokens": 5}, **FACTS)
    assert [await balance(call, one) for one in (USER, POOL)] == [10, 969]
    await sound(call)


async def test_nothing_is_settled_while_who_paid_is_in_doubt(call: Engines) -> None:
    """Its charge is in quarantine: it would be taken for one that was never paid."""
    await family(call)
    await call("place_hold", USER, TOKENS, 30, operation_id="h")
    await call("drain")
    deployment, quota = call.engine.deployment, QuotaName(POOL, TOKENS)
    deployment.freeze_by_hand(quota, actor="ann", reason="in doubt")
    await call("capture_hold", "h", 20, usage={"input_tokens": 20}, **FACTS)
    await call("drain")
    with pytest.raises(QuotaFrozenError, match="the pool"):
        await call("correct_usage", "h", {"input_tokens": 5}, **FACTS)
    deployment.thaw(quota, ORDER)
    await call("correct_usage", "h", {"input_tokens": 5}, **FACTS)
    assert [await balance(call, one) for one in (USER, POOL)] == [10, 95]
    await sound(call)


async def test_a_call_is_corrected_where_it_was_made(call: Engines) -> None:
    await family(call)
    await call("debit", USER, TOKENS, 20, operation_id="d")
    await call("drain")
    there = (await call("history", POOL, TOKENS))[-1].operation_id
    with pytest.raises(InvalidArgumentError, match=f"a call of {USER}"):
        await call("correct_usage", there, 5, account=POOL, quota_type=TOKENS)
