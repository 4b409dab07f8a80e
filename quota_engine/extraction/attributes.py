"""
Attributes: a usage under the names of OpenTelemetry's semantic conventions for generative AI.

https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/ has names for tokens; what
it has none for (pictures, characters, seconds) goes under ``quota_engine.usage.``. Its input
count includes cached tokens and its output count reasoning, as ``Usage`` does.
"""

from __future__ import annotations

from quota_engine.extraction.found import Origin
from quota_engine.usage import Usage

_OWN = ("images", "characters", "audio_seconds", "video_seconds", "resolution")


def usage_attributes(usage: Usage) -> dict[str, int | float | str]:
    """Return the span attributes of a usage; parts that are zero are left out."""
    attributes: dict[str, int | float | str] = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }
    written = usage.cache_write_tokens + usage.cache_write_1h_tokens
    parts = {
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.cache_creation.input_tokens": written,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    attributes.update({name: count for name, count in parts.items() if count})
    for name in _OWN:
        value = getattr(usage, name)
        if value:
            shown = value if isinstance(value, int | str) else float(value)
            attributes[f"quota_engine.usage.{name}"] = shown
    return attributes


def origin_attributes(origin: Origin) -> dict[str, str]:
    """Return the span attributes that say who answered."""
    named = {
        "gen_ai.provider.name": origin.provider,
        "gen_ai.response.model": origin.model,
        "gen_ai.response.id": origin.request_id,
    }
    return {name: value for name, value in named.items() if value}
