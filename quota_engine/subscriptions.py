"""
Subscriptions: which period an instant is in, what its grants are, and what a change does. Pure.

A subscription counts its periods from 0 on. It is a chain of phases: from an instant on a plan's
version gives the terms, and periods are counted from an anchor. A trial is a phase of one period.

``renewed`` tells which grants are missing by now: those of the running period, and ahead of time
those of the next one. It looks at what was given, not at what was done: run late, twice or in
parts, it asks for the same. A change takes from a period's units what the period has used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_id
from quota_engine.periods import Period, period_at, starts_at
from quota_engine.plans import Plan, PlanTerms

ACTIVE, PAUSED, ENDED = "active", "paused", "ended"
NOW, PERIOD_END = "now", "period_end"
PERIOD, EXTRA, ROLLOVER, FORGIVEN = "period", "extra", "rollover", "forgiven"
#: Ids of grants are made of a subscription's id, so it is shorter than others.
SUBSCRIPTION_ID_LENGTH_MAX = 40
#: A period's grants are promised this long before it begins at most, and half of it at least.
LEAD_MAX = timedelta(days=6)

Plans = Mapping[tuple[str, int], Plan]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """From ``begins_at`` on: a plan's version, and the period ``base`` at the anchor."""

    begins_at: datetime
    plan: str
    version: int
    anchor: datetime
    base: int
    is_trial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """
    A subscription as it is recorded. ``phases``: in their order.

    ``revision`` counts its changes; ``paused_until``: the end of the period of its pause.
    """

    subscription_id: str
    account: str
    time_zone: str
    state: str
    phases: tuple[Phase, ...]
    starts_at: datetime
    revision: int = 0
    ends_at: datetime | None = None
    paused_until: datetime | None = None

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of its periods."""
        return ZoneInfo(self.time_zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """
    A grant that was promised for a period.

    ``voided``: units that nobody has used of one that was taken back; None: it is live, or, with
    ``is_voiding``, nobody knows yet. What was forgiven of debts counts as given and as not used.
    """

    grant_id: str
    quota_type: str
    kind: str
    period: int
    amount: int
    voided: int | None
    ends_at: datetime | None
    is_voiding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A grant to be made. ``ends_at`` None: never. ``is_renewal``: nothing was given before it."""

    grant_id: str
    quota_type: str
    kind: str
    period: int
    amount: int
    priority: int
    starts_at: datetime
    ends_at: datetime | None
    plan: str
    version: int
    is_renewal: bool = False
    source: str = "membership"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """
    What is to be promised now, and when to look again. ``due_at`` None: never.

    ``period``: the running one, or 0: earlier ones matter no more.
    """

    promises: tuple[Promise, ...]
    due_at: datetime | None
    state: str
    period: int = 0


# -- periods


def terms_of(phase: Phase, plans: Plans) -> PlanTerms:
    """Return the terms of a phase's plan."""
    return plans[phase.plan, phase.version].terms


def phase_at(standing: Standing, instant: datetime) -> Phase:
    """Return the phase that an instant is in; before the first one, the first."""
    begun = [phase for phase in standing.phases if phase.begins_at <= instant]
    return begun[-1] if begun else standing.phases[0]


def period_of(standing: Standing, plans: Plans, instant: datetime) -> Period | None:
    """Return the period that an instant is in; None before the subscription's start."""
    phase = phase_at(standing, instant)
    if instant < phase.begins_at:
        return None
    terms = terms_of(phase, plans)
    if phase.is_trial:
        return Period(phase.base, phase.anchor, trial_end(terms, phase.anchor, standing.zone))
    found = period_at(terms.length, phase.anchor, standing.zone, instant)
    assert found is not None, "a phase begins at its anchor, or later"
    return Period(phase.base + found.number, found.starts_at, found.ends_at)


def period_from(standing: Standing, plans: Plans, instant: datetime) -> Period:
    """Return the period that an instant is in, or the subscription's first one."""
    found = period_of(standing, plans, max(instant, standing.phases[0].begins_at))
    assert found is not None
    return found


def trial_end(terms: PlanTerms, anchor: datetime, zone: ZoneInfo) -> datetime:
    """Return when a trial ends that begins at ``anchor``."""
    return starts_at(
        replace(terms, period=terms.trial_period or terms.period).length, anchor, zone, 1
    )


def lead_of(subscription_id: str, period: Period) -> timedelta:
    """Return how long before a period its grants are promised: not for all at once."""
    digest = hashlib.blake2b(subscription_id.encode(), digest_size=4).digest()
    share = int.from_bytes(digest, "big") / 2**32
    return min((period.ends_at - period.starts_at) / 2, LEAD_MAX) * (0.5 + share / 2)


# -- renewal


def renewed(standing: Standing, plans: Plans, given: Sequence[Given], now: datetime) -> Renewal:
    """
    Return what is to be promised by ``now``.

    ``given``: every grant of the periods from the running one on. Periods that went by while
    nobody looked are not made up for.
    """
    if standing.state != ACTIVE:
        return Renewal(promises=(), due_at=None, state=standing.state)
    if standing.ends_at is not None and now >= standing.ends_at:
        return Renewal(promises=(), due_at=None, state=ENDED)
    period = running = period_from(standing, plans, now)
    promises = _missing(standing, plans, given, period)
    while True:
        period = period_from(standing, plans, period.ends_at)
        if standing.ends_at is not None and period.starts_at >= standing.ends_at:
            due_at = standing.ends_at
            break
        due_at = period.starts_at - lead_of(standing.subscription_id, period)
        if now < due_at:
            break
        promises += _missing(standing, plans, given, period)
    return Renewal(promises=tuple(promises), due_at=due_at, state=ACTIVE, period=running.number)


def _missing(
    standing: Standing, plans: Plans, given: Sequence[Given], period: Period
) -> list[Promise]:
    """
    Return what a period's grants lack. What a replaced grant has spent counts as given.

    Of a type of which grants are still to be voided, nobody knows what is lacking.
    """
    phase = phase_at(standing, period.starts_at)
    terms = terms_of(phase, plans)
    amounts = terms.trial_amounts if phase.is_trial else terms.amounts
    promises = []
    for quota_type, amount in amounts.items():
        of_type = [
            one for one in given if (one.period, one.quota_type) == (period.number, quota_type)
        ]
        has = worth(of_type)
        if amount <= has or any(one.is_voiding for one in of_type):
            continue
        promises.append(
            Promise(
                grant_id=_grant_id(standing, period.number, quota_type),
                quota_type=quota_type,
                kind=PERIOD,
                period=period.number,
                amount=amount - has,
                priority=terms.priority,
                starts_at=period.starts_at,
                ends_at=period.ends_at,
                plan=phase.plan,
                version=phase.version,
                is_renewal=period.number > 0 and not worth(of_type, with_forgiven=False),
            )
        )
    return promises


def worth(given: Iterable[Given], *, with_forgiven: bool = True) -> int:
    """
    Return what grants of one period and type are worth: what was not taken back of them.

    What debts took of a grant was not used in its period: where that was made up for, and the
    making up was taken back, it counts as taken back, too.
    """
    kinds = (PERIOD, FORGIVEN) if with_forgiven else (PERIOD,)
    return sum(
        (one.amount if one.kind == PERIOD else 0) - (one.voided or 0)
        for one in given
        if one.kind in kinds
    )


def left_of(
    standing: Standing, plans: Plans, given: Sequence[Given], number: int, now: datetime
) -> list[tuple[Promise, Period]]:
    """
    Return what a change of plan leaves of a period that ended before its grants were voided.

    Those are the grants that would have taken their place, which nobody could use any more.
    """
    period = period_from(standing, plans, standing.phases[0].begins_at)
    while period.number < number:
        period = period_from(standing, plans, period.ends_at)
    if period.number != number or period.ends_at > now:
        return []
    return [(one, period) for one in _missing(standing, plans, given, period)]


def _grant_id(standing: Standing, number: int, quota_type: str) -> str:
    plain = f"{standing.subscription_id}:{number}:{quota_type}"
    return plain if not standing.revision else f"{plain}:{standing.revision}"


def extras_of(standing: Standing, plans: Plans) -> list[Promise]:
    """Return what a new subscription gives once and for good."""
    phase = standing.phases[0]
    return [
        Promise(
            grant_id=f"{standing.subscription_id}:extra:{quota_type}",
            quota_type=quota_type,
            kind=EXTRA,
            period=0,
            amount=amount,
            priority=terms_of(phase, plans).priority,
            starts_at=standing.starts_at,
            ends_at=None,
            plan=phase.plan,
            version=phase.version,
        )
        for quota_type, amount in terms_of(phase, plans).extras.items()
    ]


# -- what is settled once a period is over, or has begun


def rolled_over(
    standing: Standing, plans: Plans, plan: Plan, ended: tuple[str, Period], rest: int
) -> Promise | None:
    """Return the grant that the rest of a quota type's ended period becomes, or None."""
    quota_type, period = ended
    rule = plan.terms.rollover.get(quota_type)
    ends = (standing.ends_at, standing.paused_until)
    is_over = any(end is not None and end <= period.ends_at for end in ends)
    if rule is None or is_over or not (units := rule.units_of(rest)):
        return None
    until = period
    for _ in range(rule.periods or 0):
        until = period_from(standing, plans, until.ends_at)
    lasting = rule.periods is None
    return Promise(
        grant_id=f"{standing.subscription_id}:{period.number}:{quota_type}:rollover",
        quota_type=quota_type,
        kind=ROLLOVER,
        period=period.number,
        amount=units,
        # what ends is used before what the period gives, which may still be rolled over
        priority=plan.terms.priority if lasting else plan.terms.priority - 1,
        starts_at=period.ends_at,
        ends_at=None if lasting else until.ends_at,
        plan=plan.name,
        version=plan.version,
        source="rollover",
    )


def forgiven(grant: Promise, units: int) -> Promise | None:
    """Return the grant that makes up for what a period's grant had to pay of debts, or None."""
    if not units:
        return None
    return replace(
        grant,
        grant_id=f"{grant.grant_id}:debt",
        kind=FORGIVEN,
        amount=units,
        is_renewal=False,
    )


def checked_subscription_id(subscription_id: object) -> str:
    """Return a subscription's id; it has no ``:`` and is shorter than others."""
    text = checked_id(subscription_id, name="subscription id")
    if len(text) > SUBSCRIPTION_ID_LENGTH_MAX or ":" in text:
        raise InvalidArgumentError(
            f"subscription id must have at most {SUBSCRIPTION_ID_LENGTH_MAX} characters and no"
            f" ':', not {text!r}"
        )
    return text


def checked_when(when: object) -> str:
    """Return when something is to happen: ``now`` or ``period_end``."""
    if when not in (NOW, PERIOD_END):
        raise InvalidArgumentError(f"when must be {NOW!r} or {PERIOD_END!r}, not {when!r:.80}")
    return str(when)
