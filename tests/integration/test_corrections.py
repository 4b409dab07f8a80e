"""A provider's final bill differs: the call is settled anew, and every book agrees."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from quota_engine import InvalidAmountError, InvalidArgumentError, OperationNotFoundError, Usage
from quota_engine.jobs.verify import verify
from quota_engine.metering.record import UsageRecord
from tests.engines import Engines
from tests.metered import ACCOUNT, ANSWER, ESTIMATE, fund, records, set_price, spent

pytestmark = pytest.mark.anyio

NAMED = {"provider": "openai", "model": "gpt-x", "estimate": ESTIMATE}


async def metered(call: Engines, quota_type: str, answer: Any = ANSWER) -> str:
    """Make one metered call; return its operation id."""

    @call.engine.requires_quota(quota_type, **NAMED)
    async def ask(account: str) -> Any:
        return answer

    await ask(ACCOUNT)
    entries = await call("history", ACCOUNT, quota_type)
    return str(entries[-1].operation_id)


async def books_agree(call: Engines, quota_type: str) -> list[dict[str, Any]]:
    """Check that records, entries and balances tell the same; return the records."""
    told = await records(call)
    entries = await call("history", ACCOUNT, quota_type)
    charged = {"hold.captured": 1, "quota.debited": 1, "quota.refunded": -1}
    assert sum(record["amount"] for record in told) == sum(
        entry.amount * charged.get(entry.kind, 0) for entry in entries
    )
    assert list(verify(call.engine.deployment.ledger)) == []
    assert (await call("reconcile")).drifts == ()
    return told


async def test_less_is_given_back_and_more_is_charged(call: Engines) -> None:
    await fund(call)
    await set_price(call, "input_token", "1")
    await set_price(call, "output_token", "2")
    operation_id = await metered(call, "text_token")
    assert await spent(call) == 150
    less = await call("correct_usage", operation_id, Usage(input_tokens=100, output_tokens=30))
    assert (less.units, less.difference) == (130, -20)
    assert less.operation_ids == (f"{operation_id}:correction:1",)
    assert less.cost_difference == Decimal("-0.00002")
    assert await spent(call) == 130
    more = await call("correct_usage", operation_id, Usage(input_tokens=100, output_tokens=80))
    assert (more.units, more.difference, more.cost) == (180, 50, Decimal("0.00026"))
    assert await spent(call) == 180
    none = await call("correct_usage", operation_id, Usage(input_tokens=100, output_tokens=80))
    assert (none.difference, none.operation_ids) == (0, ())
    told = await books_agree(call, "text_token")
    assert [record["amount"] for record in told] == [150, -20, 50]
    assert [record.get("input_tokens") for record in told] == [120, -20, None]
    assert [record.get("output_tokens") for record in told] == [30, None, 50]
    assert sum(Decimal(record["cost"]) for record in told) == Decimal("0.00026")
    assert {record["corrects"] for record in told[1:]} == {operation_id}
    assert {record["model"] for record in told} == {"gpt-x"}


async def test_less_than_a_correction_charged_is_given_back_in_one_entry(call: Engines) -> None:
    await fund(call)
    await set_price(call, "input_token", "1")
    await set_price(call, "output_token", "2")
    operation_id = await metered(call, "text_token")
    await call("correct_usage", operation_id, Usage(input_tokens=120, output_tokens=80))
    back = await call("correct_usage", operation_id, Usage(input_tokens=90, output_tokens=30))
    assert back.operation_ids == (f"{operation_id}:correction:2",)
    assert await spent(call) == 120
    entries = await call("history", ACCOUNT, "text_token")
    assert (entries[-1].kind, entries[-1].amount) == ("quota.refunded", 80)
    told = await books_agree(call, "text_token")
    assert sum(record.get("output_tokens", 0) for record in told) == 30
    assert sum(record.get("input_tokens", 0) for record in told) == 90


async def test_credit_is_settled_at_the_prices_of_the_call_s_own_time(call: Engines) -> None:
    await fund(call, "credit_usd", 10**9)
    await set_price(call, "input_token", "1000")
    await set_price(call, "output_token", "2000")
    operation_id = await metered(call, "credit_usd")
    assert await spent(call, "credit_usd", 10**9) == 180_000_000
    await set_price(call, "output_token", "9999")
    corrected = await call(
        "correct_usage", operation_id, {"input_tokens": 120, "output_tokens": 20}
    )
    assert (corrected.cost, corrected.currency) == (Decimal("0.16"), "USD")
    assert await spent(call, "credit_usd", 10**9) == 160_000_000
    await books_agree(call, "credit_usd")


async def test_what_was_never_paid_is_not_given_back(call: Engines) -> None:
    await call("issue_grant", ACCOUNT, "text_token", 100)
    usage = Usage(input_tokens=150)
    options = {"operation_id": "d", "usage": usage, "already_used": True}
    await call("debit", ACCOUNT, "text_token", 150, **options)
    await call("correct_usage", "d", Usage(input_tokens=120))
    assert (await call("read_balance", ACCOUNT, "text_token")).balance == 0
    again = await call("correct_usage", "d", Usage(input_tokens=120))
    assert again.operation_ids == ()
    await call("correct_usage", "d", Usage(input_tokens=90))
    assert (await call("read_balance", ACCOUNT, "text_token")).balance == 10
    assert list(verify(call.engine.deployment.ledger)) == []


async def test_a_failed_call_that_the_provider_billed_is_charged(call: Engines) -> None:
    await fund(call)
    hold = await call("place_hold", ACCOUNT, "text_token", 50)
    await call("release_hold", hold, usage=Usage(requests=1))
    corrected = await call(
        "correct_usage", hold.hold_id, 40, account=ACCOUNT, quota_type="text_token"
    )
    assert (corrected.units, corrected.difference) == (40, 40)
    assert await spent(call) == 40
    await call("refund", ACCOUNT, "text_token", corrected.operation_ids[0])
    assert await spent(call) == 0


async def test_a_refund_is_a_gift_and_no_correction(call: Engines) -> None:
    await fund(call)
    await call(
        "debit", ACCOUNT, "text_token", 100, operation_id="d", usage=Usage(input_tokens=100)
    )
    await call("refund", ACCOUNT, "text_token", "d", 30)
    await call("correct_usage", "d", Usage(input_tokens=110))
    assert await spent(call) == 80


async def test_whose_call_it_is_must_be_clear(call: Engines) -> None:
    with pytest.raises(OperationNotFoundError):
        await call("correct_usage", "nothing", Usage(input_tokens=1))
    for account in ("user:1", "user:2"):
        await call("issue_grant", account, "text_token", 100)
        usage = Usage(input_tokens=10)
        await call("debit", account, "text_token", 10, operation_id="d", usage=usage)
    with pytest.raises(InvalidArgumentError, match="2 quotas"):
        await call("correct_usage", "d", Usage(input_tokens=1))
    corrected = await call("correct_usage", "d", Usage(input_tokens=1), account="user:2")
    assert (corrected.account, corrected.difference) == ("user:2", -9)


async def test_rerating_shows_first_then_settles_each_call_once(call: Engines) -> None:
    await fund(call)
    await fund(call, "credit_usd", 10**9)
    begins = datetime.now(UTC) - timedelta(minutes=1)
    await set_price(call, "input_token", "1000", effective_at=begins)
    await set_price(call, "output_token", "2000", effective_at=begins)
    for quota_type in ("text_token", "credit_usd", "credit_usd"):
        await metered(call, quota_type)
    between = {"since": begins, "until": datetime.now(UTC) + timedelta(minutes=1)}
    await set_price(call, "output_token", "1000", effective_at=begins)
    shown = await call("rerate", "openai", "gpt-x", **between)
    assert (shown.calls, shown.unpriced, shown.is_dry_run) == (3, 0, True)
    assert [(one.quota_type, one.calls, one.units_difference) for one in shown.quotas] == [
        ("credit_usd", 2, -60_000_000),
        ("text_token", 1, 0),
    ]
    assert [one.cost_difference for one in shown.quotas] == [Decimal("-0.06"), Decimal("-0.03")]
    assert await spent(call, "credit_usd", 10**9) == 360_000_000
    done = await call("rerate", "openai", "gpt-x", dry_run=False, **between)
    assert done.quotas == shown.quotas
    assert await spent(call, "credit_usd", 10**9) == 300_000_000
    assert await spent(call) == 150
    again = await call("rerate", "openai", "gpt-x", dry_run=False, **between)
    assert (again.calls, again.quotas) == (3, ())
    for quota_type in ("text_token", "credit_usd"):
        entries = await call("history", ACCOUNT, quota_type)
        assert [one.kind for one in entries][:3] == [
            "grant.issued",
            "hold.placed",
            "hold.captured",
        ]
        assert list(verify(call.engine.deployment.ledger)) == []
    told = await records(call)
    assert sum(Decimal(record.get("cost", 0)) for record in told) == Decimal("0.45")
    earlier = {"since": begins - timedelta(hours=1), "until": begins}
    assert (await call("rerate", "openai", "gpt-x", **earlier)).calls == 0


async def test_calls_without_a_price_now_stay_as_they_are(call: Engines) -> None:
    await fund(call)
    usage = {**Usage(input_tokens=5).counts()}
    hold = await call("place_hold", ACCOUNT, "text_token", 10)
    told = UsageRecord(
        usage=Usage(**usage), usage_type="text_generation", provider="openai", model="gpt-y"
    )
    await call("capture_hold", hold, 5, usage=told)
    now = datetime.now(UTC)
    between = {"since": now - timedelta(hours=1), "until": now + timedelta(hours=1)}
    report = await call("rerate", "openai", "gpt-y", **between)
    assert (report.calls, report.unpriced, report.quotas) == (1, 1, ())
    with pytest.raises(InvalidArgumentError, match="after since"):
        await call("rerate", "openai", "gpt-y", since=now, until=now)


async def test_a_call_that_ran_unbilled_stays_so(call: Engines) -> None:
    await fund(call, "credit_usd", 10**9)
    operation_id = await metered(call, "credit_usd")
    await set_price(call, "input_token", "1000")
    await set_price(call, "output_token", "2000")
    with pytest.raises(InvalidArgumentError, match="ran unbilled"):
        await call("correct_usage", operation_id, 5)
    corrected = await call("correct_usage", operation_id, Usage(input_tokens=7))
    assert (corrected.units, corrected.difference) == (0, 0)
    assert await spent(call, "credit_usd", 10**9) == 0
    told = await books_agree(call, "credit_usd")
    assert sum(record.get("input_tokens", 0) for record in told) == 7


async def test_a_correction_is_not_corrected(call: Engines) -> None:
    await fund(call)
    await set_price(call, "input_token", "1")
    await set_price(call, "output_token", "2")
    operation_id = await metered(call, "text_token")
    corrected = await call("correct_usage", operation_id, 200)
    [own_id] = corrected.operation_ids
    with pytest.raises(InvalidArgumentError, match=operation_id):
        await call("correct_usage", own_id, 150)


@pytest.mark.parametrize("usage", ["many", None, 1.5, True, {"tokens": 3}, {"input_tokens": -1}])
async def test_nonsense_is_refused(call: Engines, usage: Any) -> None:
    await fund(call)
    await set_price(call, "input_token", "1")
    await set_price(call, "output_token", "2")
    operation_id = await metered(call, "text_token")
    with pytest.raises((InvalidArgumentError, InvalidAmountError)):
        await call("correct_usage", operation_id, usage)
    assert await spent(call) == 150
