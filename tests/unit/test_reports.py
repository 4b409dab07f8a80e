"""What reports are computed with: latencies in buckets, forecasts, ratios. No I/O."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from quota_engine.commands import Balance, Grant
from quota_engine.forecasts import forecast
from quota_engine.latencies import EDGES, LONGEST_MS, percentile_ms
from quota_engine.reporting import ratio

NOW = datetime(2026, 1, 8, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize("percent", [50, 95, 99])
def test_a_percentile_of_buckets_is_at_most_five_percent_off(percent: int) -> None:
    dice = random.Random(7)
    for size in (1, 2, 19, 20, 21, 1_000):
        told = sorted(int(dice.lognormvariate(6, 2)) % LONGEST_MS for _ in range(size))
        exact = told[max(-(-size * percent // 100), 1) - 1]
        counts = Counter(bisect_right(EDGES, one) for one in told)
        found = percentile_ms(counts, percent)
        assert found is not None
        assert abs(found - exact) <= max(0.05 * exact, 0)


def test_buckets_of_two_days_add_up_and_an_hour_is_an_hour() -> None:
    assert percentile_ms({}, 50) is None
    assert percentile_ms({0: 3}, 99) == 0
    assert percentile_ms(Counter({5: 1}) + Counter({5: 1, 9: 1}), 99) == 9
    assert percentile_ms({len(EDGES): 1}, 50) == LONGEST_MS
    assert list(EDGES) == sorted(set(EDGES))


def grant(name: str, remaining: int, ends: float | None = None, starts: float = -1) -> Grant:
    return Grant(
        grant_id=name,
        remaining=remaining,
        reserved=0,
        priority=50,
        starts_at=NOW + starts * DAY,
        expires_at=None if ends is None else NOW + ends * DAY,
        created_at=NOW - DAY,
        state="live",
    )


def balance(
    *grants: Grant, debt: int = 0, limit: int | None = 0, later: Grant | None = None
) -> Balance:
    return Balance(
        account="a",
        quota_type="text_token",
        balance=sum(one.remaining for one in grants) - debt,
        debt=debt,
        overdraft_limit=limit,
        grants=grants,
        pending_grants=() if later is None else (later,),
    )


@pytest.mark.parametrize(
    ("has", "days_left", "expiring"),
    [
        (balance(grant("g", 300)), 3, 0),
        (balance(grant("g", 300), limit=100), 4, 0),
        (balance(debt=40, limit=100), "0.6", 0),
        (balance(), 0, 0),
        # Of 500, 200 are spent before they end; then 100 last a day.
        (balance(grant("ends", 500, ends=2), grant("stays", 100)), 3, 300),
        # What ends first is burned first, and nothing is lost.
        (balance(grant("ends", 150, ends=2), grant("stays", 100)), "2.5", 0),
        (balance(grant("g", 100), later=grant("later", 100, starts=0.5)), 2, 0),
        (balance(grant("g", 100), later=grant("too late", 100, starts=1.5)), 1, 0),
        (balance(grant("g", 10**9)), None, 0),
        (balance(grant("g", 300), limit=None), None, 0),
    ],
)
def test_a_forecast_burns_grants_in_their_order(
    has: Balance, days_left: str | int | None, expiring: int
) -> None:
    told = forecast(has, NOW, 700, NOW - 7 * DAY)
    assert (told.pace, told.days) == (100, 7)
    assert told.days_left == (None if days_left is None else Decimal(days_left))
    assert told.expiring == expiring
    if days_left is not None:
        assert told.runs_dry_at == NOW + float(days_left) * DAY


def test_a_quota_that_nobody_uses_lasts_until_its_grants_end() -> None:
    assert forecast(balance(grant("g", 5)), NOW, 0, NOW - DAY).runs_dry_at is None
    told = forecast(balance(grant("g", 5, ends=3)), NOW, -2, NOW - DAY)
    assert (told.runs_dry_at, told.expiring) == (NOW + 3 * DAY, 5)


def test_a_ratio_of_nothing_is_none() -> None:
    assert ratio(1, 0) is None
    assert ratio(1, 3) == Decimal("0.333333")
