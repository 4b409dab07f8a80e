"""
Reading the price list of the package genai-prices: the data that came with its release.

It is never updated by itself, so the same release of it always reads the same. Prices are in USD.
Versions that begin later are taken with their dates, and of past ones the one in force. Of prices
by the hour of the day the dearest is taken. What the price book does not count (searches, pages,
audio and image tokens) is left out and named. Zeros are treated as in ``litellm``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, time
from decimal import ROUND_HALF_UP, Context, Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

from quota_engine.errors import QuotaError
from quota_engine.prices.catalog import ModelFacts
from quota_engine.prices.importing import Offer, Reading, Unread
from quota_engine.prices.price import (
    EXACT,
    PLACES_MAX,
    NewPrice,
    Origin,
    PricingType,
    Unit,
    new_price,
)

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

CURRENCY = "USD"
PACKAGE = "genai-prices"

_ONE = Decimal(1)
_PER_THOUSAND = Decimal("0.001")
#: Of each of its keys: what is priced, in which unit, and by what its price is multiplied.
KEYS: Mapping[str, tuple[PricingType, Unit, Decimal]] = {
    "input_mtok": (PricingType.INPUT_TOKEN, Unit.PER_1M_TOKENS, _ONE),
    "output_mtok": (PricingType.OUTPUT_TOKEN, Unit.PER_1M_TOKENS, _ONE),
    "cache_read_mtok": (PricingType.CACHED_INPUT_TOKEN, Unit.PER_1M_TOKENS, _ONE),
    "cache_write_mtok": (PricingType.CACHE_WRITE_TOKEN, Unit.PER_1M_TOKENS, _ONE),
    "cache_write_1h_mtok": (PricingType.CACHE_WRITE_1H_TOKEN, Unit.PER_1M_TOKENS, _ONE),
    "output_reasoning_mtok": (PricingType.REASONING_TOKEN, Unit.PER_1M_TOKENS, _ONE),
    "requests_kcount": (PricingType.REQUEST, Unit.PER_REQUEST, _PER_THOUSAND),
    "input_mchars": (PricingType.AUDIO_TTS, Unit.PER_10K_CHARS, Decimal("0.01")),
}
#: Prices of an hour; a second's is rounded to 18 places, where no call can notice it.
HOURS = ("audio_hours", "input_audio_hours")
#: The price variants that are service tiers here: (key, value) of their only condition.
TIERS = {
    ("processing", "batch"): "batch",
    ("service_tier", "priority"): "priority",
    ("service_tier", "flex"): "flex",
    ("service_tier", "fast"): "fast",
}
_PLACES = Context(prec=60, rounding=ROUND_HALF_UP)

#: (what, above how many tokens, service tier) -> (unit, price)
_Prices = dict[tuple[PricingType, int | None, str | None], tuple[Unit, Decimal]]


def read_genai_prices(at: datetime, *, zero_is_free: bool = False) -> Reading:
    """Return the prices of the installed release: in force at ``at``, and those to come."""
    from genai_prices.data import providers

    source = f"{PACKAGE} {version(PACKAGE)}"
    offers: list[Offer] = []
    unread: list[Unread] = []
    for provider in providers:
        for model in provider.models:
            name = f"{provider.id}/{model.id}"
            try:
                outcome = _read_model(provider.id, model, at, source, zero_is_free)
            except QuotaError as error:
                outcome = Unread(entry=name, reason=str(error))
            if isinstance(outcome, Unread):
                unread.append(outcome)
            else:
                offers.append(outcome)
    return Reading(source=source, offers=tuple(offers), unread=tuple(unread))


def _read_model(
    provider: str, model: ModelInfo, at: datetime, source: str, zero_is_free: bool
) -> Offer | Unread:
    name = f"{provider}/{model.id}"
    left_out: dict[str, None] = {}
    segments: list[tuple[datetime | None, _Prices]] = []
    for start in [None, *_starts(model, at)]:
        segments.append((start, _prices_at(model, start or at, left_out, zero_is_free)))
    if not any(prices for _, prices in segments):
        if "all prices are 0" in left_out:
            reason = "every price is 0, which may mean free or unknown"
        elif left_out:
            reason = f"priced only by what has no place here: {', '.join(left_out)}"
        else:
            reason = "no price at all"
        return Unread(entry=name, reason=reason)
    return Offer(
        entry=name,
        provider=provider,
        model=model.id,
        facts=ModelFacts(context_tokens_max=model.context_window or None),
        prices=tuple(_new_prices(segments, provider, model.id, source)),
        left_out=tuple(left_out),
    )


def _pinned(model: ModelInfo, at: datetime, left_out: dict[str, None]) -> ModelInfo:
    """Return the model with the one price that it has at an instant, whatever the hour."""
    from genai_prices.types import ModelPrice, TimeOfDateConstraint

    if isinstance(model.prices, ModelPrice):
        return model
    candidates: list[ModelPrice] = []
    for price in reversed(model.prices):  # the last one that is active counts
        if isinstance(price.constraint, TimeOfDateConstraint):
            candidates.append(price.prices)
        elif price.constraint is None or price.constraint.active(at):
            candidates.append(price.prices)
            break
    if len(candidates) > 1:
        left_out["cheaper hours of the day"] = None
    dearest = max(candidates, key=_dearness, default=model.prices[0].prices)
    return replace(model, prices=dearest)


def _dearness(prices: ModelPrice) -> tuple[Decimal, ...]:
    values = (prices.input_mtok, prices.output_mtok)
    return tuple(value if isinstance(value, Decimal) else Decimal(0) for value in values)


def _starts(model: ModelInfo, at: datetime) -> list[datetime]:
    """Return the instants after ``at`` from which something else is in force."""
    from genai_prices.types import StartDateConstraint

    dated = [*(model.prices if isinstance(model.prices, list) else ())]
    constraints = [price.constraint for price in (*dated, *(model.price_variants or ()))]
    starts = {
        datetime.combine(constraint.start_date, time(), UTC)
        for constraint in constraints
        if isinstance(constraint, StartDateConstraint)
    }
    return sorted(start for start in starts if start > at)


def _prices_at(
    model: ModelInfo, at: datetime, left_out: dict[str, None], zero_is_free: bool
) -> _Prices:
    found: _Prices = {}
    model = _pinned(model, at, left_out)
    _take(model.get_prices(at), None, found, left_out)
    for variant in model.price_variants or ():
        condition = tuple(variant.when.items())
        tier = TIERS.get(condition[0]) if len(condition) == 1 else None
        if tier is None:
            left_out[" ".join(f"{key} {value}" for key, value in condition)] = None
        elif variant.constraint is None or variant.constraint.active(at):
            _take(model.get_prices(at, variant.when), tier, found, left_out)
    zeros = [key for key, (_, price) in found.items() if not price]
    if zeros and not zero_is_free and not any(kind is PricingType.REQUEST for kind, *_ in found):
        if len(zeros) == len(found):
            left_out["all prices are 0"] = None
        for key in zeros:
            del found[key]
    return found


def _take(prices: ModelPrice, tier: str | None, found: _Prices, left_out: dict[str, None]) -> None:
    from genai_prices.types import TieredPrices

    for key, value in prices.__dict__.items():
        if value is None:
            continue
        if key in HOURS and isinstance(value, Decimal):
            second = _PLACES.divide(value, Decimal(3600))
            second = second.quantize(Decimal(1).scaleb(-PLACES_MAX), context=_PLACES)
            found[PricingType.AUDIO_MINUTE, None, tier] = Unit.PER_SECOND, second
            continue
        if key not in KEYS:
            left_out[key] = None
            continue
        kind, unit, factor = KEYS[key]
        if not isinstance(value, TieredPrices):
            found[kind, None, tier] = unit, EXACT.multiply(value, factor)
            continue
        found[kind, None, tier] = unit, EXACT.multiply(value.base, factor)
        for step in value.tiers:
            found[kind, step.start, tier] = unit, EXACT.multiply(step.price, factor)


def _new_prices(
    segments: list[tuple[datetime | None, _Prices]], provider: str, model: str, source: str
) -> Iterator[NewPrice]:
    """Yield each price of each segment, unless it goes on from the one before."""
    for number, (start, prices) in enumerate(segments):
        before = segments[number - 1][1] if number else {}
        later = segments[number + 1 :]
        for key, (unit, price) in prices.items():
            if before.get(key) == (unit, price):
                continue
            kind, above, tier = key
            yield new_price(
                provider,
                model,
                kind,
                price,
                unit=unit,
                currency=CURRENCY,
                effective_at=start,
                expires_at=next((begin for begin, others in later if key not in others), None),
                above_tokens=above,
                service_tier=tier,
                origin=Origin.IMPORTED,
                source=source,
            )
