"""
A mixed world of model calls over three days: what reports are made of.

Teams, providers, two currencies, three quota types; calls that fail, run unbilled, are corrected a
day later, are priced again, and carry nothing but counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from quota_engine import QuotaEngine, Usage
from quota_engine.metering.record import UsageRecord
from tests.engines import TestClock

FIRST, SECOND, THIRD = date(2026, 1, 30), date(2026, 1, 31), date(2026, 2, 1)
AFTER = date(2026, 2, 2)
ANN, BEN, EVE = "acme/team-1/ann", "acme/team-2/ben", "eve"
ACCOUNTS = (ANN, BEN, EVE)


def at(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


def record(model: str, tokens: int, cost: str | None, currency: str | None, **more: Any) -> Any:
    """Return a text call's record."""
    usage = Usage(
        input_tokens=tokens, cached_input_tokens=tokens // 4, output_tokens=10, reasoning_tokens=3
    )
    return UsageRecord(
        usage=more.pop("usage", usage),
        usage_type=more.pop("usage_type", "text_generation"),
        provider=more.pop("provider", "openai"),
        model=model,
        cost=cost,
        currency=currency,
        **more,
    )


class CalledWorld:
    """Makes the calls of each day, and sums what they told without any SQL of the engine's."""

    def __init__(self, engine: QuotaEngine, clock: TestClock) -> None:
        self.engine = engine
        self.clock = clock
        self.charges: list[tuple[str, str, str]] = []

    def live(self) -> Iterator[date]:
        """Make the calls; yield after each day."""
        self.clock.now = at(FIRST, 0)
        for account in ACCOUNTS:
            for quota_type, amount in (("text_token", 20_000), ("image", 3), ("credit", 10**12)):
                self.engine.issue_grant(account, quota_type, amount)
        self.engine.prices.set(
            "openai", "gpt-x", "input_token", "3", currency="USD", effective_at=at(FIRST, 0)
        )
        for number, day in enumerate((FIRST, SECOND, THIRD)):
            self._day(day, number)
            yield day
        self._later()
        yield THIRD

    def _day(self, day: date, number: int) -> None:
        for hour, account in enumerate(ACCOUNTS):
            self.clock.now = at(day, 1 + hour)
            tokens = 100 * (number + 1) + 10 * hour
            latency_ms = 7 + 900 * number + 41 * hour
            told = {"held": 2 * tokens, "latency_ms": latency_ms}
            self.call(
                account,
                "text_token",
                tokens + 10,
                record("gpt-x", tokens, "0.1234", "USD", **told),
            )
            self.call(account, "text_token", 60, record("qwen", 50, "0.07", "CNY", provider="ali"))
            failed = record("gpt-x", 0, None, None, status="failed", error="500", held=20)
            hold = self.engine.place_hold(account, "text_token", 20)
            self.engine.release_hold(hold, usage=failed)
            image = Usage(images=2, resolution="1k")
            drawn = record(
                "draw",
                0,
                "0.08",
                "USD",
                usage=image,
                usage_type="image_generation",
                latency_ms=4_000,
            )
            self.engine.debit(account, "image", 2, usage=drawn, already_used=True)
        self.clock.now = at(day, 23, 59)
        unbilled = record("local", 11, None, None, unbilled="no price", quality="estimated")
        self.engine.record_usage(BEN, "text_token", unbilled)
        self.engine.debit(EVE, "text_token", 5, usage=Usage(input_tokens=5))
        self.engine.debit(
            EVE, "audio", 9, usage={"audio_seconds": Decimal("8.25")}, already_used=True
        )
        priced = record("gpt-x", 1_000, "0.003", "USD", priced_at=self.clock.now.isoformat())
        self.call(ANN, "credit", 3_000_000, priced)

    def call(self, account: str, quota_type: str, units: int, told: UsageRecord) -> None:
        """Hold, and charge what was used."""
        hold = self.engine.place_hold(account, quota_type, told.held or units)
        captured = self.engine.capture_hold(hold, units, usage=told)
        self.charges.append((account, quota_type, captured.operation_id))

    def _later(self) -> None:
        """On the last day, calls of earlier days are corrected, and priced again."""
        self.clock.now = at(THIRD, 20)
        self.engine.drain()
        for more, (_, quota_type, operation_id) in enumerate(self.charges):
            if quota_type == "text_token" and more % 3 == 0:
                self.engine.correct_usage(
                    operation_id, Usage(input_tokens=90 + more, output_tokens=more)
                )
        self.engine.prices.set(
            "openai", "gpt-x", "input_token", "2", currency="USD", effective_at=at(FIRST, 0)
        )
        rated = {"since": at(FIRST, 0), "until": at(AFTER, 0), "dry_run": False}
        assert self.engine.rerate("openai", "gpt-x", **rated).quotas
