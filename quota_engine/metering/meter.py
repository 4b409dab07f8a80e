"""A meter: one plan bound to an engine. It begins calls, and knows which are inside others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from quota_engine.errors import InvalidArgumentError
from quota_engine.metering.call import MeteredCall
from quota_engine.metering.driving import is_async_engine, run, run_async, settle_async, to_its_end
from quota_engine.metering.plan import Arguments, Plan
from quota_engine.metering.renewal import renew
from quota_engine.metering.spans import begun_span, current_span

#: The metered calls that the present code runs inside of.
_INSIDE: ContextVar[tuple[MeteredCall, ...]] = ContextVar("quota_engine_inside", default=())

ASYNC_ONLY = (
    "an AsyncQuotaEngine meters async functions and async generators only: write `async def`,"
    " or use a QuotaEngine"
)


class Meter:
    """One plan bound to an engine, which may be found only when the first call is made."""

    def __init__(self, find_engine: Callable[[], Any], plan: Plan) -> None:
        self._find_engine = find_engine
        self.plan = plan

    @property
    def engine(self) -> Any:
        """The engine that calls are metered with."""
        return self._find_engine()

    def call(self, arguments: Arguments) -> MeteredCall | None:
        """Return the call to be metered, or None inside another one that is billed for it."""
        call = MeteredCall(self.plan, arguments)
        return None if not self.plan.nested and is_paid_for(call) else call

    def begin(self, call: MeteredCall) -> None:
        """Hold quota for a call, and keep the hold alive."""
        engine = self.engine
        if is_async_engine(engine):
            raise InvalidArgumentError(ASYNC_ONLY)
        with begun_span(call, engine):
            run(call.begin(), engine)
        self._keep_alive(call, engine)

    async def begin_async(self, call: MeteredCall) -> None:
        """Hold quota for a call, and keep the hold alive. Cancelled: the hold is released."""
        engine = self.engine
        try:
            with begun_span(call, engine):
                await to_its_end(run_async(call.begin(), engine))
        except asyncio.CancelledError as error:
            if call.hold is not None:
                await settle_async(call, call.fail(error), engine)
            raise
        self._keep_alive(call, engine)

    def _keep_alive(self, call: MeteredCall, engine: Any) -> None:
        if call.hold is not None:
            renew(call, engine.for_renewals(), self.plan.ttl or engine.hold_ttl_seconds)

    @contextmanager
    def inside(self, call: MeteredCall) -> Iterator[None]:
        """Mark the running code as paid for by ``call``."""
        token = _INSIDE.set((*_INSIDE.get(), call))
        try:
            with current_span(call):
                yield
        finally:
            with suppress(ValueError):  # a coroutine that is thrown away ends in another context
                _INSIDE.reset(token)


def is_paid_for(call: MeteredCall) -> bool:
    """Whether the present code runs inside a call that takes all this one would, not over yet."""
    return any(
        not outer.is_settled
        and outer.account == call.account
        and set(outer.plan.quota_types) >= set(call.plan.quota_types)
        for outer in _INSIDE.get()
    )
