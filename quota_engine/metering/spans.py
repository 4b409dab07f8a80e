"""When the span of a metered call begins, is current, and ends. What is in it, tracing knows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from quota_engine.metering.call import MeteredCall
from quota_engine.metering.record import UsageRecord

_NONE: AbstractContextManager[None] = nullcontext()


def current_span(call: MeteredCall) -> AbstractContextManager[None]:
    """Have what is traced in here go under the call's span, if it has one."""
    span: AbstractContextManager[None] = _NONE if call.span is None else call.span.current()
    return span


def begun_span(call: MeteredCall, engine: Any) -> AbstractContextManager[None]:
    """Begin the span of a call while it takes its hold; a call that is refused ends it."""
    spans = engine.metrics.spans
    return _NONE if spans is None else _begun(call, spans)


def ended_span(call: MeteredCall) -> AbstractContextManager[None]:
    """End the span of a call when it is settled, or its settlement was put off."""
    return _NONE if call.span is None else _ended(call)


@contextmanager
def _begun(call: MeteredCall, spans: Any) -> Iterator[None]:
    call.span = spans.model_call(call)
    try:
        with call.span.current():
            yield
    except BaseException as error:
        is_settled_next = isinstance(error, asyncio.CancelledError) and call.hold is not None
        if not is_settled_next:
            call.span.refused(error)
            call.span = None
        raise


@contextmanager
def _ended(call: MeteredCall) -> Iterator[None]:
    span, call.span = call.span, None
    try:
        with span.current():
            yield
    finally:
        span.settled(_record_of(call))


def _record_of(call: MeteredCall) -> UsageRecord | None:
    """Return the record that settles a call, if it came so far."""
    ask = call.settlement
    if ask is None:
        return None
    told = ask.kwargs.get("usage", ask.args[-1])
    return told if isinstance(told, UsageRecord) else None
