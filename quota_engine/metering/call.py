"""
One metered call: quota is held before it, and settled exactly once after it.

The steps are flows: they yield ``Ask`` (a method of the engine and its arguments) and are sent the
answer, so the same words serve sync and async functions. No I/O here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import uuid4

from quota_engine.commands import PlacedHold
from quota_engine.errors import (
    EngineUnavailableError,
    HoldClosedError,
    PricingNotFoundError,
    QuotaError,
    QuotaInsufficientError,
)
from quota_engine.estimate import estimate
from quota_engine.extraction import Anomaly, Observed, Origin, Reported, extract, origin_of
from quota_engine.metering import record
from quota_engine.metering.plan import Arguments, Plan
from quota_engine.metering.record import UsageRecord, checked_metadata, describe, status_of
from quota_engine.metrics.model_calls import COUNTERS
from quota_engine.units import currency_of, is_credit, units_of
from quota_engine.usage import Usage

log = logging.getLogger("quota_engine.metering")
T = TypeVar("T")

UNCONFIGURED = "unconfigured"
#: A finding, or units that the caller counted.
Found = Reported | Observed | Anomaly | int | None


@dataclass(frozen=True, slots=True)
class Ask:
    """A method of the engine to call."""

    method: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


Flow = Generator[Ask, Any, T]


class MeteredCall:
    """A call from its hold to its settlement. ``begin`` once, then ``finish`` or ``fail``."""

    def __init__(self, plan: Plan, arguments: Arguments) -> None:
        self.plan = plan
        self.account = arguments.account(plan.account)
        self.provider: str | None = arguments.named(plan.provider, "provider")
        self.model: str | None = arguments.named(plan.model, "model")
        self.hold: PlacedHold | None = None
        self.is_settled = False
        self.span: Any = None  # while it is traced, and not settled
        self._arguments = arguments
        self._service_tier = arguments.named(plan.service_tier, "service_tier")
        self._metadata = checked_metadata(arguments.resolve(plan.metadata))
        self._unbilled: str | None = None
        self._unpriced: str | None = None
        #: Whether provider and model were known before the call, not only from its response.
        self._was_named = self.provider is not None and self.model is not None
        self._request_id: str | None = None
        #: What settles the call, once that is known.
        self.settlement: Ask | None = None
        self._estimate: Usage | int = 0
        #: What is held of each quota type.
        self._units: dict[str, int] = {}
        self._started = time.monotonic()
        self._at: datetime | None = None
        self.first_token_ms: int | None = None

    # -- before

    def begin(self) -> Flow[None]:
        """
        Hold the estimate.

        Raises ``ModelDisabledError``, ``PoolEmptyError``, ``QuotaInsufficientError`` or
        ``PricingNotFoundError``.
        """
        called = {"provider": self.provider, "model": self.model}
        try:
            is_billed = yield from self._prepared()
        except QuotaError as error:
            yield Ask("count_refusal", (self.account, self.plan.first_type, error), called)
            raise
        if not is_billed:
            return
        options: dict[str, Any] = {} if self.plan.ttl is None else {"ttl": self.plan.ttl}
        amounts = self._amounts(self._units)
        place = (amounts,) if isinstance(amounts, dict) else (self.plan.first_type, amounts)
        self.hold = yield Ask("place_hold", (self.account, *place), options | called)
        self._started = time.monotonic()

    def _prepared(self) -> Flow[bool]:
        """Estimate the units to hold; return whether the call is billed at all."""
        if self._was_named:
            with suppress(EngineUnavailableError):  # what is to be done then, the price decides
                yield Ask("check_enabled", (self.provider, self.model))
        self._estimate = yield from self._estimated()
        try:
            cost = yield from self._cost(self.estimated_usage)
        except PricingNotFoundError as error:
            if self.plan.unconfigured == "deny":
                raise
            yield from self._check_pool(None)
            self._leave_unbilled(error)
            return False
        except EngineUnavailableError as error:
            if self.plan.credit_type:
                raise
            log.warning("no price could be read for %s/%s: %s", self.provider, self.model, error)
            cost = None
        if cost is not None:
            self._at = cost.at
        yield from self._check_pool(cost)
        units = self._units_of(self._estimate, cost)
        self._units = {name: max(1, amount) for name, amount in units.items()}
        return True

    def _check_pool(self, cost: Any) -> Flow[None]:
        """Refuse a call that its provider would not be paid for, where the plan says so."""
        if self.plan.pool == "enforce" and self.provider is not None:
            currency = None if cost is None else cost.currency
            yield Ask("check_pool", (self.provider, currency))

    @property
    def estimated_usage(self) -> Usage:
        """The estimate as a usage; empty where the caller gave plain units."""
        return self._estimate if isinstance(self._estimate, Usage) else Usage()

    def _estimated(self) -> Flow[Usage | int]:
        said = self._arguments.resolve(self.plan.estimate)
        if said is not None:
            return self.plan.checked_used(said, name="estimate")
        request = self._arguments.request()
        options: dict[str, Any] = {
            "usage_type": self.plan.usage_type,
            "tokenizer": self.plan.tokenizer,
            "output_default": self.plan.output_default,
        }
        found = estimate(request, **options)
        is_open = found.output_basis == "default" and self.plan.output_default is None
        if is_open and self._was_named:
            try:
                limit = yield Ask("output_limit", (self.provider, self.model))
            except EngineUnavailableError:  # the price book has a cache and decides
                limit = None
            if limit is not None:
                found = estimate(request, **options, model_output_max=limit)
        return found.usage

    def _cost(self, usage: Usage) -> Flow[Any]:
        """Return what a usage costs; None where no price is needed and nobody says of what."""
        if self.provider is None or self.model is None:
            if self.plan.credit_type:
                raise PricingNotFoundError("no provider and model are named, so there is no price")
            return None
        options = {
            "provider": self.provider,
            "model": self.model,
            "usage_type": self.plan.usage_type,
            "at": self._at,
            "service_tier": self._service_tier,
        }
        if self.plan.credit_type:
            options["currency"] = currency_of(self.plan.credit_type)
        return (yield Ask("cost", (usage,), options))

    def _leave_unbilled(self, error: PricingNotFoundError) -> None:
        self._unbilled = UNCONFIGURED
        COUNTERS.add("unbilled")
        log.warning("%s/%s runs unbilled: %s", self.provider, self.model, error)

    # -- while a stream runs

    def outgrown(self, output_tokens: int) -> bool:
        """Whether a stream's running output passes what is held (token quotas only)."""
        if self.hold is None or "text_token" not in self._units:
            return False
        return self.estimated_usage.input_tokens + output_tokens > self._units["text_token"]

    def grow(self) -> Flow[bool]:
        """Hold half as much again for a stream; return False when that cannot be."""
        wanted = yield from self._grown()
        try:
            yield Ask("extend_hold", (self.hold,), {"amount": self._amounts(wanted)})
        except (QuotaInsufficientError, HoldClosedError):
            return False
        except QuotaError as error:
            log.warning("hold %s could not grow: %s", self.hold, error)
            return True
        self._units = wanted
        return True

    def _grown(self) -> Flow[dict[str, int]]:
        """Return half as many tokens again as are held, and their cost; the rest as it is held."""
        held = self._units["text_token"]
        grown = {**self._units, "text_token": held + max(256, held // 2)}
        if name := self.plan.credit_type:
            estimated = self.estimated_usage
            output = grown["text_token"] - estimated.input_tokens
            with suppress(QuotaError):  # without a price it stays as it is held
                cost = yield from self._cost(replace(estimated, output_tokens=output))
                grown[name] = max(grown[name], int(cost.nano_units))
        return grown

    def note_first_token(self) -> None:
        """Remember when the first output came."""
        self.first_token_ms = self._elapsed_ms()

    # -- after

    def finish(self, response: Any) -> Flow[None]:
        """Settle a call that returned ``response``."""
        yield from self.settle_found(self.found_in(response), record.SUCCESS)

    def found_in(self, response: Any) -> Found:
        """Return the usage that the plan says, else what the response says."""
        if self.plan.usage is None:
            return extract(response, self.provider)
        try:
            said = self.plan.usage
            used = said(response) if callable(said) else self._arguments.resolve(said)
            if used is None:
                return extract(response, self.provider)
            used = self.plan.checked_used(used, name="usage")
        except Exception as error:  # the model has answered: its answer is not taken away
            return Anomaly(reason=f"usage= failed: {describe(error)}", raw={})
        if isinstance(used, int):
            return used
        return Reported(usage=used, origin=origin_of(response, self.provider))

    def settle_found(self, found: Found, status: str, error: str | None = None) -> Flow[None]:
        """Settle by what was found: what is unknown is charged as it was held."""
        if isinstance(found, int):
            yield from self._settle(found, record.EXACT, status, error)
            return
        if found is not None:
            self._learn(found.origin)
        if isinstance(found, Reported):
            yield from self._settle(found.usage, record.EXACT, status, error)
        elif isinstance(found, Observed):
            yield from self._settle(found.usage, record.ESTIMATED, status, error)
        elif isinstance(found, Anomaly):
            COUNTERS.add("anomalies")
            log.warning("impossible usage from %s: %s", self.provider, found.reason)
            raw = {"reason": found.reason, "raw": dict(found.raw)}
            yield from self._settle(self._estimate, record.ESTIMATED, status, error, raw)
        else:
            yield from self._settle(self._estimate, record.ESTIMATED, status, error)

    def fail(self, error: BaseException) -> Flow[None]:
        """Settle a call that raised: nothing is charged, the failure is recorded."""
        if self.is_settled:
            return
        self.is_settled = True
        told = self._record(Usage(), status_of(error), record.EXACT, error=describe(error))
        yield from self._end_with(None, told)

    def _learn(self, origin: Origin) -> None:
        self.provider = self.provider or origin.provider
        self.model = self.model or origin.model
        self._request_id = origin.request_id
        if self.plan.service_tier is None:
            self._service_tier = origin.service_tier or self._service_tier

    def _settle(
        self,
        used: Usage | int,
        quality: str,
        status: str,
        error: str | None = None,
        anomaly: Mapping[str, Any] | None = None,
    ) -> Flow[None]:
        if self.is_settled:
            return
        self.is_settled = True
        usage = used if isinstance(used, Usage) else Usage()
        cost, units = None, self._units
        try:
            if self._unbilled is None:
                cost = yield from self._cost(usage)
                units = self._units_of(used, cost)
            if isinstance(used, int):
                cost = None  # the caller's own count: nothing says what it costs
        except PricingNotFoundError as missing:
            if self.plan.unconfigured == "allow" and self._was_named:
                self._leave_unbilled(missing)
            else:  # it was admitted, and is to be paid: by units, or as it was held
                self._unpriced = UNCONFIGURED
                log.warning("%s/%s has no price: %s", self.provider, self.model, missing)
                units, quality = self._units_without_price(used, quality)
        except EngineUnavailableError as missing:
            self._unpriced = "no price could be read"
            log.warning("no price of %s/%s was read: %s", self.provider, self.model, missing)
            units, quality = self._units_without_price(used, quality)
        told = self._record(usage, status, quality, error=error, anomaly=anomaly, cost=cost)
        yield from self._end_with(None if self._unbilled is not None else units, told)

    def _end_with(self, units: dict[str, int] | None, told: UsageRecord) -> Flow[None]:
        """Capture ``units``, or with None charge nothing; keep what was asked, to ask it again."""
        COUNTERS.add("calls")
        if told.status != record.SUCCESS:
            COUNTERS.add("failed")
        if told.quality != record.EXACT:
            COUNTERS.add("estimated")
        if self.hold is None:
            operation_id = {"operation_id": f"call-{uuid4().hex}"}
            place = (self.account, self.plan.first_type, told)
            self.settlement = Ask("record_usage", place, operation_id)
        elif units is None:
            self.settlement = Ask("release_hold", (self.hold,), {"usage": told})
        else:
            amounts = self._amounts(units)
            self.settlement = Ask("capture_hold", (self.hold, amounts), {"usage": told})
        settled = yield self.settlement
        if getattr(settled, "spooled", False):
            COUNTERS.add("spooled")

    def _units_of(self, used: Usage | int, cost: Any) -> dict[str, int]:
        """
        Return what a usage is of each quota type; plain units are of the only one.

        ``cost`` None: credit is taken as it is held.
        """
        if isinstance(used, int):
            return {self.plan.first_type: used}
        credit = 0
        if name := self.plan.credit_type:
            credit = self._units[name] if cost is None else int(cost.nano_units)
        return {
            name: credit if is_credit(name) else units_of(name, used)
            for name in self.plan.quota_types
        }

    def _units_without_price(self, used: Usage | int, quality: str) -> tuple[dict[str, int], str]:
        is_guessed = self.plan.credit_type is not None and not isinstance(used, int)
        return self._units_of(used, None), record.ESTIMATED if is_guessed else quality

    def _amounts(self, units: dict[str, int]) -> dict[str, int] | int:
        """Return units as the engine's calls take them: of one quota type a number."""
        return units if len(units) > 1 else units[self.plan.first_type]

    def _record(
        self,
        usage: Usage,
        status: str,
        quality: str,
        *,
        error: str | None = None,
        anomaly: Mapping[str, Any] | None = None,
        cost: Any = None,
    ) -> UsageRecord:
        return UsageRecord(
            usage=usage,
            usage_type=self.plan.usage_type,
            status=status,
            quality=quality,
            provider=self.provider and self.provider.strip().lower(),
            model=self.model,
            cost=None if cost is None else str(cost.amount),
            currency=None if cost is None else cost.currency,
            price_ids=() if cost is None else tuple(cost.price_ids),
            priced_at=None if self._at is None else self._at.isoformat(),
            service_tier=self._service_tier,
            unbilled=self._unbilled,
            unpriced=self._unpriced,
            anomaly=anomaly,
            error=error,
            held=None if self.hold is None else self._units[self.plan.first_type],
            latency_ms=self._elapsed_ms(),
            first_token_ms=self.first_token_ms,
            request_id=self._request_id,
            metadata=self._metadata,
        )

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._started) * 1000)
