"""
The official SDKs, unmodified, are metered to the token.

Method: openai and anthropic against a local server that speaks their wire formats.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from quota_engine import QuotaEngine, Usage
from quota_engine.tokens import count_tokens
from tests.engines import Engines
from tests.metered import ACCOUNT, ends, fund, records, spent
from tests.model_server import TEXT, USED, USED_ANTHROPIC, WORDS, ModelServer

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "openai_metered.py"
ESTIMATE = Usage(input_tokens=1_000, output_tokens=500)
MESSAGES = [{"role": "user", "content": "What are quotas?"}]
#: What a stream that broke off after three words is charged.
CUT = count_tokens("".join(WORDS[:3]), None)


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


class Sdks:
    """The clients of one flavour, closed at the end."""

    def __init__(self, call: Engines, url: str) -> None:
        self.call = call
        self._url = url
        self._is_sync = call.flavour == "sync"

    @cached_property
    def openai(self) -> Any:
        kind: Any = openai.OpenAI if self._is_sync else openai.AsyncOpenAI
        return kind(base_url=f"{self._url}/v1", api_key="test", max_retries=0)

    @cached_property
    def anthropic(self) -> Any:
        kind: Any = anthropic.Anthropic if self._is_sync else anthropic.AsyncAnthropic
        return kind(base_url=self._url, api_key="test", max_retries=0)

    async def close(self) -> None:
        for name in ("openai", "anthropic"):
            if name in self.__dict__:
                await made(getattr(self, name).close())

    def metered(self, create: Any, **plan: Any) -> Any:
        """Decorate a function that passes everything on to a method of an SDK."""
        decorate = self.call.engine.requires_quota("text_token", estimate=ESTIMATE, **plan)
        if self.call.flavour == "sync":

            def ask(account: str, **request: Any) -> Any:
                return create(**request)

            return decorate(ask)

        async def ask_async(account: str, **request: Any) -> Any:
            return await create(**request)

        return decorate(ask_async)


@pytest.fixture
async def sdks(call: Engines, model: ModelServer) -> AsyncIterator[Sdks]:
    await fund(call)
    clients = Sdks(call, model.url)
    yield clients
    await clients.close()


async def made(outcome: Any) -> Any:
    return await outcome if hasattr(outcome, "__await__") else outcome


async def read(stream: Any, count: int | None = None) -> list[Any]:
    """Read a stream, or so many chunks of it, as its users do."""
    got: list[Any] = []
    if hasattr(stream, "__anext__"):
        async for each in stream:
            got.append(each)
            if len(got) == count:
                break
    else:
        for each in stream:
            got.append(each)
            if len(got) == count:
                break
    return got


def used(record: dict[str, Any]) -> Usage:
    names = Usage.__dataclass_fields__
    return Usage(**{name: value for name, value in record.items() if name in names})


async def check(call: Engines, expected: Usage, provider: str, name: str) -> None:
    [record] = await records(call)
    assert used(record) == expected
    assert (record["quality"], record["status"]) == ("exact", "success")
    assert (record["provider"], record["model"]) == (provider, name)
    assert record["amount"] == expected.total_tokens == await spent(call)
    assert await ends(call) == ["hold.captured"]


async def unpriced_is_by_units(call: Engines, provider: str, name: str) -> None:
    """Give the model a price of nothing, so that what is named is billed."""
    for kind in ("input_token", "output_token"):
        await made(call.engine.prices.set(provider, name, kind, 1))


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_openai_is_metered_to_the_token(sdks: Sdks, api: str, streamed: bool) -> None:
    await unpriced_is_by_units(sdks.call, "openai", "gpt-4o-mini")
    request: dict[str, Any] = {"model": "gpt-4o-mini"}
    if api == "chat":
        ask = sdks.metered(sdks.openai.chat.completions.create, provider="openai")
        request["messages"] = MESSAGES
    else:
        ask = sdks.metered(sdks.openai.responses.create, provider="openai")
        request["input"] = "What are quotas?"
    if streamed:
        request["stream"] = True
        if api == "chat":
            request["stream_options"] = {"include_usage": True}
    answer = await made(ask(ACCOUNT, **request))
    if streamed:
        kind = openai.Stream if sdks.call.flavour == "sync" else openai.AsyncStream
        assert isinstance(answer, kind)
        chunks = await read(answer)
        if api == "chat":
            said = [each.choices[0].delta.content or "" for each in chunks if each.choices]
            assert "".join(said) == TEXT
    elif api == "chat":
        assert answer.choices[0].message.content == TEXT
    else:
        assert answer.output_text == TEXT
    await check(sdks.call, USED, "openai", "gpt-4o-mini")


async def test_openai_without_include_usage_is_charged_as_seen(sdks: Sdks) -> None:
    ask = sdks.metered(sdks.openai.chat.completions.create)
    await read(await made(ask(ACCOUNT, model="m", messages=MESSAGES, stream=True)))
    [record] = await records(sdks.call)
    assert record["amount"] == ESTIMATE.input_tokens + count_tokens(TEXT, None)
    assert (record["quality"], record["status"]) == ("estimated", "success")


async def test_openais_stream_manager_is_metered(sdks: Sdks) -> None:
    decorate = sdks.call.engine.requires_quota("text_token", estimate=ESTIMATE)
    request: dict[str, Any] = {
        "model": "m",
        "messages": MESSAGES,
        "stream_options": {"include_usage": True},
    }
    if sdks.call.flavour == "sync":

        @decorate
        def ask(account: str) -> Any:
            return sdks.openai.chat.completions.stream(**request)

        with ask(ACCOUNT) as stream:
            final = stream.get_final_completion()
    else:

        @decorate
        async def ask_async(account: str) -> Any:
            return sdks.openai.chat.completions.stream(**request)

        async with await ask_async(ACCOUNT) as stream:
            final = await stream.get_final_completion()
    assert final.choices[0].message.content == TEXT
    [record] = await records(sdks.call)
    assert (used(record), record["quality"]) == (USED, "exact")


@pytest.mark.parametrize("streamed", [False, True])
async def test_anthropic_is_metered_to_the_token(sdks: Sdks, streamed: bool) -> None:
    await unpriced_is_by_units(sdks.call, "anthropic", "claude-x")
    ask = sdks.metered(sdks.anthropic.messages.create)
    request: dict[str, Any] = {"model": "claude-x", "max_tokens": 100, "messages": MESSAGES}
    answer = await made(ask(ACCOUNT, stream=streamed, **request))
    if streamed:
        assert len(await read(answer)) > len(WORDS)
    else:
        assert answer.content[0].text == TEXT
    await check(sdks.call, USED_ANTHROPIC, "anthropic", "claude-x")


@pytest.mark.parametrize("door", ["events", "text", "final"])
async def test_anthropics_stream_manager_is_metered_through_every_door(
    sdks: Sdks, door: str
) -> None:
    decorate = sdks.call.engine.requires_quota("text_token", estimate=ESTIMATE)
    request: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": MESSAGES}
    if sdks.call.flavour == "sync":

        @decorate
        def ask(account: str) -> Any:
            return sdks.anthropic.messages.stream(**request)

        with ask(ACCOUNT) as stream:
            if door == "final":
                assert stream.get_final_text() == TEXT
            elif door == "text":
                assert "".join(stream.text_stream) == TEXT
            else:
                await read(stream)
    else:

        @decorate
        async def ask_async(account: str) -> Any:
            return sdks.anthropic.messages.stream(**request)

        async with await ask_async(ACCOUNT) as stream:
            if door == "final":
                assert await stream.get_final_text() == TEXT
            elif door == "text":
                assert "".join([text async for text in stream.text_stream]) == TEXT
            else:
                await read(stream)
    [record] = await records(sdks.call)
    assert (used(record), record["quality"]) == (USED_ANTHROPIC, "exact")
    assert await ends(sdks.call) == ["hold.captured"]


@pytest.mark.parametrize("maker", ["openai", "anthropic"])
async def test_a_connection_cut_in_the_middle_is_charged_for_what_came(
    sdks: Sdks, maker: str
) -> None:
    if maker == "openai":
        ask = sdks.metered(sdks.openai.chat.completions.create)
        expected = ESTIMATE.input_tokens + CUT
    else:
        ask = sdks.metered(sdks.anthropic.messages.create)
        expected = USED_ANTHROPIC.input_tokens + CUT  # Anthropic counts the input at the start
    request: dict[str, Any] = {"model": "cut", "messages": MESSAGES, "stream": True}
    stream = await made(ask(ACCOUNT, **request, max_tokens=100))
    with pytest.raises((openai.APIError, anthropic.APIError, httpx2.HTTPError)):
        await read(stream)
    [record] = await records(sdks.call)
    assert (record["status"], record["quality"]) == ("failed", "estimated")
    assert record["amount"] == expected == await spent(sdks.call)


@pytest.mark.parametrize("maker", ["openai", "anthropic"])
async def test_a_consumer_who_leaves_early_is_charged_for_what_came(
    sdks: Sdks, maker: str
) -> None:
    create = (
        sdks.openai.chat.completions.create
        if maker == "openai"
        else sdks.anthropic.messages.create
    )
    ask = sdks.metered(create)
    request: dict[str, Any] = {"model": "m", "messages": MESSAGES, "stream": True}
    stream = await made(ask(ACCOUNT, **request, max_tokens=100))
    if sdks.call.flavour == "sync":
        with stream:
            await read(stream, 6)
    else:
        async with stream:
            await read(stream, 6)
    [record] = await records(sdks.call)
    assert (record["status"], record["quality"]) == ("cancelled", "estimated")
    assert 0 < record["output_tokens"] < count_tokens(TEXT, None) + 1
    assert await ends(sdks.call) == ["hold.captured"]


@pytest.mark.parametrize("maker", ["openai", "anthropic"])
async def test_a_refused_request_charges_nothing(sdks: Sdks, maker: str) -> None:
    if maker == "openai":
        ask = sdks.metered(sdks.openai.chat.completions.create)
    else:
        ask = sdks.metered(sdks.anthropic.messages.create)
    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)):
        await made(ask(ACCOUNT, model="broken", messages=MESSAGES, max_tokens=10))
    [record] = await records(sdks.call)
    assert (record["status"], record["amount"]) == ("failed", 0)
    assert record["error"].startswith("InternalServerError")
    assert await ends(sdks.call) == ["hold.released"]


def test_the_example_runs(redis_url: str, database_url: str, model: ModelServer) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        env={
            "OPENAI_BASE_URL": f"{model.url}/v1",
            "OPENAI_API_KEY": "test",
            "QUOTA_ENGINE_REDIS_URL": redis_url,
            "QUOTA_ENGINE_DATABASE_URL": database_url,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert TEXT in done.stdout
    with QuotaEngine.open(redis_url, database_url) as engine:
        captured = [
            entry
            for entry in engine.history("user:42", "text_token")
            if entry.kind == "hold.captured"
        ]
        assert [entry.amount for entry in captured] == [USED.total_tokens] * 2
        assert captured[0].details["usage"]["cost"] == "0.0001374"
