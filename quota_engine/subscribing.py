"""What callers are told of subscriptions, and the commands that promises of them mean. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from quota_engine.commands import GrantTerms, IssueGrant, VoidGrant
from quota_engine.commands.arguments import details_text, fingerprint
from quota_engine.instants import NEVER_MS, to_ms
from quota_engine.keys import QuotaName
from quota_engine.subscriptions import (
    ACTIVE,
    ENDED,
    FORGIVEN,
    NOW,
    PERIOD,
    Plans,
    Promise,
    Standing,
    period_from,
    period_of,
    phase_at,
)

SUBSCRIBE = "subscribe"
#: What a grant's description says beside the plan's version.
_TOLD = {FORGIVEN: "debt forgiven, ", "rollover": "rest of ", "extra": "once, "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """
    A subscription as it was at an instant. ``state``: active, paused or ended.

    ``period`` counts from 0; it and its ends are None before the start and after the end.
    ``next_renewal_at``: when the next period begins, None when none will. ``next_plan``: what is
    changed to at the end of the period. ``replayed``: the operation had been done before.
    """

    subscription_id: str
    account: str
    plan: str
    version: int
    state: str
    time_zone: str
    starts_at: datetime
    is_trial: bool
    period: int | None
    period_starts_at: datetime | None
    period_ends_at: datetime | None
    next_renewal_at: datetime | None
    next_plan: str | None
    ends_at: datetime | None
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionChange:
    """
    Something that was done to a subscription. ``at``: when; ``effective_at``: from when on.

    ``plan`` and ``version``: that it has by then, or will have.
    """

    subscription_id: str
    number: int
    operation_id: str
    verb: str
    plan: str
    version: int
    at: datetime
    effective_at: datetime
    actor: str | None
    reference: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Who does what, by which id; kept with the subscription. ``plan``: of a change."""

    operation_id: str
    verb: str = SUBSCRIBE
    when: str = NOW
    plan: str | None = None
    actor: str | None = None
    reference: str | None = None

    @property
    def fingerprint(self) -> str:
        """The hash of what is to be done."""
        return fingerprint(self.verb, self.when, self.plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """What somebody subscribes to. ``starts_at`` None: now."""

    subscription_id: str
    account: str
    plan: str
    starts_at: datetime | None
    time_zone: str

    @property
    def fingerprint(self) -> str:
        """The hash of all that was said."""
        said = "" if self.starts_at is None else self.starts_at.isoformat()
        return fingerprint(SUBSCRIBE, self.account, self.plan, said, self.time_zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a subscription is after an operation, and the grants that were promised for it now."""

    subscription: Subscription
    promised: Sequence[IssueGrant] = ()


def told(standing: Standing, plans: Plans, now: datetime) -> Subscription:
    """Return what a caller is told of a subscription at an instant."""
    phase = phase_at(standing, now)
    has_ended = standing.ends_at is not None and now >= standing.ends_at
    period = None if has_ended else period_of(standing, plans, now)
    if period is not None and standing.paused_until is not None and now >= standing.paused_until:
        period = None
    later = [
        one
        for one in standing.phases
        if one.begins_at > now
        and (standing.ends_at is None or one.begins_at < standing.ends_at)
        and not (phase.is_trial and one.plan == phase.plan)
    ]
    upcoming = None
    if standing.state == ACTIVE and not has_ended:
        upcoming = period_from(
            standing, plans, now if period is None else period.ends_at
        ).starts_at
        if standing.ends_at is not None and upcoming >= standing.ends_at:
            upcoming = None
    return Subscription(
        subscription_id=standing.subscription_id,
        account=standing.account,
        plan=phase.plan,
        version=phase.version,
        state=ENDED if has_ended else standing.state,
        time_zone=standing.time_zone,
        starts_at=standing.starts_at,
        is_trial=phase.is_trial,
        period=None if period is None else period.number,
        period_starts_at=None if period is None else period.starts_at,
        period_ends_at=None if period is None else period.ends_at,
        next_renewal_at=upcoming,
        next_plan=later[0].plan if later else None,
        ends_at=standing.ends_at,
    )


def as_replayed(subscription: Subscription) -> Subscription:
    """Return the same, marked as done before."""
    return replace(subscription, replayed=True)


def issue_of(account: str, subscription_id: str, promise: Promise, now: datetime) -> IssueGrant:
    """Return the command that makes a promised grant; what has begun already begins at once."""
    what = f"period {promise.period}" if promise.kind == PERIOD else promise.kind
    if promise.kind in _TOLD:
        what = _TOLD[promise.kind] + f"period {promise.period}"
    has_begun = promise.starts_at <= now
    terms = GrantTerms(
        amount=promise.amount,
        source=promise.source,
        reference=subscription_id,
        description=f"{promise.plan} v{promise.version}, {what}",
        priority=promise.priority,
        starts_at_ms=0 if has_begun else to_ms(promise.starts_at, name="starts_at"),
        expires_at_ms=NEVER_MS
        if promise.ends_at is None
        else to_ms(promise.ends_at, name="expires_at"),
    )
    kept = {"source": terms.source, "reference": terms.reference}
    return IssueGrant(
        quota=QuotaName(account, promise.quota_type),
        grant_id=promise.grant_id,
        terms=terms,
        details=details_text({**kept, "description": terms.description}),
    )


def void_of(quota: QuotaName, grant_id: str, subscription_id: str) -> VoidGrant:
    """Return the command that takes back what is left of a subscription's grant."""
    details = details_text({"reference": subscription_id})
    return VoidGrant(quota=quota, grant_id=grant_id, details=details)
