"""
A price: what one unit of one thing of one model costs, from an instant on. A value; it is never
changed, a new version takes its place.

What can be priced, and in which units, is told here; what a call costs is ``cost``'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from enum import StrEnum

from quota_engine.amounts import checked_amount
from quota_engine.errors import InvalidArgumentError

NAME_LENGTH_MAX = 200
#: A price has at most so many digits before and after the point; every sum of them stays exact.
DIGITS_MAX = 18
PLACES_MAX = 18

#: Wide enough for any price of any count, and for sums of them; it would rather fail than round.
EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])


class PricingType(StrEnum):
    """What a price is for."""

    INPUT_TOKEN = "input_token"
    OUTPUT_TOKEN = "output_token"
    CACHED_INPUT_TOKEN = "cached_input_token"
    CACHE_WRITE_TOKEN = "cache_write_token"
    """Input written to a cache that lives for minutes (Anthropic: five)."""
    CACHE_WRITE_1H_TOKEN = "cache_write_1h_token"
    REASONING_TOKEN = "reasoning_token"
    IMAGE = "image"
    AUDIO_TTS = "audio_tts"
    """Characters of text that are spoken."""
    AUDIO_MINUTE = "audio_minute"
    """Time of audio, whatever the unit: started minutes or exact seconds."""
    VIDEO_SECOND = "video_second"
    REQUEST = "request"


class Unit(StrEnum):
    """What a price is per."""

    PER_1K_TOKENS = "per_1k_tokens"
    PER_1M_TOKENS = "per_1m_tokens"
    PER_IMAGE = "per_image"
    PER_MINUTE = "per_minute"
    """Of audio: rounded up to whole minutes for each call."""
    PER_SECOND = "per_second"
    PER_10K_CHARS = "per_10k_chars"
    PER_REQUEST = "per_request"


class Origin(StrEnum):
    """Who said so. Own prices win over imported ones, whatever their dates."""

    OWN = "own"
    IMPORTED = "imported"


TOKEN_TYPES = (
    PricingType.INPUT_TOKEN,
    PricingType.CACHED_INPUT_TOKEN,
    PricingType.CACHE_WRITE_TOKEN,
    PricingType.CACHE_WRITE_1H_TOKEN,
    PricingType.OUTPUT_TOKEN,
    PricingType.REASONING_TOKEN,
)
#: The things whose price may depend on a resolution.
RESOLUTION_TYPES = frozenset({PricingType.IMAGE, PricingType.VIDEO_SECOND})

#: The units of each thing, the usual one first.
UNITS: dict[PricingType, tuple[Unit, ...]] = {
    **{kind: (Unit.PER_1M_TOKENS, Unit.PER_1K_TOKENS) for kind in TOKEN_TYPES},
    PricingType.IMAGE: (Unit.PER_IMAGE,),
    PricingType.AUDIO_TTS: (Unit.PER_10K_CHARS,),
    PricingType.AUDIO_MINUTE: (Unit.PER_MINUTE, Unit.PER_SECOND),
    PricingType.VIDEO_SECOND: (Unit.PER_SECOND,),
    PricingType.REQUEST: (Unit.PER_REQUEST,),
}

#: Names under which providers report their ordinary service tier: it has no name here.
STANDARD_TIERS = frozenset({"standard", "default", "auto", "on_demand"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """
    One version of one price.

    In force from ``effective_at`` on, and before ``expires_at`` (None: until another is).
    ``price`` is in ``currency`` per ``unit``. ``min_charge_units``: where anything is used, at
    least so many units are charged. ``above_tokens``: for calls with more input tokens than
    that, the whole call. ``service_tier`` None: the ordinary one. ``resolution`` None: see
    ``cost``. ``number`` is the order of recording, which decides between two of one instant.
    """

    price_id: str
    provider: str
    model: str
    pricing_type: PricingType
    unit: Unit
    price: Decimal
    currency: str
    min_charge_units: Decimal = Decimal(0)
    above_tokens: int | None = None
    service_tier: str | None = None
    resolution: str | None = None
    effective_at: datetime
    expires_at: datetime | None = None
    origin: Origin = Origin.OWN
    source: str | None = None
    number: int = 0

    def is_in_force(self, at: datetime) -> bool:
        """Return whether the price counts at an instant, other versions aside."""
        return self.effective_at <= at and (self.expires_at is None or at < self.expires_at)

    @property
    def place(self) -> tuple[object, ...]:
        """What this price is for: of two with the same place, the later version counts."""
        return (
            self.provider,
            self.model,
            self.pricing_type,
            self.currency,
            self.above_tokens,
            self.service_tier,
            self.resolution,
        )

    @property
    def terms(self) -> tuple[object, ...]:
        """What it says for that place, apart from when."""
        return self.unit, self.price, self.min_charge_units


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPrice:
    """A price to record: checked, not in force before it is. ``effective_at`` None: from now."""

    provider: str
    model: str
    pricing_type: PricingType
    unit: Unit
    price: Decimal
    currency: str
    min_charge_units: Decimal = Decimal(0)
    above_tokens: int | None = None
    service_tier: str | None = None
    resolution: str | None = None
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    origin: Origin = Origin.OWN
    source: str | None = None


def new_price(
    provider: object,
    model: object,
    pricing_type: object,
    price: object,
    *,
    currency: object,
    unit: object = None,
    effective_at: object = None,
    expires_at: object = None,
    min_charge_units: object = 0,
    above_tokens: object = None,
    service_tier: object = None,
    resolution: object = None,
    origin: Origin = Origin.OWN,
    source: str | None = None,
) -> NewPrice:
    """
    Return a price to record; raise ``InvalidArgumentError`` for what none can mean.

    Floats are refused, because 0.1 is none: write "0.1". ``unit`` None: the usual one.
    """
    kind = checked_pricing_type(pricing_type)
    if above_tokens is not None and kind not in TOKEN_TYPES:
        raise InvalidArgumentError(f"above_tokens is for prices of tokens, not of {kind}")
    if resolution is not None and kind not in RESOLUTION_TYPES:
        raise InvalidArgumentError(f"resolution is for images and video, not for {kind}")
    starts = None if effective_at is None else checked_instant(effective_at, name="effective_at")
    ends = None if expires_at is None else checked_instant(expires_at, name="expires_at")
    if starts is not None and ends is not None and ends <= starts:
        raise InvalidArgumentError(
            f"a price must end after it begins: effective_at {starts}, expires_at {ends}"
        )
    return NewPrice(
        provider=checked_provider(provider),
        model=checked_model(model),
        pricing_type=kind,
        unit=checked_unit(unit, kind),
        price=checked_money(price, name="price"),
        currency=checked_currency(currency),
        min_charge_units=checked_money(min_charge_units, name="min_charge_units"),
        above_tokens=None if above_tokens is None else _checked_threshold(above_tokens),
        service_tier=checked_service_tier(service_tier),
        resolution=checked_resolution(resolution),
        effective_at=starts,
        expires_at=ends,
        origin=origin,
        source=source,
    )


def checked_provider(name: object) -> str:
    """Return a provider's name in small letters: "OpenAI" and "openai" are one."""
    return _checked_name(name, "provider").lower()


def checked_model(name: object) -> str:
    """Return a model's name, exactly as it is called."""
    return _checked_name(name, "model")


def checked_pricing_type(pricing_type: object) -> PricingType:
    """Return what a price is for."""
    try:
        return PricingType(str(pricing_type))
    except ValueError:
        raise InvalidArgumentError(
            f"pricing type must be one of {', '.join(PricingType)}, not {pricing_type!r:.80}"
        ) from None


def checked_unit(unit: object, kind: PricingType) -> Unit:
    """Return a unit in which ``kind`` can be priced; None: the usual one."""
    legal = UNITS[kind]
    if unit is None:
        return legal[0]
    if unit not in legal:
        raise InvalidArgumentError(f"{kind} is priced {' or '.join(legal)}, not {unit!r:.80}")
    return Unit(str(unit))


def checked_money(value: object, *, name: str) -> Decimal:
    """Return an exact number from 0, with at most 18 digits before and 18 after the point."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise InvalidArgumentError(
            f'{name} must be a Decimal, an int or a str such as "2.50", not'
            f" {type(value).__name__} {value!r:.80}"
        )
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise InvalidArgumentError(f"{name} must be a number, not {value!r:.80}") from None
    if not number.is_finite() or number < 0:
        raise InvalidArgumentError(f"{name} must be a number from 0, not {value!r:.80}")
    short = plain(number) if _is_short(number) else None
    if short is None or -int(short.as_tuple().exponent) > PLACES_MAX:
        raise InvalidArgumentError(
            f"{name} must have at most {DIGITS_MAX} digits before and {PLACES_MAX} after the"
            f" point, not {value!r:.80}"
        )
    return short


def _is_short(number: Decimal) -> bool:
    """Return whether arithmetic with ``EXACT`` can hold a number, whatever its last zeros."""
    return (not number or number.adjusted() < DIGITS_MAX) and len(number.as_tuple().digits) < 100


def plain(number: Decimal) -> Decimal:
    """Return the same number without an exponent or trailing zeros, so that it reads well."""
    short = number.normalize(EXACT)
    exponent = short.as_tuple().exponent
    is_round = isinstance(exponent, int) and exponent > 0
    return short.quantize(Decimal(1), context=EXACT) if is_round else short


def checked_currency(currency: object) -> str:
    """Return a currency as three capital letters, such as CNY."""
    if not isinstance(currency, str) or len(currency) != 3 or not currency.isascii():
        raise InvalidArgumentError(f"currency must be three letters, not {currency!r:.80}")
    if not currency.isalpha():
        raise InvalidArgumentError(f"currency must be three letters, not {currency!r:.80}")
    return currency.upper()


def checked_service_tier(tier: object) -> str | None:
    """Return a service tier in small letters; None for the ordinary one, whatever its name."""
    if tier is None:
        return None
    name = _checked_name(tier, "service tier").lower()
    return None if name in STANDARD_TIERS else name


def checked_resolution(resolution: object) -> str | None:
    """Return a resolution in small letters: 1080P and 1080p are one."""
    return None if resolution is None else _checked_name(resolution, "resolution").lower()


def checked_instant(instant: object, *, name: str) -> datetime:
    """Return an aware datetime in UTC."""
    if not isinstance(instant, datetime) or instant.utcoffset() is None:
        raise InvalidArgumentError(
            f"{name} must be a datetime with a time zone, not {instant!r:.80}"
        )
    return instant.astimezone(UTC)


def _checked_threshold(tokens: object) -> int:
    return checked_amount(tokens, name="above_tokens")


def _checked_name(text: object, what: str) -> str:
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= NAME_LENGTH_MAX:
        raise InvalidArgumentError(
            f"{what} must be a str of 1 to {NAME_LENGTH_MAX} characters, not {text!r:.80}"
        )
    if not text.isprintable():
        raise InvalidArgumentError(f"{what} {text!r:.80} holds a control character")
    return text.strip()
