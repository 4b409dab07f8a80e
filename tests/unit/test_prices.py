"""
What a call costs, computed by hand from public price lists.

Goal: every unit, tier and rule of the price book agrees with pencil and paper. Method: a table of
published prices (their sources stand beside them in tests/price_lists.py), a usage, and the
amount; each row's comment is the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from quota_engine import Usage
from quota_engine.prices import Price, PricingType, Unit
from tests.price_lists import (
    COSYVOICE,
    DALL_E_3,
    DEEPSEEK,
    EMBEDDING,
    GEMINI_PRO,
    GPT_4,
    GPT_4O,
    GPT_4O_MINI,
    GPT_5,
    GPT_41_NANO,
    IMAGEN_4,
    LEAST,
    O1,
    OPUS,
    PARAFORMER,
    QWEN3_MAX,
    QWEN_PLUS,
    RERANK,
    SONAR,
    SONNET,
    SORA_2_PRO,
    TTS_1,
    VEO_3,
    WAN_25,
    WHISPER,
    cost,
)


@dataclass(frozen=True)
class Case:
    name: str
    prices: Sequence[Price]
    usage: Usage
    amount: str
    currency: str = "USD"
    asked: dict[str, Any] = field(default_factory=dict)


CASES = [
    # 1000 x 2.50/M = 0.0025; 200 x 10/M = 0.002
    Case("gpt-4o", GPT_4O, Usage(input_tokens=1000, output_tokens=200), "0.0045"),
    # 200 plain x 2.50/M = 0.0005; 800 cached x 1.25/M = 0.001; 200 x 10/M = 0.002
    Case(
        "gpt-4o, cached",
        GPT_4O,
        Usage(input_tokens=1000, cached_input_tokens=800, output_tokens=200),
        "0.0035",
    ),
    # all of it cached: 1000 x 1.25/M
    Case("all cached", GPT_4O, Usage(input_tokens=1000, cached_input_tokens=1000), "0.00125"),
    # 1 x 0.15/M, 1 x 0.60/M
    Case("one token", GPT_4O_MINI, Usage(input_tokens=1, output_tokens=1), "0.00000075"),
    # 333 x 0.15/M = 0.00004995; 777 x 0.60/M = 0.0004662
    Case("odd", GPT_4O_MINI, Usage(input_tokens=333, output_tokens=777), "0.00051615"),
    # 1 cached x 0.025/M
    Case(
        "a fraction of a millionth",
        GPT_41_NANO,
        Usage(input_tokens=1, cached_input_tokens=1),
        "0.000000025",
    ),
    # reasoning has no price of its own, so it is output: 500 x 15/M = 0.0075; 2000 x 60/M = 0.12
    Case(
        "o1, reasoning as output",
        O1,
        Usage(input_tokens=500, output_tokens=2000, reasoning_tokens=1700),
        "0.1275",
    ),
    # 8192 / 1000 x 0.03 = 0.24576; 1000 / 1000 x 0.06
    Case("gpt-4, per 1K", GPT_4, Usage(input_tokens=8192, output_tokens=1000), "0.30576"),
    # 7 / 1000 x 0.03 = 0.00021; 3 / 1000 x 0.06 = 0.00018
    Case("gpt-4, parts of 1K", GPT_4, Usage(input_tokens=7, output_tokens=3), "0.00039"),
    # 1,234,567 x 0.02/M
    Case(
        "embedding",
        EMBEDDING,
        Usage(input_tokens=1_234_567),
        "0.02469134",
        asked={"usage_type": "embedding"},
    ),
    # 10,000 x 1.25/M = 0.0125; 1000 x 10/M = 0.01
    Case("gpt-5", GPT_5, Usage(input_tokens=10_000, output_tokens=1000), "0.0225"),
    # half of it
    Case(
        "gpt-5 flex",
        GPT_5,
        Usage(input_tokens=10_000, output_tokens=1000),
        "0.01125",
        asked={"service_tier": "flex"},
    ),
    # twice of it; the name in capitals
    Case(
        "gpt-5 priority",
        GPT_5,
        Usage(input_tokens=10_000, output_tokens=1000),
        "0.045",
        asked={"service_tier": "Priority"},
    ),
    # OpenAI reports the ordinary tier as "default"
    Case(
        "gpt-5 default",
        GPT_5,
        Usage(input_tokens=10_000, output_tokens=1000),
        "0.0225",
        asked={"service_tier": "default"},
    ),
    # batch has no cached price here, so cached is batch input: 10,000 x 0.625/M; 1000 x 5/M
    Case(
        "gpt-5 batch, cached as input",
        GPT_5,
        Usage(input_tokens=10_000, cached_input_tokens=4000, output_tokens=1000),
        "0.01125",
        asked={"service_tier": "batch"},
    ),
    # 3 x 0.040
    Case(
        "DALL-E 3",
        DALL_E_3,
        Usage(images=3, resolution="1024x1024"),
        "0.12",
        asked={"usage_type": "image_generation"},
    ),
    # 2 x 0.080; the resolution in capitals
    Case(
        "DALL-E 3, tall",
        DALL_E_3,
        Usage(images=2, resolution="1024X1792"),
        "0.16",
        asked={"usage_type": "image_generation"},
    ),
    # 4 x 0.04, whatever the resolution: only one price
    Case("Imagen 4", IMAGEN_4, Usage(images=4, resolution="2k"), "0.16"),
    # the prompt's tokens have no price, the images have: 1 x 0.04
    Case(
        "Imagen 4 with a prompt",
        IMAGEN_4,
        Usage(images=1, input_tokens=30),
        "0.04",
        asked={"usage_type": "image_generation"},
    ),
    # an image model that is priced by tokens: 50 x 2.50/M = 0.000125; 1290 x 10/M = 0.0129
    Case(
        "images by the token",
        GPT_4O,
        Usage(images=1, input_tokens=50, output_tokens=1290),
        "0.013025",
        asked={"usage_type": "image_generation"},
    ),
    # 10,000 characters x 15/M
    Case("tts-1", TTS_1, Usage(characters=10_000), "0.15", asked={"usage_type": "audio_tts"}),
    # 1 character: 0.15 / 10,000
    Case("tts-1, one letter", TTS_1, Usage(characters=1), "0.000015"),
    # 12,345 x 15/M
    Case("tts-1, odd", TTS_1, Usage(characters=12_345), "0.185175"),
    # 2,500 / 10,000 x 2
    Case("CosyVoice", COSYVOICE, Usage(characters=2500), "0.5", "CNY"),
    # exactly 2 minutes
    Case("whisper, 120 s", WHISPER, Usage(audio_seconds=120), "0.012"),
    # a started minute counts: 3 x 0.006
    Case("whisper, 120.001 s", WHISPER, Usage(audio_seconds=120.001), "0.018"),
    # 1 second is 1 minute
    Case("whisper, 1 s", WHISPER, Usage(audio_seconds=1), "0.006"),
    # 59.999 s is 1 minute, as a Decimal
    Case("whisper, 59.999 s", WHISPER, Usage(audio_seconds=Decimal("59.999")), "0.006"),
    # 0.1 + 0.2 + 59.7 as floats is a little more than 60: less than a microsecond is noise
    Case("whisper, noise", WHISPER, Usage(audio_seconds=60.00000000000001), "0.006"),
    # 90.5 seconds x 0.00008
    Case("Paraformer, by the second", PARAFORMER, Usage(audio_seconds=90.5), "0.00724", "CNY"),
    # 8 x 0.30
    Case("Sora 2 Pro", SORA_2_PRO, Usage(video_seconds=8, resolution="720p"), "2.4"),
    # 12 x 0.50
    Case("Sora 2 Pro, large", SORA_2_PRO, Usage(video_seconds=12, resolution="1024P"), "6"),
    # 5.04 x 0.40: not rounded up
    Case("Veo 3", VEO_3, Usage(video_seconds=5.04), "2.016"),
    # 5 x 1.0
    Case(
        "Wan 2.5, 1080p",
        WAN_25,
        Usage(video_seconds=5, resolution="1080p"),
        "5",
        "CNY",
        {"usage_type": "video_generation"},
    ),
    # 10 x 0.6
    Case("Wan 2.5, 720p", WAN_25, Usage(video_seconds=10, resolution="720p"), "6", "CNY"),
    # 2000 plain x 3/M = 0.006; 10,000 read x 0.30/M = 0.003; 4000 written x 3.75/M = 0.015;
    # 1000 written for an hour x 6/M = 0.006; 500 x 15/M = 0.0075
    Case(
        "Sonnet, every kind of cache",
        SONNET,
        Usage(
            input_tokens=17_000,
            cached_input_tokens=10_000,
            cache_write_tokens=4000,
            cache_write_1h_tokens=1000,
            output_tokens=500,
        ),
        "0.0375",
    ),
    # 100 x 18.75/M = 0.001875; 100 x 30/M = 0.003; 100 x 75/M = 0.0075
    Case(
        "Opus, cache writes",
        OPUS,
        Usage(
            input_tokens=200, cache_write_tokens=100, cache_write_1h_tokens=100, output_tokens=100
        ),
        "0.012375",
    ),
    # exactly at the boundary is not above it: 200,000 x 3/M = 0.6; 1000 x 15/M = 0.015
    Case("Sonnet, 200,000", SONNET, Usage(input_tokens=200_000, output_tokens=1000), "0.615"),
    # one more, and the whole call is dearer: 200,001 x 6/M = 1.200006; 1000 x 22.5/M = 0.0225
    Case("Sonnet, 200,001", SONNET, Usage(input_tokens=200_001, output_tokens=1000), "1.222506"),
    # cached tokens count for the boundary: 50,001 x 6/M = 0.300006; 150,000 x 0.60/M = 0.09
    Case(
        "Sonnet, 200,001 with cached",
        SONNET,
        Usage(input_tokens=200_001, cached_input_tokens=150_000),
        "0.390006",
    ),
    # 200,000 x 1.25/M = 0.25; 100 x 10/M = 0.001
    Case("Gemini, 200k", GEMINI_PRO, Usage(input_tokens=200_000, output_tokens=100), "0.251"),
    # 200,001 x 2.5/M = 0.5000025; 100 x 15/M = 0.0015
    Case("Gemini, >200k", GEMINI_PRO, Usage(input_tokens=200_001, output_tokens=100), "0.5015025"),
    # output does not count for the boundary: 1000 x 1.25/M = 0.00125; 300,000 x 10/M = 3
    Case("Gemini, long", GEMINI_PRO, Usage(input_tokens=1000, output_tokens=300_000), "3.00125"),
    # 32,000 x 0.006/k = 192/1000 = 0.192; 1000 x 0.024/k
    Case(
        "qwen3-max, 32k", QWEN3_MAX, Usage(input_tokens=32_000, output_tokens=1000), "0.216", "CNY"
    ),
    # 32,001 x 0.010/k = 0.32001; 1000 x 0.040/k
    Case(
        "qwen3-max, >32k",
        QWEN3_MAX,
        Usage(input_tokens=32_001, output_tokens=1000),
        "0.36001",
        "CNY",
    ),
    # the highest tier that is passed: 128,001 x 0.015/k = 1.920015; 1000 x 0.060/k
    Case(
        "qwen3-max, >128k",
        QWEN3_MAX,
        Usage(input_tokens=128_001, output_tokens=1000),
        "1.980015",
        "CNY",
    ),
    # 1000 x 0.0008/k = 0.0008; 100 x 0.002/k = 0.0002; 900 x 0.008/k = 0.0072
    Case(
        "qwen-plus, thinking",
        QWEN_PLUS,
        Usage(input_tokens=1000, output_tokens=1000, reasoning_tokens=900),
        "0.0082",
        "CNY",
    ),
    # 1000 miss x 0.27/M = 0.00027; 9000 hit x 0.07/M = 0.00063; 100 x 1.10/M = 0.00011
    Case(
        "deepseek-chat",
        DEEPSEEK,
        Usage(input_tokens=10_000, cached_input_tokens=9000, output_tokens=100),
        "0.00101",
    ),
    # cache writes have no price of their own: they are input: 1000 x 0.27/M
    Case(
        "deepseek-chat, writes as input",
        DEEPSEEK,
        Usage(input_tokens=1000, cache_write_tokens=400, cache_write_1h_tokens=100),
        "0.00027",
    ),
    # 100 x 1/M twice, and 1 request
    Case("sonar", SONAR, Usage(input_tokens=100, output_tokens=100), "0.0052"),
    # three requests of one call: 3 x 0.005
    Case("sonar, three requests", SONAR, Usage(requests=3), "0.015"),
    # a failed attempt that was no request costs its tokens
    Case("sonar, no request", SONAR, Usage(input_tokens=100, requests=0), "0.0001"),
    # 1 x 0.002, and 5000 tokens that are free
    Case(
        "rerank",
        RERANK,
        Usage(input_tokens=5000, requests=1),
        "0.002",
        asked={"usage_type": "rerank"},
    ),
    # at least one thousand, at least half a thousand: 0.01 + 0.015
    Case("least", LEAST, Usage(input_tokens=3, output_tokens=2), "0.025"),
    # nothing used pays no minimum
    Case("least of nothing", LEAST, Usage(), "0"),
    # above the least, what was used: 1.5 x 0.01 + 0.501 x 0.03
    Case("above the least", LEAST, Usage(input_tokens=1500, output_tokens=501), "0.03003"),
    # 61 s are 2 minutes, at least 5: 0.03
    Case("least of minutes", LEAST, Usage(audio_seconds=61), "0.03"),
    # 400 characters, at least one block
    Case("least of characters", LEAST, Usage(characters=400), "0.15"),
    # the greatest count: (2**53 - 1) x 2.50/M = 9007199254740991 x 0.0000025
    Case("no digit is lost", GPT_4O, Usage(input_tokens=2**53 - 1), "22517998136.8524775"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_call_costs_what_the_list_says(case: Case) -> None:
    found = cost(case.usage, case.prices, **case.asked)
    assert (found.amount, found.currency) == (Decimal(case.amount), case.currency)
    assert sum(line.amount for line in found.lines) == Decimal(case.amount)


def test_the_table_covers_every_unit_and_every_kind() -> None:
    listed = [price for case in CASES for price in case.prices]
    assert {price.unit for price in listed} == set(Unit)
    assert {price.pricing_type for price in listed} == set(PricingType)
    assert len(CASES) >= 40
