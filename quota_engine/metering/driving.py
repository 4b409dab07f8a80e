"""Run a call's flows against an engine, from sync code or from async code."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from quota_engine.errors import QuotaError
from quota_engine.metering.call import Ask, Flow, MeteredCall
from quota_engine.metering.renewal import RENEWALS

log = logging.getLogger("quota_engine.metering")
T = TypeVar("T")


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
    try:
        ask = next(flow)
        while True:
            try:
                answer = await _answer(engine, ask)
            except Exception as error:
                ask = flow.throw(error)
            else:
                ask = flow.send(answer)
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome


def settle_now(call: MeteredCall, flow: Flow[None], engine: Any) -> None:
    """
    Settle a call whose hold is renewed no longer.

    The model has answered: an engine that cannot be reached must not take the answer away, so
    that is logged, with what was not charged, and the hold expires.
    """
    _stop_renewing(call)
    try:
        run(flow, engine)
    except QuotaError as error:
        _lament(call, error)


async def settle_async(call: MeteredCall, flow: Flow[None], engine: Any) -> None:
    """Do the same in async code; a cancellation of the caller does not cut it short."""
    _stop_renewing(call)
    try:
        await asyncio.shield(asyncio.ensure_future(run_async(flow, engine)))
    except QuotaError as error:
        _lament(call, error)


def _stop_renewing(call: MeteredCall) -> None:
    if call.hold is not None:
        RENEWALS.remove(call.hold.hold_id)


def _lament(call: MeteredCall, error: QuotaError) -> None:
    log.error("a call of %s (hold %s) was not settled: %s", call.account, call.hold, error)


async def _answer(engine: Any, ask: Ask) -> Any:
    method = _method(engine, ask)
    if inspect.iscoroutinefunction(method):
        return await method(*ask.args, **ask.kwargs)
    return await asyncio.to_thread(method, *ask.args, **ask.kwargs)


def _method(engine: Any, ask: Ask) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(engine, ask.method)
    return method
