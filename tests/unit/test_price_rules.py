"""
The price book's rules, one by one: rounding, versions, tiers, currencies, and what is missing.

Goal: nothing is ever silently zero, or priced by something else. Method: pure values.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from quota_engine import InvalidArgumentError, PricingNotFoundError, Usage
from quota_engine.prices import Origin, Price, new_price
from tests.price_lists import (
    AT,
    EMBEDDING,
    GPT_4O,
    GPT_5,
    IMAGEN_4,
    RERANK,
    SONAR,
    TTS_1,
    WAN_25,
    cost,
    price,
    tokens,
)

MICROSECOND = timedelta(microseconds=1)


def test_a_million_calls_of_one_token_sum_exactly() -> None:
    # Alibaba, list price 2025: qwen-turbo input, 0.0003 CNY per 1K
    prices = [price("input_token", "0.0003", "per_1k_tokens", currency="CNY")]
    one = cost(Usage(input_tokens=1), prices)
    assert one.amount == Decimal("0.0000003")
    total, nano_units = Decimal(0), 0
    for number in range(1_000_000):
        if number % 1_000 == 0:  # priced anew: each takes some 40 microseconds
            one = cost(Usage(input_tokens=1), prices)
        total += one.amount
        nano_units += one.nano_units
    assert total == Decimal("0.3")
    assert nano_units == 300_000_000


def test_there_is_one_rounding_at_the_end_half_up() -> None:
    half = price("input_token", "0.0000005")  # one token: half of the twelfth place
    out = price("output_token", "0.0000004")
    assert cost(Usage(input_tokens=1), [half, out]).amount == Decimal("1E-12")
    assert cost(Usage(output_tokens=1), [half, out]).amount == 0
    # 0.5 and 0.4 of the last place: rounded by line 1 + 0, rounded once 0.9 -> 1
    assert cost(Usage(input_tokens=1, output_tokens=1), [half, out]).amount == Decimal("1E-12")
    # three times 0.4 = 1.2 -> 1, where each line alone is nothing
    thirds = [out, price("input_token", "0.0000004"), price("cached_input_token", "0.0000004")]
    three = Usage(input_tokens=2, cached_input_tokens=1, output_tokens=1)
    assert cost(three, thirds).amount == Decimal("1E-12")


def test_nano_units_are_rounded_once_from_the_exact_sum() -> None:
    # 0.4999999996 nano-units: rounded to 12 places first, it would be 0.5 and then 1
    prices = [price("input_token", "0.0004999999996")]
    once = cost(Usage(input_tokens=1), prices)
    assert once.amount == Decimal("0.0000000005")
    assert once.nano_units == 0
    assert cost(Usage(input_tokens=1), [price("input_token", "0.0005")]).nano_units == 1
    assert cost(Usage(input_tokens=1000, output_tokens=200), GPT_4O).nano_units == 4_500_000


def test_lines_say_what_was_charged_and_by_which_price() -> None:
    usage = Usage(input_tokens=1000, cached_input_tokens=800, output_tokens=200)
    found = cost(usage, GPT_4O)
    assert [(line.pricing_type, line.count, line.amount) for line in found.lines] == [
        ("input_token", 200, Decimal("0.0005")),
        ("output_token", 200, Decimal("0.002")),
        ("cached_input_token", 800, Decimal("0.001")),
    ]
    ids = {price.pricing_type: price.price_id for price in GPT_4O}
    assert found.price_ids == tuple(ids[line.pricing_type] for line in found.lines)


# -- which version is in force


def test_a_new_price_counts_from_its_very_instant() -> None:
    change = datetime(2025, 6, 1, tzinfo=UTC)
    prices = [
        *tokens("2.50", "10", expires_at=change),
        *tokens("1.25", "5", effective_at=change),
    ]
    usage = Usage(input_tokens=1_000_000)
    assert cost(usage, prices, at=change - MICROSECOND).amount == Decimal("2.50")
    assert cost(usage, prices, at=change).amount == Decimal("1.25")
    # 2025-06-01T08:00+08:00 is the same instant
    there = datetime.fromisoformat("2025-06-01T08:00:00+08:00")
    assert cost(usage, prices, at=there).amount == Decimal("1.25")


def test_a_later_version_replaces_an_earlier_one_without_an_end() -> None:
    change = datetime(2025, 6, 1, tzinfo=UTC)
    newer, older = tokens("1", "1", effective_at=change), tokens("2", "2")
    usage = Usage(input_tokens=1_000_000)
    assert cost(usage, [*newer, *older], at=change).amount == 1
    assert cost(usage, [*newer, *older], at=change - MICROSECOND).amount == 2


def test_when_an_offer_ends_the_price_before_it_counts_again() -> None:
    week = {"effective_at": AT, "expires_at": AT + timedelta(days=7)}
    prices = [*tokens("2", "2"), *tokens("1", "1", **week)]
    usage = Usage(input_tokens=1_000_000)
    found = [cost(usage, prices, at=AT + timedelta(days=day)).amount for day in (-1, 0, 6, 7)]
    assert found == [2, 1, 1, 2]


def test_of_two_versions_of_one_instant_the_one_recorded_last_counts() -> None:
    wrong, right = tokens("20", "20"), tokens("2", "2")
    assert cost(Usage(input_tokens=1_000_000), [*right, *wrong]).amount == 2


@pytest.mark.parametrize("ends", [True, False])
def test_a_price_out_of_force_is_no_price(ends: bool) -> None:
    when = {"expires_at": AT} if ends else {"effective_at": AT + MICROSECOND}
    with pytest.raises(PricingNotFoundError, match="no price in force"):
        cost(Usage(input_tokens=1), tokens("2", "2", **when))


def test_own_prices_win_over_imported_ones_thing_by_thing() -> None:
    prices = [
        *tokens("2", "2"),
        *tokens("5", "5", "1", origin=Origin.IMPORTED, effective_at=AT),
        price("input_token", "9", origin=Origin.IMPORTED, above_tokens=1000),
    ]
    usage = Usage(input_tokens=1_000_000, cached_input_tokens=500_000, output_tokens=1_000_000)
    # 0.5 x 2 own + 0.5 x 1 imported + 1 x 2 own
    assert cost(usage, prices).amount == Decimal("3.5")


# -- what is missing is said, and never zero


@pytest.mark.parametrize(
    ("usage", "prices", "missing"),
    [
        (Usage(output_tokens=1), [price("input_token", "1")], ("output_token",)),
        (Usage(reasoning_tokens=1, output_tokens=1), EMBEDDING, ("output_token",)),
        (Usage(input_tokens=1, cached_input_tokens=1), RERANK[:1], ("input_token",)),
        (Usage(images=1, characters=2), TTS_1, ("image",)),
        (Usage(audio_seconds=1, video_seconds=1), EMBEDDING, ("audio_minute", "video_second")),
        (Usage(input_tokens=5, images=1), IMAGEN_4, ("input_token",)),
    ],
)
def test_what_has_no_price_is_named(
    usage: Usage, prices: Sequence[Price], missing: tuple[str, ...]
) -> None:
    with pytest.raises(PricingNotFoundError) as refused:
        cost(usage, prices)
    assert refused.value.missing == missing
    assert (refused.value.provider, refused.value.model) == ("test", "model")
    assert all(name in str(refused.value) for name in missing)


@pytest.mark.parametrize("resolution", ["4k", None])
@pytest.mark.parametrize("usage_type", [None, "video_generation"])
def test_an_unknown_resolution_is_an_error(resolution: str | None, usage_type: str | None) -> None:
    usage = Usage(video_seconds=5, resolution=resolution)
    with pytest.raises(PricingNotFoundError, match="priced: 1080p, 480p, 720p"):
        cost(usage, WAN_25, usage_type=usage_type)


def test_a_price_without_a_resolution_is_for_calls_that_name_none() -> None:
    prices = [*WAN_25, price("video_second", "2", currency="CNY")]
    assert cost(Usage(video_seconds=1), prices).amount == 2
    assert cost(Usage(video_seconds=1, resolution="720p"), prices).amount == Decimal("0.6")
    with pytest.raises(PricingNotFoundError):
        cost(Usage(video_seconds=1, resolution="4k"), prices)


def test_a_service_tier_borrows_nothing() -> None:
    usage = Usage(input_tokens=1, output_tokens=1)
    with pytest.raises(PricingNotFoundError, match="but in batch, flex, priority, stand"):
        cost(usage, GPT_5, service_tier="scale")
    partly = [*GPT_4O, price("input_token", "1", service_tier="flex")]
    with pytest.raises(PricingNotFoundError) as refused:
        cost(usage, partly, service_tier="flex")
    assert refused.value.missing == ("output_token",)
    fee = [*SONAR, *tokens("0.5", "0.5", service_tier="batch")]
    with pytest.raises(PricingNotFoundError) as refused:
        cost(usage, fee, service_tier="batch")
    assert refused.value.missing == ("request",)


def test_a_tier_without_a_price_below_it_says_so() -> None:
    prices = tokens("6", "22.50", above_tokens=200_000)
    with pytest.raises(PricingNotFoundError, match="above 200000 input tokens only"):
        cost(Usage(input_tokens=200_000), prices)


# -- currencies


def test_currencies_are_never_added_together() -> None:
    prices = [price("input_token", "1"), price("output_token", "7", currency="CNY")]
    assert cost(Usage(input_tokens=10), prices).currency == "USD"
    assert cost(Usage(output_tokens=10), prices).currency == "CNY"
    with pytest.raises(PricingNotFoundError):
        cost(Usage(input_tokens=10, output_tokens=10), prices)


def test_a_call_costs_the_currency_that_is_asked_for_else_the_deployments() -> None:
    prices = [*tokens("1", "1"), *tokens("7", "7", currency="CNY")]
    usage = Usage(input_tokens=1_000_000)
    assert cost(usage, prices).currency == "USD"
    assert cost(usage, prices, home_currency="CNY").amount == 7
    assert cost(usage, prices, currency="cny").amount == 7
    with pytest.raises(PricingNotFoundError, match="in EUR"):
        cost(usage, prices, currency="EUR")


def test_an_own_price_in_another_currency_wins_too() -> None:
    prices = [
        *tokens("1", "1", origin=Origin.IMPORTED),
        *tokens("7", "7", currency="CNY"),
    ]
    assert cost(Usage(input_tokens=1_000_000), prices).currency == "CNY"
    with pytest.raises(PricingNotFoundError):  # rather than half of it by a foreign list
        cost(Usage(input_tokens=1, output_tokens=1), [*prices[:2], prices[2]])


# -- what no price can mean


@pytest.mark.parametrize(
    "terms",
    [
        {"pricing_type": "thought_token"},
        {"price": 0.1},
        {"price": "-1"},
        {"price": "NaN"},
        {"price": "1E+18"},
        {"price": "1E-19"},
        {"price": True},
        {"price": "much"},
        {"unit": "per_image"},
        {"unit": "per_2k_tokens"},
        {"currency": "yuan"},
        {"currency": "元人民"},
        {"above_tokens": 0},
        {"above_tokens": 1.5},
        {"resolution": "720p"},
        {"pricing_type": "image", "above_tokens": 1},
        {"effective_at": datetime(2025, 1, 1)},
        {"effective_at": AT, "expires_at": AT},
        {"min_charge_units": -1},
        {"provider": ""},
        {"model": "a\nb"},
    ],
)
def test_a_price_that_means_nothing_is_refused(terms: dict[str, Any]) -> None:
    given = {"provider": "p", "model": "m", "pricing_type": "input_token", "price": "1", **terms}
    given = {"currency": "USD", **given}
    with pytest.raises(InvalidArgumentError):
        new_price(
            given.pop("provider"),
            given.pop("model"),
            given.pop("pricing_type"),
            given.pop("price"),
            **given,
        )


def test_a_price_reads_well() -> None:
    new = new_price(" OpenAI ", "gpt-4o", "input_token", "2.50", currency="usd")
    assert (new.provider, new.unit, str(new.price), new.currency) == (
        "openai",
        "per_1m_tokens",
        "2.5",
        "USD",
    )
    assert str(new_price("p", "m", "image", "1E+3", currency="CNY").price) == "1000"
