"""
Streams: a tally of what comes through, and what it amounts to in the end.

Providers count cumulatively: a later report of one answer replaces an earlier one, field by
field, the larger number winning. So a report that comes twice, or out of order, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from quota_engine.extraction.chunks import Chunk, read_chunk
from quota_engine.extraction.found import Anomaly, Observed, Origin, Reported
from quota_engine.extraction.reading import deep_fields, is_reported
from quota_engine.extraction.responses import (
    origin_of,
    request_id_of,
    understand,
    usage_root,
)
from quota_engine.extraction.sse import EventReader
from quota_engine.tokens import Tokenizer, count_tokens, token_weight, whole_tokens
from quota_engine.usage import Usage


class StreamTally:
    """
    Feed it every chunk of a stream, then ask for the finding.

    Chunks may be objects of an SDK, mappings, text, or server-sent events as text or bytes.
    ``on_first_output`` is called once, when the first output arrives. An answer that begins
    after another ended (a generator that calls a model twice) is added to it. Nothing in a
    chunk can make ``feed`` raise.
    """

    def __init__(
        self,
        *,
        provider: str | None = None,
        tokenizer: Tokenizer | None = None,
        on_first_output: Callable[[], None] | None = None,
    ) -> None:
        self.error: str | None = None
        self.is_done = False
        self.has_output = False
        self.origin = Origin(provider=provider)
        self._tokenizer = tokenizer
        self._on_first_output = on_first_output
        self._events = EventReader()
        self._ended: list[Usage] = []
        self._begin()

    def _begin(self) -> None:
        """Forget the answer that was tallied last; what it used stays in ``_ended``."""
        self._texts: list[str] = []
        self._length = 0
        self._weight = 0
        self._report: Any = None
        self._answer_id: str | None = None
        self._found: Reported | Anomaly | None = None
        self._is_final = False

    def feed(self, chunk: Any) -> None:
        """Take one chunk of the stream."""
        if isinstance(chunk, str | bytes | bytearray):
            for each in self._events.feed(chunk):
                self._take(each)
        else:
            self._take(chunk)

    @property
    def output_tokens(self) -> int:
        """Return the output seen so far: the provider's count or the text's, the larger."""
        reported = self._found.usage.output_tokens if isinstance(self._found, Reported) else 0
        ended = sum(usage.output_tokens for usage in self._ended)
        return ended + max(reported, whole_tokens(self._weight))

    @property
    def is_reported(self) -> bool:
        """Whether the provider has counted the answer to its end."""
        return self._is_final and isinstance(self._found, Reported)

    def finding(
        self, *, input_tokens: int = 0, is_complete: bool = True
    ) -> Reported | Observed | Anomaly | None:
        """
        Return what the stream used; None when nothing came through.

        ``input_tokens`` is the caller's estimate of the input, used when the provider did not
        count it. ``is_complete`` says that the stream was read to its end: if it broke off
        before the provider said so itself, its last report is not the final one.
        """
        for each in self._events.finish():
            self._take(each)
        if isinstance(self._found, Anomaly):
            return replace(self._found, origin=self.origin)
        if self.is_reported and (is_complete or self.is_done) and self._found is not None:
            return Reported(usage=_sum([*self._ended, self._found.usage]), origin=self.origin)
        observed = self._observed(input_tokens)
        if observed is None and not self._ended:
            return None
        usages = [*self._ended] if observed is None else [*self._ended, observed]
        return Observed(usage=_sum(usages), origin=self.origin)

    def _take(self, chunk: Any) -> None:
        read = read_chunk(chunk)
        root = None if isinstance(chunk, str | bytes | bytearray) else usage_root(chunk)
        has_text = bool(read.text or read.whole)
        if (read.is_start or has_text) and self._is_next_answer(chunk):
            self._end_answer()
        if self._answer_id is None:
            self._answer_id = request_id_of(chunk)
        self.error = self.error or read.error
        if has_text or read.has_data:
            self._take_output(read)
        if root is not None or self.origin.model is None or self.origin.request_id is None:
            self._take_origin(chunk)
        if root is not None:
            self._take_report(chunk, root, is_final=not read.is_start)
        self.is_done = self.is_done or read.is_done

    def _is_next_answer(self, chunk: Any) -> bool:
        """Whether a chunk is of another answer: once one is counted and ended, by another id."""
        if not (self.is_done and self.is_reported and self._answer_id):
            return False
        return request_id_of(chunk) not in (None, self._answer_id)

    def _end_answer(self) -> None:
        if isinstance(self._found, Reported):
            self._ended.append(self._found.usage)
        self._begin()
        self.is_done = False

    def _take_output(self, read: Chunk) -> None:
        text = read.text
        if read.whole is not None:
            text = read.whole
            if len(text) >= self._length and text.startswith("".join(self._texts)):
                text = text[self._length :]
        if text:
            self._texts.append(text)
            self._length += len(text)
            tokens = self._tokenizer and 100 * count_tokens(text, self._tokenizer)
            self._weight += token_weight(text) if tokens is None else tokens
        self._is_final = False
        if not self.has_output:
            self.has_output = True
            if self._on_first_output is not None:
                self._on_first_output()

    def _take_report(self, chunk: Any, root: Any, *, is_final: bool) -> None:
        """Merge a report with those before; nonsense, once reported, is not taken back."""
        if isinstance(self._found, Anomaly):
            return
        found = understand(chunk, root, self.origin)
        if isinstance(found, Reported):
            seen = found.usage
            self._report = merged_reports(self._report, deep_fields(root))
            found = understand({}, self._report, self.origin)
            if isinstance(found, Reported) and seen.images and not found.usage.images:
                whole = replace(found.usage, images=seen.images, resolution=seen.resolution)
                found = replace(found, usage=whole)
        if found is not None:
            self._found = found
            self._is_final = is_final

    def _take_origin(self, chunk: Any) -> None:
        found = origin_of(chunk, self.origin.provider)
        if found != self.origin:
            known = {
                field.name: getattr(self.origin, field.name) or getattr(found, field.name)
                for field in fields(Origin)
            }
            self.origin = Origin(**known)

    def _observed(self, input_tokens: int) -> Usage | None:
        """Return the usage of an answer that nobody counted to its end."""
        reported = self._found.usage if isinstance(self._found, Reported) else None
        if reported is None and not self._texts:
            return None
        text = "".join(self._texts)
        written = count_tokens(text, self._tokenizer) if text else 0
        if reported is None:
            return Usage(input_tokens=input_tokens, output_tokens=written)
        return replace(
            reported,
            input_tokens=reported.input_tokens or input_tokens,
            output_tokens=max(reported.output_tokens, written),
        )


def merged_reports(one: Any, other: Any) -> Any:
    """
    Return two cumulative reports of one answer as one: field by field the larger number.

    The order of numbers does not matter, nor how often a report comes.
    """
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {name: merged_reports(one.get(name), other.get(name)) for name in {**one, **other}}
    if other is None or one is None:
        return one if other is None else other
    if _is_number(one) and _is_number(other):
        return max(one, other)
    return other


def _is_number(value: Any) -> bool:
    return is_reported(value) and not isinstance(value, str | bool)


def _sum(usages: list[Usage]) -> Usage:
    """Return the usage of several answers together; their resolution is the last one's."""
    if len(usages) == 1:
        return usages[0]
    total: dict[str, Any] = {}
    for usage in usages:
        for field in fields(Usage):
            value = getattr(usage, field.name)
            is_count = field.name != "resolution"
            total[field.name] = total.get(field.name, 0) + value if is_count else value
    return Usage(**total)
