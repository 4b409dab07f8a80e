"""
Lists that others keep are read as prices, and what could not be read is said.

Goal: an import takes what it understands, names what it does not, and changes only what is new.
Method: a small file written here, with one entry of each shape.
"""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from quota_engine.prices import NewPrice, Origin, Price
from quota_engine.prices.importing import Offer, Reading, Unread, plan
from quota_engine.prices.litellm import read_litellm
from tests.price_lists import IMPORTED_AT as AT
from tests.price_lists import recorded

ENTRIES: dict[str, Any] = {
    "sample_spec": {"input_cost_per_token": 0.0, "mode": "one of: chat, ..."},
    "gpt-test": {
        "litellm_provider": "openai",
        "mode": "chat",
        "max_input_tokens": 128000,
        "max_output_tokens": 16384,
        "input_cost_per_token": 2.5e-06,
        "input_cost_per_token_batches": 1.25e-06,
        "input_cost_per_token_above_272k_tokens": 5e-06,
        "input_cost_per_token_above_272k_tokens_priority": 1e-05,
        "output_cost_per_token": 1e-05,
        "cache_read_input_token_cost": 1.2500000000000001e-06,
        "search_context_cost_per_query": {"search_context_size_low": 0.01},
        "input_cost_per_audio_token": 4e-05,
    },
    "claude-test": {
        "litellm_provider": "anthropic",
        "mode": "chat",
        "input_cost_per_token": 3e-06,
        "output_cost_per_token": 1.5e-05,
        "cache_creation_input_token_cost": 3.75e-06,
        "cache_creation_input_token_cost_above_1hr": 6e-06,
        "cache_creation_input_token_cost_above_12hr": 9e-06,
        "output_cost_per_reasoning_token": 2e-05,
    },
    "dashscope/qwen-test": {
        "litellm_provider": "dashscope",
        "mode": "chat",
        "tiered_pricing": [
            {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06, "range": [0, 32000.0]},
            {"input_cost_per_token": 3e-06, "output_cost_per_token": 4e-06, "range": [32000.0, 1]},
        ],
    },
    "openai/draw": {
        "litellm_provider": "openai",
        "mode": "image_generation",
        "output_cost_per_image": 0.04,
        "output_cost_per_image_1K": 0.05,
        "input_cost_per_token": 5e-06,
        "output_cost_per_token": 1e-06,
        "output_cost_per_image_token": 3e-05,
    },
    "draw-by-token": {
        "litellm_provider": "openai",
        "mode": "image_generation",
        "input_cost_per_token": 5e-06,
        "output_cost_per_image_token": 4e-05,
    },
    "speak": {
        "litellm_provider": "openai",
        "mode": "audio_speech",
        "input_cost_per_character": 1.5e-05,
    },
    "listen": {
        "litellm_provider": "openai",
        "mode": "audio_transcription",
        "input_cost_per_second": 0.0001,
        "output_cost_per_second": 0.0001,
    },
    "film": {
        "litellm_provider": "vertex_ai-video-models",
        "mode": "video_generation",
        "output_cost_per_second": 0.4,
        "output_cost_per_second_720p": 0.2,
    },
    "rank": {
        "litellm_provider": "cohere",
        "mode": "rerank",
        "input_cost_per_query": 0.002,
        "input_cost_per_token": 0.0,
        "output_cost_per_token": 0.0,
    },
    "half-known": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 0.0,
    },
    "nothing-known": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 0.0,
        "output_cost_per_token": 0.0,
    },
    "no-price": {"litellm_provider": "openai", "mode": "chat", "max_tokens": 4096},
    "by-the-page": {"litellm_provider": "mistral", "mode": "ocr", "ocr_cost_per_page": 0.001},
    "by-the-hour": {
        "litellm_provider": "bedrock",
        "mode": "chat",
        "input_cost_per_second": 0.0175,
    },
    "openai/gpt-test": {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 9e-06,
    },
    "negative": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": -1e-06},
    "nobody": {"mode": "chat", "input_cost_per_token": 1e-06},
}

#: (pricing type, above tokens, service tier, resolution): price and unit
Terms = dict[tuple[str, int | None, str | None, str | None], tuple[str, str]]
M = "per_1m_tokens"
READ: dict[str, Terms] = {
    "gpt-test": {
        ("input_token", None, None, None): ("2.5", M),
        ("input_token", None, "batch", None): ("1.25", M),
        ("input_token", 272_000, None, None): ("5", M),
        ("input_token", 272_000, "priority", None): ("10", M),
        ("output_token", None, None, None): ("10", M),
        ("cached_input_token", None, None, None): ("1.25", M),
    },
    "claude-test": {
        ("input_token", None, None, None): ("3", M),
        ("output_token", None, None, None): ("15", M),
        ("cache_write_token", None, None, None): ("3.75", M),
        ("cache_write_1h_token", None, None, None): ("6", M),
        ("reasoning_token", None, None, None): ("20", M),
    },
    "dashscope/qwen-test": {
        ("input_token", None, None, None): ("1", M),
        ("output_token", None, None, None): ("2", M),
        ("input_token", 32_000, None, None): ("3", M),
        ("output_token", 32_000, None, None): ("4", M),
    },
    "openai/draw": {
        ("input_token", None, None, None): ("5", M),
        ("image", None, None, None): ("0.04", "per_image"),
        ("image", None, None, "1k"): ("0.05", "per_image"),
    },
    "draw-by-token": {
        ("input_token", None, None, None): ("5", M),
        ("output_token", None, None, None): ("40", M),
    },
    "speak": {("audio_tts", None, None, None): ("0.15", "per_10k_chars")},
    "listen": {("audio_minute", None, None, None): ("0.0001", "per_second")},
    "film": {
        ("video_second", None, None, None): ("0.4", "per_second"),
        ("video_second", None, None, "720p"): ("0.2", "per_second"),
    },
    "rank": {
        ("request", None, None, None): ("0.002", "per_request"),
        ("input_token", None, None, None): ("0", M),
        ("output_token", None, None, None): ("0", M),
    },
    "half-known": {("input_token", None, None, None): ("1", M)},
}
UNREAD = {
    "sample_spec": "note about the file",
    "nothing-known": "every price is 0",
    "no-price": "no price at all",
    "by-the-page": "ocr_cost_per_page",
    "by-the-hour": "input_cost_per_second",
    "openai/gpt-test": "the same model as the entry gpt-test, and has other prices",
    "negative": "must be a number from 0",
    "nobody": "no provider",
}
LEFT_OUT = {
    "gpt-test": {"search_context_cost_per_query", "input_cost_per_audio_token"},
    "claude-test": {"cache_creation_input_token_cost_above_12hr"},
    "openai/draw": {"output_cost_per_token", "output_cost_per_image_token"},
    "half-known": {"output_token at 0"},
}


def written(tmp_path: Path) -> dict[str, Any]:
    """Return the entries as a file gives them."""
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(ENTRIES), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    return found


def terms_of(offer: Offer) -> Terms:
    return {
        (new.pricing_type, new.above_tokens, new.service_tier, new.resolution): (
            f"{new.price:f}",
            str(new.unit),
        )
        for new in offer.prices
    }


def test_each_shape_of_entry_is_read_as_it_is_meant(tmp_path: Path) -> None:
    reading = read_litellm(written(tmp_path), source="litellm test")
    assert {offer.entry: terms_of(offer) for offer in reading.offers} == READ
    assert {offer.entry: set(offer.left_out) for offer in reading.offers if offer.left_out} == (
        LEFT_OUT
    )
    assert {
        (new.origin, new.currency, new.source) for o in reading.offers for new in o.prices
    } == {("imported", "USD", "litellm test")}
    by_entry = {offer.entry: offer for offer in reading.offers}
    film, gpt = by_entry["film"], by_entry["gpt-test"]
    assert (film.provider, film.facts.usage_type) == ("vertex_ai", "video_generation")
    assert (gpt.facts.context_tokens_max, gpt.facts.output_tokens_max) == (128_000, 16_384)
    assert by_entry["dashscope/qwen-test"].model == "qwen-test"


def test_what_could_not_be_read_is_said_with_the_reason(tmp_path: Path) -> None:
    reading = read_litellm(written(tmp_path))
    assert reading.entries == len(ENTRIES)
    reasons = {unread.entry: unread.reason for unread in reading.unread}
    assert reasons.keys() == UNREAD.keys()
    for entry, reason in UNREAD.items():
        assert reason in reasons[entry]


def test_zeros_are_prices_only_when_they_are_said_to_be(tmp_path: Path) -> None:
    entries = written(tmp_path)
    free = {offer.entry for offer in read_litellm(entries, zero_is_free=True).offers}
    assert free - {offer.entry for offer in read_litellm(entries).offers} == {"nothing-known"}


def test_floats_read_like_decimals() -> None:
    assert (
        read_litellm(ENTRIES).offers
        == read_litellm(json.loads(json.dumps(ENTRIES), parse_float=Decimal)).offers
    )


def offered(*prices: NewPrice) -> Reading:
    offer = read_litellm({"gpt-test": ENTRIES["gpt-test"]}).offers[0]
    changed = Offer(
        entry="gpt-test",
        provider=offer.provider,
        model=offer.model,
        facts=offer.facts,
        prices=prices or offer.prices,
    )
    return Reading(source="test", offers=(changed,), unread=(Unread(entry="x", reason="y"),))


def test_the_first_import_adds_and_the_second_changes_nothing() -> None:
    reading = offered()
    first = plan(reading, [], AT, dry_run=False)
    assert (first.added, first.changed, first.unchanged) == (6, 0, 0)
    assert (first.entries, first.priced, len(first.unread)) == (2, 1, 1)
    second = plan(reading, recorded([change.new for change in first.changes]), AT, dry_run=True)
    assert (second.changes, second.unchanged, second.gone, second.dry_run) == ((), 6, (), True)


def test_an_import_says_what_it_changes_what_is_gone_and_what_own_prices_shadow() -> None:
    input_, batch, *rest = offered().offers[0].prices
    known = recorded([input_, batch, *rest])
    own = Price(**{**{n: getattr(known[0], n) for n in Price.__slots__}, "origin": Origin.OWN})
    dearer = NewPrice(
        **{**{name: getattr(input_, name) for name in NewPrice.__slots__}, "price": Decimal(3)}
    )
    report = plan(offered(dearer, *rest), [*known, own], AT + timedelta(days=1), dry_run=True)
    (change,) = report.changes
    assert change.old == known[0]
    assert (change.new.price, change.is_shadowed) == (3, True)
    assert (report.added, report.changed, report.unchanged) == (0, 1, 4)
    assert report.gone == (known[1],)


def test_prices_to_come_are_recorded_once() -> None:
    input_ = offered().offers[0].prices[0]
    values = {name: getattr(input_, name) for name in NewPrice.__slots__}
    later = NewPrice(**{**values, "price": Decimal(1), "effective_at": AT + timedelta(days=9)})
    reading = offered(input_, later)
    assert plan(reading, [], AT, dry_run=True).added == 2
    known = recorded([input_, later])
    assert plan(reading, known, AT + timedelta(days=1), dry_run=True).unchanged == 2
