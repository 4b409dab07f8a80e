"""
The decorator: quota is held before a function runs and settled after it, whatever its kind.

Sync and async functions, generators and async generators; functions that return a provider's
stream are settled when that stream ends. Signature, result and exceptions stay the function's own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from quota_engine.errors import InvalidArgumentError
from quota_engine.metering.call import MeteredCall
from quota_engine.metering.driving import run, run_async, settle_async, settle_now
from quota_engine.metering.plan import Arguments, Plan
from quota_engine.metering.proxies import AsyncMeteredStream, MeteredStream
from quota_engine.metering.renewal import RENEWALS
from quota_engine.metering.streams import StreamMeter, is_async_stream, is_stream

F = TypeVar("F", bound=Callable[..., Any])

#: Quotas of the metered calls that the present code runs inside of.
_INSIDE: ContextVar[frozenset[tuple[str, str]]] = ContextVar(
    "quota_engine_inside", default=frozenset()
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
        return None if not self.plan.nested and self._mark(call) in _INSIDE.get() else call

    def begin(self, call: MeteredCall) -> None:
        """Hold quota for a call, and keep the hold alive."""
        run(call.begin(), self.engine)
        self._renew(call)

    async def begin_async(self, call: MeteredCall) -> None:
        """Hold quota for a call, and keep the hold alive."""
        await run_async(call.begin(), self.engine)
        self._renew(call)

    def _renew(self, call: MeteredCall) -> None:
        if call.hold is not None:
            engine = self.engine
            ttl = self.plan.ttl or engine.hold_ttl_seconds
            RENEWALS.add(call, engine.for_renewals(), ttl)

    @contextmanager
    def inside(self, call: MeteredCall) -> Iterator[None]:
        """Mark the running code as paid for by ``call``."""
        token = _INSIDE.set(_INSIDE.get() | {self._mark(call)})
        try:
            yield
        finally:
            _INSIDE.reset(token)

    def _mark(self, call: MeteredCall) -> tuple[str, str]:
        return call.account, self.plan.quota_type


def metered(function: F, meter: Meter) -> F:
    """Return ``function`` with its calls metered."""
    signature = inspect.signature(function)
    if inspect.isasyncgenfunction(function):
        wrapper = _async_generator(function, meter, signature)
    elif inspect.isgeneratorfunction(function):
        wrapper = _generator(function, meter, signature)
    elif inspect.iscoroutinefunction(function):
        wrapper = _coroutine(function, meter, signature)
    elif callable(function):
        wrapper = _plain(function, meter, signature)
    else:
        raise InvalidArgumentError(f"requires_quota decorates functions, not {function!r:.80}")
    return cast(F, functools.wraps(function)(wrapper))


def _plain(function: Callable[..., Any], meter: Meter, signature: inspect.Signature) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = meter.call(Arguments.bind(signature, args, kwargs))
        if call is None:
            return function(*args, **kwargs)
        meter.begin(call)
        try:
            with meter.inside(call):
                response = function(*args, **kwargs)
        except BaseException as error:
            settle_now(call, call.fail(error), meter.engine)
            raise
        if is_stream(response):
            return MeteredStream(response, StreamMeter(call), meter)
        settle_now(call, call.finish(response), meter.engine)
        return response

    return wrapper


def _coroutine(function: Callable[..., Any], meter: Meter, signature: inspect.Signature) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = meter.call(Arguments.bind(signature, args, kwargs))
        if call is None:
            return await function(*args, **kwargs)
        await meter.begin_async(call)
        try:
            with meter.inside(call):
                response = await function(*args, **kwargs)
        except BaseException as error:
            await settle_async(call, call.fail(error), meter.engine)
            raise
        if is_async_stream(response):
            return AsyncMeteredStream(response, StreamMeter(call), meter)
        await settle_async(call, call.finish(response), meter.engine)
        return response

    return wrapper


def _generator(function: Callable[..., Any], meter: Meter, signature: inspect.Signature) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = meter.call(Arguments.bind(signature, args, kwargs))
        if call is None:
            return (yield from function(*args, **kwargs))
        meter.begin(call)
        stream = StreamMeter(call)
        generator = function(*args, **kwargs)
        failure: BaseException | None = None
        step, sent = generator.send, None
        try:
            while True:
                try:
                    with meter.inside(call):
                        chunk = step(sent)
                except StopIteration as stop:
                    return stop.value
                if stream.feed(chunk) and not run(stream.grow(), meter.engine):
                    generator.close()
                    return None
                try:
                    sent = yield chunk
                    step = generator.send
                except GeneratorExit:
                    generator.close()
                    raise
                except BaseException as thrown:
                    sent, step = thrown, generator.throw
        except BaseException as error:
            failure = error
            raise
        finally:
            settle_now(call, stream.end(failure), meter.engine)

    return wrapper


def _async_generator(
    function: Callable[..., Any], meter: Meter, signature: inspect.Signature
) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = meter.call(Arguments.bind(signature, args, kwargs))
        if call is None:
            async for chunk in cast(AsyncIterator[Any], function(*args, **kwargs)):
                yield chunk
            return
        await meter.begin_async(call)
        stream = StreamMeter(call)
        generator = function(*args, **kwargs)
        failure: BaseException | None = None
        step, sent = generator.asend, None
        try:
            while True:
                try:
                    with meter.inside(call):
                        chunk = await step(sent)
                except StopAsyncIteration:
                    return
                if stream.feed(chunk) and not await run_async(stream.grow(), meter.engine):
                    await generator.aclose()
                    return
                try:
                    sent = yield chunk
                    step = generator.asend
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as thrown:
                    sent, step = thrown, generator.athrow
        except BaseException as error:
            failure = error
            raise
        finally:
            await settle_async(call, stream.end(failure), meter.engine)

    return wrapper
