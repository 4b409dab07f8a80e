"""Versions of prices: which of them count at an instant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from quota_engine.prices.price import Origin, Price


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """
    Versions of prices, oldest first, as they were recorded at ``read_at``.

    ``is_enabled``: where one model was asked for, whether new calls may use it.
    """

    prices: tuple[Price, ...]
    read_at: datetime
    is_enabled: bool = True


def in_force(prices: Iterable[Price], at: datetime) -> tuple[Price, ...]:
    """
    Return the version that counts of each price, in the order of what they are for.

    An imported price is left out where an own one is for the very same.
    """
    found: dict[tuple[object, ...], Price] = {}
    for price in sorted(prices, key=lambda price: (price.effective_at, price.number)):
        if not price.is_in_force(at):
            continue
        other = found.get(price.place)
        if other is None or price.origin is Origin.OWN or other.origin is Origin.IMPORTED:
            found[price.place] = price
    return tuple(sorted(found.values(), key=_reading_order))


def _reading_order(price: Price) -> tuple[object, ...]:
    kinds = list(type(price.pricing_type))
    return (
        price.provider,
        price.model,
        price.currency,
        price.service_tier or "",
        kinds.index(price.pricing_type),
        price.resolution or "",
        price.above_tokens or 0,
    )
