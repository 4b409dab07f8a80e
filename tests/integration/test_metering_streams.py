"""
Streams are counted as they pass, and settled once, however they end.

Method: streams made by the test, read, broken off, forgotten, outgrown; both engines.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from quota_engine import QuotaEngine, Usage
from quota_engine.tokens import count_tokens
from tests.engines import Engines
from tests.metered import (
    ACCOUNT,
    ANSWER,
    CHARGED,
    CHUNK,
    END,
    ESTIMATE,
    LAST,
    SAID,
    SAID_TOKENS,
    ends,
    fund,
    records,
    spent,
)
from tests.programs import Program

PLAN = {"estimate": ESTIMATE}


def chunk(words: str) -> dict[str, Any]:
    return {**CHUNK, "choices": [{"index": 0, "delta": {"content": words}}]}


def decorated(call: Engines, chunks: list[Any], **plan: Any) -> Any:
    """Return a generator function of the engine's flavour that yields these."""
    if call.flavour == "sync":

        def sync_stream(account: str) -> Iterator[Any]:
            for each in chunks:
                if isinstance(each, BaseException):
                    raise each
                yield each

        return call.engine.requires_quota("text_token", **{**PLAN, **plan})(sync_stream)

    async def stream(account: str) -> AsyncIterator[Any]:
        for each in chunks:
            if isinstance(each, BaseException):
                raise each
            yield each

    return call.engine.requires_quota("text_token", **{**PLAN, **plan})(stream)


async def read(stream: Any, count: int | None = None) -> list[Any]:
    """Read a stream, or so many chunks of it."""
    got: list[Any] = []
    if hasattr(stream, "__anext__"):
        while count is None or len(got) < count:
            try:
                got.append(await anext(stream))
            except StopAsyncIteration:
                break
        return got
    for each in stream:
        got.append(each)
        if len(got) == count:
            break
    return got


async def settled(call: Engines, count: int = 1) -> None:
    """Wait for what is settled in the background."""
    for _ in range(500):
        if len(await ends(call)) >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing was settled")


async def test_a_stream_that_says_done_thrice_makes_one_record(call: Engines) -> None:
    await fund(call)
    await read(decorated(call, [CHUNK, END, LAST, END, LAST, END, LAST])(ACCOUNT))
    [record] = await records(call)
    assert (record["amount"], record["quality"], record["status"]) == (150, "exact", "success")
    assert record["first_token_ms"] <= record["latency_ms"]
    assert record["request_id"] == "answer-1"
    assert await spent(call) == CHARGED


async def test_a_stream_without_a_count_is_charged_as_seen(call: Engines) -> None:
    await fund(call)
    await read(decorated(call, [CHUNK, END])(ACCOUNT))
    [record] = await records(call)
    assert (record["amount"], record["quality"]) == (SAID_TOKENS, "estimated")
    assert record["status"] == "success"


async def test_a_stream_of_plain_text_is_charged_as_seen(call: Engines) -> None:
    await fund(call)
    await read(decorated(call, ["one two ", "three four"])(ACCOUNT))
    [record] = await records(call)
    assert record["output_tokens"] == count_tokens("one two three four", None)


async def test_a_stream_that_says_nothing_is_charged_no_output(call: Engines) -> None:
    await fund(call)
    await read(decorated(call, [])(ACCOUNT))
    [record] = await records(call)
    assert (record["amount"], record["status"]) == (ESTIMATE.input_tokens, "success")


async def test_the_last_chunk_may_say_the_usage(call: Engines) -> None:
    await fund(call)
    stream = decorated(call, ["one", {"used": 7}], usage=lambda last: last["used"])
    await read(stream(ACCOUNT))
    [record] = await records(call)
    assert (record["amount"], record["quality"]) == (7, "exact")


async def test_an_errors_text_is_no_output(call: Engines) -> None:
    await fund(call)
    error = {"error": {"message": "overloaded " * 100, "type": "server_error"}}
    await read(decorated(call, [error])(ACCOUNT))
    await read(decorated(call, [CHUNK, error])(ACCOUNT))
    first, second = await records(call)
    assert (first["amount"], first["status"]) == (0, "failed")
    assert (second["amount"], second["status"]) == (SAID_TOKENS, "failed")
    assert second["error"].startswith("overloaded")


async def test_a_stream_that_breaks_before_its_first_word_is_released(call: Engines) -> None:
    await fund(call)
    for stream in (decorated(call, [OSError("cut")]), decorated(call, [END, OSError("cut")])):
        with pytest.raises(OSError, match="cut"):
            await read(stream(ACCOUNT))
    assert [record["amount"] for record in await records(call)] == [0, 0]
    assert await spent(call) == 0


async def test_a_consumer_who_leaves_after_the_count_pays_the_count(call: Engines) -> None:
    await fund(call)
    stream = decorated(call, [CHUNK, END, LAST, None])(ACCOUNT)
    await read(stream, 3)
    await (stream.aclose() if call.flavour == "async" else asyncio.to_thread(stream.close))
    [record] = await records(call)
    assert (record["amount"], record["quality"], record["status"]) == (150, "exact", "success")


async def test_a_stream_never_started_holds_nothing(call: Engines) -> None:
    await fund(call)
    stream = decorated(call, [CHUNK])(ACCOUNT)
    del stream
    gc.collect()
    await asyncio.sleep(0)
    assert await ends(call) == []
    assert await spent(call) == 0


async def test_a_consumer_who_walks_away_is_charged_for_what_came(call: Engines) -> None:
    await fund(call)
    stream = decorated(call, [CHUNK, END, LAST])(ACCOUNT)
    await read(stream, 1)
    del stream
    gc.collect()
    await settled(call)
    [record] = await records(call)
    assert (record["amount"], record["status"]) == (SAID_TOKENS, "cancelled")
    assert await spent(call) == SAID_TOKENS


async def test_a_returned_stream_that_is_forgotten_is_charged_for_what_came(
    call: Engines,
) -> None:
    await fund(call)

    async def chunks() -> AsyncIterator[Any]:
        for each in (CHUNK, END, LAST):
            yield each

    @call.engine.requires_quota("text_token", **PLAN)
    async def function(account: str) -> Any:
        return chunks()

    stream = await function(ACCOUNT)
    assert inspect.isasyncgen(stream)  # it looks like what was returned
    await read(stream, 1)
    del stream
    gc.collect()
    await settled(call)
    [record] = await records(call)
    assert (record["amount"], record["status"]) == (SAID_TOKENS, "cancelled")


async def test_what_is_sent_and_thrown_reaches_the_generator(call: Engines) -> None:
    await fund(call)
    got: list[Any] = []
    if call.flavour == "sync":

        @call.engine.requires_quota("text_token", **PLAN)
        def conversation(account: str) -> Any:
            got.append((yield SAID))
            try:
                yield SAID
            except KeyError:
                got.append("thrown")
            yield SAID
            return "returned"

        stream = conversation(ACCOUNT)
        next(stream)
        stream.send("sent")
        stream.throw(KeyError())
        with pytest.raises(StopIteration) as stopped:
            next(stream)
        assert stopped.value.value == "returned"
    else:

        @call.engine.requires_quota("text_token", **PLAN)
        async def conversation(account: str) -> Any:
            got.append((yield SAID))
            try:
                yield SAID
            except KeyError:
                got.append("thrown")
            yield SAID

        stream = conversation(ACCOUNT)
        await anext(stream)
        await stream.asend("sent")
        await stream.athrow(KeyError())
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert got == ["sent", "thrown"]
    [record] = await records(call)
    assert (record["status"], record["quality"]) == ("success", "estimated")


WORDS = "and so it goes on and on " * 40


async def test_a_stream_that_outgrows_its_hold_holds_more(call: Engines) -> None:
    await fund(call)
    stream = decorated(call, [chunk(WORDS), chunk(WORDS)])(ACCOUNT)
    await read(stream, 1)
    held = (await call("read_balance", ACCOUNT, "text_token")).held
    assert held > ESTIMATE.total_tokens
    await read(stream)
    [record] = await records(call)
    assert record["amount"] == 100 + count_tokens(WORDS * 2, None) == await spent(call)


@pytest.mark.parametrize("policy", ["finish", "cut"])
async def test_a_stream_that_cannot_hold_more_ends_or_is_cut(call: Engines, policy: str) -> None:
    await call("issue_grant", ACCOUNT, "text_token", 310)
    stream = decorated(call, [chunk(WORDS)] * 3, on_exhausted=policy)(ACCOUNT)
    got = await read(stream)
    [record] = await records(call)
    balance = await call("read_balance", ACCOUNT, "text_token")
    assert balance.held == 0
    assert balance.balance == 0  # charged as far as it could be paid
    if policy == "finish":
        assert (len(got), record["status"]) == (3, "success")
        assert record["output_tokens"] == count_tokens(WORDS * 3, None)
    else:
        assert (len(got), record["status"]) == (1, "cancelled")
        assert "the quota is exhausted" in record["error"]
        assert record["output_tokens"] == count_tokens(WORDS, None)


async def test_a_streams_own_behaviour_shows_through(call: Engines) -> None:
    await fund(call)

    class Closable:
        """Iterable, not an iterator: as some SDKs' streams are."""

        name = "the provider's"
        closed = 0

        def __iter__(self) -> Iterator[Any]:
            yield from (CHUNK, END, LAST)

        async def __aiter__(self) -> AsyncIterator[Any]:
            for each in (CHUNK, END, LAST):
                yield each

        def close(self) -> None:
            self.closed += 1

    class AsyncOnly(Closable):
        __iter__ = None  # type: ignore[assignment]

        async def close(self) -> None:  # type: ignore[override]
            self.closed += 1

    @call.engine.requires_quota("text_token", **PLAN)
    async def function(account: str) -> Any:
        return AsyncOnly()

    stream = await function(ACCOUNT)
    assert isinstance(stream, AsyncOnly)
    assert stream.name == "the provider's"
    async with stream:
        assert [each async for each in stream] == [CHUNK, END, LAST]
    await stream.close()
    assert stream.closed == 1
    assert await spent(call) == CHARGED


def test_a_killed_processs_hold_expires_and_a_living_ones_does_not(
    redis_url: str, database_url: str
) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from quota_engine import QuotaEngine
        engine = QuotaEngine.open(sys.argv[1], sys.argv[2])
        @engine.requires_quota("text_token", estimate=300, ttl=1.0)
        def function(account):
            print("held", flush=True)
            time.sleep(60)
        function("user:1")
        """
    )
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.issue_grant(ACCOUNT, "text_token", 1_000)
        process = Program(program, redis_url, database_url, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            until = time.monotonic() + 1.6
            while time.monotonic() < until:  # longer than a life of the hold
                assert engine.read_balance(ACCOUNT, "text_token").held == 300
                time.sleep(0.1)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        until = time.monotonic() + 5
        while engine.read_balance(ACCOUNT, "text_token").held and time.monotonic() < until:
            time.sleep(0.05)
        balance = engine.read_balance(ACCOUNT, "text_token")
        assert (balance.held, balance.spendable) == (0, 1_000)


def test_a_function_called_by_many_threads_holds_one_timer(
    redis_url: str, database_url: str
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.issue_grant(ACCOUNT, "text_token", 100_000)

        @engine.requires_quota("text_token", estimate=Usage(input_tokens=10), ttl=0.5)
        def function(account: str) -> Any:
            time.sleep(0.05)
            return ANSWER

        with ThreadPoolExecutor(8) as pool:
            assert all(answer is ANSWER for answer in pool.map(function, [ACCOUNT] * 40))
        balance = engine.read_balance(ACCOUNT, "text_token")
        assert (balance.held, balance.balance) == (0, 100_000 - 40 * CHARGED)
