"""
Streams: what passes through is tallied, and the call is settled once, however the stream ends.

Read to its end: charged by the provider's count, else by what was seen. Broken off by either side:
what was seen is charged, flagged as estimated; nothing seen: released.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from quota_engine.extraction import StreamTally
from quota_engine.metering import record
from quota_engine.metering.call import Flow, MeteredCall, describe, status_of


class StreamMeter:
    """The tally of one stream, and the settlement that follows from it."""

    def __init__(self, call: MeteredCall) -> None:
        self.call = call
        self.tally = StreamTally(
            provider=call.provider,
            tokenizer=call.plan.tokenizer,
            on_first_output=call.note_first_token,
        )
        self._may_grow = True

    def feed(self, chunk: Any) -> bool:
        """Count a chunk; return whether the hold should grow before the next one."""
        self.tally.feed(chunk)
        return self._may_grow and self.call.outgrown(self.tally.output_tokens)

    def grow(self) -> Flow[bool]:
        """Let the hold grow; return False when the stream must be cut."""
        if (yield from self.call.grow()):
            return True
        self._may_grow = False
        return self.call.plan.on_exhausted != "cut"

    def end(self, error: BaseException | None = None) -> Flow[None]:
        """Settle the call: the stream has ended, by itself or by ``error``."""
        found = self.tally.finding(
            input_tokens=self.call.estimated_usage.input_tokens, is_complete=error is None
        )
        told = self.tally.error
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


def is_stream(response: Any) -> bool:
    """Whether a response is an iterator whose content is still to come."""
    return isinstance(response, Iterator)


def is_async_stream(response: Any) -> bool:
    """Whether a response is an async iterator whose content is still to come."""
    return isinstance(response, AsyncIterator)
