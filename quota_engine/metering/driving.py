"""Run a call's flows against an engine, from sync code or from async code."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from quota_engine.background import BACKGROUND, Job
from quota_engine.errors import EngineUnavailableError
from quota_engine.metering.call import Ask, Flow, MeteredCall
from quota_engine.metering.renewal import stop_renewing
from quota_engine.metering.spans import ended_span
from quota_engine.metrics.model_calls import COUNTERS

log = logging.getLogger("quota_engine.metering")
T = TypeVar("T")

#: The engine spools what Redis does not take. Where not even that can be done, the settlement is
#: tried again so often, doubling, so many times: about an hour, while this process lives.
RETRY_SECONDS, RETRY_SECONDS_MAX, RETRIES_MAX = 1.0, 60.0, 60


def is_async_engine(engine: Any) -> bool:
    """Whether an engine's methods are awaited."""
    return inspect.iscoroutinefunction(engine.place_hold)


def run(flow: Flow[T], engine: Any) -> T:
    """Run a flow; the engine must be a sync one."""
    try:
        ask = next(flow)
        while True:
            try:
                answer = _method(engine, ask)(*ask.args, **ask.kwargs)
            except Exception as error:
                ask = flow.throw(error)
            else:
                ask = flow.send(answer)
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome


async def run_async(flow: Flow[T], engine: Any) -> T:
    """Run a flow; a sync engine is lent a thread."""
    if not is_async_engine(engine):
        return await asyncio.to_thread(run, flow, engine)
    try:
        ask = next(flow)
        while True:
            try:
                answer = await _method(engine, ask)(*ask.args, **ask.kwargs)
            except Exception as error:
                ask = flow.throw(error)
            else:
                ask = flow.send(answer)
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` to its end, even when the caller is cancelled; only then say so."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # seen: the caller is told of the cancellation instead
    raise cancelled


def settle_now(call: MeteredCall, flow: Flow[None], engine: Any) -> None:
    """
    Settle a call, whose hold is renewed no longer.

    The model has answered, and that answer is not taken away: nothing is raised. While Redis is
    away the engine spools the settlement; if it cannot, it is tried again in the background.
    """
    stop_renewing(call)
    with ended_span(call):
        try:
            run(flow, engine)
        except Exception as error:
            _put_off(call, error, engine)


async def settle_async(call: MeteredCall, flow: Flow[None], engine: Any) -> None:
    """Do the same in async code; a cancellation of the caller does not cut it short."""
    stop_renewing(call)

    async def settle() -> None:
        with ended_span(call):
            try:
                await run_async(flow, engine)
            except Exception as error:
                _put_off(call, error, engine)

    await to_its_end(settle())


def settle_later(call: MeteredCall, flow: Flow[None], engine: Any) -> None:
    """Settle a call that was forgotten, from a finalizer: in the background."""

    def job() -> None:
        settle_now(call, flow, engine.for_renewals())

    BACKGROUND.do(("settle", id(call)), job)


def _put_off(call: MeteredCall, error: Exception, engine: Any) -> None:
    """Say that a call is not settled; try again later where that can help."""
    COUNTERS.add("unsettled")
    what = f"a call of {call.account} (hold {call.hold and call.hold.hold_id})"
    if call.settlement is None or not isinstance(error, EngineUnavailableError):
        log.error("%s was not settled: %r", what, error, exc_info=error)
        return
    log.error("%s is not settled yet, and will be tried again: %s", what, error)
    job = _retry(what, call.settlement, engine.for_renewals())
    BACKGROUND.do(("retry", id(call.settlement)), job, after=RETRY_SECONDS)


def _retry(what: str, ask: Ask, engine: Any) -> Job:
    tries = 0

    def job() -> float | None:
        nonlocal tries
        tries += 1
        try:
            _method(engine, ask)(*ask.args, **ask.kwargs)
        except EngineUnavailableError as error:
            if tries >= RETRIES_MAX:
                log.error("%s was never settled, %s: %s", what, ask, error)
                return None
            return min(RETRY_SECONDS * 2.0 ** min(tries, 10), RETRY_SECONDS_MAX)
        COUNTERS.add("settled_late")
        log.warning("%s is settled now", what)
        return None

    return job


def _method(engine: Any, ask: Ask) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(engine, ask.method)
    return method
