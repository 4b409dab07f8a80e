"""
Importing price lists that others keep: what was read, and what it would change.

An import only adds versions: what it says anew is in force from the import on, what it no longer
says stays. Own prices go on winning. This module must not know any list's format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from quota_engine.prices.catalog import ModelFacts
from quota_engine.prices.price import NewPrice, Origin, Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One model of a list. ``left_out``: which of its prices have no place in the price book."""

    entry: str
    provider: str
    model: str
    facts: ModelFacts
    prices: tuple[NewPrice, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """An entry of which no price was taken, and why."""

    entry: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A whole list as it was read. ``source`` names the list and its version."""

    source: str
    offers: tuple[Offer, ...]
    unread: tuple[Unread, ...]

    @property
    def entries(self) -> int:
        """How many entries the list has."""
        return len(self.offers) + len(self.unread)

    def only(self, providers: Sequence[str], models: Sequence[str]) -> Reading:
        """Return the part of the list about these providers and models; none named: all."""
        return replace(
            self,
            offers=tuple(
                offer
                for offer in self.offers
                if (not providers or offer.provider in providers)
                and (not models or offer.model in models)
            ),
            unread=() if providers or models else self.unread,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceChange:
    """One price that an import adds. ``old`` None: there was none. ``is_shadowed`` by an own."""

    old: Price | None
    new: NewPrice
    is_shadowed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """
    What an import changed, or would change (``dry_run``).

    ``gone``: imported prices of the list's models that the list no longer has; they stay in force.
    ``partly``: entries of which prices had to be left out, and which.
    """

    source: str
    dry_run: bool
    entries: int
    priced: int
    unread: tuple[Unread, ...]
    partly: tuple[Unread, ...]
    changes: tuple[PriceChange, ...]
    unchanged: int
    gone: tuple[Price, ...]

    @property
    def added(self) -> int:
        """How many prices are new."""
        return sum(change.old is None for change in self.changes)

    @property
    def changed(self) -> int:
        """How many prices replace another."""
        return len(self.changes) - self.added


def plan(
    reading: Reading, recorded: Iterable[Price], at: datetime, *, dry_run: bool
) -> ImportReport:
    """Compare a list with the prices recorded, as of ``at``."""
    known = Recorded(recorded, at)
    changes: list[PriceChange] = []
    unchanged = 0
    places: set[tuple[object, ...]] = set()
    for offer in reading.offers:
        for new in offer.prices:
            places.add(place_of(new))
            old = known.imported_at(new)
            if old is not None and says_the_same(old, new):
                unchanged += 1
                continue
            changes.append(
                PriceChange(old=old, new=new, is_shadowed=place_of(new) in known.own_places)
            )
    models = {(offer.provider, offer.model) for offer in reading.offers}
    return ImportReport(
        source=reading.source,
        dry_run=dry_run,
        entries=reading.entries,
        priced=len(reading.offers),
        unread=reading.unread,
        partly=tuple(
            Unread(entry=offer.entry, reason=f"left out: {', '.join(offer.left_out)}")
            for offer in reading.offers
            if offer.left_out
        ),
        changes=tuple(changes),
        unchanged=unchanged,
        gone=tuple(
            price
            for place, price in known.imported.items()
            if place not in places and (price.provider, price.model) in models
        ),
    )


class Recorded:
    """The recorded prices, by what they are for."""

    def __init__(self, prices: Iterable[Price], at: datetime) -> None:
        self.imported: dict[tuple[object, ...], Price] = {}
        self.own_places: set[tuple[object, ...]] = set()
        self._dated: dict[tuple[object, ...], Price] = {}
        for price in sorted(prices, key=lambda price: (price.effective_at, price.number)):
            if price.origin is Origin.OWN:
                if price.is_in_force(at):
                    self.own_places.add(price.place)
                continue
            self._dated[*price.place, price.effective_at] = price
            if price.is_in_force(at):
                self.imported[price.place] = price

    def imported_at(self, new: NewPrice) -> Price | None:
        """Return the imported price that ``new`` would replace: now, or at its own instant."""
        place = place_of(new)
        if new.effective_at is None:
            return self.imported.get(place)
        return self._dated.get((*place, new.effective_at))


def place_of(new: NewPrice) -> tuple[object, ...]:
    """Return what a new price is for, as ``Price.place``."""
    return (
        new.provider,
        new.model,
        new.pricing_type,
        new.currency,
        new.above_tokens,
        new.service_tier,
        new.resolution,
    )


def says_the_same(old: Price, new: NewPrice) -> bool:
    """Return whether a new version would say what the recorded one says already."""
    return (*old.terms, old.expires_at) == (
        new.unit,
        new.price,
        new.min_charge_units,
        new.expires_at,
    )
