"""
Imported prices charge what their lists say.

Goal: the cost of a known model is the one that its list's own authors compute. Method: beside
genai-prices, for its release's models; and LiteLLM's whole file beside genai-prices, where
QUOTA_ENGINE_TEST_LITELLM_PRICES names the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import genai_prices
import pytest

from quota_engine import PricingNotFoundError, Usage
from quota_engine.prices import Price, cost_of
from quota_engine.prices.genai import read_genai_prices
from quota_engine.prices.importing import Offer
from quota_engine.prices.litellm import read_litellm
from tests.price_lists import IMPORTED_AT as AT
from tests.price_lists import recorded

LITELLM_FILE = os.environ.get("QUOTA_ENGINE_TEST_LITELLM_PRICES")

#: (provider, model) as genai-prices names them
KNOWN = [
    *(("openai", name) for name in ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-nano", "o3")),
    *(("openai", name) for name in ("gpt-5", "gpt-5-mini", "gpt-5.4", "gpt-3.5-turbo")),
    *(("anthropic", name) for name in ("claude-sonnet-4-5", "claude-haiku-4-5")),
    *(("google", name) for name in ("gemini-2.5-pro", "gemini-2.5-flash")),
    *(("google", name) for name in ("gemini-2.5-flash-lite", "gemini-3.1-pro-preview")),
    ("deepseek", "deepseek-chat"),
    ("mistral", "codestral-2508"),
    ("x-ai", "grok-code-fast-1"),
    ("perplexity", "sonar"),
    ("groq", "openai/gpt-oss-120b"),
]
USAGES = [
    Usage(input_tokens=1000, output_tokens=500),
    Usage(input_tokens=1, output_tokens=1),
    Usage(
        input_tokens=10_000, cached_input_tokens=4000, output_tokens=1234, reasoning_tokens=1000
    ),
    Usage(input_tokens=200_000, output_tokens=7),
    Usage(
        input_tokens=300_001, cached_input_tokens=100_000, cache_write_tokens=1000, output_tokens=7
    ),
    Usage(input_tokens=5000, cache_write_tokens=1000, cache_write_1h_tokens=500, output_tokens=10),
]


def told_to_genai(usage: Usage) -> genai_prices.Usage:
    """Return a usage as genai-prices counts it: its cache writes include those of an hour."""
    counts = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        "output_reasoning_tokens": usage.reasoning_tokens,
    }
    return genai_prices.Usage(**{name: count for name, count in counts.items() if count})


def told_by_genai(provider: str, model: str, usage: Usage) -> Decimal:
    return genai_prices.calc_price(
        told_to_genai(usage), model, provider_id=provider, genai_request_timestamp=AT
    ).total_price


def charged(prices: Sequence[Price], usage: Usage) -> Decimal | None:
    try:
        return cost_of(usage, prices, provider="p", model="m", at=AT).amount
    except PricingNotFoundError:
        return None


@pytest.fixture(scope="module")
def genai() -> dict[tuple[str, str], Offer]:
    return {(offer.provider, offer.model): offer for offer in read_genai_prices(AT).offers}


@pytest.mark.parametrize(("provider", "model"), KNOWN)
def test_known_models_cost_what_genai_prices_says(
    genai: dict[tuple[str, str], Offer], provider: str, model: str
) -> None:
    prices = recorded(genai[provider, model].prices)
    for usage in USAGES:
        assert charged(prices, usage) == told_by_genai(provider, model, usage), usage


def test_every_model_of_genai_prices_costs_the_same_or_is_unpriced(
    genai: dict[tuple[str, str], Offer],
) -> None:
    from genai_prices.data import providers

    same = unpriced = 0
    for provider in providers:
        for model in provider.models:
            offer = genai.get((provider.id, model.id))
            if offer is None or "cheaper hours of the day" in offer.left_out:
                continue
            prices = recorded(offer.prices)
            for usage in USAGES[2:5:2]:
                calculated = model.calc_price(
                    told_to_genai(usage), provider, genai_request_timestamp=AT
                )
                found = charged(prices, usage)
                if found is None:  # genai-prices lets tokens without a price pass for nothing
                    unpriced += 1
                    continue
                assert abs(found - calculated.total_price) <= Decimal("1E-12"), offer.entry
                same += 1
    assert same > 4_000
    assert unpriced < 400


# -- LiteLLM's whole file

#: Where the two lists part, and why.
DIFFERENT = {
    "claude-sonnet-4-5": "LiteLLM has no long-context price for Anthropic's own API any more",
    "deepseek-chat": "genai-prices has the price of V3 (2025-02), LiteLLM that of V3.2 (2025-09)",
    "grok-code-fast-1": "genai-prices has the price at launch, LiteLLM what xAI lists now",
    "sonar": "genai-prices charges each request; LiteLLM has the fee as a search's, left out",
}
#: How LiteLLM names a provider where the names differ.
LITELLM_NAMES = {"google": "gemini", "x-ai": "xai"}


@pytest.mark.skipif(LITELLM_FILE is None, reason="QUOTA_ENGINE_TEST_LITELLM_PRICES is not set")
def test_the_whole_litellm_file_is_read_and_agrees(genai: dict[tuple[str, str], Offer]) -> None:
    text = Path(LITELLM_FILE or "").read_text(encoding="utf-8")
    entries = json.loads(text, parse_float=Decimal)
    reading = read_litellm(entries)
    twice = sum("says the same" in unread.reason for unread in reading.unread)
    assert reading.entries == len(entries)
    assert len(reading.offers) + twice > 0.9 * len(entries)
    assert all(unread.reason for unread in reading.unread)
    offers = {(offer.provider, offer.model): offer for offer in reading.offers}
    different = set()
    for provider, model in KNOWN:
        names = LITELLM_NAMES.get(provider, provider), model
        ours = recorded(offers[names].prices)
        if any(charged(ours, usage) != told_by_genai(provider, model, usage) for usage in USAGES):
            different.add(model)
    assert different == DIFFERENT.keys()
