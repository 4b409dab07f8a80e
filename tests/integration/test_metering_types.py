"""A metered call takes tokens and their cost in one step."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from quota_engine import (
    InvalidArgumentError,
    QuotaInsufficientError,
    Usage,
)
from tests.engines import Engines
from tests.metered import (
    ACCOUNT,
    ANSWER,
    CHARGED,
    COUNTED,
    ESTIMATE,
    ends,
    fund,
    records,
    set_price,
)
from tests.metered_types import (
    COST,
    NAMED,
    TYPES,
    books_are_right,
    fund_both,
    metered,
    set_prices,
    spent_in_both,
)

pytestmark = pytest.mark.anyio


async def test_both_are_charged_with_one_record(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)
    await metered(call)
    assert await spent_in_both(call) == (CHARGED, COST)
    (record,) = await records(call)
    assert (record["amount"], Decimal(record["cost"])) == (CHARGED, Decimal("0.00018"))
    assert record["held"] == ESTIMATE.total_tokens
    await books_are_right(call)


async def test_the_record_is_kept_with_the_first(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)

    @call.engine.requires_quota(tuple(reversed(TYPES)), **NAMED)
    async def ask(account: str) -> Any:
        return ANSWER

    await ask(ACCOUNT)
    assert await spent_in_both(call) == (CHARGED, COST)
    assert [record["amount"] for record in await records(call)] == [COST]
    (*_, last) = await call("history", ACCOUNT, "credit_usd")
    done = await call("correct_usage", last.operation_id, Usage(input_tokens=10))
    assert [done.quota_type, *(one.quota_type for one in done.beside)] == [*reversed(TYPES)]
    assert await spent_in_both(call) == (10, 10_000)


@pytest.mark.parametrize("short", [{"tokens": 100}, {"credit": 1_000}])
async def test_what_one_of_them_cannot_pay_is_not_called(
    call: Engines, short: dict[str, int]
) -> None:
    await fund_both(call, **short)
    await set_prices(call)
    with pytest.raises(QuotaInsufficientError):
        await metered(call)
    for quota_type in TYPES:
        kinds = [entry.kind for entry in await call("history", ACCOUNT, quota_type)]
        assert kinds == ["grant.issued"], quota_type


async def test_a_stream_lets_both_grow_and_a_failure_gives_both_back(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)
    chunk = {"choices": [{"index": 0, "delta": {"content": "word " * 400}}]}
    last = {"choices": [], "usage": COUNTED}

    @call.engine.requires_quota(TYPES, **{**NAMED, "estimate": Usage(input_tokens=10)})
    async def stream(account: str) -> Any:
        for part in (chunk, chunk, last):
            yield part

    assert len([part async for part in stream(ACCOUNT)]) == 3
    assert await spent_in_both(call) == (CHARGED, COST)
    for quota_type in TYPES:
        kinds = [entry.kind for entry in await call("history", ACCOUNT, quota_type)]
        assert "hold.extended" in kinds, quota_type

    @call.engine.requires_quota(TYPES, **NAMED)
    async def fail(account: str) -> Any:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await fail(ACCOUNT)
    assert await spent_in_both(call) == (CHARGED, COST)
    for quota_type in TYPES:
        assert await ends(call, quota_type) == ["hold.captured", "hold.released"]
    await books_are_right(call)


async def test_a_block_takes_both_too(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)
    block = call.engine.meter(ACCOUNT, TYPES, **NAMED)
    if hasattr(block, "__aenter__"):
        async with block as inside:
            inside.respond(ANSWER)
    else:
        with block as inside:
            inside.respond(ANSWER)
    assert await spent_in_both(call) == (CHARGED, COST)


async def test_a_call_inside_is_part_of_one_that_takes_all_of_its_types(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)

    @call.engine.requires_quota("credit_usd", **NAMED)
    async def inner(account: str) -> Any:
        return ANSWER

    @call.engine.requires_quota(TYPES, **NAMED)
    async def outer(account: str) -> Any:
        return await inner(account)

    @call.engine.requires_quota("text_token", **NAMED)
    async def around(account: str) -> Any:
        return await outer(account)

    await outer(ACCOUNT)
    assert await spent_in_both(call) == (CHARGED, COST)
    await around(ACCOUNT)
    assert await spent_in_both(call) == (3 * CHARGED, 2 * COST), "the outer one takes no credit"


async def test_without_a_price_tokens_are_as_used_and_credit_is_as_held(call: Engines) -> None:
    await fund_both(call)
    await set_price(call, "input_token", "1")
    await metered(call, estimate=Usage(input_tokens=100), unconfigured="deny")
    assert await spent_in_both(call) == (CHARGED, 100_000)
    (record,) = await records(call)
    assert (record["quality"], record["unpriced"]) == ("estimated", "unconfigured")


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ((), "one quota type at least"),
        (("image", "image"), "twice"),
        (("credit_usd", "credit_eur"), "one currency"),
        (("text_token", 5), "quota type"),
        ({"text_token": 5}, "a sequence"),
    ],
)
async def test_what_no_call_can_take_is_refused(call: Engines, types: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        call.engine.requires_quota(types)


async def test_plain_units_say_nothing_of_several_types(call: Engines) -> None:
    await fund_both(call)
    await set_prices(call)
    with pytest.raises(InvalidArgumentError, match="a Usage"):
        await metered(call, estimate=100)
    await metered(call, usage=lambda _: 100)
    assert (await spent_in_both(call))[0] == ESTIMATE.total_tokens, "it has run: as it was held"


async def test_the_credit_of_a_stream_grows_with_its_tokens_and_nothing_else_does(
    call: Engines,
) -> None:
    await fund_both(call, credit=1_000_000)
    await fund(call, "image", 1)
    await set_prices(call)
    chunk = {"choices": [{"index": 0, "delta": {"content": "word " * 100}}]}
    plan = {**NAMED, "estimate": Usage(input_tokens=10), "on_exhausted": "cut"}

    @call.engine.requires_quota((*TYPES, "image"), **plan)
    async def stream(account: str) -> Any:
        for _ in range(15):
            yield chunk

    parts = [part async for part in stream(ACCOUNT)]
    assert 2 < len(parts) < 8, "a million nano-units are 500 tokens"
    last = (await call("history", ACCOUNT, "credit_usd"))[-1]
    assert (last.kind, last.shortfall) == ("hold.captured", 0)
    assert (await call("read_balance", ACCOUNT, "image")).balance == 1
