"""
Calls of every kind of function, ended in every way, are settled once.

Goal: exactly one end and one usage record for each call, and exact balances. Method: one table of
functions and ends on both engines; real servers.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

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
from quota_engine.metering import COUNTERS
from quota_engine.metering.background import BACKGROUND
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
    ends,
    fund,
    records,
    spent,
)

PLAN = {"estimate": ESTIMATE}


class Refused(Exception):
    """What a model raises here."""


Decorate = Callable[[Any], Any]


def failing(how: str) -> None:
    if how == "exception":
        raise Refused("no")
    if how == "timeout":
        raise TimeoutError("too late")
    if how == "cancel":
        raise KeyboardInterrupt


async def failing_async(how: str) -> None:
    if how == "cancel":
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.sleep(30)
    if how == "timeout":
        async with asyncio.timeout(0):
            await asyncio.sleep(30)
    failing(how)


def chunks(how: str) -> Iterator[Any]:
    yield CHUNK
    failing(how)
    yield END
    yield LAST


async def chunks_async(how: str) -> AsyncIterator[Any]:
    yield CHUNK
    await failing_async(how)
    yield END
    yield LAST


async def call_function(decorate: Decorate, how: str) -> None:
    @decorate
    def function(account: str, how: str) -> Any:
        if how == "early close":
            return chunks("success")
        failing(how)
        return ANSWER

    answered = function(ACCOUNT, how)
    if how == "early close":
        assert next(answered) == CHUNK
        answered.close()
    else:
        assert answered is ANSWER


async def call_coroutine(decorate: Decorate, how: str) -> None:
    @decorate
    async def function(account: str, how: str) -> Any:
        if how == "early close":
            return chunks_async("success")
        await failing_async(how)
        return ANSWER

    answered = await function(ACCOUNT, how)
    if how == "early close":
        assert await anext(answered) == CHUNK
        await answered.aclose()
    else:
        assert answered is ANSWER


async def call_generator(decorate: Decorate, how: str) -> None:
    @decorate
    def function(account: str, how: str) -> Iterator[Any]:
        yield from chunks(how)

    stream = function(ACCOUNT, how)
    if how == "early close":
        assert next(stream) == CHUNK
        stream.close()
    else:
        assert list(stream) == [CHUNK, END, LAST]


async def call_async_generator(decorate: Decorate, how: str) -> None:
    @decorate
    async def function(account: str, how: str) -> AsyncIterator[Any]:
        async for chunk in chunks_async(how):
            yield chunk

    stream = function(ACCOUNT, how)
    if how == "early close":
        assert await anext(stream) == CHUNK
        await stream.aclose()
    else:
        assert [chunk async for chunk in stream] == [CHUNK, END, LAST]


KINDS: dict[str, Callable[[Decorate, str], Awaitable[None]]] = {
    "function": call_function,
    "async function": call_coroutine,
    "generator": call_generator,
    "async generator": call_async_generator,
}


class End(NamedTuple):
    """What a call that ended so leaves; a stream is charged for what came through."""

    status: str
    raises: type[BaseException] | None
    charged: int = 0
    charged_stream: int = SAID_TOKENS


ENDS = {
    "success": End("success", None, CHARGED, CHARGED),
    "exception": End("failed", Refused),
    "timeout": End("timeout", TimeoutError),
    "cancel": End("cancelled", BaseException),
    "early close": End("cancelled", None, SAID_TOKENS),
}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_call_ends_once_and_balances_are_exact(
    call: Engines, kind: str, how: str
) -> None:
    await fund(call)
    end = ENDS[how]
    decorate = call.engine.requires_quota("text_token", **PLAN)
    if call.flavour == "async" and kind in ("function", "generator"):
        with pytest.raises(InvalidArgumentError, match="async functions"):
            await KINDS[kind](decorate, how)
        assert await ends(call) == []
        return

    async def made() -> BaseException | None:
        try:
            await KINDS[kind](decorate, how)
        except BaseException as error:
            return error
        return None

    raised = await asyncio.create_task(made())
    if end.raises is None:
        assert raised is None
    else:
        assert isinstance(raised, end.raises)
    charged = end.charged_stream if "generator" in kind else end.charged
    [record] = await records(call)
    assert record["status"] == end.status
    assert record["amount"] == charged == await spent(call)
    assert record["held"] == ESTIMATE.total_tokens
    assert record.get("quality") == ("exact" if charged in (0, CHARGED) else "estimated")
    assert await ends(call) == ["hold.captured" if charged else "hold.released"]
    assert (await call("reconcile")).is_clean


async def test_a_call_that_cannot_be_paid_is_never_made(call: Engines) -> None:
    made: list[str] = []

    @call.engine.requires_quota("text_token", **PLAN)
    async def function(account: str) -> Any:
        made.append(account)

    with pytest.raises(QuotaInsufficientError) as refused:
        await function(ACCOUNT)
    assert (refused.value.required, refused.value.available) == (300, 0)
    assert made == []
    assert await records(call) == []


async def test_a_caller_cancelled_while_the_hold_is_placed_leaves_no_hold(call: Engines) -> None:
    await fund(call)
    made: list[str] = []

    @call.engine.requires_quota("text_token", **PLAN)
    async def function(account: str) -> Any:
        made.append(account)
        return ANSWER

    place_hold = call.engine.place_hold
    task: asyncio.Task[Any] | None = None
    loop = asyncio.get_running_loop()

    def cancel() -> None:
        assert task is not None
        loop.call_soon_threadsafe(task.cancel)

    if call.flavour == "sync":

        def placing(*args: Any, **kwargs: Any) -> Any:
            cancel()
            return place_hold(*args, **kwargs)
    else:

        async def placing(*args: Any, **kwargs: Any) -> Any:
            cancel()
            await asyncio.sleep(0)
            return await place_hold(*args, **kwargs)

    call.engine.place_hold = placing
    task = asyncio.create_task(function(ACCOUNT))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made == []
    assert await spent(call) == 0
    assert await ends(call) == ["hold.released"]
    assert [record["status"] for record in await records(call)] == ["cancelled"]


async def test_a_caller_cancelled_while_the_call_is_settled_is_charged(call: Engines) -> None:
    await fund(call)

    @call.engine.requires_quota("text_token", **PLAN)
    async def function(account: str) -> Any:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)  # at the next await: the settlement
        return ANSWER

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(function(ACCOUNT))
    assert await spent(call) == CHARGED
    assert await ends(call) == ["hold.captured"]


async def test_many_calls_at_once_are_each_settled_once(call: Engines) -> None:
    await fund(call)

    @call.engine.requires_quota("text_token", **PLAN)
    async def function(account: str, number: int) -> Any:
        await asyncio.sleep(0.001 * (number % 3))
        if number % 5 == 0:
            raise Refused
        return ANSWER

    answers = await asyncio.gather(
        *(function(ACCOUNT, number) for number in range(40)), return_exceptions=True
    )
    assert sum(answer is ANSWER for answer in answers) == 32
    assert await spent(call) == 32 * CHARGED
    assert len(await records(call)) == 40


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
                    stream = block.stream(chunks("success"))
                    next(stream)
                    if error is not None:
                        raise error
                assert len(list(stream)) == 2
            else:
                async with metered as block:
                    stream = block.stream(chunks_async("success"))
                    await anext(stream)
                    if error is not None:
                        raise error
                assert len([chunk async for chunk in stream]) == 2
    found = await records(call)
    assert [record["amount"] for record in found] == [CHARGED, SAID_TOKENS]
    assert [record["status"] for record in found] == ["success", "failed"]


async def test_an_engine_that_is_away_does_not_take_the_answer_away(
    call: Engines, caplog: pytest.LogCaptureFixture
) -> None:
    await fund(call)
    capture_hold, away = call.engine.capture_hold, True
    unsettled, late = COUNTERS["unsettled"], COUNTERS["settled_late"]

    def unavailable(*args: Any, **kwargs: Any) -> Any:
        if away:
            raise EngineUnavailableError("Redis does not answer")
        return capture_hold(*args, **kwargs)

    async def unavailable_async(*args: Any, **kwargs: Any) -> Any:
        return unavailable()

    call.engine.capture_hold = unavailable if call.flavour == "sync" else unavailable_async

    @call.engine.requires_quota("text_token", **PLAN)
    async def function(account: str) -> Any:
        return ANSWER

    assert await function(ACCOUNT) is ANSWER
    assert "is not settled yet" in caplog.text
    assert COUNTERS["unsettled"] == unsettled + 1
    away = False
    for _ in range(400):
        if COUNTERS["settled_late"] > late:
            break
        await asyncio.sleep(0.01)  # the background tries again after a second
    assert await spent(call) == CHARGED
    assert len(await records(call)) == 1


@pytest.mark.parametrize("usage", [lambda response: 1 / 0, lambda response: -1, {"tokens": 1}])
async def test_a_usage_that_cannot_be_told_is_charged_as_held(call: Engines, usage: Any) -> None:
    await fund(call)

    @call.engine.requires_quota("text_token", usage=usage, **PLAN)
    async def function(account: str) -> Any:
        return ANSWER

    assert await function(ACCOUNT) is ANSWER
    [record] = await records(call)
    assert (record["amount"], record["quality"]) == (ESTIMATE.total_tokens, "estimated")
    assert "usage= failed" in record["anomaly"]["reason"]


async def test_an_impossible_report_is_charged_as_held_and_kept(call: Engines) -> None:
    await fund(call)

    @call.engine.requires_quota("text_token", **PLAN)
    async def function(account: str) -> Any:
        return {**ANSWER, "usage": {"prompt_tokens": -5, "completion_tokens": 10}}

    await function(ACCOUNT)
    [record] = await records(call)
    assert (record["amount"], record["quality"]) == (ESTIMATE.total_tokens, "estimated")
    assert record["anomaly"]["raw"]["prompt_tokens"] == -5


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


async def test_a_long_call_keeps_its_hold(call: Engines) -> None:
    await fund(call)

    @call.engine.requires_quota("text_token", ttl=0.6, **PLAN)
    async def function(account: str) -> Any:
        for _ in range(15):  # two and a half lives
            await asyncio.sleep(0.1)
            assert (await call("read_balance", ACCOUNT, "text_token")).held == 300
        return ANSWER

    await asyncio.gather(*(function(ACCOUNT) for _ in range(1)))
    threads = [thread.name for thread in threading.enumerate()]
    assert threads.count("quota-engine-metering") == 1
    assert await ends(call) == ["hold.captured"]
    assert await spent(call) == CHARGED
    assert not [key for key in BACKGROUND._jobs if str(key).startswith("hold")]
