"""A metered block: for code that can't be decorated."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from quota_engine.extraction import Observed, Reported
from quota_engine.metering.call import MeteredCall
from quota_engine.metering.decorator import Meter
from quota_engine.metering.driving import settle_async, settle_now
from quota_engine.metering.proxies import AsyncMeteredStream, MeteredStream
from quota_engine.metering.streams import StreamMeter
from quota_engine.usage import Usage


class _Block:
    """What both flavours share: the response, the usage, or the stream that the block was for."""

    def __init__(self, meter: Meter, call: MeteredCall) -> None:
        self._meter = meter
        self._call = call
        self._response: Any = None
        self._usage: Usage | None = None
        self._is_streaming = False

    def respond(self, response: Any) -> Any:
        """Say what the model answered; its usage is extracted from it."""
        self._response = response
        return response

    def use(self, usage: Usage) -> None:
        """Say what was used, instead of a response."""
        self._usage = usage

    def _finish(self) -> Any:
        if self._usage is not None:
            return self._call.settle_found(Reported(usage=self._usage), "success")
        if self._response is None:
            return self._call.settle_found(
                Observed(usage=self._call.estimated_usage), "success", None
            )
        return self._call.finish(self._response)


class MeteredBlock(_Block):
    """``with engine.meter(…) as call:`` holds at its start and settles at its end."""

    def __enter__(self) -> MeteredBlock:
        self._meter.begin(self._call)
        return self

    def stream(self, stream: Any) -> MeteredStream:
        """Return a stream that settles the call when it ends, instead of the block."""
        self._is_streaming = True
        return MeteredStream(iter(stream), StreamMeter(self._call), self._meter)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._is_streaming:
            return
        flow = self._call.fail(error) if error is not None else self._finish()
        settle_now(self._call, flow, self._meter.engine)


class AsyncMeteredBlock(_Block):
    """``async with engine.meter(…) as call:`` holds at its start and settles at its end."""

    async def __aenter__(self) -> AsyncMeteredBlock:
        await self._meter.begin_async(self._call)
        return self

    def stream(self, stream: Any) -> AsyncMeteredStream:
        """Return a stream that settles the call when it ends, instead of the block."""
        self._is_streaming = True
        return AsyncMeteredStream(aiter(stream), StreamMeter(self._call), self._meter)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._is_streaming:
            return
        flow = self._call.fail(error) if error is not None else self._finish()
        await settle_async(self._call, flow, self._meter.engine)
