"""Usage records as rows, and their sums by model: currencies are never added together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from quota_engine.prices.price import EXACT, plain
from quota_engine.recorded import RecordedCall

CALLS = (
    *("occurred_at", "quota_type", "provider", "model", "status", "quality", "input_tokens"),
    *("output_tokens", "amount", "shortfall", "cost", "currency", "latency_ms", "operation_id"),
    "note",
)
#: Counts that a row of a call shows.
TOKENS = ("input_tokens", "output_tokens")
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


def call_row(call: RecordedCall) -> dict[str, Any]:
    """Return the row of a call, with what is to be noted of it at its end."""
    is_told = call.usage is not None or call.corrects is not None
    notes = [text for text in (call.unbilled, call.unpriced, call.error) if text]
    notes += ["anomaly"] if call.anomaly else []
    notes += ["late"] if call.late else []
    notes += [f"corrects {call.corrects}"] if call.corrects else []
    notes += ["pending"] if call.is_pending else []
    return {
        **{name: getattr(call, name, None) for name in CALLS},
        **{name: call.counted(name) if is_told else None for name in TOKENS},
        "note": ", ".join(notes),
    }
