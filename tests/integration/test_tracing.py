"""
Spans of metered calls and of what the engine decides, by the names of the conventions.

Method: OpenTelemetry's own SDK collects them in memory; both engines on real servers.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from quota_engine import QuotaInsufficientError
from quota_engine.tracing import trace
from tests.engines import Engines
from tests.metered import ACCOUNT, ANSWER, CHUNK, END, ESTIMATE, LAST, fund, spent

PLAN = {"estimate": ESTIMATE, "provider": "openai", "model": "gpt-4o"}


class ModelError(Exception):
    """What a model raises here."""


class Traced:
    """An engine of one flavour that is traced, and the spans that have ended."""

    def __init__(self, call: Engines) -> None:
        self.call = call
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("the caller's")
        trace(call.engine, provider)

    def ended(self) -> dict[str, ReadableSpan]:
        """Return the spans by name; there is one of each."""
        spans = self._exporter.get_finished_spans()
        assert len({span.name for span in spans}) == len(spans)
        self._exporter.clear()
        return {span.name: span for span in spans}

    async def ask(self, answer: Any, **plan: Any) -> Any:
        """Call a function that is metered; its answer may be raised. It makes a span itself."""
        decorate = self.call.engine.requires_quota("text_token", **{**PLAN, **plan})

        def model(account: str) -> Any:
            with self.tracer.start_as_current_span("inside"):
                if isinstance(answer, BaseException):
                    raise answer
                return answer

        async def async_model(account: str) -> Any:
            return model(account)

        if self.call.flavour == "sync":
            return decorate(model)(ACCOUNT)
        return await decorate(async_model)(ACCOUNT)

    def stream(self, *chunks: Any) -> Any:
        """Return a metered stream of these."""
        decorate = self.call.engine.requires_quota("text_token", **PLAN)

        def stream(account: str) -> Iterator[Any]:
            yield from chunks

        async def async_stream(account: str) -> AsyncIterator[Any]:
            for chunk in chunks:
                yield chunk

        return decorate(stream if self.call.flavour == "sync" else async_stream)(ACCOUNT)


@pytest.fixture
async def traced(call: Engines) -> Traced:
    await fund(call)
    for kind, price in (("input_token", "2"), ("output_token", "8")):
        priced = call.engine.prices.set("openai", "gpt-4o", kind, price)
        if inspect.isawaitable(priced):
            await priced
    return Traced(call)


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def is_under(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


async def test_a_metered_call_is_a_span_over_its_hold_its_work_and_its_capture(
    traced: Traced,
) -> None:
    await traced.ask(ANSWER)
    spans = traced.ended()
    span = spans.pop("chat gpt-4o")
    assert (span.kind, span.status.status_code) == (SpanKind.CLIENT, StatusCode.UNSET)
    assert told(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.id": "answer-1",
        "gen_ai.usage.input_tokens": 120,
        "gen_ai.usage.output_tokens": 30,
        "quota_engine.quota_type": "text_token",
        "quota_engine.held": 300,
        "quota_engine.status": "success",
        "quota_engine.quality": "exact",
        "quota_engine.cost": "0.00048",
        "quota_engine.currency": "USD",
    }
    assert set(spans) == {"quota_engine place_hold", "inside", "quota_engine capture_hold"}
    assert all(is_under(inner, span) for inner in spans.values())
    captured = told(spans["quota_engine capture_hold"])
    assert captured["quota_engine.amount"] == 150
    assert captured["quota_engine.outcome"] == "admitted"
    assert ACCOUNT not in repr([told(span), *map(told, spans.values())])


async def test_a_call_that_is_refused_is_a_span_that_says_why(traced: Traced) -> None:
    with pytest.raises(QuotaInsufficientError):
        await traced.ask(ANSWER, estimate=10_000_000)
    spans = traced.ended()
    assert set(spans) == {"chat gpt-4o", "quota_engine place_hold"}
    for span in spans.values():
        assert span.status.status_code is StatusCode.ERROR
        assert told(span)["error.type"] == "QuotaInsufficientError"
        assert told(span)["quota_engine.reason"] == "insufficient"
        assert not span.events
        assert span.status.description is None
        assert ACCOUNT not in repr(told(span))


async def test_a_call_that_fails_is_a_span_that_failed(traced: Traced) -> None:
    with pytest.raises(ModelError):
        await traced.ask(ModelError("of user:1"))
    span = traced.ended()["chat gpt-4o"]
    assert span.status.status_code is StatusCode.ERROR
    assert told(span)["error.type"] == "ModelError"
    assert told(span)["quota_engine.status"] == "failed"
    assert "gen_ai.usage.input_tokens" not in told(span)


async def test_the_span_of_a_stream_ends_with_it(traced: Traced) -> None:
    stream = traced.stream(CHUNK, END, LAST)
    if traced.call.flavour == "sync":
        next(stream)
        assert "chat gpt-4o" not in traced.ended()
        list(stream)
    else:
        await anext(stream)
        assert "chat gpt-4o" not in traced.ended()
        assert [chunk async for chunk in stream] == [END, LAST]
    span = traced.ended()["chat gpt-4o"]
    assert told(span)["gen_ai.usage.output_tokens"] == 30
    assert told(span)["gen_ai.response.time_to_first_chunk"] >= 0
    assert await spent(traced.call) == 150


async def test_spans_go_under_the_caller_s_own_and_leave_it_as_it_was(traced: Traced) -> None:
    with traced.tracer.start_as_current_span("request") as request:
        await traced.ask(ANSWER)
        with traced.tracer.start_as_current_span("after"):
            pass
    spans = traced.ended()
    assert is_under(spans["chat gpt-4o"], spans["request"])
    assert is_under(spans["after"], spans["request"])
    assert request.get_span_context().trace_id == spans["inside"].context.trace_id


async def test_a_call_that_names_no_model_and_one_of_an_embedding(traced: Traced) -> None:
    await traced.ask(7, provider=None, model=None, usage=7)
    assert "gen_ai.request.model" not in told(traced.ended()["chat"])
    await traced.ask(7, usage=7, usage_type="embedding")
    assert told(traced.ended()["embeddings gpt-4o"])["gen_ai.operation.name"] == "embeddings"


def test_who_wants_no_spans_imports_nothing_of_them() -> None:
    program = "import sys, quota_engine.engine; print('quota_engine.tracing' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ran.stdout.split() == [b"False"]
