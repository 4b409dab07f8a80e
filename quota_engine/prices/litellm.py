"""
Reading LiteLLM's price list: a JSON object of model entries with prices per single unit, in USD.

Only what the price book can charge is taken, and nothing is invented: what has no place in it
(audio and image tokens, searches, pages, prices by the hour of the day) is named as left out. The
file writes 0 for what is free and for what it does not know alike, so a zero is taken only beside
a price per request, or when the caller says that it means free. More than 15 digits are what
binary arithmetic left of a shorter number: they are rounded to 12.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any

from quota_engine.errors import QuotaError
from quota_engine.prices.catalog import ModelFacts
from quota_engine.prices.importing import Offer, Reading, Unread
from quota_engine.prices.price import EXACT, NewPrice, Origin, PricingType, Unit, new_price

CURRENCY = "USD"
FLOAT_DIGITS = 15
_SHORT = Context(prec=12)
TOKEN_FIELDS = {
    "input_cost_per_token": PricingType.INPUT_TOKEN,
    "output_cost_per_token": PricingType.OUTPUT_TOKEN,
    "cache_read_input_token_cost": PricingType.CACHED_INPUT_TOKEN,
    "cache_creation_input_token_cost": PricingType.CACHE_WRITE_TOKEN,
    "output_cost_per_reasoning_token": PricingType.REASONING_TOKEN,
}
SERVICE_TIERS = {
    "batches": "batch",
    "priority": "priority",
    "flex": "flex",
    "ultrafast": "ultrafast",
    "balanced": "balanced",
}
_TOKEN_FIELD = re.compile(
    rf"(?P<field>{'|'.join(TOKEN_FIELDS)})"
    r"(?:_above_(?P<hours>1)hr)?(?:_above_(?P<thousands>\d+)k_tokens)?"
    rf"(?:_(?P<tier>{'|'.join(SERVICE_TIERS)}))?\Z"
)
#: A second of audio; where an entry has both, they say it twice.
SECONDS_FIELDS = ("output_cost_per_second", "input_cost_per_second")
_VIDEO_FIELD = re.compile(r"output_cost_per_(?:video_per_)?second(?:_(?P<resolution>\d+[pk]))?\Z")
_IMAGE_FIELD = re.compile(r"output_cost_per_image(?:_(?P<resolution>[\d.]+K?))?\Z")

TEXT = "text_generation"
OUTPUT = PricingType.OUTPUT_TOKEN
ALL_ZERO = "all prices are 0"
USAGE_TYPES = {
    **dict.fromkeys(("chat", "completion", "responses", "realtime"), TEXT),
    **dict.fromkeys(("image_generation", "image_edit"), "image_generation"),
    "audio_transcription": "audio_stt",
    "audio_speech": "audio_tts",
    **{name: name for name in ("video_generation", "embedding", "rerank")},
}
#: Names under which the list keeps one provider's models beside its ordinary one.
PROVIDERS = {
    "azure_text": "azure",
    "bedrock_converse": "bedrock",
    "cohere_chat": "cohere",
    "fireworks_ai-embedding-models": "fireworks_ai",
    "text-completion-codestral": "codestral",
    "text-completion-inception": "inception",
    "text-completion-openai": "openai",
}
_NO_MODELS = ("sample_spec", "fallback_generalizations")
_LISTED = re.compile(r"cost|pricing")
#: Says again what another field says, or is not money.
_BESIDE = re.compile(r"input_cost_per_token_cache_hit|.*_dbu_cost_.*")


@dataclass(slots=True)
class _Found:
    """What was found in one entry so far."""

    prices: dict[tuple[object, ...], tuple[Unit, Decimal]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(
        self,
        kind: PricingType,
        unit: Unit,
        price: Decimal,
        *,
        above: int | None = None,
        tier: str | None = None,
        resolution: str | None = None,
    ) -> None:
        self.prices.setdefault((kind, above, tier, resolution), (unit, price))

    def has(self, kind: PricingType) -> bool:
        return any(key[0] is kind and price for key, (_, price) in self.prices.items())


def read_litellm(
    entries: Mapping[str, Any], *, source: str = "litellm", zero_is_free: bool = False
) -> Reading:
    """
    Return the prices of a LiteLLM file, parsed with ``parse_float=Decimal`` or not.

    Two entries of one provider and model count once; the second is unread unless it says the same.
    """
    offers: dict[tuple[str, str], Offer] = {}
    unread: list[Unread] = []
    for name, entry in entries.items():
        outcome = _read_entry(name, entry, source, zero_is_free)
        if isinstance(outcome, Unread):
            unread.append(outcome)
            continue
        same = offers.setdefault((outcome.provider, outcome.model), outcome)
        if same is not outcome:
            says = "says the same" if same.prices == outcome.prices else "has other prices"
            unread.append(
                Unread(entry=name, reason=f"the same model as the entry {same.entry}, and {says}")
            )
    return Reading(source=source, offers=tuple(offers.values()), unread=tuple(unread))


def _read_entry(name: str, entry: Any, source: str, zero_is_free: bool) -> Offer | Unread:
    if name in _NO_MODELS or not isinstance(entry, Mapping):
        return Unread(entry=name, reason="no model, but a note about the file")
    provider = entry.get("litellm_provider")
    if not isinstance(provider, str):
        return Unread(entry=name, reason="no provider")
    owner = PROVIDERS.get(provider, re.sub(r"\Avertex_ai-.*", "vertex_ai", provider))
    model = re.sub(rf"\A(?:{re.escape(owner)}|{re.escape(provider)})/", "", name)
    found = _Found()
    try:
        _read_tokens(entry, found)
        _read_media(entry, found)
        if not zero_is_free:
            _drop_zeros(found, is_text=USAGE_TYPES.get(str(entry.get("mode"))) == TEXT)
        prices = tuple(_new_prices(found, owner, model, source))
    except QuotaError as error:
        return Unread(entry=name, reason=str(error))
    if not prices:
        return Unread(entry=name, reason=_why_none(entry, found))
    return Offer(
        entry=name,
        provider=owner.lower(),
        model=model,
        facts=ModelFacts(
            usage_type=USAGE_TYPES.get(str(entry.get("mode"))),
            context_tokens_max=_limit(entry.get("max_input_tokens")),
            output_tokens_max=_limit(entry.get("max_output_tokens")),
        ),
        prices=prices,
        left_out=tuple(found.left_out),
    )


def _why_none(entry: Mapping[str, Any], found: _Found) -> str:
    if ALL_ZERO in found.left_out:
        return "every price is 0, which the file writes for free and for unknown alike"
    if found.left_out:
        return f"priced only by what has no place here: {', '.join(found.left_out)}"
    return f"no price at all (mode {entry.get('mode')})"


def _read_tokens(entry: Mapping[str, Any], found: _Found) -> None:
    """Take the prices of tokens: in tiers by context where the entry has them, else flat."""
    for tier in entry.get("tiered_pricing") or ():
        start, _ = tier.get("range") or (None, None)
        if start is None:
            found.left_out.append("tiered_pricing without token ranges")
            break
        for name, kind in TOKEN_FIELDS.items():
            if (cost := _number(tier.get(name))) is not None:
                found.add(kind, Unit.PER_1M_TOKENS, _per_million(cost), above=int(start) or None)
    for name, value in entry.items():
        parts, cost = _TOKEN_FIELD.match(name), _number(value)
        if parts is None or cost is None:
            continue
        kind = TOKEN_FIELDS[parts["field"]]
        if parts["hours"]:
            if kind is not PricingType.CACHE_WRITE_TOKEN:
                continue
            kind = PricingType.CACHE_WRITE_1H_TOKEN
        found.add(
            kind,
            Unit.PER_1M_TOKENS,
            _per_million(cost),
            above=int(parts["thousands"]) * 1000 if parts["thousands"] else None,
            tier=SERVICE_TIERS.get(parts["tier"] or ""),
        )


def _read_media(entry: Mapping[str, Any], found: _Found) -> None:
    """Take the prices of images, speech, video and requests; name what is left."""
    mode = entry.get("mode")
    by_token = found.has(PricingType.INPUT_TOKEN)
    taken: set[str] = set()
    for name, value in entry.items():
        cost = _number(value)
        if cost is None:
            continue
        add: tuple[PricingType, Unit, Decimal] | None = None
        resolution = None
        if mode in ("image_generation", "image_edit") and (image := _IMAGE_FIELD.match(name)):
            add, resolution = (PricingType.IMAGE, Unit.PER_IMAGE, cost), image["resolution"]
        elif mode == "video_generation" and (video := _VIDEO_FIELD.match(name)):
            add, resolution = (
                (PricingType.VIDEO_SECOND, Unit.PER_SECOND, cost),
                video["resolution"],
            )
        elif mode in ("image_generation", "image_edit") and name == "input_cost_per_image":
            if "output_cost_per_image" not in entry:  # the file means the images made
                add = (PricingType.IMAGE, Unit.PER_IMAGE, cost)
        elif mode == "audio_speech" and name == "input_cost_per_character":
            each = EXACT.multiply(cost, Decimal(10_000))
            add = (PricingType.AUDIO_TTS, Unit.PER_10K_CHARS, each)
        elif name in _seconds_fields(entry) and not by_token:
            taken.update(SECONDS_FIELDS)
            add = (PricingType.AUDIO_MINUTE, Unit.PER_SECOND, cost)
        elif name in ("input_cost_per_query", "input_cost_per_request"):
            add = (PricingType.REQUEST, Unit.PER_REQUEST, cost)
        if add is not None:
            taken.add(name)
            found.add(*add, resolution=resolution)
    _read_image_tokens(entry, found, taken)
    found.left_out += [
        name
        for name, value in entry.items()
        if _LISTED.search(name)
        and name not in taken
        and not _TOKEN_FIELD.match(name)
        and not _BESIDE.match(name)
        and name != "tiered_pricing"
        and (isinstance(value, Mapping | list) or _number(value))
    ]


def _seconds_fields(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the field that prices a second of audio."""
    if entry.get("mode") not in ("audio_transcription", "audio_speech", "realtime"):
        return ()
    return next(((name,) for name in SECONDS_FIELDS if _number(entry.get(name))), ())


def _read_image_tokens(entry: Mapping[str, Any], found: _Found, taken: set[str]) -> None:
    """Where the output is images, let the price of image tokens be that of the output."""
    if entry.get("mode") not in ("image_generation", "image_edit"):
        return
    output = (OUTPUT, None, None, None)
    cost = _number(entry.get("output_cost_per_image_token"))
    if found.has(PricingType.IMAGE):  # the same images, priced by the piece
        if output in found.prices and found.prices.pop(output)[1]:
            found.left_out.append("output_cost_per_token")
    elif cost:
        taken.add("output_cost_per_image_token")
        if output in found.prices and found.prices[output][1]:
            found.left_out.append("output_cost_per_token")
        found.prices[output] = (Unit.PER_1M_TOKENS, _per_million(cost))


def _drop_zeros(found: _Found, *, is_text: bool) -> None:
    zeros = [key for key, (_, price) in found.prices.items() if not price]
    if not zeros or found.has(PricingType.REQUEST):
        return
    if len(zeros) == len(found.prices):
        found.left_out.append(ALL_ZERO)
    for key in zeros:
        del found.prices[key]
        if is_text and found.prices and key[0] in (PricingType.INPUT_TOKEN, OUTPUT):
            found.left_out.append(f"{key[0]} at 0")


def _new_prices(found: _Found, provider: str, model: str, source: str) -> Iterator[NewPrice]:
    for (kind, above, tier, resolution), (unit, price) in found.prices.items():
        yield new_price(
            provider,
            model,
            kind,
            price,
            unit=unit,
            currency=CURRENCY,
            above_tokens=above,
            service_tier=tier,
            resolution=resolution,
            origin=Origin.IMPORTED,
            source=source,
        )


def _number(value: object) -> Decimal | None:
    """Return a price as the file writes it, digit by digit; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(str(value))
    return number if len(number.as_tuple().digits) <= FLOAT_DIGITS else _SHORT.plus(number)


def _per_million(cost: Decimal) -> Decimal:
    return EXACT.multiply(cost, Decimal(1_000_000))


def _limit(tokens: object) -> int | None:
    number = _number(tokens)
    return int(number) if number is not None and 0 < number < 2**53 else None
