"""
A request is estimated before it is sent.

Goal: the tokens of a text within ×2 of five real vocabularies at the 95th percentile, and the
output from whatever limit the request names. Method: committed samples whose tokens were counted
once with the real vocabularies (tests/data/token_samples says which); the test prints the ratios.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quota_engine.errors import InvalidAmountError
from quota_engine.estimate import (
    AUDIO_SECONDS_DEFAULT,
    FILE_TOKENS,
    IMAGE_TOKENS,
    LOW_DETAIL_IMAGE_TOKENS,
    OUTPUT_TOKENS_DEFAULT,
    SOUND_TOKENS,
    estimate,
)
from quota_engine.tokens import count_tokens, token_weight, whole_tokens
from quota_engine.usage import Usage

SAMPLES = Path(__file__).parents[1] / "data" / "token_samples"
HELLO = [{"role": "user", "content": "Hello there, how are you?"}]
RATIO_MAX = 2


def samples(kind: str) -> list[str]:
    text = (SAMPLES / f"{kind}.txt").read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n=====\n")


@pytest.mark.parametrize("kind", ["english", "code", "cjk"])
def test_the_estimate_is_within_twice_the_real_count(kind: str) -> None:
    counted = json.loads((SAMPLES / "counts.json").read_text(encoding="utf-8"))[kind]
    estimates = [count_tokens(text) for text in samples(kind)]
    apart: list[float] = []
    for vocabulary, counts in counted.items():
        assert len(counts) == len(estimates)
        ratios = sorted(guess / count for guess, count in zip(estimates, counts, strict=True))
        print(
            f"{kind:<8} {vocabulary:<12} estimate / count:"
            f" least {ratios[0]:.2f}, middle {ratios[len(ratios) // 2]:.2f},"
            f" most {ratios[-1]:.2f}, in sum {sum(estimates) / sum(counts):.2f}"
        )
        apart += [max(ratio, 1 / ratio) for ratio in ratios]
    apart.sort()
    p50, p95 = apart[len(apart) // 2], apart[int(len(apart) * 0.95)]
    print(f"{kind:<8} {len(apart)} pairs apart by: p50 ×{p50:.2f}, p95 ×{p95:.2f}, most"
          f" ×{apart[-1]:.2f}")  # fmt: skip
    assert p95 <= RATIO_MAX


@pytest.mark.parametrize(
    ("request_", "output", "basis"),
    [
        ({"max_tokens": 256}, 256, "request"),
        ({"max_completion_tokens": 300, "max_tokens": None}, 300, "request"),
        ({"max_output_tokens": 400}, 400, "request"),
        ({"generationConfig": {"maxOutputTokens": 500}}, 500, "request"),
        ({"config": {"max_output_tokens": 510}}, 510, "request"),
        ({"parameters": {"max_tokens": 520}}, 520, "request"),
        ({"max_tokens": 100, "n": 3}, 300, "request"),
        ({"generationConfig": {"maxOutputTokens": 50, "candidateCount": 2}}, 100, "request"),
        ({"max_tokens": 4000, "thinking": {"budget_tokens": 2000}}, 4000, "request"),
        ({"thinking": {"budget_tokens": 2000}}, 2000 + OUTPUT_TOKENS_DEFAULT, "reasoning"),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": 512}}},
            512 + OUTPUT_TOKENS_DEFAULT,
            "reasoning",
        ),
        ({"generationConfig": {"thinkingConfig": {"thinkingBudget": -1}}}, None, "default"),
        ({"max_tokens": 100, "extra_body": {"thinking_budget": 50}}, 150, "request"),
        ({"reasoning": {"effort": "low"}}, None, "default"),
        ({"max_tokens": -1}, None, "default"),
        ({}, None, "default"),
    ],
)
def test_output_is_what_the_request_allows(
    request_: dict[str, Any], output: int | None, basis: str
) -> None:
    found = estimate({"messages": HELLO, **request_})
    assert found.usage.output_tokens == (OUTPUT_TOKENS_DEFAULT if output is None else output)
    assert found.output_basis == basis
    assert found.total_tokens == found.usage.input_tokens + found.usage.output_tokens


def test_output_without_a_limit_is_the_models_else_the_default() -> None:
    assert estimate({"n": 2}, model_output_max=700).usage.output_tokens == 1400
    assert estimate({}, model_output_max=700).output_basis == "model"
    assert estimate({}, output_default=90).usage.output_tokens == 90
    assert estimate({"max_tokens": 5}, model_output_max=700).usage.output_tokens == 5


@pytest.mark.parametrize("limit", [-5, 2**53, 10.5, True])
def test_a_limit_that_is_no_count_is_refused(limit: object) -> None:
    with pytest.raises(InvalidAmountError):
        estimate({"max_tokens": limit})


def test_every_place_for_text_counts() -> None:
    text = "The harbour was quiet when the last ferry came in, and nobody spoke."
    plain = count_tokens(text)
    empty = estimate({}).usage.input_tokens
    for request_ in (
        {"prompt": text},
        {"prompt": [text]},
        {"system": text},
        {"system": [{"type": "text", "text": text}]},
        {"instructions": text},
        {"input": text},
        {"messages": [{"content": text}]},
        {"input": {"messages": [{"content": text}]}},
        {"contents": [{"parts": [{"text": text}]}]},
        {"contents": text},
        {"systemInstruction": {"parts": [{"text": text}]}},
        {"messages": [SimpleNamespace(content=text)]},
        {"input": [{"type": "function_call_output", "output": text}]},
    ):
        assert estimate(request_).usage.input_tokens == empty + plain, request_
    assert estimate(SimpleNamespace(prompt=text)).usage.input_tokens == empty + plain
    assert estimate(text).usage.input_tokens == plain
    assert estimate({"prompt": [11, 12, 13]}).usage.input_tokens == empty + 3


def test_tools_and_their_calls_count() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    bare = estimate({"messages": HELLO}).usage.input_tokens
    with_tools = estimate({"messages": HELLO, "tools": tools}).usage.input_tokens
    assert with_tools == bare + count_tokens(json.dumps(tools))
    called = [*HELLO, {"role": "assistant", "content": None, "tool_calls": tools}]
    assert estimate({"messages": called}).usage.input_tokens > bare
    used = [{"role": "assistant", "content": [{"type": "tool_use", "input": {"city": "Paris"}}]}]
    assert estimate({"messages": used}).usage.input_tokens > 7


def test_pictures_sounds_and_files_have_a_flat_number() -> None:
    base64 = "QUJD" * 50_000
    url = f"data:image/png;base64,{base64}"
    for part, expected in (
        ({"type": "image_url", "image_url": {"url": url}}, IMAGE_TOKENS),
        (
            {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
            LOW_DETAIL_IMAGE_TOKENS,
        ),
        ({"type": "input_image", "image_url": url}, IMAGE_TOKENS),
        ({"type": "image", "source": {"type": "base64", "data": base64}}, IMAGE_TOKENS),
        ({"inlineData": {"mimeType": "image/png", "data": base64}}, IMAGE_TOKENS),
        ({"image": url}, IMAGE_TOKENS),
        ({"type": "input_audio", "input_audio": {"data": base64}}, SOUND_TOKENS),
        ({"type": "document", "source": {"data": base64}}, FILE_TOKENS),
        ({"fileData": {"mimeType": "application/pdf", "fileUri": "u"}}, FILE_TOKENS),
    ):
        found = estimate({"messages": [{"content": [part]}]}).usage.input_tokens
        assert found == estimate({}).usage.input_tokens + expected, part


def test_a_tokenizer_of_the_users_counts() -> None:
    request_ = {"messages": [{"content": "one two three four"}]}
    by_count = estimate(request_, tokenizer=lambda text: len(text.split()))
    by_tokens = estimate(request_, tokenizer=str.split)
    assert by_count.usage.input_tokens == by_tokens.usage.input_tokens == 3 + 4


@pytest.mark.parametrize(
    ("usage_type", "request_", "expected"),
    [
        (
            "image_generation",
            {"prompt": "a cat", "n": 3, "size": "1024x1024"},
            Usage(input_tokens=2, images=3, resolution="1024x1024"),
        ),
        (
            "image_generation",
            {"input": {"prompt": "a cat"}, "parameters": {"n": 2, "size": "1328*1328"}},
            Usage(input_tokens=2, images=2, resolution="1328*1328"),
        ),
        ("image_generation", {"prompt": "a cat"}, Usage(input_tokens=2, images=1)),
        ("audio_tts", {"input": "你好, world"}, Usage(characters=9)),
        ("audio_tts", {"input": {"text": "hello"}}, Usage(characters=5)),
        ("audio_tts", {"text": ["ab", "c"]}, Usage(characters=3)),
        ("audio_stt", {"file": b""}, Usage(audio_seconds=AUDIO_SECONDS_DEFAULT)),
        ("audio_stt", {"duration": 12.5}, Usage(audio_seconds=Decimal("12.5"))),
        (
            "video_generation",
            {"seconds": "8", "size": "1280x720"},
            Usage(video_seconds=8, resolution="720p"),
        ),
        (
            "video_generation",
            {"parameters": {"duration": 10, "resolution": "1080P", "n": 2}},
            Usage(video_seconds=20, resolution="1080p"),
        ),
        ("embedding", {"input": ["one", "two words"]}, Usage(input_tokens=3)),
        ("embedding", {"input": [[1, 2, 3], [4]]}, Usage(input_tokens=4)),
        ("embedding", {"input": {"texts": ["one"]}}, Usage(input_tokens=1)),
        (
            "rerank",
            {"query": "one two", "documents": ["a", "b", {"text": "c"}]},
            Usage(input_tokens=9),
        ),
        (
            "rerank",
            {"input": {"query": "one two", "documents": ["a"]}},
            Usage(input_tokens=3),
        ),
    ],
)
def test_other_usage_types_are_estimated_in_their_unit(
    usage_type: str, request_: dict[str, Any], expected: Usage
) -> None:
    assert estimate(request_, usage_type=usage_type).usage == expected


def test_parts_of_a_text_may_be_added_up() -> None:
    for kind in ("english", "code", "cjk"):
        for text in samples(kind):
            parts = [text[at : at + 40] for at in range(0, len(text), 40)]
            together = whole_tokens(sum(map(token_weight, parts)))
            # A cut inside a word counts it twice, and no more.
            assert 0.9 * count_tokens(text) <= together <= count_tokens(text) + 2 * len(parts)
