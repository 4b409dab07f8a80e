"""
Whole responses of every provider become one normalised usage.

Goal: input includes what was cached, output includes reasoning, whoever counted. Method: the
shapes of the providers' public references with values of our own, as mappings, as attribute
objects and as the models of the official SDKs.
"""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import anthropic.types
import openai.types
import openai.types.audio
import openai.types.chat
import openai.types.responses
import pytest
from genai_prices import extract_usage as genai_extract

from quota_engine.errors import InvalidArgumentError
from quota_engine.extraction import (
    Origin,
    Reported,
    extract,
    origin_attributes,
    origin_of,
    usage_attributes,
)
from quota_engine.usage import Usage
from tests.provider_responses import (
    ANTHROPIC,
    ANTHROPIC_USAGE,
    CASES,
    GEMINI_USAGE,
    OPENAI_CHAT,
    OPENAI_RESPONSES,
)


def as_objects(value: Any) -> Any:
    """The same response with attributes instead of items."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: as_objects(each) for name, each in value.items()})
    return [as_objects(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", CASES)
def test_a_response_becomes_a_usage(name: str) -> None:
    response, provider, expected = CASES[name]
    assert Usage.from_response(response, provider) == expected
    assert Usage.from_response(as_objects(response), provider) == expected


def test_the_openai_sdks_objects_are_read() -> None:
    completion = openai.types.chat.ChatCompletion.model_validate(OPENAI_CHAT)
    assert Usage.from_response(completion) == CASES["openai chat"][2]
    answer = openai.types.responses.Response.model_validate(OPENAI_RESPONSES)
    assert Usage.from_response(answer) == CASES["openai responses"][2]
    for name, model in {
        "openai embeddings": openai.types.CreateEmbeddingResponse,
        "openai image with tokens": openai.types.ImagesResponse,
        "openai transcription by tokens": openai.types.audio.Transcription,
        "openai transcription by duration": openai.types.audio.Transcription,
        "openai transcription, verbose": openai.types.audio.TranscriptionVerbose,
    }.items():
        built = model.model_construct(**CASES[name][0])
        assert Usage.from_response(built) == CASES[name][2], name


def test_fields_that_the_openai_sdk_does_not_know_are_read_through_it() -> None:
    deepseek = openai.types.chat.ChatCompletion.model_construct(**CASES["deepseek"][0])
    assert Usage.from_response(deepseek) == CASES["deepseek"][2]
    usage = openai.types.CompletionUsage.model_validate(CASES["moonshot"][0]["usage"])
    assert Usage.from_response(usage) == CASES["moonshot"][2]


def test_the_anthropic_sdks_objects_are_read() -> None:
    message = anthropic.types.Message.model_validate(ANTHROPIC)
    assert Usage.from_response(message) == ANTHROPIC_USAGE
    assert origin_of(message) == Origin(
        provider="anthropic",
        model="claude-sonnet-4-5",
        request_id="msg_1",
        service_tier="standard",
    )


def test_gemini_as_its_sdk_names_it() -> None:
    response = SimpleNamespace(
        model_version="gemini-2.5-flash",
        response_id="r-1",
        usage_metadata=SimpleNamespace(
            prompt_token_count=40,
            cached_content_token_count=16,
            candidates_token_count=12,
            thoughts_token_count=30,
            tool_use_prompt_token_count=8,
            total_token_count=90,
        ),
    )
    found = extract(response)
    assert isinstance(found, Reported)
    assert found.usage == GEMINI_USAGE
    assert found.origin == Origin(
        provider="gemini", model="gemini-2.5-flash", request_id="r-1", service_tier=None
    )


@pytest.mark.parametrize(
    ("name", "provider", "flavour"),
    [
        ("openai chat", "openai", "chat"),
        ("openai responses", "openai", "responses"),
        ("openai embeddings", "openai", "embeddings"),
        ("anthropic", "anthropic", "default"),
        ("gemini", "google", "default"),
        # Not those whose cache it does not read: DeepSeek's hits, Moonshot's cached_tokens.
        ("openrouter, with its cost", "openrouter", "chat"),
        ("xai: reasoning is beside the completion", "x-ai", "chat"),
    ],
)
def test_genai_prices_reads_the_same(name: str, provider: str, flavour: str) -> None:
    response, _, ours = CASES[name]
    response = {name: value for name, value in response.items() if name != "model"}
    theirs = genai_extract(response, provider_id=provider, api_flavor=flavour).usage
    assert (theirs.output_tokens, theirs.cache_read_tokens) == (
        ours.output_tokens,
        ours.cached_input_tokens,
    )
    assert theirs.input_tokens == ours.input_tokens


@pytest.mark.parametrize(
    "response",
    [
        None,
        "text",
        b"sound",
        42,
        [],
        {},
        MagicMock(),
        object(),
        {"choices": [], "usage": None},
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
        {"usage": {"prompt_tokens": None}},
        {"usage": {"something": 5}},
    ],
)
def test_a_response_that_says_nothing_is_nothing(response: object) -> None:
    assert extract(response) is None
    assert extract(response, "aws") is None
    with pytest.raises(InvalidArgumentError, match="reports no usage"):
        Usage.from_response(response)


def test_who_answered() -> None:
    assert origin_of(OPENAI_CHAT) == Origin(
        model="gpt-4o-mini-2024-07-18", request_id="chatcmpl-1", service_tier="default"
    )
    assert origin_of(CASES["deepseek"][0]).provider == "deepseek"
    assert origin_of(CASES["dashscope"][0]).provider == "dashscope"
    litellm = SimpleNamespace(_hidden_params={"custom_llm_provider": "azure"}, model="gpt-4o")
    assert origin_of(litellm).provider == "azure"
    assert origin_of({**OPENAI_CHAT, "_request_id": "req_9"}).request_id == "req_9"


def test_attributes_have_opentelemetrys_names() -> None:
    assert usage_attributes(ANTHROPIC_USAGE) == {
        "gen_ai.usage.input_tokens": 1209,
        "gen_ai.usage.output_tokens": 393,
        "gen_ai.usage.cache_read.input_tokens": 1000,
        "gen_ai.usage.cache_creation.input_tokens": 188,
    }
    media = usage_attributes(Usage(video_seconds=Decimal("2.5"), resolution="720p", images=1))
    assert media == {
        "gen_ai.usage.input_tokens": 0,
        "gen_ai.usage.output_tokens": 0,
        "quota_engine.usage.images": 1,
        "quota_engine.usage.video_seconds": 2.5,
        "quota_engine.usage.resolution": "720p",
    }
    assert origin_attributes(Origin(provider="p", model="m", request_id="r")) == {
        "gen_ai.provider.name": "p",
        "gen_ai.response.model": "m",
        "gen_ai.response.id": "r",
    }
