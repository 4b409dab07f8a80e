"""A provider's stream, metered: it behaves as itself, and is settled when it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from quota_engine.metering.driving import run, run_async, settle_async, settle_now
from quota_engine.metering.streams import StreamMeter


class _Proxy:
    """What both flavours share: everything unknown is the stream's own."""

    def __init__(self, stream: Any, tally: StreamMeter, meter: Any) -> None:
        self._stream = stream
        self._tally = tally
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class MeteredStream(_Proxy):
    """A sync stream. Close it, or leave its ``with`` block, to settle a part of it."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        engine = self._meter.engine
        try:
            chunk = next(self._stream)
        except StopIteration:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise
        if self._tally.feed(chunk) and not run(self._tally.grow(), engine):
            self.close()
        return chunk

    def __enter__(self) -> MeteredStream:
        if hasattr(self._stream, "__enter__"):
            self._stream.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        self._end(error or GeneratorExit())
        if hasattr(self._stream, "__exit__"):
            return self._stream.__exit__(kind, error, trace)
        return None

    def close(self) -> None:
        """Break the stream off: what came through is charged."""
        self._end(GeneratorExit())
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()

    def __del__(self) -> None:
        if "_tally" in self.__dict__ and not self._tally.call.is_settled:
            self._end(GeneratorExit())

    def _end(self, error: BaseException | None) -> None:
        call = self._tally.call
        if not call.is_settled:
            settle_now(call, self._tally.end(error), self._meter.engine)


class AsyncMeteredStream(_Proxy):
    """An async stream. Close it, or leave its ``async with`` block, to settle a part of it."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        engine = self._meter.engine
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            await self._end(None)
            raise
        except BaseException as error:
            await self._end(error)
            raise
        if self._tally.feed(chunk) and not await run_async(self._tally.grow(), engine):
            await self.close()
        return chunk

    async def __aenter__(self) -> AsyncMeteredStream:
        if hasattr(self._stream, "__aenter__"):
            await self._stream.__aenter__()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        await self._end(error or GeneratorExit())
        if hasattr(self._stream, "__aexit__"):
            return await self._stream.__aexit__(kind, error, trace)
        return None

    async def close(self) -> None:
        """Break the stream off: what came through is charged."""
        await self._end(GeneratorExit())
        for name in ("close", "aclose"):
            close = getattr(self._stream, name, None)
            if close is not None:
                await close()
                return

    aclose = close

    async def _end(self, error: BaseException | None) -> None:
        call = self._tally.call
        if not call.is_settled:
            await settle_async(call, self._tally.end(error), self._meter.engine)
