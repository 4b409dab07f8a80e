"""
Prices as providers published them, for tests to compute with.

"List price" means as the provider's public pricing page gave it at about that date.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

from quota_engine import Usage
from quota_engine.prices import Cost, NewPrice, Price, cost_of, new_price

START = datetime(2025, 1, 1, tzinfo=UTC)
AT = datetime(2025, 6, 1, 12, tzinfo=UTC)
#: When lists are read: by day, after the release of those that are compared.
IMPORTED_AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
_numbers = count(1)


def price(kind: str, amount: str, unit: str | None = None, **terms: Any) -> Price:
    """Return a price in force from 2025 on, in USD where nothing else is said."""
    number = next(_numbers)
    terms = {"currency": "USD", "effective_at": START, **terms}
    new = new_price("test", "model", kind, amount, unit=unit, **terms)
    assert new.effective_at is not None
    return Price(
        price_id=f"price_{number}",
        provider=new.provider,
        model=new.model,
        pricing_type=new.pricing_type,
        unit=new.unit,
        price=new.price,
        currency=new.currency,
        min_charge_units=new.min_charge_units,
        above_tokens=new.above_tokens,
        service_tier=new.service_tier,
        resolution=new.resolution,
        effective_at=new.effective_at,
        expires_at=new.expires_at,
        origin=new.origin,
        number=number,
    )


def recorded(prices: Sequence[NewPrice], at: datetime = IMPORTED_AT) -> list[Price]:
    """Return new prices as they would be recorded at an instant."""
    names = [name for name in NewPrice.__slots__ if name != "effective_at"]
    return [
        Price(
            price_id=f"price_{number}",
            effective_at=new.effective_at or at,
            number=number,
            **{name: getattr(new, name) for name in names},
        )
        for number, new in enumerate(prices)
    ]


def cost(usage: Usage, prices: Sequence[Price], **asked: Any) -> Cost:
    return cost_of(usage, prices, provider="test", model="model", **{"at": AT, **asked})


def tokens(input_: str, output: str, cached: str | None = None, **terms: Any) -> list[Price]:
    """Return prices per million tokens, as most lists give them."""
    listed = {"input_token": input_, "output_token": output, "cached_input_token": cached}
    return [price(kind, amount, **terms) for kind, amount in listed.items() if amount]


def thousands(input_: str, output: str, **terms: Any) -> list[Price]:
    """Return prices per thousand tokens."""
    return [
        price("input_token", input_, "per_1k_tokens", **terms),
        price("output_token", output, "per_1k_tokens", **terms),
    ]


# OpenAI, list prices: gpt-4o and gpt-4o-mini 2024-10, o1 2024-12, gpt-4.1 2025-04, gpt-5 2025-08,
# gpt-4 2023-03 (per 1K), text-embedding-3-small 2024-01.
GPT_4O = tokens("2.50", "10.00", "1.25")
GPT_4O_MINI = tokens("0.15", "0.60", "0.075")
O1 = tokens("15", "60", "7.50")
GPT_41_NANO = tokens("0.10", "0.40", "0.025")
GPT_4 = thousands("0.03", "0.06")
EMBEDDING = [price("input_token", "0.02")]
GPT_5 = [
    *tokens("1.25", "10", "0.125"),
    *tokens("0.625", "5", "0.0625", service_tier="flex"),
    *tokens("2.50", "20", "0.25", service_tier="priority"),
    *tokens("0.625", "5", service_tier="batch"),
]
# OpenAI, list prices 2023-11: DALL-E 3 standard, tts-1 ($15 per 1M characters), whisper-1.
DALL_E_3 = [
    price("image", "0.040", resolution="1024x1024"),
    price("image", "0.080", resolution="1024x1792"),
]
TTS_1 = [price("audio_tts", "0.15", "per_10k_chars")]
WHISPER = [price("audio_minute", "0.006", "per_minute")]
# OpenAI, list price 2025-10: sora-2-pro by resolution.
SORA_2_PRO = [
    price("video_second", "0.30", resolution="720p"),
    price("video_second", "0.50", resolution="1024p"),
]
# Anthropic, list prices 2025-09: Claude Sonnet 4.5 with its long-context prices, Opus 4.1.
SONNET = [
    *tokens("3", "15", "0.30"),
    price("cache_write_token", "3.75"),
    price("cache_write_1h_token", "6"),
    *tokens("6", "22.50", "0.60", above_tokens=200_000),
    price("cache_write_token", "7.50", above_tokens=200_000),
    price("cache_write_1h_token", "12", above_tokens=200_000),
]
OPUS = [
    *tokens("15", "75", "1.50"),
    price("cache_write_token", "18.75"),
    price("cache_write_1h_token", "30"),
]
# Google, list prices 2025-09: Gemini 2.5 Pro ("prompts <= 200k" and "> 200k"), Imagen 4, Veo 3.
GEMINI_PRO = [
    *tokens("1.25", "10", "0.125"),
    *tokens("2.50", "15", "0.25", above_tokens=200_000),
]
IMAGEN_4 = [price("image", "0.04")]
VEO_3 = [price("video_second", "0.40")]
# Alibaba Cloud Model Studio, Beijing, list prices 2025-09, in CNY: qwen-plus (thinking output
# dearer), qwen3-max in three context tiers, wan2.5-t2v-preview, CosyVoice v2, Paraformer v2.
QWEN_PLUS = [
    *thousands("0.0008", "0.002", currency="CNY"),
    price("reasoning_token", "0.008", "per_1k_tokens", currency="CNY"),
]
QWEN3_MAX = [
    *thousands("0.006", "0.024", currency="CNY"),
    *thousands("0.010", "0.040", currency="CNY", above_tokens=32_000),
    *thousands("0.015", "0.060", currency="CNY", above_tokens=128_000),
]
WAN_25 = [
    price("video_second", "0.3", currency="CNY", resolution="480p"),
    price("video_second", "0.6", currency="CNY", resolution="720p"),
    price("video_second", "1.0", currency="CNY", resolution="1080p"),
]
COSYVOICE = [price("audio_tts", "2", currency="CNY")]
PARAFORMER = [price("audio_minute", "0.00008", "per_second", currency="CNY")]
# DeepSeek, list price 2025-02: deepseek-chat, cache miss, output, cache hit.
DEEPSEEK = tokens("0.27", "1.10", "0.07")
# Perplexity, list price 2025-03: sonar, $5 per 1000 requests beside the tokens.
SONAR = [*tokens("1", "1"), price("request", "0.005")]
# Cohere, list price 2024-12: Rerank 3.5, $2 per 1000 searches; its tokens are free, and said so.
RERANK = [price("request", "0.002"), price("input_token", "0")]
# A reseller's terms: at least 1000 tokens, at least 5 minutes, at least one block of characters.
LEAST = [
    price("input_token", "0.01", "per_1k_tokens", min_charge_units=1),
    price("output_token", "0.03", "per_1k_tokens", min_charge_units="0.5"),
    price("audio_minute", "0.006", "per_minute", min_charge_units=5),
    price("audio_tts", "0.15", min_charge_units=1),
]
