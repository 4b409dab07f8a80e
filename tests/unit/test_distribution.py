"""How many users a budget serves: exactly, rounded down, with nothing lost."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota_engine.distribution import (
    Allotment,
    Distribution,
    Split,
    checked_split,
    distribute,
    typical_call,
)
from quota_engine.errors import InvalidAmountError, InvalidArgumentError
from quota_engine.prices.cost import cost_of
from quota_engine.prices.price import Price, PricingType, Unit

AT = datetime(2026, 1, 1, tzinfo=UTC)
GPT = Allotment(provider="openai", model="gpt", amount=100_000)
IMAGE = Allotment(provider="openai", model="dall-e", amount=20, quota_type="image")


def price(model: str, kind: str, amount: str, unit: Unit, currency: str = "USD") -> Price:
    return Price(
        price_id=f"{model}:{kind}",
        provider="openai",
        model=model,
        pricing_type=PricingType(kind),
        unit=unit,
        price=Decimal(amount),
        currency=currency,
        effective_at=AT,
    )


PRICES = [
    price("gpt", "input_token", "2.5", Unit.PER_1M_TOKENS),
    price("gpt", "cached_input_token", "1.25", Unit.PER_1M_TOKENS),
    price("gpt", "output_token", "10", Unit.PER_1M_TOKENS),
    price("dall-e", "image", "0.04", Unit.PER_IMAGE),
    price("speech", "audio_minute", "0.006", Unit.PER_MINUTE),
]


def served(
    budget: str, *allotments: Allotment, split: Split | None = None, prices: Any = PRICES
) -> Distribution:
    priced = []
    for one in allotments:
        call = typical_call(one, split or Split())
        of_model = [known for known in prices if known.model == one.model]
        cost = cost_of(
            call.usage,
            of_model,
            provider=one.provider,
            model=one.model,
            at=AT,
            usage_type=call.usage_type,
        )
        priced.append((one, call, cost))
    return distribute(Decimal(budget), priced)


def test_a_budget_serves_so_many_users_and_the_rest_is_left() -> None:
    """100,000 tokens: 75,000 in at 2.5, 25,000 out at 10, per million."""
    found = served("10", GPT)
    assert (found.cost_per_user, found.users) == (Decimal("0.4375"), 22)
    assert (found.spent, found.left) == (Decimal("9.625"), Decimal("0.375"))
    assert found.shares[0].cost == found.spent
    assert (found.currency, found.shares[0].price_ids) == (
        "USD",
        ("gpt:input_token", "gpt:output_token"),
    )


def test_the_last_user_is_served_when_the_budget_is_just_enough() -> None:
    assert served("0.875", GPT).users == 2
    assert served("0.875", GPT).left == 0
    assert served("0.8749", GPT).users == 1
    assert (served("0.4374", GPT).users, served("0.4374", GPT).spent) == (0, 0)


def test_each_model_is_told_by_itself_and_all_of_them_add_up() -> None:
    found = served(
        "100",
        GPT,
        IMAGE,
        Allotment(provider="openai", model="speech", amount=90, quota_type="audio"),
    )
    assert [share.cost_per_user for share in found.shares] == [
        *(Decimal("0.4375"), Decimal("0.8")),
        Decimal("0.009"),
    ]
    assert found.cost_per_user == Decimal("1.2465")
    assert sum(share.cost for share in found.shares) == found.spent
    assert (found.users, found.spent + found.left) == (80, 100)


def test_shares_say_what_goes_in_and_what_of_it_is_cached() -> None:
    split = checked_split("0.5", "0.2", 1000)
    call = typical_call(GPT, split)
    usage = call.usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (500, 100, 500)
    cost = Decimal("0.4") * Decimal("0.25") + Decimal("0.1") * Decimal("0.125") + Decimal("0.5")
    assert served("10", GPT, split=split).cost_per_user == cost
    for wrong in ("-0.1", "1.1", "NaN", "half", None):
        with pytest.raises(InvalidArgumentError, match="from 0 to 1"):
            checked_split(wrong, 0, 1000)
    with pytest.raises(InvalidAmountError):
        checked_split(1, 0, 0)


def test_a_tier_for_long_calls_counts_by_the_call_and_not_by_the_month() -> None:
    from dataclasses import replace

    long = replace(PRICES[0], price_id="long", price=Decimal(100), above_tokens=200_000)
    much = replace(GPT, amount=10_000_000)
    assert served("1000", much, prices=[*PRICES, long]) == served("1000", much)
    split = Split(call_tokens=1_000_000)
    dear = served("10000", much, prices=[*PRICES, long], split=split)
    assert dear.cost_per_user > served("10000", much, split=split).cost_per_user


def test_what_cannot_be_added_is_refused() -> None:
    yuan = [price("dall-e", "image", "0.3", Unit.PER_IMAGE, "CNY"), *PRICES[:3]]
    with pytest.raises(InvalidArgumentError, match="CNY and USD are never added"):
        served("10", GPT, IMAGE, prices=yuan)
    free = [
        price("gpt", kind, "0", Unit.PER_1M_TOKENS) for kind in ("input_token", "output_token")
    ]
    with pytest.raises(InvalidArgumentError, match="costs nothing"):
        served("10", GPT, prices=free)
    with pytest.raises(InvalidArgumentError, match="at least one model"):
        distribute(Decimal(1), [])
    with pytest.raises(InvalidArgumentError, match="credit"):
        typical_call(Allotment(provider="a", model="b", amount=1, quota_type="credit"), Split())


@given(
    budget=st.decimals("0", "1000000", places=4),
    amount=st.integers(1, 2**40),
    call_tokens=st.integers(1, 10_000),
)
def test_one_more_user_would_always_be_too_many(
    budget: Decimal, amount: int, call_tokens: int
) -> None:
    allotment = Allotment(provider="openai", model="gpt", amount=amount)
    found = served(str(budget), allotment, split=Split(call_tokens=call_tokens))
    call = typical_call(allotment, Split(call_tokens=call_tokens))
    cost = cost_of(call.usage, PRICES[:3], provider="openai", model="gpt", at=AT)
    exact = sum(Fraction(line.amount) for line in cost.lines) * Fraction(amount, call.units)
    assert exact * found.users <= Fraction(budget) < exact * (found.users + 1)
    assert found.spent + found.left == budget
