"""
What is done to a subscription, and what it is after that: begun, changed, paused, ended. Pure.

An action is decided for an instant. It tells which of the grants that were promised are to be
voided; what takes their place is the planner's to say, once it is known how much was left of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from quota_engine.errors import SubscriptionRefusedError
from quota_engine.periods import Period
from quota_engine.plans import Plan
from quota_engine.subscriptions import (
    ACTIVE,
    ENDED,
    FORGIVEN,
    NOW,
    PAUSED,
    PERIOD,
    PERIOD_END,
    Given,
    Phase,
    Plans,
    Standing,
    period_from,
    period_of,
    phase_at,
    terms_of,
    trial_end,
    worth,
)

CHANGE, CANCEL, PAUSE, RESUME = "change", "cancel", "pause", "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that is done to a subscription. ``plan``: of a change, its newest version."""

    verb: str
    when: str = NOW
    plan: Plan | None = None


def begun(
    subscription_id: str,
    account: str,
    plan: Plan,
    *,
    starts_at: datetime,
    time_zone: str,
    with_trial: bool,
) -> Standing:
    """Return a new subscription."""
    phase = Phase(
        begins_at=starts_at, plan=plan.name, version=plan.version, anchor=starts_at, base=0
    )
    phases: tuple[Phase, ...] = (phase,)
    if with_trial and plan.terms.trial_period is not None:
        ends = trial_end(plan.terms, starts_at, ZoneInfo(time_zone))
        later = replace(phase, begins_at=ends, anchor=ends, base=1)
        phases = (replace(phase, is_trial=True), later)
    return Standing(
        subscription_id=subscription_id,
        account=account,
        time_zone=time_zone,
        state=ACTIVE,
        phases=phases,
        starts_at=starts_at,
    )


def acted(
    standing: Standing, plans: Plans, action: Action, given: Sequence[Given], now: datetime
) -> tuple[Standing, list[str]]:
    """
    Return a subscription after an action, and which of its grants are to be voided.

    Raises ``SubscriptionRefusedError`` for what can't be done to it as it is.
    """
    _refuse(standing, action, now)
    current = None
    if standing.state == ACTIVE:
        current = period_of(standing, plans, now)
    after = {CHANGE: _changed, CANCEL: _cancelled, PAUSE: _paused, RESUME: _resumed}[action.verb](
        standing, plans, action, current, now
    )
    after = replace(after, revision=standing.revision + 1)
    of_periods = [one for one in given if one.kind in (PERIOD, FORGIVEN)]
    live = [one for one in of_periods if one.voided is None]
    if action.verb == RESUME or (standing.state == PAUSED and action.when == PERIOD_END):
        return after, []
    if action.verb == CANCEL and action.when == NOW:
        return after, [one.grant_id for one in live if one.ends_at is None or one.ends_at > now]
    number = -1 if current is None else current.number
    ahead = [one.grant_id for one in live if one.period > number]
    if action.verb == CHANGE and action.when == NOW and current is not None:
        of_period = [one for one in of_periods if one.period == number]
        ahead += _replaced(standing, after, plans, of_period, now)
    return after, ahead


def _refuse(standing: Standing, action: Action, now: datetime) -> None:
    has_ended = standing.ends_at is not None and now >= standing.ends_at
    told = f"subscription {standing.subscription_id}"
    if standing.state == ENDED or has_ended:
        raise SubscriptionRefusedError(f"{told} has ended at {standing.ends_at}")
    if action.verb in (CHANGE, PAUSE) and standing.ends_at is not None:
        raise SubscriptionRefusedError(f"{told} ends at {standing.ends_at}; resume it first")
    if action.verb in (CHANGE, PAUSE) and standing.state == PAUSED:
        raise SubscriptionRefusedError(f"{told} is paused; resume it first")
    if action.verb == RESUME and standing.state == ACTIVE and standing.ends_at is None:
        raise SubscriptionRefusedError(f"{told} is running; there is nothing to resume")


def _changed(
    standing: Standing, plans: Plans, action: Action, current: Period | None, now: datetime
) -> Standing:
    plan = action.plan
    assert plan is not None
    phase = phase_at(standing, now)
    keeps = not phase.is_trial and terms_of(phase, plans).length == plan.terms.length
    if current is None:  # not begun yet: another plan from the start
        first = replace(standing.phases[0], plan=plan.name, version=plan.version, is_trial=False)
        return replace(standing, phases=(first,))
    begins = now if action.when == NOW else current.ends_at
    number = current.number if action.when == NOW else current.number + 1
    new = Phase(
        begins_at=begins,
        plan=plan.name,
        version=plan.version,
        anchor=phase.anchor if keeps else begins,
        base=phase.base if keeps else number,
    )
    return replace(standing, phases=(new,) if action.when == NOW else (phase, new))


def _cancelled(
    standing: Standing, plans: Plans, action: Action, current: Period | None, now: datetime
) -> Standing:
    if action.when == PERIOD_END and current is not None:
        return replace(standing, ends_at=current.ends_at)
    ends_at = now
    if action.when == PERIOD_END and standing.paused_until is not None:
        ends_at = max(now, standing.paused_until)
    return replace(standing, state=ENDED, ends_at=ends_at)


def _paused(
    standing: Standing, plans: Plans, action: Action, current: Period | None, now: datetime
) -> Standing:
    until = standing.phases[0].begins_at if current is None else current.ends_at
    return replace(standing, state=PAUSED, paused_until=until)


def _resumed(
    standing: Standing, plans: Plans, action: Action, current: Period | None, now: datetime
) -> Standing:
    if standing.state == ACTIVE:
        return replace(standing, ends_at=None)
    until = standing.paused_until
    assert until is not None
    active = replace(standing, state=ACTIVE, paused_until=None)
    if now < until:
        return active
    phase = phase_at(standing, until)
    following = period_from(standing, plans, until)
    new = replace(phase, begins_at=now, anchor=now, base=following.number)
    later = [
        replace(one, begins_at=trial_end(terms_of(one, plans), now, standing.zone))
        for one in standing.phases[1:]
        if new.is_trial
    ]
    later = [replace(one, anchor=one.begins_at) for one in later]
    return replace(active, phases=(new, *later))


def _replaced(
    before: Standing, after: Standing, plans: Plans, given: Sequence[Given], now: datetime
) -> list[str]:
    """Return the running period's grants that a change replaces: the others are topped up."""
    phase, terms = phase_at(before, now), terms_of(after.phases[0], plans)
    if phase.is_trial or terms_of(phase, plans).length != terms.length:  # another period: all
        return [one.grant_id for one in given if one.voided is None]
    has = {
        quota_type: worth(one for one in given if one.quota_type == quota_type)
        for quota_type in {one.quota_type for one in given}
    }
    return [
        one.grant_id
        for one in given
        if one.voided is None and has[one.quota_type] > terms.amounts.get(one.quota_type, 0)
    ]
