"""
Spans of OpenTelemetry: of metered calls, and of what the engine decides. Needs ``[otel]``.

    from quota_engine.tracing import trace

    trace(engine)

Names are those of the semantic conventions for generative AI; what they have no name for begins
with ``quota_engine.``. No account, no prompt and no answer is in a span. An engine that is not
traced imports nothing of this, and its calls pay one comparison.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quota_engine.errors import QuotaError
from quota_engine.metering.record import SUCCESS, UsageRecord
from quota_engine.metrics.collector import ADMITTED, reason_of

try:
    from opentelemetry import context as contexts
    from opentelemetry.trace import (
        Span,
        SpanKind,
        StatusCode,
        TracerProvider,
        get_current_span,
        get_tracer,
        set_span_in_context,
    )
except ImportError as missing:
    raise ImportError("spans need the extra: pip install 'quota-engine[otel]'") from missing

SCOPE = "quota_engine"

#: Usage types that the conventions have a name for; others keep their own.
OPERATIONS = {"text_generation": "chat", "embedding": "embeddings"}
COUNTS = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_input_tokens": "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
#: What answers of the engine tell that a span repeats.
TOLD = ("quota_type", "amount", "shortfall", "hold_id", "operation_id", "replayed", "spooled")


def trace(engine: Any, tracer_provider: TracerProvider | None = None) -> None:
    """Make spans of an engine's calls from now on; by default for the process' own provider."""
    engine.metrics.spans = Spans(tracer_provider)


class Spans:
    """Makes the spans of one engine. A span goes under the one that is current."""

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = get_tracer(SCOPE, tracer_provider=tracer_provider)

    def done(self, operation: str, seconds: float, answer: Any) -> None:
        """Make the span of a call of the engine that was answered just now."""
        told = {f"quota_engine.{name}": getattr(answer, name, None) for name in TOLD}
        span = self._operation(operation, seconds)
        span.set_attributes({"quota_engine.outcome": ADMITTED, **_present(told)})
        span.end()

    def failed(self, operation: str, seconds: float, error: QuotaError) -> None:
        """Make the span of a call of the engine that was refused, or failed, just now."""
        span = self._operation(operation, seconds)
        _tell_failure(span, error)
        span.end()

    def _operation(self, operation: str, seconds: float) -> Span:
        return self._tracer.start_span(
            f"quota_engine {operation}",
            attributes={"quota_engine.operation": operation},
            start_time=time.time_ns() - int(seconds * 1e9),
        )

    def model_call(self, call: Any) -> CallSpan:
        """Begin the span of a metered call; whoever settles the call ends it."""
        operation = OPERATIONS.get(call.plan.usage_type, call.plan.usage_type)
        span = self._tracer.start_span(
            f"{operation} {call.model}" if call.model else operation,
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": operation,
                "quota_engine.quota_type": ",".join(call.plan.quota_types),
                **_present(
                    {"gen_ai.provider.name": call.provider, "gen_ai.request.model": call.model}
                ),
            },
        )
        return CallSpan(span)


class CallSpan:
    """The span of one metered call, from before its hold until it is settled."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @contextmanager
    def current(self) -> Iterator[None]:
        """Have spans that begin in here go under this one."""
        token = contexts.attach(set_span_in_context(self._span))
        try:
            yield
        finally:
            if get_current_span() is self._span:  # a generator may be thrown away elsewhere
                contexts.detach(token)

    def refused(self, error: BaseException) -> None:
        """End it: the call was not made."""
        _tell_failure(self._span, error)
        self._span.end()

    def settled(self, record: UsageRecord | None) -> None:
        """End it: the call has ended as its record says; None: that was not recorded."""
        if record is not None:
            self._tell(record)
        self._span.end()

    def _tell(self, record: UsageRecord) -> None:
        counts = record.usage.counts()
        told = {name: counts.get(field) for field, name in COUNTS.items()}
        first = record.first_token_ms
        told |= {
            "gen_ai.provider.name": record.provider,
            "gen_ai.request.model": record.model,
            "gen_ai.response.id": record.request_id,
            "gen_ai.response.time_to_first_chunk": None if first is None else first / 1000,
            "quota_engine.held": record.held,
            "quota_engine.status": record.status,
            "quota_engine.quality": record.quality,
            "quota_engine.cost": record.cost,
            "quota_engine.currency": record.currency,
            "quota_engine.unbilled": record.unbilled,
        }
        self._span.set_attributes(_present(told))
        if record.status != SUCCESS:
            kind = (record.error or record.status).partition(":")[0]
            self._span.set_attribute("error.type", kind)
            self._span.set_status(StatusCode.ERROR, record.status)


def _tell_failure(span: Span, error: BaseException) -> None:
    """Tell what a call ended with: its class, never its text, which may name an account."""
    span.set_attribute("error.type", type(error).__name__)
    if isinstance(error, QuotaError):
        outcome, reason = reason_of(error)
        span.set_attributes({"quota_engine.outcome": outcome, "quota_engine.reason": reason})
    span.set_status(StatusCode.ERROR)


def _present(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if value is not None}
