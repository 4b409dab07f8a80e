"""From usage to units: how much of a quota type a call takes. Pure."""

from __future__ import annotations

import math
from decimal import Decimal

from quota_engine.errors import InvalidArgumentError
from quota_engine.usage import Usage

#: Speech whose length nobody tells: about 15 characters are spoken in a second.
CHARACTERS_PER_SECOND = 15

CREDIT = "credit"


def is_credit(quota_type: str) -> bool:
    """Whether a quota type is money: a cost is needed to take it."""
    return quota_type == CREDIT or quota_type.startswith(f"{CREDIT}_")


def currency_of(quota_type: str) -> str | None:
    """Return the currency of a credit type; None: the deployment's own."""
    _, _, currency = quota_type.partition("_")
    return currency.upper() or None


def units_of(quota_type: str, usage: Usage) -> int:
    """
    Return how many units of a type other than credit a usage is.

    Tokens: input and output. Seconds are rounded up. A type of one's own counts requests.
    """
    if quota_type == "text_token":
        return usage.input_tokens + usage.output_tokens
    if quota_type == "image":
        return usage.images
    if quota_type == "audio":
        seconds = usage.audio_seconds or Decimal(usage.characters) / CHARACTERS_PER_SECOND
        return math.ceil(seconds)
    if quota_type == "video":
        return math.ceil(usage.video_seconds)
    if is_credit(quota_type):
        raise InvalidArgumentError(f"{quota_type} is taken by cost, not by usage")
    return usage.requests
