"""A metered block: for code that can't be decorated."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

from quota_engine.errors import InvalidArgumentError
from quota_engine.extraction import Reported
from quota_engine.metering.call import Flow, MeteredCall
from quota_engine.metering.driving import settle_async, settle_now
from quota_engine.metering.meter import Meter, is_paid_for
from quota_engine.metering.proxies import AsyncMeteredStream, MeteredStream
from quota_engine.metering.streams import StreamMeter
from quota_engine.usage import Usage


class _Block:
    """What both flavours share: the response, the usage, or the stream that the block was for."""

    def __init__(self, meter: Meter, call: MeteredCall) -> None:
        self._meter = meter
        self._call = call
        self._is_paid_for = False
        self._is_entered = False
        self._response: Any = None
        self._usage: Usage | None = None
        self._stream: StreamMeter | None = None
        self._inside = ExitStack()

    def respond(self, response: Any) -> Any:
        """Say what the model answered; its usage is extracted from it."""
        self._response = response
        return response

    def use(self, usage: Usage) -> None:
        """Say what was used, instead of a response."""
        if not isinstance(usage, Usage):
            raise InvalidArgumentError(f"usage must be a Usage, not {type(usage).__name__}")
        self._usage = usage

    def _enter(self) -> bool:
        """Return whether a hold is needed: not inside another call that is billed for this."""
        if self._is_entered:
            raise InvalidArgumentError("a metered block is one call: enter it once")
        self._is_entered = True
        self._is_paid_for = not self._call.plan.nested and is_paid_for(self._call)
        return not self._is_paid_for

    def _streamed(self) -> StreamMeter:
        if self._stream is not None:
            raise InvalidArgumentError("a metered block is one call: it has one stream")
        self._stream = StreamMeter(self._call)
        return self._stream

    def _settlement(self, error: BaseException | None) -> Flow[None] | None:
        self._inside.close()
        if self._is_paid_for or (error is None and self._stream is not None):
            return None
        if error is not None:
            stream = self._stream
            return self._call.fail(error) if stream is None else stream.end(error)
        if self._usage is not None:
            return self._call.settle_found(Reported(usage=self._usage), "success")
        if self._response is None:
            return self._call.settle_found(None, "success")
        return self._call.finish(self._response)


class MeteredBlock(_Block):
    """``with engine.meter(…) as call:`` holds at its start and settles at its end."""

    def __enter__(self) -> MeteredBlock:
        if self._enter():
            self._meter.begin(self._call)
            self._inside.enter_context(self._meter.inside(self._call))
        return self

    def stream(self, stream: Any) -> Any:
        """Return a stream that settles the call when it ends, instead of the block."""
        if self._is_paid_for:
            return stream
        return MeteredStream(stream, self._streamed(), self._meter)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        flow = self._settlement(error)
        if flow is not None and not self._call.is_settled:
            settle_now(self._call, flow, self._meter.engine)


class AsyncMeteredBlock(_Block):
    """``async with engine.meter(…) as call:`` holds at its start and settles at its end."""

    async def __aenter__(self) -> AsyncMeteredBlock:
        if self._enter():
            await self._meter.begin_async(self._call)
            self._inside.enter_context(self._meter.inside(self._call))
        return self

    def stream(self, stream: Any) -> Any:
        """Return a stream that settles the call when it ends, instead of the block."""
        if self._is_paid_for:
            return stream
        return AsyncMeteredStream(stream, self._streamed(), self._meter)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        flow = self._settlement(error)
        if flow is not None and not self._call.is_settled:
            await settle_async(self._call, flow, self._meter.engine)
