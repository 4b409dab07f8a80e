"""Holds and grants begin and end exactly on time, without any sweep; a clock may be anywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quota_engine import HoldClosedError, InvalidArgumentError, QuotaInsufficientError
from tests.engines import NOON, TestClock

pytestmark = pytest.mark.anyio

TOKENS = ("user:42", "text_token")
MOMENT = timedelta(milliseconds=1)


async def figures(call: Any) -> tuple[int, int]:
    balance = await call("read_balance", *TOKENS)
    return balance.balance, balance.held


async def test_a_grant_starts_and_expires_exactly(timed: Any, clock: TestClock) -> None:
    starts, ends = NOON + timedelta(hours=1), NOON + timedelta(hours=2)
    await timed("issue_grant", *TOKENS, 100, starts_at=starts, expires_at=ends)
    (pending,) = (await timed("read_balance", *TOKENS)).pending_grants
    assert (pending.starts_at, pending.expires_at, pending.remaining) == (starts, ends, 100)
    clock.now = starts - MOMENT
    assert await figures(timed) == (0, 0)
    assert not await timed("has_quota", *TOKENS, 1)
    clock.now = starts
    assert await figures(timed) == (100, 0)
    await timed("debit", *TOKENS, 10)
    clock.now = ends - MOMENT
    hold = await timed("place_hold", *TOKENS, 20, ttl=3600)
    clock.now = ends
    assert await figures(timed) == (20, 20)
    with pytest.raises(QuotaInsufficientError) as refused:
        await timed("debit", *TOKENS, 1)
    assert refused.value.available == 0
    await timed("capture_hold", hold, 15)
    assert await figures(timed) == (0, 0)
    entries = await timed("history", *TOKENS)
    assert [(entry.kind, entry.delta, entry.occurred_at) for entry in entries[1:]] == [
        ("grant.started", 100, starts),
        ("quota.debited", -10, starts),
        ("hold.placed", 0, ends - MOMENT),
        ("grant.expired", -70, ends),
        ("grant.expired", -5, ends),
        ("hold.captured", -15, ends),
    ]
    await timed("drain")
    assert (await timed("reconcile")).drifts == ()


async def test_a_hold_expires_exactly_and_is_charged_late_afterwards(
    timed: Any, clock: TestClock
) -> None:
    await timed("issue_grant", *TOKENS, 100)
    hold = await timed("place_hold", *TOKENS, 60, ttl=10)
    assert hold.expires_at == NOON + timedelta(seconds=10)
    clock.now = hold.expires_at - MOMENT
    assert await figures(timed) == (100, 60)
    assert not await timed("has_quota", *TOKENS, 41)
    clock.now = hold.expires_at
    assert await figures(timed) == (100, 0)
    other = await timed("place_hold", *TOKENS, 100)
    with pytest.raises(HoldClosedError):
        await timed("extend_hold", hold, ttl=60)
    assert (await timed("release_hold", hold)).amount == 0
    late = await timed("capture_hold", hold, 30)
    assert (late.late, late.shortfall) == (True, 30), "another call holds everything now"
    await timed("release_hold", other)
    assert await figures(timed) == (100, 0)


async def test_a_renewed_hold_outlives_its_first_expiry(timed: Any, clock: TestClock) -> None:
    await timed("issue_grant", *TOKENS, 100)
    hold = await timed("place_hold", *TOKENS, 60, ttl=10)
    clock.forward(seconds=9)
    renewed = await timed("extend_hold", hold, ttl=10)
    assert renewed.expires_at == NOON + timedelta(seconds=19)
    clock.now = NOON + timedelta(seconds=18)
    captured = await timed("capture_hold", hold, 60)
    assert (captured.late, captured.balance) == (False, 40)


async def test_more_changes_than_one_call_applies_are_caught_up(
    timed: Any, clock: TestClock
) -> None:
    await timed("issue_grant", *TOKENS, 100)
    for _ in range(70):
        await timed("place_hold", *TOKENS, 1, ttl=5)
    clock.forward(seconds=5)
    assert (await timed("place_hold", *TOKENS, 100)).amount == 100
    kinds = [entry.kind for entry in await timed("history", *TOKENS)]
    assert kinds.count("hold.expired") == 70


async def test_a_clock_may_be_in_the_past_or_in_the_future(timed: Any, clock: TestClock) -> None:
    for now in (datetime(1999, 12, 31, tzinfo=UTC), datetime(2120, 2, 29, tzinfo=UTC)):
        clock.now = now
        account = ("user:42", "image")
        ends = now + timedelta(days=1)
        issued = await timed("issue_grant", *account, 10, expires_at=ends)
        assert issued.created_at == now
        hold = await timed("place_hold", *account, 4, ttl=60)
        assert hold.expires_at == now + timedelta(seconds=60)
        await timed("capture_hold", hold, 4)
        assert (await timed("history", *account))[-1].occurred_at == now
        clock.now = ends
        assert (await timed("read_balance", *account)).balance == 0
    await timed("drain")
    assert (await timed("reconcile")).drifts == ()


async def test_a_clock_that_goes_back_gives_nothing_back(timed: Any, clock: TestClock) -> None:
    await timed("issue_grant", *TOKENS, 100, expires_at=NOON + timedelta(seconds=10))
    clock.forward(seconds=10)
    await timed("debit", *TOKENS, 1, already_used=True)
    clock.now = NOON
    assert await figures(timed) == (0, 0), "what has expired stays expired"


async def test_a_clock_must_answer_an_aware_instant(timed: Any, clock: TestClock) -> None:
    clock.now = datetime(2026, 1, 1)
    with pytest.raises(InvalidArgumentError):
        await timed("debit", *TOKENS, 1)
