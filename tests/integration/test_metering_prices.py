"""
What a call costs is held, captured and recorded; a model without a price follows the policy.

Method: prices set by the test, costs computed by hand; both engines on real servers.
"""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from quota_engine import ModelDisabledError, PricingNotFoundError, QuotaInsufficientError, Usage
from quota_engine.metering import COUNTERS
from tests.engines import Engines
from tests.metered import ACCOUNT, ANSWER, CHARGED, ESTIMATE, ends, fund, records, spent

PLAN = {"estimate": ESTIMATE}


async def test_a_call_without_a_price_runs_unbilled_or_not_at_all(
    call: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    await fund(call)
    made: list[str] = []
    named = {"provider": "openai", "model": "gpt-none", **PLAN}

    @call.engine.requires_quota("text_token", **named)
    async def allowed(account: str) -> Any:
        made.append("allowed")
        return ANSWER

    @call.engine.requires_quota("text_token", unconfigured="deny", **named)
    async def denied(account: str) -> Any:
        made.append("denied")
        return ANSWER

    unbilled = COUNTERS["unbilled"]
    assert await allowed(ACCOUNT) is ANSWER
    assert "openai/gpt-none runs unbilled" in caplog.text
    assert COUNTERS["unbilled"] == unbilled + 1
    with pytest.raises(PricingNotFoundError):
        await denied(ACCOUNT)
    assert made == ["allowed"]
    [record] = await records(call)
    assert (record["unbilled"], record["amount"]) == ("unconfigured", 0)
    assert (record["input_tokens"], record["output_tokens"]) == (120, 30)
    assert await spent(call) == 0
    assert await ends(call) == ["usage.recorded"]


async def set_price(call: Engines, kind: str, price: str, **options: Any) -> None:
    result = call.engine.prices.set("openai", "gpt-x", kind, price, **options)
    if inspect.isawaitable(result):
        await result


async def test_credit_is_held_and_captured_as_cost(call: Engines) -> None:
    await fund(call, "credit")
    await set_price(call, "input_token", "2")
    await set_price(call, "output_token", "8")

    @call.engine.requires_quota("credit", provider="openai", model="gpt-x", **PLAN)
    async def function(account: str, usage: Any = None) -> Any:
        return ANSWER if usage is None else {**ANSWER, "usage": usage}

    held = 100 * 2_000 + 200 * 8_000  # nano-units
    charged = 120 * 2_000 + 30 * 8_000
    with pytest.raises(QuotaInsufficientError) as refused:
        await function(ACCOUNT)
    assert refused.value.required == held
    await fund(call, "credit", 10_000_000)
    await function(ACCOUNT)
    [record] = await records(call)
    assert (record["held"], record["amount"]) == (held, charged)
    assert (record["cost"], record["currency"]) == ("0.00048", "USD")
    assert len(record["price_ids"]) == 2
    assert await spent(call, "credit", 11_000_000) == charged


async def test_a_token_quota_records_the_cost_of_a_priced_model(call: Engines) -> None:
    await fund(call)
    await set_price(call, "input_token", "2")
    await set_price(call, "output_token", "8")

    @call.engine.requires_quota("text_token", **PLAN)
    async def function(account: str, model: str, provider: str) -> Any:
        return ANSWER

    await function(ACCOUNT, "gpt-x", provider="openai")
    [record] = await records(call)
    assert (record["amount"], record["cost"], record["model"]) == (CHARGED, "0.00048", "gpt-x")


@pytest.mark.parametrize("policy", ["allow", "deny"])
async def test_a_price_found_missing_afterwards_follows_the_policy(
    call: Engines, policy: str
) -> None:
    """The estimate has prices; the answer has output, which has none."""
    await fund(call, "credit", 10_000_000)
    await set_price(call, "input_token", "2")

    @call.engine.requires_quota(
        "credit",
        provider="openai",
        model="gpt-x",
        estimate=Usage(input_tokens=1_000),
        unconfigured=policy,
    )
    async def function(account: str) -> Any:
        return ANSWER

    assert await function(ACCOUNT) is ANSWER
    [record] = await records(call)
    if policy == "allow":
        assert (record["unbilled"], record["amount"]) == ("unconfigured", 0)
    else:
        assert (record["unpriced"], record["amount"]) == ("unconfigured", 2_000_000)
        assert record["quality"] == "estimated"


async def test_the_models_own_limit_is_held_where_the_request_has_none(call: Engines) -> None:
    await fund(call)
    await set_price(call, "input_token", "2")
    await set_price(call, "output_token", "8")
    changed = call.engine.catalog.change_model("openai", "gpt-x", output_tokens_max=5_000)
    if inspect.isawaitable(changed):
        await changed

    @call.engine.requires_quota("text_token", provider="openai", model="gpt-x")
    async def function(account: str, request: Any) -> Any:
        return ANSWER

    await function(ACCOUNT, {"messages": []})
    await function(ACCOUNT, {"messages": [], "max_tokens": 50})
    first, second = await records(call)
    assert 5_000 <= first["held"] < 5_050
    assert 50 <= second["held"] < 100


@pytest.mark.parametrize("quota_type", ["text_token", "credit"])
async def test_a_disabled_model_is_refused_before_the_call(call: Engines, quota_type: str) -> None:
    await fund(call, quota_type, 10_000_000)
    await set_price(call, "input_token", "2")
    await set_price(call, "output_token", "8")
    made: list[str] = []

    async def switch(is_enabled: bool) -> None:
        result = call.engine.catalog.change_model("openai", "gpt-x", is_enabled=is_enabled)
        if inspect.isawaitable(result):
            await result

    @call.engine.requires_quota(quota_type, provider="OpenAI", model="gpt-x", **PLAN)
    async def function(account: str) -> Any:
        made.append(account)
        return ANSWER

    await function(ACCOUNT)
    await switch(False)
    with pytest.raises(ModelDisabledError, match="openai/gpt-x is disabled") as refused:
        await function(ACCOUNT)
    assert (refused.value.provider, refused.value.model) == ("openai", "gpt-x")
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
    assert made == [ACCOUNT]
    assert len(await records(call)) == 1  # what is refused leaves no record
    await switch(True)
    await function(ACCOUNT)
    assert len(await records(call)) == 2


async def test_a_call_under_way_is_settled_although_its_model_is_disabled(call: Engines) -> None:
    await fund(call)
    await set_price(call, "input_token", "2")
    await set_price(call, "output_token", "8")

    @call.engine.requires_quota("text_token", provider="openai", model="gpt-x", **PLAN)
    async def function(account: str) -> Any:
        result = call.engine.catalog.change_model("openai", "gpt-x", is_enabled=False)
        if inspect.isawaitable(result):
            await result
        return ANSWER

    await function(ACCOUNT)
    [record] = await records(call)
    assert (record["amount"], record["cost"]) == (CHARGED, "0.00048")
