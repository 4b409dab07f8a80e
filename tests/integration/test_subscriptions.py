"""Subscriptions give what their plans say, and every operation on one is done once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quota_engine import (
    IdempotencyConflictError,
    InvalidArgumentError,
    PlanNotFoundError,
    SubscriptionNotFoundError,
    SubscriptionRefusedError,
)
from quota_engine.jobs.verify import verify
from tests.commands import Cli
from tests.engines import NOON, Engines, TestClock
from tests.subscribers import ACCOUNT, TOKENS, Subscriber

pytestmark = pytest.mark.anyio


@pytest.fixture
async def user(timed: Engines, clock: TestClock) -> Subscriber:
    return Subscriber(timed, clock)


async def test_a_subscription_gives_each_period_its_grant(user: Subscriber) -> None:
    await user.define()
    made = await user.subscribe()
    assert (made.state, made.period, made.period_ends_at) == (
        "active",
        0,
        datetime(2026, 2, 1, 12, tzinfo=UTC),
    )
    assert await user.balance() == 100
    await user.use(30)
    await user.schedule(days=30)  # one day before the edge: the next grant waits for it
    assert await user.issued() == ["sub-1:0:text_token", "sub-1:1:text_token"]
    assert await user.balance() == 70
    user.clock.now = datetime(2026, 2, 1, 11, 59, 59, 999_000, tzinfo=UTC)
    assert await user.balance() == 70
    user.clock.forward(milliseconds=1)
    assert await user.balance() == 100, "to the instant, and by nobody's doing"
    found = await user.call("find_subscription", "sub-1")
    assert (found.period, found.next_renewal_at) == (1, datetime(2026, 3, 1, 12, tzinfo=UTC))


async def test_several_types_and_extras_for_good(user: Subscriber) -> None:
    await user.define(amounts={TOKENS: 100, "image": 3}, extras={"image": 2, "audio": 60})
    await user.subscribe()
    assert [await user.balance(one) for one in (TOKENS, "image", "audio")] == [100, 5, 60]
    await user.schedule(days=40)
    assert [await user.balance(one) for one in (TOKENS, "image", "audio")] == [100, 5, 60]
    await user.do("cancel", when="now")
    assert [await user.balance(one) for one in (TOKENS, "image", "audio")] == [0, 2, 60]


async def test_the_same_subscription_is_made_once(user: Subscriber) -> None:
    await user.define()
    await user.define("other")
    first = await user.subscribe()
    user.clock.forward(days=1)
    again = await user.subscribe()
    assert (again.replayed, again.period_ends_at) == (True, first.period_ends_at)
    for other in ({"plan": "other"}, {"time_zone": "Asia/Shanghai"}, {"starts_at": NOON}):
        with pytest.raises(IdempotencyConflictError, match="sub-1"):
            await user.subscribe(**other)
    assert await user.issued() == ["sub-1:0:text_token"]
    assert len(await user.call("subscriptions", ACCOUNT)) == 1


async def test_what_is_sold_keeps_its_terms(user: Subscriber) -> None:
    await user.define()
    await user.subscribe()
    await user.define(amounts={TOKENS: 7})
    await user.schedule(days=40)
    assert await user.balance() == 100
    changed = await user.do("change", "pro", when="period_end")
    assert (changed.version, changed.next_plan) == (1, "pro")
    await user.schedule(days=30)
    assert await user.balance() == 7


async def test_a_start_in_the_past_gives_what_runs_now(user: Subscriber) -> None:
    await user.define()
    made = await user.subscribe(starts_at=datetime(2025, 8, 31, tzinfo=UTC))
    assert (made.period, made.period_starts_at) == (4, datetime(2025, 12, 31, tzinfo=UTC))
    assert await user.issued() == ["sub-1:4:text_token"]


async def test_a_start_in_the_future_waits(user: Subscriber) -> None:
    await user.define()
    made = await user.subscribe(starts_at=NOON + timedelta(days=10))
    assert (made.period, made.next_renewal_at) == (None, NOON + timedelta(days=10))
    assert await user.balance() == 0
    user.clock.forward(days=10)
    assert await user.balance() == 100


async def test_a_trial_comes_once_and_first(user: Subscriber) -> None:
    await user.define(trial_period="7 days", trial_amounts={TOKENS: 5})
    made = await user.subscribe()
    assert (made.is_trial, made.period_ends_at) == (True, NOON + timedelta(days=7))
    assert await user.balance() == 5
    await user.schedule(days=6, hours=23)
    assert await user.balance() == 5
    user.clock.forward(hours=1)
    assert await user.balance() == 100
    found = await user.call("find_subscription", "sub-1")
    assert (found.is_trial, found.period) == (False, 1)
    assert found.period_ends_at == datetime(2026, 2, 8, 12, tzinfo=UTC)
    await user.do("cancel", when="now")
    second = await user.subscribe(subscription_id="sub-2")
    assert not second.is_trial


@pytest.mark.parametrize(("amount", "left"), [(250, 220), (70, 40), (20, 0)])
async def test_a_change_now_carries_what_was_used(
    user: Subscriber, amount: int, left: int
) -> None:
    await user.define()
    await user.define("other", amounts={TOKENS: amount}, priority=20)
    await user.subscribe()
    await user.use(30)
    changed = await user.do("change", "other", operation_id="op-1", actor="ann")
    assert (changed.plan, changed.period_ends_at) == (
        "other",
        datetime(2026, 2, 1, 12, tzinfo=UTC),
    )
    assert await user.balance() == left
    assert (await user.do("change", "other", operation_id="op-1")).replayed
    with pytest.raises(IdempotencyConflictError):
        await user.do("change", "pro", operation_id="op-1")
    assert await user.balance() == left
    await user.schedule(days=40)
    assert await user.balance() == amount


async def test_changes_back_and_forth_carry_all_use(user: Subscriber) -> None:
    await user.define()
    await user.define("small", amounts={TOKENS: 50})
    await user.define("large", amounts={TOKENS: 300})
    await user.subscribe()
    await user.use(70)
    await user.do("change", "small")
    assert await user.balance() == 0
    await user.do("change", "large")
    assert await user.balance() == 230
    await user.use(30)
    await user.do("change", "pro")
    assert await user.balance() == 0
    await user.do("change", "large")
    assert await user.balance() == 200


async def test_a_change_to_longer_periods_begins_a_new_one(user: Subscriber) -> None:
    await user.define()
    await user.define("yearly", period="year", amounts={TOKENS: 1_000})
    await user.subscribe()
    await user.use(30)
    user.clock.forward(days=20)
    changed = await user.do("change", "yearly")
    assert changed.period_ends_at == datetime(2027, 1, 21, 12, tzinfo=UTC)
    assert await user.balance() == 970
    await user.schedule(days=60)
    assert await user.balance() == 970, "what the first part has used still counts"
    await user.schedule(days=310)
    assert await user.balance() == 1_000


async def test_a_change_at_the_end_of_the_period(user: Subscriber) -> None:
    await user.define()
    await user.define("small", amounts={TOKENS: 40})
    await user.define("weekly", period="week", amounts={TOKENS: 9})
    await user.subscribe()
    await user.schedule(days=30)  # the next grant of the old plan waits already
    changed = await user.do("change", "small", when="period_end")
    assert (changed.plan, changed.next_plan) == ("pro", "small")
    assert await user.balance() == 100
    again = await user.do("change", "weekly", when="period_end")
    assert again.next_plan == "weekly"
    user.clock.forward(days=1)
    assert await user.balance() == 9
    found = await user.call("find_subscription", "sub-1")
    assert (found.plan, found.period_ends_at) == ("weekly", datetime(2026, 2, 8, 12, tzinfo=UTC))


async def test_open_holds_are_unharmed_by_a_change(user: Subscriber) -> None:
    await user.define()
    await user.define("large", amounts={TOKENS: 300})
    await user.define("small", amounts={TOKENS: 60})
    await user.subscribe()
    first = await user.call("place_hold", ACCOUNT, TOKENS, 40)
    await user.do("change", "large")
    await user.call("capture_hold", first, 10)
    assert await user.balance() == 290, "what the hold gave back is there"
    second = await user.call("place_hold", ACCOUNT, TOKENS, 40)
    await user.do("change", "small")
    captured = await user.call("capture_hold", second, 40)
    assert (captured.amount, captured.shortfall) == (40, 0)
    assert await user.balance() == 10
    await user.call("drain")
    assert list(verify(user.call.engine.deployment.ledger)) == []


@pytest.mark.parametrize(("used", "left"), [(0, 60), (10, 50), (40, 20)])
async def test_what_a_hold_gives_back_after_a_change_counts_as_not_used(
    user: Subscriber, used: int, left: int
) -> None:
    await user.define()
    await user.define("small", amounts={TOKENS: 60})
    await user.subscribe()
    hold = await user.call("place_hold", ACCOUNT, TOKENS, 40)
    await user.do("change", "small")
    await user.schedule(seconds=5)
    assert (await user.call("read_balance", ACCOUNT, TOKENS)).available == 20
    await user.call("capture_hold", hold, used)
    await user.schedule(seconds=5)
    assert await user.balance() == left
    await user.schedule(seconds=5)
    assert await user.balance() == left
    await user.do("change", "pro")
    assert await user.balance() == 100 - used
    await user.schedule(days=40)
    assert await user.balance() == 100
    await user.call("drain")
    assert list(verify(user.call.engine.deployment.ledger)) == []


async def test_a_cancellation_at_the_end_and_its_taking_back(user: Subscriber) -> None:
    await user.define()
    await user.subscribe()
    await user.schedule(days=30)
    cancelled = await user.do("cancel")
    assert (cancelled.state, cancelled.ends_at) == ("active", cancelled.period_ends_at)
    assert cancelled.next_renewal_at is None
    assert await user.balance() == 100
    for refused in (("change", "pro"), ("pause",)):
        with pytest.raises(SubscriptionRefusedError, match="resume it first"):
            await user.do(*refused)
    resumed = await user.do("resume")
    assert resumed.ends_at is None
    user.clock.forward(days=2)
    assert await user.balance() == 100
    await user.do("cancel")
    await user.schedule(days=40)
    assert await user.balance() == 0
    assert (await user.call("find_subscription", "sub-1")).state == "ended"
    for refused in (("change", "pro"), ("pause",), ("resume",), ("cancel",)):
        with pytest.raises(SubscriptionRefusedError, match="has ended"):
            await user.do(*refused)


async def test_a_cancellation_now_voids_what_is_left(user: Subscriber) -> None:
    await user.define()
    await user.subscribe()
    await user.use(30)
    await user.schedule(days=30)
    done = await user.do("cancel", when="now", actor="ann", reference="ticket:7")
    assert (done.state, done.ends_at, done.period) == ("ended", user.clock(), None)
    assert await user.balance() == 0
    await user.schedule(days=40)
    assert await user.balance() == 0
    begun, ended = await user.call("subscription_history", "sub-1")
    assert (begun.verb, begun.actor) == ("subscribe", None)
    assert (ended.verb, ended.actor, ended.reference) == ("cancel", "ann", "ticket:7")


async def test_a_pause_within_the_period_and_beyond_it(user: Subscriber) -> None:
    await user.define()
    await user.subscribe()
    await user.schedule(days=30)
    assert (await user.do("pause")).state == "paused"
    assert await user.balance() == 100
    resumed = await user.do("resume")
    assert (resumed.state, resumed.period) == ("active", 0)
    user.clock.forward(days=1)
    assert await user.balance() == 100
    await user.do("pause")
    await user.schedule(days=60)
    assert await user.balance() == 0
    paused = await user.call("find_subscription", "sub-1")
    assert (paused.period, paused.next_renewal_at) == (None, None)
    with pytest.raises(SubscriptionRefusedError, match="paused"):
        await user.do("change", "pro")
    back = await user.do("resume")
    assert (back.period, back.period_starts_at) == (2, user.clock())
    assert await user.balance() == 100
    with pytest.raises(SubscriptionRefusedError, match="running"):
        await user.do("resume")


async def test_what_cannot_be_meant_changes_nothing(user: Subscriber) -> None:
    await user.define()
    bad: list[dict[str, Any]] = [
        {"time_zone": "Asia/Nowhere"},
        {"starts_at": datetime(2026, 1, 1)},
        {"subscription_id": "a:b"},
        {"subscription_id": "x" * 41},
    ]
    for wrong in bad:
        with pytest.raises(InvalidArgumentError):
            await user.subscribe(**wrong)
    with pytest.raises(PlanNotFoundError):
        await user.subscribe("basic")
    await user.define("old", active=False)
    with pytest.raises(SubscriptionRefusedError, match="not offered"):
        await user.subscribe("old")
    for verb in ("cancel", "pause", "resume"):
        with pytest.raises(SubscriptionNotFoundError):
            await user.do(verb)
    with pytest.raises(SubscriptionNotFoundError):
        await user.call("find_subscription", "sub-1")
    await user.subscribe()
    for wrong in ({"when": "later"}, {"plan": "old"}):
        with pytest.raises((InvalidArgumentError, SubscriptionRefusedError)):
            await user.do("change", wrong.get("plan", "pro"), when=wrong.get("when", "now"))
    assert await user.balance() == 100
    assert len(await user.call("subscription_history", "sub-1")) == 1


async def test_without_a_clock_of_ones_own_the_grant_is_there_at_once(call: Engines) -> None:
    user = Subscriber(call, TestClock())
    await user.define()
    await user.subscribe()
    assert await user.balance() == 100


def test_subscriptions_by_command(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    assert "no subscription" in cli.done("subscriptions", "list")
    for name, units in (("pro", "100"), ("team", "500")):
        amount = f"text_token={units}"
        cli.done("plans", "define", name, "--period", "month", "--amount", amount)
    how = ("--id", "sub-7", "--time-zone", "Asia/Shanghai", "--actor", "ann")
    made = cli.json("subscriptions", "subscribe", ACCOUNT, "pro", *how)
    assert made["next_renewal_at"] == made["period_ends_at"]
    assert "sub-7" in cli.done("subscriptions", "list", ACCOUNT)
    assert cli.json("subscriptions", "change", "sub-7", "team")["plan"] == "team"
    later = cli.json("subscriptions", "change", "sub-7", "pro", "--at-period-end")
    assert later["next_plan"] == "pro"
    assert cli.json("subscriptions", "pause", "sub-7")["state"] == "paused"
    assert cli.json("subscriptions", "resume", "sub-7")["state"] == "active"
    last = cli.json("subscriptions", "cancel", "sub-7")
    assert (last["ends_at"], last["next_plan"]) == (made["period_ends_at"], None)
    assert cli.json("subscriptions", "cancel", "sub-7", "--now")["state"] == "ended"
    assert "ended" in cli.done("subscriptions", "show", "sub-7")
    assert len(cli.json("subscriptions", "history", "sub-7")) == 7
    assert cli.run("subscriptions", "resume", "sub-7").code == 1
    assert cli.run("subscriptions", "show", "sub-8").code == 1
    assert cli.run("subscriptions", "subscribe", ACCOUNT, "basic").code == 1
    assert cli.run("subscriptions", "history", "sub-8").code == 1
    for starts, why in (("soon", "is no instant"), ("2026-01-31T00:00", "has no time zone")):
        wrong = ("--starts-at", starts, "--id", "sub-8")
        refused = cli.run("subscriptions", "subscribe", ACCOUNT, "pro", *wrong)
        assert (refused.code, why in refused.err) == (2, True)
    assert cli.run("subscriptions", "show", "sub-8").code == 1
