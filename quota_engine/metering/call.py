"""
One metered call: quota is held before it, and settled exactly once after it.

The steps are flows: they yield ``Ask`` (a method of the engine and its arguments) and are sent the
answer, so the same words serve sync and async functions. No I/O here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from quota_engine.amounts import checked_amount
from quota_engine.commands import PlacedHold
from quota_engine.errors import (
    HoldClosedError,
    PricingNotFoundError,
    QuotaError,
    QuotaInsufficientError,
)
from quota_engine.estimate import estimate
from quota_engine.extraction import Anomaly, Observed, Origin, Reported, extract
from quota_engine.metering import record
from quota_engine.metering.charges import currency_of, is_credit, units_of
from quota_engine.metering.plan import Arguments, Plan
from quota_engine.metering.record import UsageRecord
from quota_engine.usage import Usage

log = logging.getLogger("quota_engine.metering")
T = TypeVar("T")

UNCONFIGURED = "unconfigured"


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
        self._arguments = arguments
        self._service_tier = arguments.named(plan.service_tier, "service_tier")
        self._metadata = arguments.resolve(plan.metadata)
        self._unbilled: str | None = None
        self._estimate: Usage | int = 0
        self._units = 0
        self._started = time.monotonic()
        self._at = datetime.now(UTC)
        self.first_token_ms: int | None = None

    # -- before

    def begin(self) -> Flow[None]:
        """Hold the estimate. Raises ``QuotaInsufficientError``, or ``PricingNotFoundError``."""
        self._estimate = self._estimated()
        usage = self.estimated_usage
        try:
            self._units = max(1, (yield from self._units_for(self._estimate)))
            if self.model is not None and not is_credit(self.plan.quota_type):
                yield from self._cost(usage)
        except PricingNotFoundError as error:
            if self.plan.unconfigured == "deny":
                raise
            self._unbilled = UNCONFIGURED
            log.warning("%s/%s runs unbilled: %s", self.provider, self.model, error)
            return
        options: dict[str, Any] = {} if self.plan.ttl is None else {"ttl": self.plan.ttl}
        place = (self.account, self.plan.quota_type, self._units)
        self.hold = yield Ask("place_hold", place, options)
        self._started = time.monotonic()

    @property
    def estimated_usage(self) -> Usage:
        """The estimate as a usage; empty where the caller gave plain units."""
        return self._estimate if isinstance(self._estimate, Usage) else Usage()

    def _estimated(self) -> Usage | int:
        said = self._arguments.resolve(self.plan.estimate)
        if said is None:
            return estimate(
                self._arguments.request(),
                usage_type=self.plan.usage_type,
                tokenizer=self.plan.tokenizer,
                output_default=self.plan.output_default,
            ).usage
        if isinstance(said, Usage):
            return said
        if isinstance(said, Mapping):
            return Usage(**said)
        return checked_amount(said, name="estimate")

    def _units_for(self, used: Usage | int) -> Flow[int]:
        if isinstance(used, int):
            return used
        if is_credit(self.plan.quota_type):
            cost = yield from self._cost(used)
            return int(cost.nano_units)
        return units_of(self.plan.quota_type, used)

    def _cost(self, usage: Usage) -> Flow[Any]:
        if self.model is None:
            raise PricingNotFoundError("no model is named, so nothing has a price")
        options = {
            "provider": self.provider,
            "model": self.model,
            "usage_type": self.plan.usage_type,
            "at": self._at,
            "service_tier": self._service_tier,
        }
        if is_credit(self.plan.quota_type):
            options["currency"] = currency_of(self.plan.quota_type)
        return (yield Ask("cost", (usage,), options))

    # -- while a stream runs

    def outgrown(self, output_tokens: int) -> bool:
        """Whether a stream's running output passes what is held (token quotas only)."""
        if self.hold is None or self.plan.quota_type != "text_token":
            return False
        return self.estimated_usage.input_tokens + output_tokens > self._units

    def grow(self) -> Flow[bool]:
        """Hold half as much again for a stream; return False when that cannot be."""
        wanted = self._units + max(256, self._units // 2)
        try:
            yield Ask("extend_hold", (self.hold,), {"amount": wanted})
        except (QuotaInsufficientError, HoldClosedError):
            return False
        self._units = wanted
        return True

    def note_first_token(self) -> None:
        """Remember when the first output came."""
        self.first_token_ms = self._elapsed_ms()

    # -- after

    def finish(self, response: Any) -> Flow[None]:
        """Settle a call that returned ``response``."""
        said = self.plan.usage
        if callable(said):
            used = said(response)
            if isinstance(used, Mapping):
                used = Usage(**used)
            yield from self._settle(used, record.EXACT, record.SUCCESS)
            return
        yield from self.settle_found(extract(response, self.provider), record.SUCCESS)

    def settle_found(
        self, found: Reported | Observed | Anomaly | None, status: str, error: str | None = None
    ) -> Flow[None]:
        """Settle by what was found: what is unknown is charged as it was held."""
        if found is not None:
            self._learn(found.origin)
        if isinstance(found, Reported):
            yield from self._settle(found.usage, record.EXACT, status, error)
        elif isinstance(found, Observed):
            yield from self._settle(found.usage, record.ESTIMATED, status, error)
        elif isinstance(found, Anomaly):
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
        if self.hold is not None:
            yield Ask("release_hold", (self.hold,), {"usage": told})
        else:
            yield Ask("record_usage", (self.account, self.plan.quota_type, told))

    def _learn(self, origin: Origin) -> None:
        self.provider = self.provider or origin.provider
        self.model = self.model or origin.model
        self._request_id = origin.request_id

    _request_id: str | None = None

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
        cost = None
        units = 0
        try:
            if self.model is not None or is_credit(self.plan.quota_type):
                cost = yield from self._cost(usage)
            units = self._charged(used, cost)
        except PricingNotFoundError as missing:
            self._unbilled = UNCONFIGURED
            log.warning("%s/%s was not billed: %s", self.provider, self.model, missing)
        told = self._record(usage, status, quality, error=error, anomaly=anomaly, cost=cost)
        if self.hold is None:
            yield Ask("record_usage", (self.account, self.plan.quota_type, told))
        elif self._unbilled is not None:
            yield Ask("release_hold", (self.hold,), {"usage": told})
        else:
            yield Ask("capture_hold", (self.hold, units), {"usage": told})

    def _charged(self, used: Usage | int, cost: Any) -> int:
        if isinstance(used, int):
            return checked_amount(used, zero_allowed=True, name="usage")
        if is_credit(self.plan.quota_type):
            return int(cost.nano_units)
        return units_of(self.plan.quota_type, used)

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
            provider=self.provider,
            model=self.model,
            cost=None if cost is None else str(cost.amount),
            currency=None if cost is None else cost.currency,
            price_ids=() if cost is None else tuple(cost.price_ids),
            unbilled=self._unbilled,
            anomaly=anomaly,
            error=error,
            held=None if self.hold is None else self._units,
            latency_ms=self._elapsed_ms(),
            first_token_ms=self.first_token_ms,
            request_id=self._request_id,
            metadata=self._metadata,
        )

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._started) * 1000)


def status_of(error: BaseException) -> str:
    """Return the status of a call that ended with an exception."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return record.TIMEOUT
    if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
        return record.CANCELLED
    return record.FAILED


def describe(error: BaseException) -> str:
    """Return an exception in one short line."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.encode(errors="replace").decode()[: record.ERROR_LENGTH_MAX]


def is_quota_error(error: BaseException) -> bool:
    """Whether an exception is the engine's own."""
    return isinstance(error, QuotaError)
