"""
Responses: find the usage in a whole answer, and who gave it.

Own readers know the shapes listed in ``shapes``; for a provider whose shape they do not know
(Bedrock's, for one), or whose counts mean something else (Perplexity's), the extractors of
``genai-prices`` are asked, after every count was checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quota_engine.errors import InvalidAmountError
from quota_engine.extraction.found import Anomaly, Origin, Reported
from quota_engine.extraction.reading import (
    deep_fields,
    fields_of,
    is_reported,
    look,
    look_count,
    look_list,
    look_seconds,
    look_text,
    plain,
)
from quota_engine.extraction.shapes import Counts, has_counts, read_usage
from quota_engine.usage import Usage

#: Where a usage object may hang: events wrap the answer that carries it.
_ROOTS = (
    ("usage",),
    ("usage_metadata",),
    ("usageMetadata",),
    ("response", "usage"),
    ("message", "usage"),
    ("x_groq", "usage"),
    ("meta",),
    ("response_metadata", "token_usage"),
)
_WRAPPERS = ("response", "message")
#: Providers whose chat shape counts otherwise than everyone's; genai-prices knows how.
_OTHERWISE = frozenset({"perplexity"})


def extract(response: Any, provider: str | None = None) -> Reported | Anomaly | None:
    """
    Return what a whole response says was used; None when it says nothing.

    ``provider`` settles what the shape leaves open. Counts that are all zero say nothing: no
    call uses nothing, but some gateways write zeros where they do not know.
    """
    origin = origin_of(response, provider)
    if isinstance(response, Usage):
        return Reported(usage=response, origin=origin)
    root = usage_root(response)
    return understand(response, root, origin)


def understand(response: Any, root: Any, origin: Origin) -> Reported | Anomaly | None:
    """Return the finding for a usage object (or None) in the response that carried it."""
    try:
        counts = _counts(response, root, origin)
        if not any(value for name, value in counts.items() if name != "resolution"):
            return None
        return Reported(usage=Usage(**counts), origin=origin)
    except InvalidAmountError as error:
        raw = plain(root if root is not None else response)
        return Anomaly(reason=str(error), raw=raw if isinstance(raw, dict) else {}, origin=origin)


def usage_root(response: Any) -> Any:
    """Return the usage object of a response, an event or a chunk; itself when it is one."""
    for path in _ROOTS:
        root = look(response, *path)
        if root is None or isinstance(root, str | int | float | list):
            continue
        if has_counts(root) or (fields_of(root) and path[-1] != "meta"):
            return root
    bare = ("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")
    if any(is_reported(look(response, name)) for name in bare):
        return response
    return None


def origin_of(response: Any, provider: str | None = None) -> Origin:
    """Return who answered, as far as the response says it."""
    return Origin(
        provider=provider or provider_of(response),
        model=model_of(response),
        request_id=request_id_of(response),
        service_tier=_text_in(response, ("service_tier",), ("usage", "service_tier")),
    )


def model_of(response: Any) -> str | None:
    """Return the model that a response names."""
    return _text_in(response, ("model",), ("model_version",), ("modelVersion",))


def request_id_of(response: Any) -> str | None:
    """Return the id a provider's support would ask for: the request's, else the response's."""
    own = ("_request_id", "request_id", "id", "response_id", "responseId")
    return _text_in(response, *((name,) for name in own))


def provider_of(response: Any) -> str | None:
    """
    Return the provider that a response gives away: by LiteLLM's note, or by fields of its own.

    None for OpenAI's shape: everyone speaks it.
    """
    noted = look_text(response, "_hidden_params", "custom_llm_provider")
    if noted:
        return noted
    if fields_of(look(response, "usageMetadata")) or is_reported(
        look(response, "usage_metadata", "prompt_token_count")
    ):
        return "gemini"
    if is_reported(look(response, "usage", "prompt_cache_hit_tokens")):
        return "deepseek"
    kind = look_text(response, "type")
    if kind in ("message", "message_start", "message_delta"):
        return "anthropic"
    if look_text(response, "request_id") and fields_of(look(response, "output")):
        return "dashscope"
    return None


def _text_in(response: Any, *paths: tuple[str, ...]) -> str | None:
    for holder in (response, *(look(response, name) for name in _WRAPPERS)):
        if holder is None or isinstance(holder, str):
            continue
        for path in paths:
            text = look_text(holder, *path)
            if text:
                return text
    return None


def _counts(response: Any, root: Any, origin: Origin) -> Counts:
    provider = origin.provider
    counts: Counts = {}
    if root is not None and provider not in _OTHERWISE:
        counts = read_usage(root, provider=provider, model=origin.model)
    if root is not None and provider and not counts:
        counts = _ask_genai_prices(response, root, provider)
    drawing = look(response, "svg_usage")  # OpenAI: text tokens beside those of the pictures
    for name in ("input_tokens", "output_tokens", "reasoning_tokens"):
        extra = look_count(drawing, name)
        if extra:
            counts[name] = counts.get(name, 0) + extra
    return {**_media(response), **counts}


def _media(response: Any) -> Counts:
    """Read what only the answer itself shows: its pictures, its seconds."""
    pictures = [
        picture
        for picture in (*look_list(response, "data"), *look_list(response, "generated_images"))
        if any(look(picture, name) for name in ("b64_json", "url", "image"))
    ]
    if pictures or look_text(response, "b64_json"):
        return {"images": len(pictures) or 1, "resolution": look_text(response, "size")}
    if look_text(response, "object") == "video":
        seconds = look_seconds(response, "seconds") or 0
        return {"video_seconds": seconds, "resolution": look_text(response, "size")}
    if isinstance(look(response, "text"), str):
        duration = look_seconds(response, "duration")
        return {"audio_seconds": duration} if duration else {}
    return {}


def _ask_genai_prices(response: Any, root: Any, provider: str) -> Counts:
    """Return the counts as genai-prices reads this provider; empty where it does not know it."""
    from genai_prices.data_snapshot import get_snapshot  # 0.2 s and an HTTP client: only if asked

    usage = deep_fields(root)
    _check_counts(usage)
    try:
        knowing = get_snapshot().find_provider(None, provider, None)
    except LookupError:
        return {}
    for flavour in [extractor.api_flavor for extractor in knowing.extractors or ()]:
        try:
            _, found = knowing.extract_usage({"usage": usage}, api_flavor=flavour)
        except ValueError:
            continue
        hour = int(found.cache_write_1h_tokens)
        return {
            "input_tokens": int(found.input_tokens),
            "cached_input_tokens": int(found.cache_read_tokens),
            "cache_write_tokens": max(int(found.cache_write_tokens), hour) - hour,
            "cache_write_1h_tokens": hour,
            "output_tokens": int(found.output_tokens),
            "reasoning_tokens": int(found.output_reasoning_tokens),
        }
    return {}


def _check_counts(root: Any) -> None:
    """Refuse any count of tokens that cannot be, wherever it stands."""
    if isinstance(root, list):
        for each in root:
            _check_counts(each)
    if isinstance(root, Mapping):
        for name, value in root.items():
            _check_counts(value)
            if "token" in name.lower():
                look_count(root, name)
