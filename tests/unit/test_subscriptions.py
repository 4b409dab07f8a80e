"""
The planner of renewals: which grants of a subscription are missing at an instant.

Goal: exact periods whatever the zone, and the same grants however often and however late somebody
looks. Method: two years day by day, and histories by chance, run at once and in parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota_engine.plans import Plan, PlanTerms, Rollover
from quota_engine.subscription_actions import CHANGE, Action, acted, begun
from quota_engine.subscriptions import (
    NOW,
    PERIOD_END,
    Given,
    Plans,
    Promise,
    Standing,
    lead_of,
    period_from,
    renewed,
)

DAY = timedelta(days=1)
PERIODS = ("day", "week", "month", "quarter", "year", "10 days")


def plan_of(period: str = "month", *, name: str = "pro", **terms: object) -> Plan:
    told = {"amounts": {"text_token": 100, "image": 3}, **terms}
    return Plan(
        name=name,
        version=1,
        terms=PlanTerms(period=period, **told),  # type: ignore[arg-type]
        is_active=True,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def start(plan: Plan, at: datetime, zone: str = "UTC", *, trial: bool = False) -> Standing:
    return begun("sub-1", "user:42", plan, starts_at=at, time_zone=zone, with_trial=trial)


def as_given(promise: Promise) -> Given:
    return Given(
        grant_id=promise.grant_id,
        quota_type=promise.quota_type,
        kind=promise.kind,
        period=promise.period,
        amount=promise.amount,
        voided=None,
        ends_at=promise.ends_at,
    )


def run(standing: Standing, plans: Plans, instants: Sequence[datetime]) -> list[Promise]:
    """Look at a subscription at each instant; return all that was promised, in order."""
    promised: list[Promise] = []
    for now in instants:
        renewal = renewed(standing, plans, [as_given(one) for one in promised], now)
        assert renewal.due_at is None or renewal.due_at > now
        promised += renewal.promises
    return promised


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/New_York"])
def test_two_years_from_the_31st_have_every_month_once(zone: str) -> None:
    anchor = datetime(2026, 1, 31, 9, 30, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    plan = plan_of(amounts={"text_token": 100})
    days = [anchor + DAY * number for number in range(2 * 365 + 20)]
    promised = run(start(plan, anchor, zone), {("pro", 1): plan}, days)
    begins = [one.starts_at.astimezone(ZoneInfo(zone)) for one in promised[:25]]
    lasts = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    leap = (31, 29)  # 2028
    expected = [*lasts, *lasts, leap[0]]
    assert [one.day for one in begins] == expected
    assert {(one.hour, one.minute) for one in begins} == {(9, 30)}, "also across clock changes"
    assert [one.month for one in begins] == [*range(1, 13), *range(1, 13), 1]
    assert all(one.ends_at == other.starts_at for one, other in pairwise(promised))
    assert [one.grant_id for one in promised[:2]] == ["sub-1:0:text_token", "sub-1:1:text_token"]


@pytest.mark.parametrize("period", PERIODS)
def test_a_period_is_promised_ahead_and_not_all_at_one_time(period: str) -> None:
    plan, at = plan_of(period), datetime(2026, 1, 31, tzinfo=UTC)
    first = period_from(start(plan, at), {("pro", 1): plan}, at)
    leads = [lead_of(f"sub-{number}", first) for number in range(200)]
    length = first.ends_at - first.starts_at
    assert all(timedelta(0) < lead <= min(length / 2, timedelta(days=6)) for lead in leads)
    assert max(leads) - min(leads) > max(leads) / 3
    renewal = renewed(start(plan, at), {("pro", 1): plan}, [], at)
    assert renewal.due_at == first.ends_at - lead_of("sub-1", first)


def test_nobody_looked_for_three_periods() -> None:
    plan, at = plan_of(), datetime(2026, 1, 31, tzinfo=UTC)
    late = datetime(2026, 5, 10, tzinfo=UTC)
    promised = run(start(plan, at), {("pro", 1): plan}, [at, late])
    assert sorted({one.period for one in promised}) == [0, 3]


@given(
    where=st.tuples(
        st.sampled_from(PERIODS),
        st.sampled_from(["UTC", "Asia/Shanghai", "America/New_York", "Europe/Berlin"]),
    ),
    begins=st.datetimes(datetime(2024, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC)).map(
        lambda instant: instant.replace(microsecond=0)
    ),
    has_trial=st.booleans(),
    steps=st.lists(st.timedeltas(timedelta(0), timedelta(days=60)), min_size=1, max_size=12),
    end=st.timedeltas(timedelta(0), timedelta(days=30)),
)
def test_one_run_is_any_split_into_several(
    where: tuple[str, str],
    begins: datetime,
    has_trial: bool,
    steps: list[timedelta],
    end: timedelta,
) -> None:
    period, zone = where
    plan = plan_of(period, trial_period="7 days", trial_amounts={"text_token": 5})
    plans, standing = {("pro", 1): plan}, start(plan, begins, zone, trial=has_trial)
    instants = [begins]
    for step in steps:
        instants.append(instants[-1] + step)
    last = instants[-1] + end
    in_parts = run(standing, plans, [*instants, last, last])
    at_once = run(standing, plans, [last])
    ids = [one.grant_id for one in in_parts]
    assert len(set(ids)) == len(ids), "none twice"
    running = period_from(standing, plans, last).number
    assert {one for one in in_parts if one.period >= running} == set(at_once)
    split = renewed(standing, plans, [as_given(one) for one in in_parts], last)
    whole = renewed(standing, plans, [as_given(one) for one in at_once], last)
    assert split == whole
    assert split.promises == ()


@given(
    amounts=st.lists(st.integers(1, 400), min_size=2, max_size=6),
    uses=st.lists(st.integers(0, 150), min_size=6, max_size=6),
    periods=st.lists(st.sampled_from(["month", "week"]), min_size=6, max_size=6),
)
def test_changes_leave_what_the_newest_plan_gives_less_what_was_used(
    amounts: list[int], uses: list[int], periods: list[str]
) -> None:
    plans = {
        (f"plan-{number}", 1): plan_of(
            periods[number], name=f"plan-{number}", amounts={"text_token": amount}
        )
        for number, amount in enumerate(amounts)
    }
    now = datetime(2026, 1, 31, tzinfo=UTC)
    standing = start(plans["plan-0", 1], now)
    grants: dict[str, tuple[Given, int]] = {}  # with what is left
    used = 0
    for number, amount in enumerate(amounts):
        if number:
            action = Action(verb=CHANGE, when=NOW, plan=plans[f"plan-{number}", 1])
            given_ = [one for one, _ in grants.values()]
            standing, voids = acted(standing, plans, action, given_, now)
            for grant_id in voids:
                one, left = grants[grant_id]
                told = {name: getattr(one, name) for name in Given.__slots__}
                grants[grant_id] = Given(**{**told, "voided": left}), 0
        for promise in renewed(standing, plans, [one for one, _ in grants.values()], now).promises:
            if promise.period == 0:
                grants[promise.grant_id] = as_given(promise), promise.amount
        left = sum(rest for _, rest in grants.values())
        assert left == max(amount - used, 0)
        use = min(uses[number], left)
        used += use
        for grant_id, (one, rest) in grants.items():
            part = min(use, rest)
            grants[grant_id] = one, rest - part
            use -= part


def test_a_change_at_the_end_counts_from_there_or_keeps_the_anchor() -> None:
    month, other = plan_of(), plan_of(name="other", amounts={"image": 9})
    week = plan_of("week", name="weekly")
    plans = {(one.name, 1): one for one in (month, other, week)}
    begins, now = datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 10, tzinfo=UTC)
    standing = start(month, begins)
    edge = datetime(2026, 2, 28, tzinfo=UTC)
    for plan, ends in ((other, datetime(2026, 3, 31, tzinfo=UTC)), (week, edge + 7 * DAY)):
        action = Action(verb=CHANGE, when=PERIOD_END, plan=plan)
        after, _ = acted(standing, plans, action, [], now)
        following = period_from(after, plans, edge)
        assert (following.number, following.starts_at, following.ends_at) == (1, edge, ends)
        promised = renewed(after, plans, [], edge).promises
        assert {one.plan for one in promised} == {plan.name}


@pytest.mark.parametrize(
    ("rule", "rest", "units"),
    [
        (Rollover(), 70, 70),
        (Rollover(max=50), 70, 50),
        (Rollover(max=50), 20, 20),
        (Rollover(min=30), 20, 30),
        (Rollover(min=30, max=50), 0, 30),
        (Rollover(min=30, max=50), 99, 50),
        (Rollover(), 0, 0),
    ],
)
def test_how_much_of_a_rest_is_kept(rule: Rollover, rest: int, units: int) -> None:
    assert rule.units_of(rest) == units
