"""
Streams: what passes through is tallied, and the call is settled once, however the stream ends.

Read to its end: charged by the provider's count, else by what was seen. Broken off by either side:
what was seen is charged, flagged as estimated; nothing seen: released.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sized
from typing import Any

from quota_engine.extraction import Observed, Reported, StreamTally
from quota_engine.metering import record
from quota_engine.metering.call import Flow, Found, MeteredCall
from quota_engine.metering.record import describe, status_of
from quota_engine.usage import Usage

log = logging.getLogger("quota_engine.metering")


class StreamMeter:
    """The tally of one stream, and the settlement that follows from it."""

    def __init__(self, call: MeteredCall) -> None:
        self.call = call
        self.tally = StreamTally(
            provider=call.provider,
            tokenizer=call.plan.tokenizer,
            on_first_output=call.note_first_token,
        )
        #: Whether the stream is to end here: its hold could not grow.
        self.is_cut = False
        self._may_grow = True
        self._last: Any = None

    def feed(self, chunk: Any) -> bool:
        """Count a chunk; return whether the hold should grow before the next one."""
        self._last = chunk
        try:
            self.tally.feed(chunk)
        except Exception:  # a caller's tokenizer may raise anything; the stream goes on
            log.exception("a chunk of %s could not be counted", self.call.account)
        return self._may_grow and self.call.outgrown(self.tally.output_tokens)

    def grow(self) -> Flow[None]:
        """Let the hold grow; when it can't, ``is_cut`` says whether the stream must end."""
        if not (yield from self.call.grow()):
            self._may_grow = False
            self.is_cut = self.call.plan.on_exhausted == "cut"

    def end(self, error: BaseException | None = None) -> Flow[None]:
        """Settle the call: the stream has ended, by itself or by ``error``."""
        if self.is_cut and error is None:
            error = GeneratorExit("cut: the quota is exhausted")
        found = self._found(error)
        told = self.tally.error
        if isinstance(error, GeneratorExit) and isinstance(found, Reported):
            error = None  # all of it had come when the consumer left
        if error is not None and (found is None or not self.tally.has_output):
            yield from self.call.fail(error)
        elif told is not None and not self.tally.has_output:
            yield from self.call.fail(RuntimeError(told))
        else:
            status = record.SUCCESS if error is None else status_of(error)
            if told is not None:
                status = record.FAILED
            text = told or (None if error is None else describe(error))
            yield from self.call.settle_found(found, status, text)

    def _found(self, error: BaseException | None) -> Found:
        estimated = self.call.estimated_usage.input_tokens
        found = self.tally.finding(input_tokens=estimated, is_complete=error is None)
        if error is None and self.call.plan.usage is not None and self._last is not None:
            return self.call.found_in(self._last) or found
        if error is None and self._last is None:
            return Observed(usage=Usage(input_tokens=estimated))  # asked, and answered nothing
        return found


def is_stream(response: Any) -> bool:
    """
    Whether a response's content is still to come: an iterator, or something to iterate once.

    Answers that happen to be iterable (models, lists, whole HTTP responses) are none.
    """
    if isinstance(response, Iterator):
        return True
    return hasattr(type(response), "__iter__") and _is_closable_source(response)


def is_async_stream(response: Any) -> bool:
    """Whether the same is true of async iteration."""
    if isinstance(response, AsyncIterator):
        return True
    return hasattr(type(response), "__aiter__") and _is_closable_source(response)


def _is_closable_source(response: Any) -> bool:
    known = isinstance(response, Mapping | Sized) or hasattr(response, "model_dump")
    return not known and hasattr(response, "close") and not hasattr(response, "status_code")


def is_stream_manager(response: Any) -> bool:
    """Whether a response makes its stream when it is entered, as the SDKs' managers do."""
    return type(response).__name__.endswith("StreamManager")
