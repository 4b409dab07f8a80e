"""
The distribution calculator: how many users a budget serves, with so much of each model for each.

A user's amount of a model is cut into typical calls, because prices may depend on a call's length
and minimum; what one call costs comes from the price book. All sums are exact fractions: users are
rounded down, money is rounded once, to 12 places, when it is shown. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction

from quota_engine.amounts import checked_amount
from quota_engine.errors import InvalidArgumentError
from quota_engine.prices.cost import AMOUNT_PLACE, Cost
from quota_engine.prices.price import plain
from quota_engine.usage import Usage

#: Units of one typical call, and its usage type, of everything but text.
_CALLS = {"image": (1, "image_generation"), "audio": (60, "audio_stt"), "video": (1, None)}
CALL_TOKENS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """
    How text tokens are used: ``call_tokens`` in a call, ``input_share`` of them going in.

    ``cached_share``: of those that go in, read from a cache. Shares are from 0 to 1; tokens of a
    share are rounded down, and the rest comes out, or goes in anew.
    """

    input_share: Decimal = Decimal("0.75")
    cached_share: Decimal = Decimal(0)
    call_tokens: int = CALL_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What each user gets of a model: ``amount`` units of the quota type."""

    provider: str
    model: str
    amount: int
    quota_type: str = "text_token"
    resolution: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypicalCall:
    """One call of an allotment: what it uses, and how many units of the quota type that is."""

    usage: Usage
    usage_type: str | None
    units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShare:
    """What a model costs, for one user and for all who are served, in the budget's currency."""

    provider: str
    model: str
    quota_type: str
    amount: int
    cost_per_user: Decimal
    cost: Decimal
    price_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """
    How many ``users`` a budget serves, what that costs, and what is ``left`` of the budget.

    ``spent + left = budget``; ``left`` is less than what one user costs.
    """

    budget: Decimal
    currency: str
    users: int
    cost_per_user: Decimal
    spent: Decimal
    left: Decimal
    shares: tuple[ModelShare, ...]


def checked_split(input_share: object, cached_share: object, call_tokens: object) -> Split:
    """Return how tokens are used; raise ``InvalidArgumentError`` for what cannot be."""
    return Split(
        input_share=_share(input_share, "input_share"),
        cached_share=_share(cached_share, "cached_share"),
        call_tokens=checked_amount(call_tokens, name="call_tokens"),
    )


def _share(value: object, name: str) -> Decimal:
    try:
        share = Decimal(str(value))
    except ArithmeticError:
        share = Decimal("NaN")
    if not share.is_finite() or not 0 <= share <= 1:
        raise InvalidArgumentError(f"{name} must be from 0 to 1, not {value!r:.40}")
    return share


def typical_call(allotment: Allotment, split: Split) -> TypicalCall:
    """Return one call of what a user gets of a model."""
    if allotment.quota_type == "text_token":
        tokens = min(split.call_tokens, allotment.amount)
        taken_in = int(tokens * split.input_share)
        usage = Usage(
            input_tokens=taken_in,
            cached_input_tokens=int(taken_in * split.cached_share),
            output_tokens=tokens - taken_in,
        )
        return TypicalCall(usage=usage, usage_type=None, units=tokens)
    if allotment.quota_type not in _CALLS:
        known = ", ".join(["text_token", *_CALLS])
        raise InvalidArgumentError(
            f"{allotment.quota_type} has no price of a model; distribute one of {known}"
        )
    units, usage_type = _CALLS[allotment.quota_type]
    usage = {
        "image": Usage(images=1, resolution=allotment.resolution),
        "audio": Usage(audio_seconds=units),
        "video": Usage(video_seconds=1, resolution=allotment.resolution),
    }[allotment.quota_type]
    return TypicalCall(usage=usage, usage_type=usage_type, units=units)


def distribute(
    budget: Decimal, priced: Sequence[tuple[Allotment, TypicalCall, Cost]]
) -> Distribution:
    """
    Return how many users a budget serves, each with all of these allotments.

    All costs must be in one currency, the budget's. Raises ``InvalidArgumentError`` when a user
    costs nothing, for then there is no end of them.
    """
    if not priced:
        raise InvalidArgumentError("say what each user gets: at least one model and an amount")
    currencies = sorted({cost.currency for _, _, cost in priced})
    if len(currencies) > 1:
        raise InvalidArgumentError(f"{' and '.join(currencies)} are never added together")
    costs = [
        sum((Fraction(line.amount) for line in cost.lines), Fraction(0))
        * Fraction(allotment.amount, call.units)
        for allotment, call, cost in priced
    ]
    per_user = sum(costs, Fraction(0))
    if per_user <= 0:
        raise InvalidArgumentError("a user costs nothing by these prices: the budget has no end")
    users = int(Fraction(budget) // per_user)
    spent = _money(per_user * users)
    return Distribution(
        budget=budget,
        currency=currencies[0],
        users=users,
        cost_per_user=_money(per_user),
        spent=spent,
        left=plain(budget - spent),
        shares=tuple(
            ModelShare(
                provider=allotment.provider,
                model=allotment.model,
                quota_type=allotment.quota_type,
                amount=allotment.amount,
                cost_per_user=_money(cost),
                cost=_money(cost * users),
                price_ids=found.price_ids,
            )
            for (allotment, _, found), cost in zip(priced, costs, strict=True)
        ),
    )


def _money(amount: Fraction) -> Decimal:
    """Return an amount with 12 places, half up; the same whatever the context."""
    scaled = amount * 10**12
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return plain(Decimal(whole).scaleb(-12).quantize(AMOUNT_PLACE, rounding=ROUND_DOWN))
