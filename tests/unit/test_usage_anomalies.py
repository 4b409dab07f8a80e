"""
A report that cannot be is refused from a caller, and an anomaly from a provider.

Goal: no nonsense becomes a charge or a credit. Method: one table of broken counts in every
shape; each must keep its raw numbers as JSON can say them.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import pytest

from quota_engine.errors import InvalidAmountError
from quota_engine.extraction import Anomaly, StreamTally, extract
from quota_engine.usage import Usage

PLAIN = {"prompt_tokens": 10, "completion_tokens": 5}
BROKEN: dict[str, dict[str, Any]] = {
    "negative input": {"prompt_tokens": -1, "completion_tokens": 5},
    "negative output": {"prompt_tokens": 1, "completion_tokens": -5},
    "fractional": {"prompt_tokens": 10.5, "completion_tokens": 5},
    "not a number": {"prompt_tokens": math.nan, "completion_tokens": 5},
    "infinite": {"prompt_tokens": math.inf, "completion_tokens": 5},
    "text": {"prompt_tokens": "many", "completion_tokens": 5},
    "true": {"prompt_tokens": True, "completion_tokens": 5},
    "2**53": {"prompt_tokens": 2**53, "completion_tokens": 5},
    "two halves of too much": {"input_tokens": 2**52, "cache_read_input_tokens": 2**52},
    "gigantic": {"prompt_tokens": 10**400, "completion_tokens": 5},
    "decimal": {"prompt_tokens": Decimal("0.5"), "completion_tokens": 5},
    "cached above input": {**PLAIN, "prompt_tokens_details": {"cached_tokens": 11}},
    "cached and written above input": {
        **PLAIN,
        "prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 6},
    },
    "reasoning above output": {**PLAIN, "completion_tokens_details": {"reasoning_tokens": 6}},
    "negative cached": {**PLAIN, "prompt_tokens_details": {"cached_tokens": -1}},
    "deepseek: hits above the prompt": {**PLAIN, "prompt_cache_hit_tokens": 11},
    "anthropic: negative cache read": {
        "input_tokens": 100,
        "cache_read_input_tokens": -50,
        "output_tokens": 5,
    },
    "anthropic: negative input hidden by its cache": {
        "input_tokens": -50,
        "cache_read_input_tokens": 100,
        "output_tokens": 5,
    },
    "responses: cached above input": {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 6},
        "output_tokens": 5,
    },
    "gemini: negative thoughts": {"promptTokenCount": 5, "thoughtsTokenCount": -5},
    "gemini: cached above prompt": {"promptTokenCount": 5, "cachedContentTokenCount": 6},
    "negative seconds": {"seconds": -3},
    "seconds that are no number": {"seconds": "long"},
    "negative characters": {"characters": -3},
    "negative pictures": {"image_count": -1},
    "negative total": {"total_tokens": -3},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_report_is_an_anomaly_with_its_numbers(name: str) -> None:
    usage = BROKEN[name]
    found = extract({"id": "r-1", "model": "m", "usage": usage})
    assert isinstance(found, Anomaly), found
    assert found.reason
    assert found.origin.model == "m"
    assert found.raw.keys() == usage.keys()
    json.loads(json.dumps(found.raw, allow_nan=False))
    with pytest.raises(InvalidAmountError, match="cannot be"):
        Usage.from_response({"usage": usage})


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_report_in_a_stream_is_not_healed_by_a_good_one(name: str) -> None:
    tally = StreamTally()
    tally.feed({"choices": [{"delta": {"content": "Hello"}}]})
    tally.feed({"choices": [], "usage": BROKEN[name]})
    tally.feed({"choices": [], "usage": PLAIN})
    assert isinstance(tally.finding(), Anomaly)
    assert not tally.is_reported


def test_the_numbers_of_an_anomaly_survive_json() -> None:
    found = extract({"usage": {"prompt_tokens": 2**60, "completion_tokens": math.nan}})
    assert isinstance(found, Anomaly)
    assert found.raw == {"prompt_tokens": str(2**60), "completion_tokens": "nan"}


def test_counts_that_genai_prices_reads_are_checked_first() -> None:
    for broken in (-1, 0.5, 2**53):
        usage = {"inputTokens": 5, "outputTokens": broken, "totalTokens": 5}
        assert isinstance(extract({"usage": usage}, "aws"), Anomaly)


@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": -1},
        {"output_tokens": 0.5},
        {"input_tokens": 2**53},
        {"input_tokens": 5, "cached_input_tokens": 6},
        {"input_tokens": 5, "cache_write_tokens": 3, "cache_write_1h_tokens": 3},
        {"output_tokens": 5, "reasoning_tokens": 6},
        {"audio_seconds": -0.1},
        {"video_seconds": math.nan},
        {"images": True},
    ],
)
def test_a_caller_is_refused(counts: dict[str, Any]) -> None:
    with pytest.raises(InvalidAmountError):
        Usage(**counts)
