"""
What a call costs: its usage, priced exactly. Pure: the prices and the instant are arguments.

* Each token is charged once. ``input_tokens`` includes cached and cache-write tokens, and
  ``output_tokens`` reasoning: what has a price of its own leaves its whole, and what has none
  stays there. So cached tokens without a price cost what input costs, cache writes of one hour
  what those of minutes cost or else input, and reasoning what output costs.
* For each thing: price x max(count / unit size, minimum charge where anything was used).
* ``above_tokens``: calls with **more** input tokens than that, cached ones included, pay that
  price for the whole call. Exactly 200,000 is not above 200,000: so all providers' lists read.
* ``per_minute``: started minutes of each call. Seconds are read to the microsecond.
* A resolution must be priced by its name once any is; a price without one is for calls that name
  none, and for models that have no other.
* A service tier is a price list of its own: nothing is borrowed from the ordinary one.
* ``request``: each request, where the model has such a price.
* Everything used needs a price, else ``PricingNotFoundError`` names what is missing. A medium
  (images, audio, video) may be billed by its own measure or by tokens: a call of such a usage
  type is priced as soon as one of the two is, and pays whatever of both has a price.
* Own prices win over imported ones, thing by thing; of several versions in force the one that
  began last counts, then the one recorded last.
* A call costs one currency. Where prices are in several, those with an own price of something
  that was used come first, then the deployment's, then the alphabet's; the first in which nothing
  is missing is taken.
* All sums are exact decimals, rounded once, at the end: to 12 places, half up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal

from quota_engine.errors import PricingNotFoundError
from quota_engine.prices.price import (
    EXACT,
    RESOLUTION_TYPES,
    TOKEN_TYPES,
    Origin,
    Price,
    PricingType,
    Unit,
    checked_currency,
    checked_instant,
    checked_resolution,
    checked_service_tier,
    plain,
)
from quota_engine.usage import Usage

#: The last place of an amount.
AMOUNT_PLACE = Decimal("1E-12")
SECOND_PLACE = Decimal("1E-6")
NANO_UNITS = 10**9

#: Tokens without a price of their own stay in the whole that includes them. In this order.
WHOLES = (
    (PricingType.CACHE_WRITE_1H_TOKEN, PricingType.CACHE_WRITE_TOKEN),
    (PricingType.CACHE_WRITE_TOKEN, PricingType.INPUT_TOKEN),
    (PricingType.CACHED_INPUT_TOKEN, PricingType.INPUT_TOKEN),
    (PricingType.REASONING_TOKEN, PricingType.OUTPUT_TOKEN),
)
#: The measures by which a medium may be billed instead of by tokens.
MEASURES: Mapping[str, frozenset[PricingType]] = {
    "image_generation": frozenset({PricingType.IMAGE}),
    "audio_tts": frozenset({PricingType.AUDIO_TTS, PricingType.AUDIO_MINUTE}),
    "audio_stt": frozenset({PricingType.AUDIO_MINUTE}),
    "video_generation": frozenset({PricingType.VIDEO_SECOND}),
}
#: How many units one thing is: a count is multiplied by it, which is exact.
_UNITS_EACH = {
    Unit.PER_1K_TOKENS: Decimal("0.001"),
    Unit.PER_1M_TOKENS: Decimal("0.000001"),
    Unit.PER_10K_CHARS: Decimal("0.0001"),
}
_ROUNDING = Context(prec=EXACT.prec, rounding=ROUND_HALF_UP)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """One thing that was charged. ``units`` after rounding up and minimum; ``amount`` exact."""

    pricing_type: PricingType
    count: Decimal
    unit: Unit
    units: Decimal
    price: Decimal
    amount: Decimal
    price_id: str
    above_tokens: int | None
    resolution: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a call costs: the lines' sum, rounded once to 12 places, half up."""

    provider: str
    model: str
    amount: Decimal
    currency: str
    lines: tuple[CostLine, ...]
    price_ids: tuple[str, ...]
    service_tier: str | None
    at: datetime

    @property
    def nano_units(self) -> int:
        """
        The cost as an amount of quota type ``credit``: 10**-9 of the currency.

        Rounded once, half up, from the lines' exact sum, not from the rounded ``amount``.
        """
        return int(
            EXACT.multiply(_total(self.lines), Decimal(NANO_UNITS)).quantize(
                Decimal(1), context=_ROUNDING
            )
        )


def cost_of(
    usage: Usage,
    prices: Iterable[Price],
    *,
    provider: str,
    model: str,
    at: datetime,
    usage_type: str | None = None,
    service_tier: str | None = None,
    currency: str | None = None,
    home_currency: str = "USD",
) -> Cost:
    """
    Return what ``usage`` costs by those of ``prices``, all of one model, in force at ``at``.

    ``currency``: only in this one. Raises ``PricingNotFoundError`` with what is missing.
    """
    instant = checked_instant(at, name="at")
    tier = checked_service_tier(service_tier)
    wanted = None if currency is None else checked_currency(currency)
    in_force = [
        price
        for price in prices
        if price.is_in_force(instant) and wanted in (None, price.currency)
    ]
    counts = _counts(usage)
    refusals: list[_Selection] = []
    for name in _currencies(
        [p for p in in_force if p.service_tier == tier], counts, home_currency
    ):
        prices_of_currency = [price for price in in_force if price.currency == name]
        selection = _select(prices_of_currency, counts, usage, usage_type, tier)
        if not selection.missing:
            lines = tuple(
                _line(price, selection.counts[kind]) for kind, price in selection.prices.items()
            )
            return Cost(
                provider=provider,
                model=model,
                amount=plain(_total(lines).quantize(AMOUNT_PLACE, context=_ROUNDING)),
                currency=name,
                lines=lines,
                price_ids=tuple(dict.fromkeys(line.price_id for line in lines)),
                service_tier=tier,
                at=instant,
            )
        refusals.append(selection)
    nearest = min(refusals, key=lambda selection: len(selection.missing), default=None)
    missing = [str(kind) for kind in counts] if nearest is None else nearest.missing
    raise PricingNotFoundError(
        f"{provider}/{model} {_refusal(missing, in_force, tier, wanted)} at"
        f" {instant.isoformat(timespec='milliseconds')}; set it with `quota-engine prices set`",
        provider=provider,
        model=model,
        missing=tuple(missing),
    )


@dataclass(frozen=True, slots=True)
class _Selection:
    """The price of each thing to charge, how much of each there is, and what has none."""

    prices: Mapping[PricingType, Price]
    counts: Mapping[PricingType, Decimal]
    missing: Sequence[str]


def _counts(usage: Usage) -> dict[PricingType, Decimal]:
    """Return what was used, each token once, without what was not used."""
    written = usage.cache_write_tokens + usage.cache_write_1h_tokens
    counts: dict[PricingType, int | Decimal] = {
        PricingType.INPUT_TOKEN: usage.input_tokens - usage.cached_input_tokens - written,
        PricingType.CACHED_INPUT_TOKEN: usage.cached_input_tokens,
        PricingType.CACHE_WRITE_TOKEN: usage.cache_write_tokens,
        PricingType.CACHE_WRITE_1H_TOKEN: usage.cache_write_1h_tokens,
        PricingType.OUTPUT_TOKEN: usage.output_tokens - usage.reasoning_tokens,
        PricingType.REASONING_TOKEN: usage.reasoning_tokens,
        PricingType.IMAGE: usage.images,
        PricingType.AUDIO_TTS: usage.characters,
        PricingType.AUDIO_MINUTE: _seconds(usage.audio_seconds),
        PricingType.VIDEO_SECOND: _seconds(usage.video_seconds),
    }
    return {kind: Decimal(count) for kind, count in counts.items() if count}


def _seconds(seconds: int | float | Decimal) -> Decimal:
    exact = seconds if isinstance(seconds, Decimal) else Decimal(str(seconds))
    return exact.quantize(SECOND_PLACE, context=_ROUNDING)


def _currencies(
    prices: Sequence[Price], counts: Mapping[PricingType, Decimal], home_currency: str
) -> list[str]:
    """Return the currencies to try, in order."""
    used = {*counts, PricingType.REQUEST} | {whole for part, whole in WHOLES if part in counts}
    named = {price.currency for price in prices}
    own = {p.currency for p in prices if p.origin is Origin.OWN and p.pricing_type in used}
    return sorted(own or named, key=lambda name: (name != home_currency, name))


def _select(
    prices: Sequence[Price],
    used: Mapping[PricingType, Decimal],
    usage: Usage,
    usage_type: str | None,
    tier: str | None,
) -> _Selection:
    """Choose among prices of one currency; say what is missing."""
    of_tier: dict[PricingType, list[Price]] = {}
    for price in prices:
        if price.service_tier == tier:
            of_tier.setdefault(price.pricing_type, []).append(price)
    resolution = checked_resolution(usage.resolution)
    chosen = {
        kind: best
        for kind, some in of_tier.items()
        if (best := _best(some, usage.input_tokens, resolution)) is not None
    }
    counts = dict(used)
    for part, whole in WHOLES:
        if part in counts and part not in chosen:
            counts[whole] = counts.get(whole, Decimal(0)) + counts.pop(part)
    if usage.requests and any(price.pricing_type is PricingType.REQUEST for price in prices):
        counts[PricingType.REQUEST] = Decimal(usage.requests)
    unpriced = _needed(counts, chosen, of_tier, usage_type)
    return _Selection(
        prices={kind: chosen[kind] for kind in PricingType if kind in counts and kind in chosen},
        counts=counts,
        missing=[_missing(kind, of_tier.get(kind, ()), resolution) for kind in unpriced],
    )


def _best(prices: Sequence[Price], input_tokens: int, resolution: str | None) -> Price | None:
    """Return the one of a thing's prices that counts for this call."""
    named = {price.resolution for price in prices} - {None}
    wanted = resolution if named else None
    fitting = [
        price
        for price in prices
        if price.resolution == wanted
        and (price.above_tokens is None or input_tokens > price.above_tokens)
    ]
    own = [price for price in fitting if price.origin is Origin.OWN]
    return max(
        own or fitting,
        key=lambda price: (price.above_tokens or 0, price.effective_at, price.number),
        default=None,
    )


def _needed(
    counts: Mapping[PricingType, Decimal],
    chosen: Mapping[PricingType, Price],
    of_tier: Mapping[PricingType, Sequence[Price]],
    usage_type: str | None,
) -> list[PricingType]:
    """Return what was used, has no price and is not billed by anything else."""
    unpriced = [kind for kind in counts if kind not in chosen]
    measures = MEASURES.get(usage_type or "", frozenset()) & counts.keys()
    tokens = [kind for kind in TOKEN_TYPES if kind in counts]
    if any(kind in chosen for kind in measures):
        covered = {*tokens, *measures}
    elif tokens and all(kind in chosen for kind in tokens):
        covered = set(measures)
    else:
        covered = set()
    strict = {kind for kind in RESOLUTION_TYPES if kind in of_tier}  # known, not like this
    return [kind for kind in unpriced if kind not in covered or kind in strict]


def _missing(kind: PricingType, prices: Sequence[Price], resolution: str | None) -> str:
    if kind in RESOLUTION_TYPES and prices:
        known = ", ".join(sorted({price.resolution or "any" for price in prices}))
        return f"{kind} (resolution {resolution or 'not told'}; priced: {known})"
    if prices:
        least = min(price.above_tokens or 0 for price in prices)
        return f"{kind} (priced above {least} input tokens only)"
    return str(kind)


def _line(price: Price, count: Decimal) -> CostLine:
    units = _units(price.unit, count)
    charged = max(units, price.min_charge_units) if units else units
    return CostLine(
        pricing_type=price.pricing_type,
        count=plain(count),
        unit=price.unit,
        units=plain(charged),
        price=price.price,
        amount=plain(EXACT.multiply(price.price, charged)),
        price_id=price.price_id,
        above_tokens=price.above_tokens,
        resolution=price.resolution,
    )


def _units(unit: Unit, count: Decimal) -> Decimal:
    if unit is Unit.PER_MINUTE:
        whole, rest = EXACT.divmod(count, Decimal(60))
        return whole + 1 if rest else whole
    return EXACT.multiply(count, _UNITS_EACH.get(unit, Decimal(1)))


def _total(lines: Iterable[CostLine]) -> Decimal:
    total = Decimal(0)
    for line in lines:
        total = EXACT.add(total, line.amount)
    return total


def _refusal(
    missing: Sequence[str], in_force: Sequence[Price], tier: str | None, currency: str | None
) -> str:
    told = f" in {currency}" if currency else ""
    if not in_force:
        return f"has no price{told} in force"
    known = sorted({price.service_tier or "standard" for price in in_force})
    asked = f" in service tier {tier}" if tier else ""
    if (tier or "standard") not in known:
        return (
            f"has no price{told}{asked or ' in service tier standard'}, but in {', '.join(known)}"
        )
    return f"has no price{told}{asked} for {', '.join(missing)}"
