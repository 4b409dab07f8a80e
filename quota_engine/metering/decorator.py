"""
The decorator: quota is held before a function runs and settled after it, whatever its kind.

Sync and async functions, generators and async generators; functions that return a provider's
stream are settled when that stream ends. Signature, result and exceptions stay the function's own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, TypeVar, cast

from quota_engine.errors import InvalidArgumentError
from quota_engine.metering.call import MeteredCall
from quota_engine.metering.driving import run, run_async, settle_async, settle_now
from quota_engine.metering.meter import ASYNC_ONLY, Meter
from quota_engine.metering.plan import Arguments
from quota_engine.metering.proxies import (
    AsyncMeteredManager,
    AsyncMeteredStream,
    MeteredManager,
    MeteredStream,
)
from quota_engine.metering.streams import (
    StreamMeter,
    is_async_stream,
    is_stream,
    is_stream_manager,
)

F = TypeVar("F", bound=Callable[..., Any])
Bind = Callable[[tuple[Any, ...], dict[str, Any]], Arguments]


def metered(function: F, meter: Meter, *, async_only: bool = False) -> F:
    """Return ``function`` with its calls metered; a static or class method stays one."""
    if isinstance(function, staticmethod | classmethod):
        inner = metered(function.__func__, meter, async_only=async_only)
        return cast(F, type(function)(inner))
    if not callable(function) or inspect.isclass(function):
        raise InvalidArgumentError(f"requires_quota decorates functions, not {function!r:.80}")
    signature = inspect.signature(function)
    name = getattr(function, "__qualname__", type(function).__qualname__)

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        return Arguments.bind(name, signature, args, kwargs)

    wrapper = _wrapper_for(_code_of(function))
    if async_only and wrapper in (_plain, _generator):
        raise InvalidArgumentError(f"{name}: {ASYNC_ONLY}")
    return cast(F, functools.wraps(function)(wrapper(function, meter, bind)))


def _code_of(function: Any) -> Any:
    """Return what tells a callable's kind: of an object that is called, its method."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _wrapper_for(code: Any) -> Callable[[Any, Meter, Bind], Any]:
    if inspect.isasyncgenfunction(code):
        return _async_generator
    if inspect.isgeneratorfunction(code):
        return _generator
    return _coroutine if inspect.iscoroutinefunction(code) else _plain


def _plain(function: Callable[..., Any], meter: Meter, bind: Bind) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = meter.call(bind(args, kwargs))
        if call is None:
            return function(*args, **kwargs)
        meter.begin(call)
        try:
            with meter.inside(call):
                response = function(*args, **kwargs)
        except BaseException as error:
            settle_now(call, call.fail(error), meter.engine)
            raise
        if inspect.isawaitable(response):
            return _awaited(response, call, meter)
        stream = _metered_stream(response, call, meter)
        if stream is not None:
            return stream
        settle_now(call, call.finish(response), meter.engine)
        return response

    return wrapper


def _coroutine(function: Callable[..., Any], meter: Meter, bind: Bind) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = meter.call(bind(args, kwargs))
        if call is None:
            return await function(*args, **kwargs)
        await meter.begin_async(call)
        return await _awaited(function(*args, **kwargs), call, meter)

    return wrapper


async def _awaited(work: Awaitable[Any], call: MeteredCall, meter: Meter) -> Any:
    try:
        with meter.inside(call):
            response = await work
    except BaseException as error:
        await settle_async(call, call.fail(error), meter.engine)
        raise
    stream = _metered_stream(response, call, meter)
    if stream is not None:
        return stream
    await settle_async(call, call.finish(response), meter.engine)
    return response


def _metered_stream(response: Any, call: MeteredCall, meter: Meter) -> Any:
    """Return a stream that settles the call when it ends; None for a whole response."""
    if is_stream_manager(response):
        kind = AsyncMeteredManager if hasattr(response, "__aenter__") else MeteredManager
        return kind(response, StreamMeter(call), meter)
    if is_async_stream(response):
        return AsyncMeteredStream(response, StreamMeter(call), meter)
    if is_stream(response):
        return MeteredStream(response, StreamMeter(call), meter)
    return None


def _generator(function: Callable[..., Any], meter: Meter, bind: Bind) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = meter.call(bind(args, kwargs))
        if call is None:
            return (yield from function(*args, **kwargs))
        meter.begin(call)
        stream = StreamMeter(call)
        failure: BaseException | None = None
        try:
            generator = function(*args, **kwargs)
            step, sent = generator.send, None
            while True:
                try:
                    with meter.inside(call):
                        chunk = step(sent)
                except StopIteration as stop:
                    return stop.value
                if stream.feed(chunk):
                    run(stream.grow(), meter.engine)
                try:
                    sent = yield chunk
                    step = generator.send
                except GeneratorExit:
                    generator.close()
                    raise
                except BaseException as thrown:
                    sent, step = thrown, generator.throw
                if stream.is_cut:
                    generator.close()
                    return None
        except BaseException as error:
            failure = error
            raise
        finally:
            settle_now(call, stream.end(failure), meter.engine)

    return wrapper


def _async_generator(function: Callable[..., Any], meter: Meter, bind: Bind) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = meter.call(bind(args, kwargs))
        stream = None if call is None else StreamMeter(call)
        if call is not None:
            await meter.begin_async(call)
        failure: BaseException | None = None
        try:
            generator = function(*args, **kwargs)
            step, sent = generator.asend, None
            while True:
                try:
                    chunk = await _step(step(sent), call, meter)
                except StopAsyncIteration:
                    return
                if stream is not None and stream.feed(chunk):
                    await run_async(stream.grow(), meter.engine)
                try:
                    sent = yield chunk
                    step = generator.asend
                except GeneratorExit:
                    await generator.aclose()
                    raise
                except BaseException as thrown:
                    sent, step = thrown, generator.athrow
                if stream is not None and stream.is_cut:
                    await generator.aclose()
                    return
        except BaseException as error:
            failure = error
            raise
        finally:
            if call is not None and stream is not None:
                await settle_async(call, stream.end(failure), meter.engine)

    return wrapper


async def _step(step: Awaitable[Any], call: MeteredCall | None, meter: Meter) -> Any:
    if call is None:
        return await step
    with meter.inside(call):
        return await step
