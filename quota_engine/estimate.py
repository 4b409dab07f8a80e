"""
Estimate: what a call will use at most, or likely, from the request alone. Pure.

It decides how much a hold sets aside, so it leans to the high side where a request leaves things
open; what was really used is captured afterwards. Flat numbers stand where the request shows no
size: a picture, a sound, a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from quota_engine.amounts import AMOUNT_MAX, checked_amount
from quota_engine.extraction.reading import (
    deep_fields,
    fields_of,
    is_reported,
    look,
    look_seconds,
    look_text,
)
from quota_engine.tokens import Tokenizer, count_tokens
from quota_engine.usage import Usage

#: Output of a request that names no limit, of a model whose limit nobody knows: twice a usual
#: answer. Streams extend their hold when this was too little.
OUTPUT_TOKENS_DEFAULT = 1_024
#: Roles and separators around a message, and the start of the answer (OpenAI's chat format).
MESSAGE_TOKENS, ANSWER_START_TOKENS = 4, 3
#: A picture of about 1 megapixel: OpenAI counts 765, Gemini 1,032, Qwen about 1,300, Anthropic
#: 1,400. OpenAI counts 85 where ``detail`` is ``low``.
IMAGE_TOKENS, LOW_DETAIL_IMAGE_TOKENS = 1_300, 85
#: Half a minute of sound or some seconds of film; a document of two pages.
SOUND_TOKENS, FILM_TOKENS, FILE_TOKENS = 1_000, 4_000, 3_000
#: Length of a recording or a film that the request does not tell.
AUDIO_SECONDS_DEFAULT, VIDEO_SECONDS_DEFAULT = 60, 5

OutputBasis = Literal["request", "reasoning", "model", "default", "none"]

_INSIDE = ("extra_body", "parameters", "generationConfig", "generation_config", "config")
_OUTPUT_LIMITS = (
    *("max_completion_tokens", "max_output_tokens", "max_tokens", "maxOutputTokens"),
    *("maxTokens", "max_new_tokens", "max_tokens_to_sample"),
)
_TEXTS = (
    *("system", "instructions", "systemInstruction", "system_instruction", "prompt", "input"),
    *("messages", "contents", "query", "suffix"),
)
_DEFINITIONS = ("tools", "functions", "response_format", "text_format", "toolConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a request will likely use; ``output_basis`` says where the output's number is from."""

    usage: Usage
    output_basis: OutputBasis = "none"

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.usage.total_tokens


def estimate(
    request: Mapping[str, Any] | object,
    *,
    usage_type: str = "text_generation",
    tokenizer: Tokenizer | None = None,
    output_default: int | None = None,
    model_output_max: int | None = None,
) -> Estimate:
    """
    Return what ``request`` (the keyword arguments of an SDK's call, or a body) will use.

    Output is the first of: the request's limit, its reasoning budget and the default, the model's
    limit, the default; times the answers asked for. Usage types of one's own are estimated as
    text. Raises ``InvalidAmountError`` for a limit that is no count; -1 means no limit.
    """
    if usage_type == "image_generation":
        return Estimate(usage=_images(request, tokenizer))
    if usage_type == "audio_tts":
        return Estimate(usage=Usage(characters=sum(map(len, _spoken(request)))))
    if usage_type == "audio_stt":
        seconds = _seconds(request, "duration", "seconds", "audio_seconds", "duration_seconds")
        return Estimate(usage=Usage(audio_seconds=seconds or AUDIO_SECONDS_DEFAULT))
    if usage_type == "video_generation":
        return Estimate(usage=_video(request))
    if usage_type == "embedding":
        return Estimate(usage=Usage(input_tokens=_embedded_tokens(request, tokenizer)))
    if usage_type == "rerank":
        return Estimate(usage=Usage(input_tokens=_reranked_tokens(request, tokenizer)))
    default = OUTPUT_TOKENS_DEFAULT if output_default is None else output_default
    output, basis = _output_tokens(request, default, model_output_max)
    usage = Usage(
        input_tokens=_input_tokens(request, tokenizer),
        output_tokens=min(AMOUNT_MAX, output * _asked(request, "n", "candidateCount", "best_of")),
    )
    return Estimate(usage=usage, output_basis=basis)


def _given(request: Any, *names: str) -> Any:
    """Return the first of ``names`` that the request sets, at the top or in its options."""
    for options in (request, *(look(request, place) for place in _INSIDE)):
        if options is None:
            continue
        for name in names:
            value = look(options, name)
            if value is not None:
                return value
    return None


def _limit(request: Any, *names: str) -> int | None:
    """Return a count the caller set; None for none, or for -1 (no limit)."""
    value = _given(request, *names)
    if not is_reported(value) or value == -1 or isinstance(value, str):
        return None
    return checked_amount(value, zero_allowed=True, name=names[0])


def _asked(request: Any, *names: str) -> int:
    return max(1, _limit(request, *names) or 1)


def _output_tokens(request: Any, default: int, model_max: int | None) -> tuple[int, OutputBasis]:
    thinking = _given(request, "thinkingConfig", "thinking_config", "thinking")
    # Qwen's budget comes on top of its limit; Anthropic's and Gemini's are part of theirs.
    on_top = _limit(request, "thinking_budget") or 0
    limit = _limit(request, *_OUTPUT_LIMITS)
    if limit is not None:
        return limit + on_top, "request"
    budget = on_top or max(
        _limit(thinking, "budget_tokens") or 0,
        _limit(thinking, "thinkingBudget", "thinking_budget") or 0,
        _limit(_given(request, "reasoning"), "max_tokens") or 0,
    )
    if budget:
        return budget + default, "reasoning"
    if model_max:
        return checked_amount(model_max, name="model_output_max"), "model"
    return checked_amount(default, zero_allowed=True, name="output_default"), "default"


def _input_tokens(request: Any, tokenizer: Tokenizer | None) -> int:
    if isinstance(request, str):
        return count_tokens(request, tokenizer)
    tokens = ANSWER_START_TOKENS
    for name in _TEXTS:
        value = look(request, name)
        if name == "input" and fields_of(value) and look(value, "messages"):
            value = look(value, "messages")  # DashScope: {"input": {"messages": […]}}
        tokens += _content_tokens(value, tokenizer)
    for name in _DEFINITIONS:
        value = _given(request, name)
        if value is not None and not isinstance(value, type):
            tokens += count_tokens(_as_json(value), tokenizer)
    return tokens


def _as_json(value: Any) -> str:
    return json.dumps(deep_fields(value), ensure_ascii=False, default=str)


def _content_tokens(content: Any, tokenizer: Tokenizer | None) -> int:
    """Return the tokens of a text, a message, a part, or a list of any of these."""
    if content is None or isinstance(content, bool | int | float | bytes):
        return 0
    if isinstance(content, str):
        return count_tokens(content, tokenizer)
    if isinstance(content, list | tuple):
        if content and all(isinstance(each, int) for each in content):
            return len(content)  # already tokens
        return sum(_content_tokens(each, tokenizer) for each in content)
    flat = _flat_tokens(content)
    if flat is not None:
        return flat
    tokens = MESSAGE_TOKENS if look_text(content, "role") else 0
    # An inner "content" may be text again, or parts: tool results hold pictures, too.
    for name in ("content", "parts", "text", "thinking", "prompt", "reasoning_content", "output"):
        tokens += _content_tokens(look(content, name), tokenizer)
    for name in ("tool_calls", "function_call", "functionCall", "functionResponse", "arguments"):
        if look(content, name):
            tokens += count_tokens(_as_json(look(content, name)), tokenizer)
    if look_text(content, "type") == "tool_use":
        tokens += count_tokens(_as_json(look(content, "input")), tokenizer)
    return tokens


def _flat_tokens(part: Any) -> int | None:
    """Return the flat number for a part that is no text, so that no base64 counts as words."""
    kind = look_text(part, "type") or ""
    mime = next(_mime_types(part), "")
    if kind in ("image_url", "input_image", "image") or mime.startswith("image/"):
        detail = look_text(part, "detail") or look_text(part, "image_url", "detail")
        return LOW_DETAIL_IMAGE_TOKENS if detail == "low" else IMAGE_TOKENS
    if kind in ("input_audio", "audio", "audio_url") or mime.startswith("audio/"):
        return SOUND_TOKENS
    if kind in ("video", "video_url") or mime.startswith("video/"):
        return FILM_TOKENS
    if kind in ("file", "input_file", "document") or mime:
        return FILE_TOKENS
    if not kind and look(part, "text") is None:  # DashScope: {"image": …}
        if look(part, "image"):
            return IMAGE_TOKENS
        if look(part, "audio"):
            return SOUND_TOKENS
        if look(part, "video"):
            return FILM_TOKENS
    return None


def _mime_types(part: Any) -> Iterator[str]:
    for holder in ("inlineData", "inline_data", "fileData", "file_data"):
        for name in ("mimeType", "mime_type"):
            mime = look_text(part, holder, name)
            if mime:
                yield mime


def _images(request: Any, tokenizer: Tokenizer | None) -> Usage:
    names = ("n", "number_of_images", "numberOfImages", "sampleCount", "num_images", "batch_size")
    return Usage(
        input_tokens=_content_tokens(_prompt(request), tokenizer),
        images=_asked(request, *names),
        resolution=_option_text(request, "size", "resolution"),
    )


def _prompt(request: Any) -> Any:
    for path in (("prompt",), ("input", "prompt"), ("input", "messages"), ("input",)):
        found = look(request, *path)
        if found is not None:
            return found
    return None


def _option_text(request: Any, *names: str) -> str | None:
    value = _given(request, *names)
    return value if isinstance(value, str) and value else None


def _spoken(request: Any) -> Iterator[str]:
    """Yield the texts to be spoken; a character is a code point."""
    if isinstance(request, str):
        yield request
        return
    value = next(
        (
            found
            for path in (("input", "text"), ("input",), ("text",), ("ssml",), ("contents",))
            if (found := look(request, *path)) is not None
        ),
        None,
    )
    for each in value if isinstance(value, list | tuple) else (value,):
        if isinstance(each, str):
            yield each


def _seconds(request: Any, *names: str) -> Decimal | None:
    value = _given(request, *names)
    return look_seconds({names[0]: value}, names[0])


def _video(request: Any) -> Usage:
    """Return the seconds of all films asked for; ``1280x720`` and ``720P`` are 720p."""
    each = _seconds(request, "seconds", "duration", "duration_seconds", "durationSeconds")
    films = _asked(request, "n", "number_of_videos", "numberOfVideos", "sampleCount")
    return Usage(
        input_tokens=0,
        video_seconds=(each or VIDEO_SECONDS_DEFAULT) * films,
        resolution=_lines(_option_text(request, "resolution", "size")),
    )


def _lines(resolution: str | None) -> str | None:
    sides = (resolution or "").lower().replace("*", "x").split("x")
    if len(sides) == 2 and all(side.strip().isdigit() for side in sides):
        return f"{min(map(int, sides))}p"
    return resolution.lower() if resolution else None


def _embedded_tokens(request: Any, tokenizer: Tokenizer | None) -> int:
    for path in (("input", "texts"), ("input", "contents"), ("input",), ("texts",), ("content",)):
        found = look(request, *path)
        if found is not None:
            return _content_tokens(found, tokenizer)
    return _content_tokens(look(request, "contents"), tokenizer)


def _reranked_tokens(request: Any, tokenizer: Tokenizer | None) -> int:
    """Return the tokens of every pair of query and document, as rerankers read them."""
    inner = look(request, "input") if fields_of(look(request, "input")) else request
    documents = look(inner, "documents")
    count = len(documents) if isinstance(documents, list | tuple) else 0
    query = _content_tokens(look(inner, "query"), tokenizer)
    return query * max(1, count) + _content_tokens(documents, tokenizer)
