"""
Whatever a provider sends, reading it neither raises nor makes a negative count.

Goal: a finding is always sensible, and reports merge the same in every order. Method: Hypothesis.
"""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quota_engine.estimate import estimate
from quota_engine.extraction import Anomaly, Observed, Reported, StreamTally, extract
from quota_engine.extraction.streams import merged_reports
from quota_engine.tokens import count_tokens
from quota_engine.usage import Usage

#: Machines are shared: how long an example takes says nothing about the code.
PATIENTLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.sampled_from(
    [
        *("usage", "usageMetadata", "response", "message", "model", "id", "type", "choices"),
        *("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens"),
        *("prompt_tokens_details", "completion_tokens_details", "cached_tokens", "data"),
        *("reasoning_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
        *("cache_creation", "ephemeral_1h_input_tokens", "promptTokenCount", "delta", "content"),
        *("thoughtsTokenCount", "seconds", "duration", "image_count", "text", "output", "error"),
        *("candidates", "parts", "finish_reason", "video_duration", "SR", "characters", "url"),
        *("messages", "max_tokens", "n", "tools", "role", "input", "thinking", "budget_tokens"),
    ]
)
NUMBERS = st.one_of(
    st.integers(-3, 2000), st.sampled_from([2**53, 2**53 - 1, -(2**60), 1e300]), st.floats()
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.sampled_from(["message_start", "message_stop", "response.completed", "error", "x.delta"]),
    st.text("ab1. 好\n", max_size=8),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(NAMES, inner, max_size=6), st.lists(inner, max_size=3)
    ),
    max_leaves=25,
)
REPORTS = st.dictionaries(
    st.sampled_from(["input_tokens", "output_tokens", "cache_read_input_tokens"]),
    st.integers(0, 10**6),
)


def is_sensible(found: Reported | Observed | Anomaly | None) -> bool:
    if isinstance(found, Reported | Observed):
        counts = [getattr(found.usage, each.name) for each in fields(Usage)]
        return all(count is None or isinstance(count, str) or count >= 0 for count in counts)
    return found is None or bool(found.reason)


@PATIENTLY
@given(st.dictionaries(NAMES, ANYTHING, max_size=6), st.sampled_from([None, "aws", "gemini"]))
def test_no_response_is_misread(response: dict[str, Any], provider: str | None) -> None:
    assert is_sensible(extract(response, provider))
    assert is_sensible(extract({"usage": response}, provider))


@PATIENTLY
@given(st.lists(ANYTHING, max_size=8), st.booleans())
def test_no_stream_is_misread(chunks: list[Any], is_complete: bool) -> None:
    tally = StreamTally()
    for chunk in chunks:
        tally.feed(chunk)
        assert tally.output_tokens >= 0
    assert is_sensible(tally.finding(input_tokens=3, is_complete=is_complete))


@PATIENTLY
@given(st.lists(st.one_of(st.text(max_size=30), st.binary(max_size=30)), max_size=8))
def test_no_text_on_the_wire_is_misread(pieces: list[str | bytes]) -> None:
    tally = StreamTally()
    for piece in [b"data: {}\n", *pieces]:
        tally.feed(piece)
    assert is_sensible(tally.finding())


@PATIENTLY
@given(st.lists(REPORTS, min_size=1, max_size=4))
def test_reports_merge_the_same_in_every_order(reports: list[dict[str, int]]) -> None:
    merged = []
    for order in itertools.permutations(reports):
        whole: Any = None
        for report in (*order, order[0]):  # and one that comes twice
            whole = merged_reports(whole, report)
        merged.append(whole)
    assert all(each == merged[0] for each in merged)


@PATIENTLY
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_anthropic_counts_are_added_exactly(
    fresh: int, read: int, written: int, output: int
) -> None:
    report = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": output,
    }
    found = extract({"type": "message", "usage": report})
    if fresh + read + written + output == 0:
        assert found is None
        return
    assert isinstance(found, Reported)
    assert found.usage == Usage(
        input_tokens=fresh + read + written,
        cached_input_tokens=read,
        cache_write_tokens=written,
        output_tokens=output,
    )


@PATIENTLY
@given(st.text(max_size=200))
def test_any_text_has_some_tokens(text: str) -> None:
    tokens = count_tokens(text)
    assert 0 <= tokens <= 3 * len(text) + 1


@PATIENTLY
@given(st.dictionaries(NAMES, ANYTHING, max_size=6))
def test_no_request_is_misread(request_: dict[str, Any]) -> None:
    request_.pop("max_tokens", None)
    request_.pop("n", None)
    request_.pop("thinking", None)
    assert estimate(request_).total_tokens >= 0
