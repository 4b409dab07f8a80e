"""The record that a metered call leaves: what was used, at what price, and how it went."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quota_engine.errors import InvalidArgumentError
from quota_engine.usage import Usage

SUCCESS = "success"
FAILED = "failed"
TIMEOUT = "timeout"
CANCELLED = "cancelled"

EXACT = "exact"
ESTIMATED = "estimated"

ERROR_LENGTH_MAX = 500
METADATA_LENGTH_MAX = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """
    One call as it is kept with its entry. Latencies in milliseconds, cost in ``currency``.

    ``unbilled`` says why nothing was charged, ``unpriced`` why there is no cost; ``anomaly`` keeps
    a provider's impossible report.
    """

    usage: Usage
    usage_type: str
    status: str = SUCCESS
    quality: str = EXACT
    provider: str | None = None
    model: str | None = None
    cost: str | None = None
    currency: str | None = None
    price_ids: tuple[str, ...] = ()
    #: When the call was admitted: an instant in ISO format, whose prices it pays.
    priced_at: str | None = None
    service_tier: str | None = None
    unbilled: str | None = None
    unpriced: str | None = None
    anomaly: Mapping[str, Any] | None = None
    error: str | None = None
    held: int | None = None
    latency_ms: int | None = None
    first_token_ms: int | None = None
    request_id: str | None = None
    metadata: Mapping[str, Any] | None = None

    def counts(self) -> dict[str, Any]:
        """Return the record as one flat JSON object, empty fields left out."""
        rest = {
            name: getattr(self, name)
            for name in self.__slots__
            if name != "usage" and getattr(self, name) not in (None, ())
        }
        if self.price_ids:
            rest["price_ids"] = list(self.price_ids)
        return {**self.usage.counts(), **rest}


def status_of(error: BaseException) -> str:
    """Return the status of a call that ended with an exception."""
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return TIMEOUT
    if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
        return CANCELLED
    return FAILED


def describe(error: BaseException) -> str:
    """Return an exception in one short line."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text.encode(errors="replace").decode()[:ERROR_LENGTH_MAX]


def checked_metadata(metadata: Any) -> Mapping[str, Any] | None:
    """Return what is to be kept with the record; before the call, so that it can be refused."""
    if metadata is None:
        return None
    try:
        if isinstance(metadata, Mapping) and len(json.dumps(metadata)) <= METADATA_LENGTH_MAX:
            return metadata
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"metadata must be plain JSON: {error}") from None
    raise InvalidArgumentError(
        f"metadata must be a mapping of at most {METADATA_LENGTH_MAX} characters of JSON"
    )
