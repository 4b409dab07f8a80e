"""Usage records as anybody may have written them, and what columns may be made of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

WHOLE: dict[str, Any] = {
    "input_tokens": 1000,
    "cached_input_tokens": 200,
    "output_tokens": 2**53 - 1,
    "audio_seconds": 1.5,
    "video_seconds": "2.0625",
    "resolution": "1080p",
    "requests": 1,
    "usage_type": "text_generation",
    "status": "success",
    "quality": "exact",
    "provider": "openai",
    "model": "通义千问-😀",
    "cost": "0.000000000003",
    "currency": "USD",
    "price_ids": ["price_1", 'a "b" \\ {c}, d'],
    "anomaly": {"reason": "x", "raw": {"text": "\0\ud800😀"}},
    "error": "E" * 2000,
    "held": 5,
    "latency_ms": 12,
    "first_token_ms": 3,
    "request_id": "a\\u0000b",
    "unbilled": "unconfigured",
    "unpriced": "no price could be read",
    "metadata": {"team": "搜索", "deep": [1, {"a": None}]},
}

#: Each usage, and the columns that it fills: no other.
ODD: tuple[tuple[Any, dict[str, Any]], ...] = (
    (
        WHOLE,
        {
            **WHOLE,
            "audio_seconds": Decimal("1.5"),
            "video_seconds": Decimal("2.0625"),
            "cost": Decimal("0.000000000003"),
            "anomaly": {"reason": "x", "raw": {"text": "\ufffd\ufffd😀"}},
        },
    ),
    ({"input_tokens": 5, "requests": 1}, {"input_tokens": 5, "requests": 1}),
    ([1], {}),
    ("text", {}),
    (7, {}),
    ({}, {}),
    ({"input_tokens": -1, "output_tokens": 2**53, "images": 1.0, "held": True}, {}),
    ({"input_tokens": "5", "requests": 10**40, "characters": 1e300, "latency_ms": []}, {}),
    ({"model": "", "provider": "p" * 201, "status": 1, "quality": None, "error": "e" * 2001}, {}),
    (
        {"model": "a\0b", "provider": "\ud800", "error": "\udfff😀"},
        {"model": "a\ufffdb", "provider": "\ufffd", "error": "\ufffd😀"},
    ),
    ({"model": "\\u0000", "provider": "\\\\ud800"}, {"model": "\\u0000", "provider": "\\\\ud800"}),
    ({"cost": "NaN"}, {}),
    ({"cost": "1e999999"}, {}),
    ({"cost": 0.5, "currency": "USD"}, {"currency": "USD"}),
    ({"cost": "0.0000000000001"}, {}),
    ({"cost": "9" * 37}, {}),
    ({"cost": "3E-7"}, {"cost": Decimal("3E-7")}),
    ({"cost": "1E+2"}, {"cost": Decimal(100)}),
    ({"cost": "-0.5000000000000"}, {"cost": Decimal("-0.5")}),
    ({"cost": " 1"}, {}),
    ({"cost": "1\n"}, {}),
    ({"cost": "１"}, {}),
    ({"audio_seconds": -0.5, "video_seconds": 2**53}, {}),
    (
        {"audio_seconds": 1e-07, "video_seconds": "1e-99"},
        {"audio_seconds": Decimal("1E-7"), "video_seconds": Decimal("1E-99")},
    ),
    ({"audio_seconds": "1e-100000", "video_seconds": {"a": 1}}, {}),
    ({"price_ids": []}, {}),
    ({"price_ids": ["a", 1]}, {}),
    ({"price_ids": ["a\0"]}, {"price_ids": ["a\ufffd"]}),
    ({"price_ids": ["a"] * 101}, {}),
    ({"price_ids": "a"}, {}),
    ({"price_ids": {"a": 1}}, {}),
    ({"anomaly": [1], "metadata": "x"}, {}),
    ({"metadata": {}}, {"metadata": {}}),
    ({"account": "user:9", "amount": 5, "id": 7, "somebody's own": 1}, {}),
)
