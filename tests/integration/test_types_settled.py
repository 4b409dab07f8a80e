"""A call of tokens and their cost is settled anew in both: corrected, priced again, in doubt."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from quota_engine import (
    IdempotencyConflictError,
    InvalidArgumentError,
    OperationNotFoundError,
    QuotaFrozenError,
    Usage,
)
from quota_engine.jobs.thaw import Order
from quota_engine.keys import QuotaName
from quota_engine.metering.record import UsageRecord
from tests.engines import Engines
from tests.metered import (
    ACCOUNT,
    CHARGED,
    fund,
    records,
    set_price,
    spent,
)
from tests.metered_types import (
    COST,
    CREDIT,
    NAMED,
    TYPES,
    books_are_right,
    fund_both,
    metered,
    set_prices,
    spent_in_both,
)

pytestmark = pytest.mark.anyio


async def test_a_correction_settles_both(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)
    operation_id = await metered(call)
    bill = Usage(input_tokens=100, output_tokens=10)
    first = await call("correct_usage", operation_id, bill)
    assert (first.quota_type, first.units, first.difference) == ("text_token", 110, -40)
    (second,) = first.beside
    assert (second.quota_type, second.units, second.difference) == ("credit_usd", 120_000, -60_000)
    assert await spent_in_both(call) == (110, 120_000)
    again = await call("correct_usage", operation_id, bill)
    assert [one.operation_ids for one in (again, *again.beside)] == [(), ()]
    more = Usage(input_tokens=100, output_tokens=100)
    await call("correct_usage", operation_id, more)
    assert await spent_in_both(call) == (200, 300_000)
    told = await records(call)
    assert sum(Decimal(record.get("cost", 0)) for record in told) == Decimal("0.0003")
    assert sum(record["amount"] for record in told) == 200
    await books_are_right(call)


async def test_one_type_of_a_call_can_be_settled_alone(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)
    operation_id = await metered(call)
    both = {"account": ACCOUNT, "quota_type": "credit_usd"}
    done = await call("correct_usage", operation_id, 1_000, **both)
    assert (done.units, done.beside) == (1_000, ())
    assert await spent_in_both(call) == (CHARGED, 1_000)
    await call("correct_usage", operation_id, Usage(input_tokens=100, output_tokens=10), **both)
    assert await spent_in_both(call) == (CHARGED, 120_000)
    await call("correct_usage", operation_id, 100)
    assert await spent_in_both(call) == (100, 120_000), "plain units are of the first type"
    with pytest.raises(InvalidArgumentError, match="itself a correction"):
        await call("correct_usage", f"{operation_id}:correction:1", 5, **both)
    await books_are_right(call)


async def test_rerating_settles_the_credit_that_a_call_took_beside(call: Engines) -> None:
    await fund_both(call)
    begins = datetime.now(UTC) - timedelta(minutes=1)
    await set_prices(call, "4", effective_at=begins)
    await metered(call)
    assert await spent_in_both(call) == (CHARGED, 240_000)
    await set_prices(call, effective_at=begins)
    between = {"since": begins, "until": datetime.now(UTC) + timedelta(minutes=1)}
    shown = await call("rerate", "openai", "gpt-x", **between)
    told = [(one.quota_type, one.calls, one.units_difference) for one in shown.quotas]
    assert told == [("credit_usd", 1, -60_000), ("text_token", 1, 0)]
    assert await spent_in_both(call) == (CHARGED, 240_000)
    done = await call("rerate", "openai", "gpt-x", dry_run=False, **between)
    assert done.quotas == shown.quotas
    assert sum(one.cost_difference for one in done.quotas) == Decimal("-0.00006")
    assert await spent_in_both(call) == (CHARGED, COST)
    assert (shown.calls, shown.changed) == (1, 1), "one call, in two quotas"
    again = await call("rerate", "openai", "gpt-x", dry_run=False, **between)
    assert (again.quotas, again.changed) == ((), 0)
    await books_are_right(call)


async def test_a_call_that_left_no_record_is_settled_by_units(call: Engines) -> None:
    await fund_both(call)
    await call("debit", ACCOUNT, {"text_token": 10, "credit_usd": 1_000}, operation_id="d")
    for quota_type, units in (("text_token", 12), ("credit_usd", 900)):
        done = await call("correct_usage", "d", units, account=ACCOUNT, quota_type=quota_type)
        assert done.units == units
    assert await spent_in_both(call) == (12, 900)
    both = {"account": ACCOUNT, "quota_type": "credit_usd"}
    with pytest.raises(OperationNotFoundError, match="no record"):
        await call("correct_usage", "d", Usage(input_tokens=5), **both)
    await books_are_right(call)


async def test_another_call_by_the_same_id_is_not_taken_for_a_part(call: Engines) -> None:
    await fund_both(call)
    await fund(call, "image", 100)
    begins = datetime.now(UTC) - timedelta(minutes=1)
    await set_prices(call, effective_at=begins)
    told = {"usage_type": "text_generation", "provider": "openai", "model": "gpt-x"}
    both = {"text_token": 150, "credit_usd": COST}
    await call("debit", ACCOUNT, both, operation_id="d")
    used = UsageRecord(usage=Usage(input_tokens=10**6), **told)
    await call("debit", ACCOUNT, "image", 1, operation_id="d", usage=used)
    both_named = {"account": ACCOUNT, "quota_type": "credit_usd"}
    with pytest.raises(OperationNotFoundError, match="no record"):
        await call("correct_usage", "d", Usage(input_tokens=10**6), **both_named)
    done = await call("correct_usage", "d", Usage(input_tokens=10**6, images=1))
    assert (done.quota_type, done.beside) == ("image", ())
    between = {"since": begins, "until": datetime.now(UTC) + timedelta(minutes=1)}
    await call("rerate", "openai", "gpt-x", dry_run=False, **between)
    assert await spent_in_both(call) == (CHARGED, COST)


async def test_a_failed_call_that_was_billed_is_charged_in_both(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)

    @call.engine.requires_quota(TYPES, **NAMED)
    async def fail(account: str) -> Any:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await fail(ACCOUNT)
    (*_, last) = await call("history", ACCOUNT, "text_token")
    bill = Usage(input_tokens=120, output_tokens=30)
    await call("correct_usage", last.operation_id, bill)
    assert await spent_in_both(call) == (CHARGED, COST)
    await call("correct_usage", last.operation_id, bill)
    assert await spent_in_both(call) == (CHARGED, COST)
    await books_are_right(call)


async def test_an_unbilled_call_stays_so_in_both(call: Engines) -> None:
    await fund_both(call)
    await set_price(call, "input_token", "1")
    operation_id = await metered(call, estimate=Usage(input_tokens=100))
    await set_price(call, "output_token", "2")
    await call("correct_usage", operation_id, Usage(input_tokens=100, output_tokens=10))
    assert await spent_in_both(call) == (0, 0)


async def test_its_record_is_in_the_currency_of_the_credit(call: Engines) -> None:
    begins = datetime.now(UTC) - timedelta(minutes=1)
    await fund(call, "text_token", 1_000)
    await fund(call, "credit_cny", CREDIT)

    told = {"usage_type": "text_generation", "provider": "openai", "model": "gpt-x"}
    used = UsageRecord(usage=Usage(input_tokens=100), **told)
    both = {"text_token": 100, "credit_cny": 1_000_000}
    await call("debit", ACCOUNT, both, operation_id="d", usage=used)
    for kind in ("input_token", "output_token"):
        for currency in ("CNY", "USD"):
            price = {"currency": currency, "effective_at": begins}
            result = call.engine.prices.set("openai", "gpt-x", kind, "7", **price)
            await result if inspect.isawaitable(result) else result
    bill = Usage(input_tokens=120, output_tokens=30)
    done = await call("correct_usage", "d", bill)
    assert (done.cost, done.currency) == (Decimal("0.00105"), "CNY")
    await books_are_right(call)


async def test_nothing_is_settled_while_a_part_is_in_doubt(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)
    both = {"text_token": 300, "credit_usd": 300_000}
    hold = await call("place_hold", ACCOUNT, both, operation_id="h")
    await call("drain")
    deployment, quota = call.engine.deployment, QuotaName(ACCOUNT, "credit_usd")
    deployment.freeze_by_hand(quota, actor="ann", reason="in doubt")
    named = {"usage_type": "text_generation", "provider": "openai", "model": "gpt-x"}
    told = UsageRecord(usage=Usage(input_tokens=100), **named)
    await call("capture_hold", hold, {"text_token": 100, "credit_usd": 100_000}, usage=told)
    await call("drain")
    with pytest.raises(QuotaFrozenError, match="credit_usd"):
        await call("correct_usage", "h", Usage(input_tokens=50))
    assert await spent(call) == 100
    deployment.thaw(quota, Order("ann", "ticket 7"))
    await call("drain")
    await call("correct_usage", "h", Usage(input_tokens=50))
    assert await spent_in_both(call) == (50, 50_000)
    await books_are_right(call)


async def test_who_settles_a_part_after_somebody_else_is_told(
    call: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fund_both(call)
    await set_prices(call)
    operation_id = await metered(call)
    kind = type(call.engine)
    real, others = kind._settle, [Usage(input_tokens=120, output_tokens=30)]

    if call.flavour == "sync":

        def settle(self: Any, quota: Any, *args: Any, **options: Any) -> Any:
            if quota.quota_type == "credit_usd" and others:
                self.correct_usage(operation_id, others.pop())
            return real(self, quota, *args, **options)

        monkeypatch.setattr(kind, "_settle", settle)
    else:

        async def settle_async(self: Any, quota: Any, *args: Any, **options: Any) -> Any:
            if quota.quota_type == "credit_usd" and others:
                await self.correct_usage(operation_id, others.pop())
            return await real(self, quota, *args, **options)

        monkeypatch.setattr(kind, "_settle", settle_async)
    bill = Usage(input_tokens=100, output_tokens=10)
    with pytest.raises(IdempotencyConflictError, match="ask again"):
        await call("correct_usage", operation_id, bill)
    await call("correct_usage", operation_id, bill)
    assert await spent_in_both(call) == (110, 120_000)


async def test_the_type_alone_names_a_part_of_a_call(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)
    operation_id = await metered(call)
    done = await call("correct_usage", operation_id, 1_000, quota_type="credit_usd")
    assert (done.quota_type, done.units) == ("credit_usd", 1_000)
