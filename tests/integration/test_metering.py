"""
Calls of every kind of function, ended in every way, are settled once.

Goal: exactly one end and one usage record for each call, and exact balances. Method: one table of
functions and ends on both engines; real servers.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import pytest

from quota_engine import (
    EngineUnavailableError,
    InvalidArgumentError,
    QuotaInsufficientError,
)
from quota_engine.background import BACKGROUND
from quota_engine.metering import COUNTERS
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
    assert threads.count("quota-engine-background") == 1
    assert await ends(call) == ["hold.captured"]
    assert await spent(call) == CHARGED
    assert not [key for key in BACKGROUND._jobs if str(key).startswith("hold")]
