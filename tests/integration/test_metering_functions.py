"""
What is decorated stays what it was; blocks and nested calls are settled like functions.

Method: both engines on real servers.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from quota_engine import (
    EngineUnavailableError,
    InvalidArgumentError,
    QuotaEngine,
    QuotaInsufficientError,
    Usage,
    configure,
    requires_quota,
)
from tests.engines import Engines
from tests.metered import (
    ACCOUNT,
    ANSWER,
    CHARGED,
    CHUNK,
    END,
    ESTIMATE,
    LAST,
    SAID_TOKENS,
    fund,
    records,
    spent,
)

PLAN = {"estimate": ESTIMATE}


class Refused(Exception):
    """What a model raises here."""


def chunks() -> Iterator[Any]:
    yield from (CHUNK, END, LAST)


async def chunks_async() -> AsyncIterator[Any]:
    for chunk in (CHUNK, END, LAST):
        yield chunk


async def test_a_call_inside_a_paid_call_is_not_billed_twice(call: Engines) -> None:
    await fund(call)

    @call.engine.requires_quota("text_token", **PLAN)
    async def inner(account: str) -> Any:
        return ANSWER

    @call.engine.requires_quota("text_token", nested=True, **PLAN)
    async def billed_as_well(account: str) -> Any:
        return ANSWER

    late: list[asyncio.Task[Any]] = []
    go_on = asyncio.Event()

    async def afterwards() -> Any:
        await go_on.wait()
        return await inner(ACCOUNT)

    @call.engine.requires_quota("text_token", **PLAN)
    async def outer(account: str) -> Any:
        await inner(account)
        await inner("user:2" if account != ACCOUNT else account)
        await billed_as_well(account)
        late.append(asyncio.create_task(afterwards()))
        return ANSWER

    await outer(ACCOUNT)
    assert await spent(call) == 2 * CHARGED  # the outer one, and the one that asks for it
    go_on.set()
    await late[0]  # begun inside, but its payer is settled by now
    assert await spent(call) == 3 * CHARGED
    assert len(await records(call)) == 3


async def test_a_block_holds_and_settles_like_a_function(call: Engines) -> None:
    await fund(call)

    async def block(error: Exception | None = None, **said: Any) -> None:
        metered = call.engine.meter(ACCOUNT, "text_token", request={"messages": []}, **PLAN)
        if call.flavour == "sync":
            with metered as open_block:
                use(open_block, error, **said)
        else:
            async with metered as open_block:
                use(open_block, error, **said)
        with pytest.raises(InvalidArgumentError, match="enter it once"):
            await (metered.__aenter__() if call.flavour == "async" else to_await(metered))

    def use(open_block: Any, error: Exception | None, **said: Any) -> None:
        if "response" in said:
            assert open_block.respond(said["response"]) is said["response"]
        if "usage" in said:
            open_block.use(said["usage"])
        if error is not None:
            raise error

    async def to_await(metered: Any) -> None:
        metered.__enter__()

    await block(response=ANSWER)
    await block(usage=Usage(input_tokens=7, output_tokens=3))
    await block()
    with suppress(Refused):
        await block(Refused("no"))
    found = await records(call)
    assert [record["amount"] for record in found] == [CHARGED, 10, ESTIMATE.total_tokens, 0]
    assert [record["status"] for record in found] == ["success"] * 3 + ["failed"]
    assert [record["quality"] for record in found[:3]] == ["exact", "exact", "estimated"]
    assert await spent(call) == CHARGED + 10 + ESTIMATE.total_tokens


async def test_a_blocks_stream_settles_the_block(call: Engines) -> None:
    await fund(call)
    for error in (None, Refused("no")):
        with suppress(Refused):
            metered = call.engine.meter(ACCOUNT, "text_token", **PLAN)
            if call.flavour == "sync":
                with metered as block:
                    stream = block.stream(chunks())
                    next(stream)
                    if error is not None:
                        raise error
                assert len(list(stream)) == 2
            else:
                async with metered as block:
                    stream = block.stream(chunks_async())
                    await anext(stream)
                    if error is not None:
                        raise error
                assert len([chunk async for chunk in stream]) == 2
    found = await records(call)
    assert [record["amount"] for record in found] == [CHARGED, SAID_TOKENS]
    assert [record["status"] for record in found] == ["success", "failed"]


async def test_each_setting_may_be_a_value_a_parameter_or_a_callable(call: Engines) -> None:
    await fund(call)

    @call.engine.requires_quota(
        "text_token",
        account=lambda tenant, **_: f"user:{tenant}",
        estimate="budget",
        usage=lambda response: {"input_tokens": response, "output_tokens": 1},
        metadata=lambda tenant, **_: {"tenant": tenant},
    )
    async def function(tenant: int, *, budget: int = 40) -> int:
        return 6

    assert await function(1) == 6
    [record] = await records(call)
    assert (record["held"], record["amount"]) == (40, 7)
    assert record["metadata"] == {"tenant": 1}
    with pytest.raises(TypeError, match=r"function\(\) missing a required argument: 'tenant'"):
        await function()
    with pytest.raises(QuotaInsufficientError):
        await function(2)


def test_a_decorated_function_stays_what_it_was(redis_url: str, database_url: str) -> None:
    def plain(account: str, *, request: dict[str, Any] | None = None) -> int:
        """Tells its story."""
        return 1

    async def coroutine(account: str) -> int:
        return 1

    def generator(account: str) -> Iterator[int]:
        yield 1

    async def async_generator(account: str) -> AsyncIterator[int]:
        yield 1

    kinds = (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    )
    with QuotaEngine.open(redis_url, database_url) as engine:
        decorate = engine.requires_quota("text_token", **PLAN)
        for function in (plain, coroutine, generator, async_generator):
            wrapped = decorate(function)
            assert inspect.signature(wrapped) == inspect.signature(function)
            assert inspect.get_annotations(wrapped) == inspect.get_annotations(function)
            assert (wrapped.__doc__, wrapped.__name__) == (function.__doc__, function.__name__)
            assert [is_kind(wrapped) for is_kind in kinds] == [
                is_kind(function) for is_kind in kinds
            ]
        with pytest.raises(InvalidArgumentError, match="decorates functions"):
            decorate(int)


def test_methods_and_callables_are_decorated(redis_url: str, database_url: str) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.issue_grant(ACCOUNT, "text_token", 10_000)
        decorate = engine.requires_quota("text_token", **PLAN)

        class Model:
            @decorate
            def method(self, account: str) -> Any:
                return ANSWER

            @decorate
            @classmethod
            def of_class(cls, account: str) -> Any:
                return cls, ANSWER

            @staticmethod
            @decorate
            def static(account: str) -> Any:
                return ANSWER

            @decorate
            @staticmethod
            def static_too(account: str) -> Any:
                return ANSWER

            def __call__(self, account: str) -> Any:
                return ANSWER

        model = Model()
        model.method(ACCOUNT)
        assert model.of_class(ACCOUNT)[0] is Model
        model.static(ACCOUNT)
        Model.static_too(ACCOUNT)
        assert engine.read_balance(ACCOUNT, "text_token").balance == 10_000 - 3 * CHARGED - 300
        decorate(model)(ACCOUNT)
        assert engine.read_balance(ACCOUNT, "text_token").balance == 10_000 - 4 * CHARGED - 300


async def test_a_modules_decorator_binds_when_the_engine_is_known(call: Engines) -> None:
    await fund(call)

    @requires_quota("text_token", **PLAN)
    async def function(account: str) -> Any:
        return ANSWER

    @requires_quota("text_token", **PLAN)
    def not_async(account: str) -> Any:
        return ANSWER

    with pytest.raises(EngineUnavailableError, match="configure"):
        await function(ACCOUNT)
    configure(call.engine)
    try:
        await function(ACCOUNT)
        if call.flavour == "async":
            with pytest.raises(InvalidArgumentError, match="async functions"):
                not_async(ACCOUNT)
    finally:
        configure(None)
    assert await spent(call) == CHARGED
