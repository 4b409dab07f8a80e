"""
Renewals: by whoever looks, however late, each period is given once, and its rest is settled once.

Goal: what a user has at an instant depends on the plan and on what was used, not on who ran the
schedule when. Method: time is an argument; a plain model says what must be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quota_engine import QuotaEngine
from quota_engine.jobs.verify import verify
from tests.engines import NOON, Engines, TestClock
from tests.subscribers import ACCOUNT, PRO, TOKENS, Subscriber

pytestmark = pytest.mark.anyio

EDGE = datetime(2026, 2, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
async def user(timed: Engines, clock: TestClock) -> Subscriber:
    return Subscriber(timed, clock)


@pytest.fixture
def clock_engine(
    redis_url: str, database_url: str, clock: TestClock
) -> Iterator[tuple[QuotaEngine, TestClock]]:
    with QuotaEngine.open(redis_url, database_url, clock=clock) as engine:
        yield engine, clock


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/New_York"])
def test_two_years_from_the_31st_by_the_schedule(
    clock_engine: tuple[QuotaEngine, TestClock], zone: str
) -> None:
    engine, clock = clock_engine
    here = ZoneInfo(zone)
    anchor = datetime(2026, 1, 31, tzinfo=here)
    clock.now = anchor.astimezone(UTC)
    engine.plans.define("pro", **PRO)
    engine.subscribe(ACCOUNT, "pro", subscription_id="sub-1", time_zone=zone)
    edges = []
    for _ in range(24):
        found = engine.find_subscription("sub-1")
        assert found.period_ends_at is not None
        clock.now = found.period_ends_at - timedelta(hours=12)
        engine.run_schedule()
        engine.debit(ACCOUNT, TOKENS, 30)
        clock.now = found.period_ends_at - timedelta(milliseconds=1)
        assert engine.read_balance(ACCOUNT, TOKENS).balance == 70
        clock.now = found.period_ends_at
        assert engine.read_balance(ACCOUNT, TOKENS).balance == 100
        edges.append(clock.now.astimezone(here))
    lasts = [28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31]
    assert [edge.day for edge in edges] == lasts * 2
    assert {(edge.hour, edge.minute) for edge in edges} == {(0, 0)}
    issued = [one for one in engine.history(ACCOUNT, TOKENS) if one.kind == "grant.issued"]
    assert len(issued) == 25
    engine.drain()
    assert list(verify(engine.deployment.ledger)) == []


async def test_a_schedule_that_was_down_gives_the_running_period_alone(user: Subscriber) -> None:
    await user.define()
    await user.subscribe()
    user.clock.now = datetime(2026, 5, 10, tzinfo=UTC)
    assert await user.balance() == 0
    assert (await user.schedule()).startswith("1 grants promised to 1 subscriptions")
    assert await user.issued() == ["sub-1:0:text_token", "sub-1:4:text_token"]
    assert await user.balance() == 100
    assert (await user.schedule()).startswith("0 grants")
    found = await user.call("find_subscription", "sub-1")
    assert (found.period, found.next_renewal_at) == (4, datetime(2026, 6, 1, 12, tzinfo=UTC))


def test_two_schedulers_at_once_renew_once(
    redis_url: str, database_url: str, clock: TestClock
) -> None:
    engines = [QuotaEngine.open(redis_url, database_url, clock=clock) for _ in range(3)]
    try:
        first, users = engines[0], [f"user:{number}" for number in range(24)]
        first.plans.define("pro", **{**PRO, "rollover": "all"})
        for number, account in enumerate(users):
            first.subscribe(account, "pro", subscription_id=f"sub-{number}")
            first.debit(account, TOKENS, 30)
        for _ in range(2):
            clock.forward(days=31)
            with ThreadPoolExecutor(len(engines)) as threads:
                list(threads.map(lambda engine: engine.run_schedule(), engines))
            first.run_schedule()  # what another had in hand
        for number, account in enumerate(users):
            entries = first.history(account, TOKENS)
            made = [one.operation_id for one in entries if one.kind == "grant.issued"]
            assert sorted(made) == sorted(
                [
                    *(f"sub-{number}:{period}:text_token" for period in range(3)),
                    *(f"sub-{number}:{period}:text_token:rollover" for period in range(2)),
                ]
            )
            assert first.read_balance(account, TOKENS).balance == 100 + 70 + 100
        first.drain()
        assert list(verify(first.deployment.ledger)) == []
    finally:
        for engine in engines:
            engine.close()


def test_of_subscriptions_at_once_one_has_the_trial(
    clock_engine: tuple[QuotaEngine, TestClock],
) -> None:
    engine, _ = clock_engine
    engine.plans.define("pro", **PRO, trial_period="7 days", trial_amounts={TOKENS: 5})
    with ThreadPoolExecutor(6) as threads:
        made = list(
            threads.map(
                lambda number: engine.subscribe(ACCOUNT, "pro", subscription_id=f"s-{number}"),
                [1, 2, 3, 1, 2, 3],
            )
        )
    assert len({one.subscription_id for one in made if one.is_trial}) == 1
    assert sum(not one.replayed for one in made) == 3
    assert engine.read_balance(ACCOUNT, TOKENS).balance == 205


async def test_a_call_over_the_edge_is_paid_by_the_old_period(user: Subscriber) -> None:
    await user.define(rollover="all")
    await user.subscribe()
    await user.schedule(days=30)
    user.clock.now = EDGE - SECOND
    hold = await user.call("place_hold", ACCOUNT, TOKENS, 40, ttl=60)
    user.clock.now = EDGE + SECOND
    await user.schedule()
    assert (await user.call("read_balance", ACCOUNT, TOKENS)).available == 100 + 60
    captured = await user.call("capture_hold", hold, 10)
    assert (captured.amount, captured.late) == (10, False)
    await user.schedule(hours=1)
    assert await user.balance() == 100 + 60, "the hold's rest has ended with its period"
    entries = await user.call("history", ACCOUNT, TOKENS)
    assert entries[-1].kind == "hold.captured"
    assert entries[-1].delta == -10
    assert (entries[-2].kind, entries[-2].amount) == ("grant.expired", 30)
    await user.call("drain")
    assert list(verify(user.call.engine.deployment.ledger)) == []


@pytest.mark.parametrize(("debt", "balance"), [("carry", 80), ("forgive", 100)])
async def test_debt_is_carried_or_forgiven(user: Subscriber, debt: str, balance: int) -> None:
    await user.define(debt=debt)
    await user.subscribe()
    await user.call("set_overdraft_limit", ACCOUNT, TOKENS, 50)
    await user.use(120)
    await user.schedule(days=30)
    assert await user.balance() == -20
    await user.schedule(days=1)
    assert await user.balance() == balance
    await user.schedule(hours=1)
    assert await user.balance() == balance
    forgiven = [one for one in await user.issued() if one.endswith(":debt")]
    assert forgiven == (["sub-1:1:text_token:debt"] if debt == "forgive" else [])


async def test_a_debt_above_a_whole_period_is_forgiven_whole(user: Subscriber) -> None:
    await user.define(debt="forgive")
    await user.subscribe()
    await user.call("set_overdraft_limit", ACCOUNT, TOKENS, None)
    await user.use(350)
    await user.schedule(
        days=45
    )  # nobody looked ahead: the grant is made when its period has begun
    assert await user.balance() == 100
    found = await user.call("read_balance", ACCOUNT, TOKENS)
    assert found.debt == 0


async def test_a_debt_that_two_periods_meet_is_forgiven_once(user: Subscriber) -> None:
    await user.define(debt="forgive")
    await user.subscribe()
    await user.subscribe(subscription_id="sub-2")
    await user.call("set_overdraft_limit", ACCOUNT, TOKENS, 1000)
    await user.use(350)  # more than either gives: one period leaves 50 of it to the other
    await user.schedule(days=30)
    await user.schedule(days=1, seconds=5)
    assert await user.balance() == 200
    await user.use(320)  # and a later debt is one of its own
    await user.schedule(days=29)
    await user.schedule(days=1)
    assert await user.balance() == 200


async def test_what_an_ended_subscription_leaves_is_not_rolled_over(user: Subscriber) -> None:
    await user.define(rollover="all")
    await user.subscribe()
    await user.schedule(days=31)
    assert await user.balance() == 200
    await user.do("cancel")
    await user.schedule(days=31)
    assert await user.balance() == 100, "what was rolled over before stays"


class Model:
    """Plain lists: the running period's units, and what was rolled over with its last period."""

    def __init__(self, amount: int, rule: dict[str, Any] | str | None) -> None:
        self.amount = amount
        self.rule: dict[str, Any] | None = {} if rule == "all" else rule  # type: ignore[assignment]
        self.period, self.own = 0, amount
        self.rolled: list[list[Any]] = []  # [last period or None, units]

    @property
    def balance(self) -> int:
        return self.own + sum(units for _, units in self.rolled)

    def use(self, units: int) -> None:
        ending = sorted((one for one in self.rolled if one[0] is not None), key=lambda one: one[0])
        for one in ending:
            part = min(units, one[1])
            one[1] -= part
            units -= part
        part = min(units, self.own)
        self.own -= part
        units -= part
        for one in self.rolled:
            if one[0] is None:
                part = min(units, one[1])
                one[1] -= part
                units -= part

    def end_period(self) -> None:
        self.rolled = [one for one in self.rolled if one[0] is None or one[0] > self.period]
        if self.rule is not None:
            kept = max(self.own, self.rule.get("min") or 0)
            kept = min(kept, self.rule.get("max") or kept)
            periods = self.rule.get("periods")
            if kept:
                self.rolled.append([None if periods is None else self.period + periods, kept])
        self.period, self.own = self.period + 1, self.amount


RULES = st.one_of(
    st.none(),
    st.just("all"),
    st.fixed_dictionaries(
        {"min": st.sampled_from([0, 0, 10])},
        optional={"max": st.integers(10, 60), "periods": st.integers(1, 3)},
    ),
)
_numbers = count()


@given(
    rule=RULES,
    months=st.lists(
        st.tuples(st.integers(0, 260), st.sampled_from([(30,), (2, 29), (31,), (1, 15, 31)])),
        min_size=2,
        max_size=5,
    ),
)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_rollover_does_what_a_plain_model_does(
    clock_engine: tuple[QuotaEngine, TestClock],
    rule: dict[str, Any] | str | None,
    months: list[tuple[int, tuple[int, ...]]],
) -> None:
    engine, clock = clock_engine
    number = next(_numbers)
    account, plan, sub = f"model:{number}", f"plan-{number}", f"model-{number}"
    clock.now = begins = NOON
    engine.plans.define(plan, period="31 days", amounts={TOKENS: 100}, rollover=rule)
    engine.subscribe(account, plan, subscription_id=sub)
    model = Model(100, rule)
    for use, days in months:
        used = min(use, model.balance)
        if used:
            engine.debit(account, TOKENS, used)
            model.use(used)
        assert engine.read_balance(account, TOKENS).balance == model.balance
        for day in days:  # whenever the schedule comes by in between
            clock.now = begins + timedelta(days=day)
            if day < 31:
                engine.run_schedule()
        begins += timedelta(days=31)
        clock.now = begins
        engine.run_schedule()
        model.end_period()
        assert engine.read_balance(account, TOKENS).balance == model.balance
    engine.cancel_subscription(sub, when="now")
