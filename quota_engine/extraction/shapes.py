"""
Shapes: the usage objects of the providers, each read into the fields of ``Usage``.

A usage object is recognised by its field names, not by who sent it: the same shape comes from
many providers, through gateways and wrappers. What differs by provider within one shape is said
where it is read. Every count is checked before it is added to another, so that two wrongs never
make a right.

    prompt_tokens, completion_tokens     OpenAI chat and everyone compatible, DeepSeek, Qwen,
                                         LiteLLM, embeddings
    input_tokens, output_tokens          OpenAI Responses, images and transcription, Anthropic,
                                         DashScope
    promptTokenCount …                   Gemini, and its SDK's prompt_token_count …
    billed_units                         Cohere
    total_tokens alone                   embeddings and rerank
    image_count, video_duration,         DashScope's images, video and speech; OpenAI's seconds
    characters, duration, seconds        of a transcription
"""

from __future__ import annotations

from typing import Any

from quota_engine.extraction.reading import (
    is_reported,
    largest_count,
    look,
    look_count,
    look_seconds,
    look_text,
)

Counts = dict[str, Any]

_GEMINI = ("gemini", "google", "vertex")


def read_usage(usage: Any, *, provider: str | None, model: str | None) -> Counts:
    """Return what a usage object says, as fields of ``Usage``; empty when it says nothing."""
    return {**_read_tokens(usage, provider, model), **_read_media(usage)}


def has_counts(usage: Any) -> bool:
    """Whether something looks like a usage object that this module can read."""
    return any(is_reported(look(usage, name)) for name in _RECOGNISED) or (
        look(usage, "billed_units") is not None
    )


_RECOGNISED = (
    *("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens"),
    *("promptTokenCount", "prompt_token_count", "candidatesTokenCount", "candidates_token_count"),
    *("totalTokenCount", "total_token_count", "prompt_cache_hit_tokens"),
    *("image_count", "video_duration", "video_count", "characters", "seconds", "duration"),
)


def _says(usage: Any, *names: str) -> bool:
    return any(is_reported(look(usage, name)) for name in names)


def _read_tokens(usage: Any, provider: str | None, model: str | None) -> Counts:
    if _says(usage, "prompt_tokens", "completion_tokens", "prompt_cache_hit_tokens"):
        return _read_chat(usage, provider, model)
    if _says(usage, "input_tokens", "output_tokens"):
        return _read_input_output(usage)
    if _says(usage, "promptTokenCount", "candidatesTokenCount", "totalTokenCount"):
        return _read_gemini(usage, camel=True)
    if _says(usage, "prompt_token_count", "candidates_token_count", "total_token_count"):
        return _read_gemini(usage, camel=False)
    billed = look(usage, "billed_units")
    if billed is not None:
        return _read_cohere(billed)
    total = look_count(usage, "total_tokens")
    return {"input_tokens": total} if total else {}


def _read_chat(usage: Any, provider: str | None, model: str | None) -> Counts:
    """Read OpenAI's chat shape. Cached tokens are included in the prompt, by everyone."""
    hit = look_count(usage, "prompt_cache_hit_tokens") or 0
    miss = look_count(usage, "prompt_cache_miss_tokens") or 0
    prompt = look_count(usage, "prompt_tokens")
    inside, outside = "prompt_tokens_details", "completion_tokens_details"
    counts = {
        "input_tokens": hit + miss if prompt is None else prompt,
        "cached_input_tokens": largest_count(
            usage,
            (inside, "cached_tokens"),
            ("cached_tokens",),
            ("prompt_cache_hit_tokens",),
            ("cache_read_input_tokens",),
            ("cached_prompt_text_tokens",),
        ),
        "output_tokens": look_count(usage, "completion_tokens") or 0,
        "reasoning_tokens": largest_count(
            usage, (outside, "reasoning_tokens"), ("reasoning_tokens",)
        ),
        **_cache_writes(usage, look(usage, inside)),
    }
    _add_hidden_output(counts, look_count(usage, "total_tokens"), provider, model)
    return counts


def _add_hidden_output(
    counts: Counts, total: int | None, provider: str | None, model: str | None
) -> None:
    """
    Add the reasoning that a provider leaves out of completion_tokens but not out of its total.

    xAI reports it beside the completion, Gemini's OpenAI-compatible door only in the total.
    """
    reasoning = counts["reasoning_tokens"]
    if total is None:
        is_beside = provider in ("xai", "x-ai") and reasoning > counts["output_tokens"]
        counts["output_tokens"] += reasoning if is_beside else 0
        return
    hidden = total - counts["input_tokens"] - counts["output_tokens"]
    names = f"{provider or ''} {model or ''}".lower()
    if hidden > 0 and hidden == reasoning:
        counts["output_tokens"] += hidden
    elif hidden > 0 and not reasoning and any(name in names for name in _GEMINI):
        counts["output_tokens"] += hidden
        counts["reasoning_tokens"] = hidden


def _cache_writes(usage: Any, details: Any) -> Counts:
    """Return written cache tokens, those for an hour apart from the others."""
    written = largest_count(usage, ("cache_creation_input_tokens",))
    written = max(
        written,
        largest_count(
            details,
            ("cache_write_tokens",),
            ("cache_creation_tokens",),
            ("cache_creation_input_tokens",),
            ("cache_creation",),
        ),
    )
    five_minutes = hour = 0
    for part in (
        look(usage, "cache_creation"),
        look(details, "cache_creation"),
        look(details, "cache_creation_token_details"),
        details,
    ):
        five_minutes = max(five_minutes, look_count(part, "ephemeral_5m_input_tokens") or 0)
        hour = max(hour, look_count(part, "ephemeral_1h_input_tokens") or 0)
    written = max(written, five_minutes + hour)
    return {"cache_write_tokens": written - hour, "cache_write_1h_tokens": hour}


def _read_input_output(usage: Any) -> Counts:
    """
    Read the shape of OpenAI's Responses, of Anthropic and of DashScope.

    Anthropic alone keeps cache reads and writes beside the input, at the top: they are added.
    """
    inside = look(usage, "input_tokens_details") or look(usage, "input_token_details")
    inside = inside or look(usage, "prompt_tokens_details")
    outside = look(usage, "output_tokens_details") or look(usage, "output_token_details")
    beside = _says(usage, "cache_read_input_tokens", "cache_creation_input_tokens")
    writes = _cache_writes(usage, inside)
    counts = {
        "input_tokens": look_count(usage, "input_tokens") or 0,
        "cached_input_tokens": largest_count(
            inside, ("cached_tokens",), ("cache_read",), ("cache_read_input_tokens",)
        ),
        "output_tokens": look_count(usage, "output_tokens") or 0,
        "reasoning_tokens": largest_count(
            outside, ("reasoning_tokens",), ("thinking_tokens",), ("reasoning",)
        ),
        **writes,
    }
    if beside:
        cached = look_count(usage, "cache_read_input_tokens") or 0
        counts["cached_input_tokens"] = cached
        counts["input_tokens"] += cached + sum(writes.values())
    return counts


def _read_gemini(usage: Any, *, camel: bool) -> Counts:
    """Read Gemini's counts: cached ones are in the prompt's; thoughts are beside candidates."""

    def count(*words: str) -> int:
        name = words[0] + "".join(word.title() for word in words[1:]) if camel else "_".join(words)
        return look_count(usage, name) or 0

    thoughts = count("thoughts", "token", "count")
    return {
        "input_tokens": count("prompt", "token", "count")
        + count("tool", "use", "prompt", "token", "count"),
        "cached_input_tokens": count("cached", "content", "token", "count"),
        "output_tokens": count("candidates", "token", "count") + thoughts,
        "reasoning_tokens": thoughts,
    }


def _read_cohere(billed: Any) -> Counts:
    counts: Counts = {
        "input_tokens": look_count(billed, "input_tokens") or 0,
        "output_tokens": look_count(billed, "output_tokens") or 0,
    }
    searches = look_count(billed, "search_units")
    return {**counts, "requests": searches} if searches else counts


def _read_media(usage: Any) -> Counts:
    counts: Counts = {}
    images = look_count(usage, "image_count")
    if images:
        counts["images"] = images
        width, height = look_count(usage, "width"), look_count(usage, "height")
        counts["resolution"] = f"{width}x{height}" if width and height else None
    characters = look_count(usage, "characters")
    if characters:
        counts["characters"] = characters
    seconds = look_seconds(usage, "seconds")
    duration = look_seconds(usage, "duration")
    if _says(usage, "video_duration", "video_count", "output_video_duration", "SR"):
        counts.update(_read_video(usage, duration))
    elif seconds or duration:
        counts["audio_seconds"] = seconds or duration
    return counts


def _read_video(usage: Any, billed: Any) -> Counts:
    """Read DashScope's video: ``duration`` is the billed sum, ``video_duration`` that of one."""
    one = look_seconds(usage, "video_duration") or look_seconds(usage, "output_video_duration")
    each = (one or 0) * (look_count(usage, "video_count") or 1)
    lines = look_count(usage, "SR")
    resolution = f"{lines}p" if lines else look_text(usage, "size")
    return {"video_seconds": billed or each, "resolution": resolution}
