"""The catalog and the price book, as the engine's callers see them. Prices are cached here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from quota_engine._async.transport import AsyncTransport
from quota_engine.backing import Backing
from quota_engine.errors import (
    EngineUnavailableError,
    InvalidArgumentError,
    ModelDisabledError,
)
from quota_engine.instants import from_ms
from quota_engine.prices.catalog import Model, Provider, checked_facts, checked_usage_type
from quota_engine.prices.cost import Cost, cost_of
from quota_engine.prices.genai import read_genai_prices
from quota_engine.prices.importing import ImportReport, Reading
from quota_engine.prices.litellm import read_litellm
from quota_engine.prices.price import (
    Price,
    checked_instant,
    checked_model,
    checked_pricing_type,
    checked_provider,
    new_price,
)
from quota_engine.prices.versions import PriceList, in_force
from quota_engine.settings import Settings
from quota_engine.usage import Usage
from quota_engine.waiting import in_thread

#: Models whose prices one client remembers; with more, it begins anew.
CACHED_MODELS_MAX = 2_000


class AsyncCatalog:
    """Which providers and models there are. Every call reads PostgreSQL."""

    def __init__(self, backing: Backing, forget_prices: Callable[[], None]) -> None:
        self._store = backing.price_store
        self._forget_prices = forget_prices

    async def find_provider(self, name: str) -> Provider | None:
        """Return a provider, or None. Names are compared in small letters."""
        return await in_thread(self._store.find_provider, checked_provider(name))

    async def find_or_create_provider(self, name: str) -> Provider:
        """Return a provider, made if there was none."""
        return await in_thread(self._store.create_provider, checked_provider(name))

    async def find_model(self, provider: str, name: str) -> Model | None:
        """Return a model of a provider, or None. Its name is compared letter by letter."""
        return await in_thread(
            self._store.find_model, checked_provider(provider), checked_model(name)
        )

    async def find_or_create_model(
        self,
        provider: str,
        name: str,
        *,
        usage_type: str | None = None,
        context_tokens_max: int | None = None,
        output_tokens_max: int | None = None,
    ) -> Model:
        """Return a model as it is; if there was none, made with these facts and its provider."""
        facts = checked_facts(
            usage_type=usage_type,
            context_tokens_max=context_tokens_max,
            output_tokens_max=output_tokens_max,
        )
        return await in_thread(
            self._store.create_model, checked_provider(provider), checked_model(name), facts
        )

    async def change_model(
        self,
        provider: str,
        name: str,
        *,
        usage_type: str | None = None,
        context_tokens_max: int | None = None,
        output_tokens_max: int | None = None,
        is_enabled: bool | None = None,
    ) -> Model:
        """
        Write what is told about a model; what is not told stays. Make it if there is none.

        Metered calls of a model that is not enabled are refused with ``ModelDisabledError``: by
        this client at once, by others after ``price_refresh_seconds``.
        """
        facts = checked_facts(
            usage_type=usage_type,
            context_tokens_max=context_tokens_max,
            output_tokens_max=output_tokens_max,
            is_enabled=is_enabled,
        )
        owner, model = checked_provider(provider), checked_model(name)
        changed = await in_thread(self._store.change_model, owner, model, facts)
        if changed is None:
            changed = await in_thread(self._store.create_model, owner, model, facts)
        self._forget_prices()
        return changed

    async def list_models(self, provider: str | None = None) -> Sequence[Model]:
        """Return the models of a provider, or all, in the order of their names."""
        owner = None if provider is None else checked_provider(provider)
        return await in_thread(self._store.list_models, owner)


@dataclass(frozen=True, slots=True)
class _Cached:
    """A model's prices. Times by the monotonic clock: when read, and when reading was tried."""

    known: PriceList
    read: float
    tried: float


class AsyncPriceBook:
    """Prices, and what calls cost by them."""

    def __init__(self, transport: AsyncTransport, backing: Backing, settings: Settings) -> None:
        self._transport = transport
        self._store = backing.price_store
        self._settings = settings
        self._cache: dict[tuple[str, str], _Cached] = {}
        self._changes = 0

    async def set(
        self,
        provider: str,
        model: str,
        pricing_type: str,
        price: Decimal | int | str,
        *,
        unit: str | None = None,
        currency: str | None = None,
        effective_at: datetime | None = None,
        expires_at: datetime | None = None,
        min_charge_units: Decimal | int | str = 0,
        above_tokens: int | None = None,
        service_tier: str | None = None,
        resolution: str | None = None,
    ) -> Price:
        """
        Record a new version of a price, in force from ``effective_at`` (now) on.

        No version is ever changed: the one that begins last counts, and charges made keep theirs.
        ``unit`` None: the usual one; ``currency`` None: the deployment's. The model is made if
        there is none. What each argument means is told by ``quota_engine.prices.Price``. This
        client sees it at once, others after ``price_refresh_seconds``.
        """
        new = new_price(
            provider,
            model,
            pricing_type,
            price,
            unit=unit,
            currency=self._settings.currency if currency is None else currency,
            effective_at=effective_at,
            expires_at=expires_at,
            min_charge_units=min_charge_units,
            above_tokens=above_tokens,
            service_tier=service_tier,
            resolution=resolution,
        )
        recorded = await in_thread(self._store.add_price, new, self._clock())
        self.forget()
        return recorded

    async def cost(
        self,
        usage: Usage,
        *,
        provider: str,
        model: str,
        usage_type: str | None = None,
        at: datetime | None = None,
        service_tier: str | None = None,
        currency: str | None = None,
    ) -> Cost:
        """
        Return what a usage costs by the prices in force ``at`` an instant (now), exactly.

        ``quota_engine.prices.cost`` tells the rules. Raises ``PricingNotFoundError`` with what is
        missing. Reads PostgreSQL once per model and ``price_refresh_seconds``; while it does not
        answer, prices read before are used up to ``price_age_max_seconds``.
        """
        if not isinstance(usage, Usage):
            raise InvalidArgumentError(f"usage must be a Usage, not {type(usage).__name__}")
        owner, name = checked_provider(provider), checked_model(model)
        kind = checked_usage_type(usage_type)
        cached = await self._prices_of(owner, name)
        return cost_of(
            usage,
            cached.known.prices,
            provider=owner,
            model=name,
            at=self._now(cached) if at is None else at,
            usage_type=kind,
            service_tier=service_tier,
            currency=currency,
            home_currency=self._settings.currency,
        )

    async def check_enabled(self, provider: str, model: str) -> None:
        """
        Raise ``ModelDisabledError`` if the catalog says that no new call may use a model.

        One that the catalog does not know may be used. Cached with the model's prices.
        """
        owner, name = checked_provider(provider), checked_model(model)
        if not (await self._prices_of(owner, name)).known.is_enabled:
            raise ModelDisabledError(owner, name)

    async def list(
        self, provider: str | None = None, model: str | None = None, *, at: datetime | None = None
    ) -> Sequence[Price]:
        """Return the prices in force ``at`` an instant (now), of a model, a provider or all."""
        found = await self._read(provider, model)
        instant = self._clock() or found.read_at
        if at is not None:
            instant = checked_instant(at, name="at")
        return in_force(found.prices, instant)

    async def history(
        self, provider: str, model: str, pricing_type: str | None = None
    ) -> Sequence[Price]:
        """Return every version of a model's prices, those to come included, oldest first."""
        kind = None if pricing_type is None else checked_pricing_type(pricing_type)
        found = await self._read(provider, model)
        return tuple(price for price in found.prices if kind in (None, price.pricing_type))

    async def import_litellm(
        self,
        entries: Mapping[str, Any],
        *,
        source: str = "litellm",
        dry_run: bool = False,
        providers: Iterable[str] = (),
        models: Iterable[str] = (),
        zero_is_free: bool = False,
    ) -> ImportReport:
        """
        Take over a LiteLLM price file, parsed from JSON, or only these providers and models of it.

        Own prices go on winning. The report says what changed, or with ``dry_run`` would, and
        what could not be read and why. ``zero_is_free``: take zeros as prices.
        """

        def read(_: datetime) -> Reading:
            return read_litellm(entries, source=source, zero_is_free=zero_is_free)

        return await self._import(read, dry_run, providers, models)

    async def import_genai_prices(
        self,
        *,
        dry_run: bool = False,
        providers: Iterable[str] = (),
        models: Iterable[str] = (),
        zero_is_free: bool = False,
    ) -> ImportReport:
        """Take over the prices that came with the installed genai-prices: ``import_litellm``."""

        def read(at: datetime) -> Reading:
            return read_genai_prices(at, zero_is_free=zero_is_free)

        return await self._import(read, dry_run, providers, models)

    async def _import(
        self, read: Any, dry_run: bool, providers: Iterable[str], models: Iterable[str]
    ) -> ImportReport:
        owners = tuple(checked_provider(name) for name in providers)
        names = tuple(checked_model(name) for name in models)

        def read_part(at: datetime) -> Reading:
            reading: Reading = read(at)
            return reading.only(owners, names)

        report = await in_thread(
            self._store.import_prices, read_part, self._clock(), dry_run=dry_run
        )
        self.forget()
        return report

    async def _read(self, provider: str | None, model: str | None) -> PriceList:
        return await in_thread(
            self._store.read_prices,
            None if provider is None else checked_provider(provider),
            None if model is None else checked_model(model),
        )

    async def _prices_of(self, provider: str, model: str) -> _Cached:
        """Return a model's prices, read again when they have become old."""
        settings, key, changes = self._settings, (provider, model), self._changes
        cached, now = self._cache.get(key), time.monotonic()
        if cached is not None and now - cached.tried < settings.price_refresh_seconds:
            return cached
        try:
            found = await in_thread(self._store.read_prices, provider, model)
        except EngineUnavailableError:
            if cached is None or now - cached.read > settings.price_age_max_seconds:
                raise
            fresh = replace(cached, tried=now)
        else:
            fresh = _Cached(found, read=now, tried=now)
        if len(self._cache) >= CACHED_MODELS_MAX:
            self._cache.clear()
        if changes == self._changes:  # else what was read may be from before the change
            self._cache[key] = fresh
        return fresh

    def forget(self) -> None:
        """Read everything again when it is next asked for."""
        self._changes += 1
        self._cache.clear()

    def _clock(self) -> datetime | None:
        now_ms = self._transport.now_ms()
        return None if now_ms is None else from_ms(now_ms)

    def _now(self, cached: _Cached) -> datetime:
        """Return the client's clock, or PostgreSQL's as it was then and has gone on since."""
        since = timedelta(seconds=time.monotonic() - cached.read)
        return self._clock() or cached.known.read_at + since


class AsyncPricing:
    """The part of the engine that knows what calls cost."""

    def __init__(self, transport: AsyncTransport, backing: Backing, settings: Settings) -> None:
        self.prices = AsyncPriceBook(transport, backing, settings)
        self.catalog = AsyncCatalog(backing, self.prices.forget)

    async def check_enabled(self, provider: str, model: str) -> None:
        """Raise ``ModelDisabledError`` if no new call may use a model: see ``AsyncPriceBook``."""
        await self.prices.check_enabled(provider, model)

    async def cost(
        self,
        usage: Usage,
        *,
        provider: str,
        model: str,
        usage_type: str | None = None,
        at: datetime | None = None,
        service_tier: str | None = None,
        currency: str | None = None,
    ) -> Cost:
        """
        Return what a usage costs: ``.amount .currency .lines .price_ids``, and ``.nano_units``.

        See ``AsyncPriceBook.cost``. Raises ``PricingNotFoundError`` with what is missing.
        """
        return await self.prices.cost(
            usage,
            provider=provider,
            model=model,
            usage_type=usage_type,
            at=at,
            service_tier=service_tier,
            currency=currency,
        )
