"""Sums of usage records, by model and currency: currencies are never added together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from quota_engine.prices.price import EXACT, plain
from quota_engine.recorded import RecordedCall

COUNTS = (
    *("input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("output_tokens", "reasoning_tokens", "images", "characters", "requests"),
)
SECONDS = ("audio_seconds", "video_seconds")


@dataclass(slots=True)
class UsageSum:
    """What calls of one model, paid in one currency, used and cost. ``cost`` None: no price."""

    provider: str | None
    model: str | None
    currency: str | None
    calls: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0
    characters: int = 0
    requests: int = 0
    audio_seconds: Decimal = Decimal(0)
    video_seconds: Decimal = Decimal(0)
    cost: Decimal | None = None

    def add(self, call: RecordedCall) -> None:
        """Add one call, exactly."""
        self.calls += call.corrects is None
        if call.cost is not None:
            self.cost = plain(EXACT.add(self.cost or Decimal(0), call.cost))
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + call.counted(name))
        for name in SECONDS:
            seconds = Decimal(str(call.counted(name)))
            setattr(self, name, plain(EXACT.add(getattr(self, name), seconds)))


def sums_by_model(calls: Iterable[RecordedCall]) -> list[UsageSum]:
    """Return the sums of each provider, model and currency, in their order; nameless ones last."""
    sums: dict[tuple[Any, ...], UsageSum] = {}
    for call in calls:
        currency = call.currency if call.cost is not None or call.corrects else None
        key = (call.provider, call.model, currency)
        sums.setdefault(key, UsageSum(*key)).add(call)
    return sorted(
        sums.values(),
        key=lambda one: [
            (part is None, part or "") for part in (one.provider, one.model, one.currency)
        ],
    )
