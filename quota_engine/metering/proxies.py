"""
A provider's stream, metered: it behaves as itself, and is settled when it ends.

A tap counts what passes. The SDKs' streams keep their source in ``_iterator``, and read it from
several doors (iteration, ``text_stream``, ``get_final_message``), so there the tap is put before
the source itself; before any other stream it stands in the proxy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from quota_engine.metering.driving import (
    run,
    run_async,
    settle_async,
    settle_later,
    settle_now,
)
from quota_engine.metering.streams import StreamMeter


class _Tap:
    """What both flavours share: a stream that nobody reads any more is settled, too."""

    def __init__(self, source: Any, stream: StreamMeter, meter: Any) -> None:
        self._source = source
        self._stream = stream
        self._meter = meter
        self._call = stream.call

    def abandon(self) -> None:
        """Settle the call from a finalizer: in the background."""
        if not self._call.is_settled:
            settle_later(self._call, self._stream.end(GeneratorExit()), self._meter.engine)

    def __del__(self) -> None:
        if "_call" in self.__dict__:
            self.abandon()


class Tap(_Tap):
    """A sync source whose chunks are counted."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._stream.is_cut:
            raise StopIteration
        try:
            with self._meter.inside(self._call):
                chunk = next(self._source)
        except StopIteration:
            self.end(None)
            raise
        except BaseException as error:
            self.end(error)
            raise
        if self._stream.feed(chunk):
            run(self._stream.grow(), self._meter.engine)
            if self._stream.is_cut:
                self.close()
        return chunk

    def close(self) -> None:
        """Break the source off."""
        self.end(None if self._stream.is_cut else GeneratorExit())
        if hasattr(self._source, "close"):
            self._source.close()

    def end(self, error: BaseException | None) -> None:
        """Settle the call once."""
        if not self._call.is_settled:
            settle_now(self._call, self._stream.end(error), self._meter.engine)


class AsyncTap(_Tap):
    """An async source whose chunks are counted."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._stream.is_cut:
            raise StopAsyncIteration
        try:
            with self._meter.inside(self._call):
                chunk = await anext(self._source)
        except StopAsyncIteration:
            await self.end(None)
            raise
        except BaseException as error:
            await self.end(error)
            raise
        if self._stream.feed(chunk):
            await run_async(self._stream.grow(), self._meter.engine)
            if self._stream.is_cut:
                await self.aclose()
        return chunk

    async def aclose(self) -> None:
        """Break the source off."""
        await self.end(None if self._stream.is_cut else GeneratorExit())
        if hasattr(self._source, "aclose"):
            await self._source.aclose()

    async def end(self, error: BaseException | None) -> None:
        """Settle the call once."""
        if not self._call.is_settled:
            await settle_async(self._call, self._stream.end(error), self._meter.engine)


class _Proxy:
    """What both flavours share: everything unknown is the stream's own, its class too."""

    _OWN = frozenset({"_stream", "_tap", "_is_inside", "_is_shared"})

    def __init__(self, stream: Any, tap: type[Any], meter: StreamMeter, of: Any) -> None:
        self._stream = stream
        self._is_shared = False
        holder = stream
        while hasattr(holder, "_raw_stream"):
            holder = holder._raw_stream
        # ``_cast_to`` tells the streams of the SDKs that one generator writes for many providers.
        source = getattr(holder, "_iterator", None) if hasattr(holder, "_cast_to") else None
        self._is_inside = isinstance(source, Iterator | AsyncIterator)
        if not self._is_inside:
            source = iter(stream) if tap is Tap else aiter(stream)
        self._tap = tap(source, meter, of)
        if self._is_inside:
            holder._iterator = self._tap

    def __getattr__(self, name: str) -> Any:
        if name in self._OWN:  # an unfinished proxy has no stream to ask
            raise AttributeError(name)
        self._is_shared = True  # a part of the stream may be read when the proxy is gone
        return getattr(self._stream, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._stream)

    def __del__(self) -> None:
        if "_tap" in self.__dict__ and not self._is_shared:
            self._tap.abandon()


class MeteredStream(_Proxy):
    """A sync stream. Close it, or leave its ``with`` block, to settle a part of it."""

    def __init__(self, stream: Any, meter: StreamMeter, of: Any) -> None:
        super().__init__(stream, Tap, meter, of)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._stream if self._is_inside else self._tap)

    def __enter__(self) -> MeteredStream:
        if hasattr(self._stream, "__enter__"):
            self._stream.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        self._tap.end(error or GeneratorExit())
        if hasattr(self._stream, "__exit__"):
            return self._stream.__exit__(kind, error, trace)
        return None

    def close(self) -> None:
        """Break the stream off: what came through is charged."""
        self._tap.end(GeneratorExit())
        if hasattr(self._stream, "close"):
            self._stream.close()


class AsyncMeteredStream(_Proxy):
    """An async stream. Close it, or leave its ``async with`` block, to settle a part of it."""

    def __init__(self, stream: Any, meter: StreamMeter, of: Any) -> None:
        super().__init__(stream, AsyncTap, meter, of)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._stream if self._is_inside else self._tap)

    async def __aenter__(self) -> AsyncMeteredStream:
        if hasattr(self._stream, "__aenter__"):
            await self._stream.__aenter__()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        await self._tap.end(error or GeneratorExit())
        if hasattr(self._stream, "__aexit__"):
            return await self._stream.__aexit__(kind, error, trace)
        return None

    async def close(self) -> None:
        """Break the stream off: what came through is charged."""
        await self._tap.end(GeneratorExit())
        for name in ("close", "aclose"):
            close = getattr(self._stream, name, None)
            if close is not None:
                await close()
                return

    aclose = close


class _Manager:
    """What makes its stream when it is entered."""

    def __init__(self, manager: Any, stream: StreamMeter, meter: Any) -> None:
        self._manager = manager
        self._stream = stream
        self._meter = meter
        self._entered: Any = None

    def __getattr__(self, name: str) -> Any:
        if name in ("_manager", "_entered"):
            raise AttributeError(name)
        return getattr(self._manager, name)


class MeteredManager(_Manager):
    """A sync SDK's manager of a stream."""

    def __enter__(self) -> MeteredStream:
        call = self._stream.call
        try:
            stream = self._manager.__enter__()
        except BaseException as error:
            settle_now(call, call.fail(error), self._meter.engine)
            raise
        entered = self._entered = MeteredStream(stream, self._stream, self._meter)
        return entered

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        if self._entered is not None:
            self._entered._tap.end(error or GeneratorExit())
        return self._manager.__exit__(kind, error, trace)


class AsyncMeteredManager(_Manager):
    """An async SDK's manager of a stream."""

    async def __aenter__(self) -> AsyncMeteredStream:
        call = self._stream.call
        try:
            stream = await self._manager.__aenter__()
        except BaseException as error:
            await settle_async(call, call.fail(error), self._meter.engine)
            raise
        entered = self._entered = AsyncMeteredStream(stream, self._stream, self._meter)
        return entered

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        if self._entered is not None:
            await self._entered._tap.end(error or GeneratorExit())
        return await self._manager.__aexit__(kind, error, trace)
