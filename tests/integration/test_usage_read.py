"""
What calls used and cost is read back: of an account, filtered, oldest first, pending or not.

Method: a clock of the test's own, calls of every status, both engines; before and after a drain
the same must be told. The command prints it, and adds up by model and currency.
"""

from __future__ import annotations

import inspect
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from quota_engine import InvalidArgumentError, RecordedCall, Usage
from quota_engine.metering.record import UsageRecord
from quota_engine.recorded import STATUSES
from tests.commands import Cli
from tests.engines import NOON, Engines, TestClock
from tests.metered import ACCOUNT, ANSWER, ESTIMATE, fund


async def called(call: Engines, clock: TestClock, number: int, **record: Any) -> None:
    """Make one call that used ``number`` tokens, a second after the one before."""
    clock.forward(seconds=1)
    told = UsageRecord(
        **{"usage": Usage(input_tokens=number), "usage_type": "text_generation", **record}
    )
    hold = await call("place_hold", ACCOUNT, "text_token", 100, operation_id=f"call-{number}")
    if told.status == "success":
        await call("capture_hold", hold, number, usage=told)
    else:
        await call("release_hold", hold, usage=told)


async def test_records_are_read_oldest_first_whether_pending_or_not(
    timed: Engines, clock: TestClock
) -> None:
    await fund(timed)
    await fund(timed, "image", 10)
    gpt = {"provider": "openai", "model": "gpt-x", "cost": "0.25", "currency": "USD"}
    qwen = {"provider": "dashscope", "model": "qwen-x", "cost": "1.5", "currency": "CNY"}
    await called(timed, clock, 1, **gpt, price_ids=("price_1",), latency_ms=5, request_id="r")
    await called(timed, clock, 2, **qwen, metadata={"team": "搜索"})
    await called(timed, clock, 3, status="timeout", error="TimeoutError", provider="openai")
    await timed("debit", ACCOUNT, "image", 4, operation_id="d", usage={"images": 4})
    await timed("debit", "user:10", "text_token", 1, already_used=True, usage={"requests": 1})

    async def found(**asked: Any) -> list[int]:
        return [record.amount for record in await timed("usage", ACCOUNT, **asked)]

    for _ in range(2):
        first, second, third, fourth = await timed("usage", ACCOUNT)
        assert isinstance(first, RecordedCall)
        assert (first.account, first.quota_type, first.amount) == (ACCOUNT, "text_token", 1)
        assert (first.cost, first.currency) == (Decimal("0.25"), "USD")
        assert (first.price_ids, first.latency_ms, first.request_id) == (("price_1",), 5, "r")
        assert first.usage == Usage(input_tokens=1)
        assert first.occurred_at == NOON + timedelta(seconds=1)
        assert (first.operation_id, first.status) == ("call-1:capture", "success")
        assert second.metadata == {"team": "搜索"}
        assert (third.status, third.error, third.amount) == ("timeout", "TimeoutError", 0)
        assert (fourth.usage, fourth.model, fourth.cost) == (Usage(images=4), None, None)
        assert await found(quota_type="image") == [4]
        assert await found(provider="OpenAI") == [1, 0]
        assert await found(model="qwen-x") == [2]
        assert await found(status="success") == [1, 2]
        assert await found(operation_id="call-3") == [0]
        assert await found(operation_id="call-2:capture") == [2]
        assert await found(operation_id="call") == []
        here = timezone(timedelta(hours=8))
        assert await found(since=(NOON + timedelta(seconds=2)).astimezone(here)) == [2, 0, 4]
        assert await found(until=NOON + timedelta(seconds=2)) == [1]
        assert await found(limit=2) == [1, 2]
        assert await timed("usage", "nobody") == []
        assert first.is_pending is (await timed("drain") > 0)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"since": datetime(2026, 1, 1)}, "since must be a datetime with a time zone"),
        ({"until": "2026-01-01"}, "until must be a datetime with a time zone"),
        ({"since": NOON, "until": NOON}, "until must be after since"),
        ({"status": "ok"}, "status must be one of success, failed, timeout, cancelled"),
        ({"limit": 0}, "limit must be from 1"),
        ({"limit": True}, "limit must be a whole number"),
        ({"provider": ""}, "provider must be a str of 1 to 200"),
        ({"model": 7}, "model must be a str of 1 to 200"),
        ({"operation_id": "a b"}, "operation id must be"),
        ({"quota_type": "tokens"}, "unknown quota type"),
    ],
)
async def test_what_cannot_be_meant_is_refused(
    call: Engines, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        await call("usage", ACCOUNT, **asked)


async def test_a_metered_call_is_read_with_all_it_told(call: Engines) -> None:
    await fund(call)
    for kind in ("input_token", "output_token"):
        made = call.engine.prices.set("openai", "gpt-x", kind, "2")
        if inspect.isawaitable(made):
            await made

    @call.engine.requires_quota("text_token", estimate=ESTIMATE, metadata={"team": 7})
    async def function(account: str, provider: str, model: str) -> Any:
        return ANSWER

    await function(ACCOUNT, "OpenAI", "gpt-x")
    [record] = await call("usage", ACCOUNT)
    assert (record.provider, record.model, record.status) == ("openai", "gpt-x", "success")
    assert record.metadata == {"team": 7}
    assert (record.cost, record.currency) == (Decimal("0.0003"), "USD")
    assert record.usage == Usage(input_tokens=120, output_tokens=30)
    assert len(record.price_ids) == 2
    assert set(STATUSES) >= {record.status}


async def test_the_command_lists_and_adds_up_by_model_and_currency(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    call = Engines("sync")
    clock = TestClock()
    await call.open(redis_url, database_url, clock=clock)
    assert "has no usage records" in cli.done("accounts", "usage", ACCOUNT)
    await fund(call)
    gpt = {"provider": "openai", "model": "gpt-x"}
    await called(call, clock, 1, **gpt, cost="0.1", currency="USD")
    await called(call, clock, 2, **gpt, cost="0.2", currency="USD")
    await called(call, clock, 3, **gpt, cost="0.5", currency="CNY")
    await called(call, clock, 4, status="failed", error="boom", **gpt)
    await call.close()
    shown = cli.done("accounts", "usage", ACCOUNT)
    assert "boom" in shown
    assert shown.count("gpt-x") == 4 + 3
    found = cli.json("accounts", "usage", ACCOUNT)
    assert found["records"][0]["operation_id"] == "call-1:capture"
    assert found["records"][0]["usage"]["input_tokens"] == 1
    sums = [(row["calls"], row["cost"], row["currency"]) for row in found["by_model"]]
    assert sums == [(1, "0.5", "CNY"), (2, "0.3", "USD"), (1, None, None)]
    assert [row["input_tokens"] for row in found["by_model"]] == [3, 3, 4]
    only = cli.json("accounts", "usage", ACCOUNT, "--status", "failed", "--model", "gpt-x")
    assert [row["error"] for row in only["records"]] == ["boom"]
    since = (NOON + timedelta(seconds=2)).isoformat()
    until = (NOON + timedelta(seconds=4)).isoformat()
    asked = ("--since", since, "--until", until, "--provider", "openai", "--limit", "1")
    few = cli.json("accounts", "usage", ACCOUNT, "--type", "text_token", *asked)
    assert [row["amount"] for row in few["records"]] == [2]
    summed = cli.done("accounts", "usage", ACCOUNT, "--sum")
    assert "boom" not in summed
    assert "0.3" in summed
    wrong = cli.run("accounts", "usage", ACCOUNT, "--since", "2026-01-01T00:00:00")
    assert (wrong.code, wrong.out) == (2, "")
    assert "has no time zone" in wrong.err
    assert cli.run("accounts", "usage", ACCOUNT, "--status", "ok").code == 2
