"""
Plans: what a subscription gives in each of its periods, and what becomes of the rest. Pure.

A plan is never changed: defining it with other terms makes a new version, and what was subscribed
to keeps the version that it has.

* ``amounts``: units of each quota type in each period.
* ``rollover``: what becomes of the units of a period that nobody used. They become a grant of
  source ``rollover``, of ``min(max, max(rest, min))`` units, which ends with the last of the
  ``periods`` that follow, or never. What is left of that grant is not rolled over again.
* ``debt``: ``carry``, so that a new period pays what the old one owed, or ``forgive``.
* ``extras``: units that are granted once, with the subscription, for good.
* ``trial_period``: a first period of another length, of ``trial_amounts``, once per account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from quota_engine.amounts import checked_amount
from quota_engine.arguments import PRIORITY_MAX, checked_text, checked_type
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_id
from quota_engine.periods import PeriodLength, checked_period
from quota_engine.settings import Settings

CARRY, FORGIVE = "carry", "forgive"
ALL = "all"
#: Periods that a rolled-over rest may live, and quota types that a plan may have.
ROLLOVER_PERIODS_MAX = 1_000
TYPES_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollover:
    """How much of a period's rest is kept. ``max`` None: all; ``periods`` None: for ever."""

    min: int = 0
    max: int | None = None
    periods: int | None = None

    def units_of(self, rest: int) -> int:
        """Return how many units a rest becomes."""
        kept = max(rest, self.min)
        return kept if self.max is None else min(self.max, kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTerms:
    """What a plan gives. Amounts in units of their quota types; the module tells the rest."""

    period: str
    amounts: Mapping[str, int]
    priority: int = 50
    rollover: Mapping[str, Rollover] = field(default_factory=dict)
    debt: str = CARRY
    extras: Mapping[str, int] = field(default_factory=dict)
    trial_period: str | None = None
    trial_amounts: Mapping[str, int] = field(default_factory=dict)
    description: str | None = None

    @property
    def length(self) -> PeriodLength:
        """How long a period is."""
        return checked_period(self.period)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One version of a plan. Only the newest can be subscribed to, while ``is_active``."""

    name: str
    version: int
    terms: PlanTerms
    is_active: bool
    created_at: datetime


def checked_plan_name(name: object) -> str:
    """Return a plan's name: an id."""
    return checked_id(name, name="plan name")


def checked_plan_terms(
    settings: Settings,
    *,
    period: object,
    amounts: object,
    priority: object = 50,
    rollover: object = None,
    debt: object = CARRY,
    extras: object = None,
    trial_period: object = None,
    trial_amounts: object = None,
    description: object = None,
) -> PlanTerms:
    """Return the terms of a plan; raise ``InvalidArgumentError`` for what none can have."""
    checked_period(period)
    each = _checked_amounts(amounts, settings, name="amounts")
    if not each:
        raise InvalidArgumentError("a plan gives something: amounts is empty")
    if debt not in (CARRY, FORGIVE):
        raise InvalidArgumentError(f"debt must be {CARRY!r} or {FORGIVE!r}, not {debt!r:.80}")
    if trial_period is None and trial_amounts is not None:
        raise InvalidArgumentError("trial_amounts need a trial_period")
    if trial_period is not None:
        checked_period(trial_period)
    trial = each if trial_amounts is None else trial_amounts
    return PlanTerms(
        period=str(period),
        amounts=each,
        priority=_checked_priority(priority),
        rollover=_checked_rollover(rollover, each),
        debt=str(debt),
        extras=_checked_amounts(extras or {}, settings, name="extras"),
        trial_period=None if trial_period is None else str(trial_period),
        trial_amounts={}
        if trial_period is None
        else _checked_amounts(trial, settings, name="trial_amounts"),
        description=checked_text(description, name="description"),
    )


def _checked_amounts(amounts: object, settings: Settings, *, name: str) -> dict[str, int]:
    if not isinstance(amounts, Mapping) or len(amounts) > TYPES_MAX:
        raise InvalidArgumentError(
            f"{name} must say units for each of at most {TYPES_MAX} quota types, such as"
            f" {{'text_token': 100000}}, not {amounts!r:.80}"
        )
    found = {
        checked_type(quota_type, settings): checked_amount(amount, name=f"{name} of {quota_type}")
        for quota_type, amount in amounts.items()
    }
    return dict(sorted(found.items()))


def _checked_priority(priority: object) -> int:
    # a rest that ends is used before what the period gives, so it needs a number below
    is_number = isinstance(priority, int) and not isinstance(priority, bool)
    if not is_number or abs(priority) >= PRIORITY_MAX:  # type: ignore[arg-type]
        raise InvalidArgumentError(
            f"priority must be a whole number within ±{PRIORITY_MAX - 1}, not {priority!r:.80}"
        )
    return priority  # type: ignore[return-value]


def _checked_rollover(rollover: object, amounts: Mapping[str, int]) -> dict[str, Rollover]:
    if rollover is None:
        return {}
    if isinstance(rollover, Mapping) and rollover and set(rollover) <= set(amounts):
        each = {name: _one_rollover(rule) for name, rule in rollover.items() if rule is not None}
        return dict(sorted(each.items()))
    return dict.fromkeys(amounts, _one_rollover(rollover))


def _one_rollover(rule: object) -> Rollover:
    if isinstance(rule, Rollover):
        rule = {"min": rule.min, "max": rule.max, "periods": rule.periods}
    if rule == ALL:
        return Rollover()
    if not isinstance(rule, Mapping) or not rule or set(rule) - {"min", "max", "periods"}:
        raise InvalidArgumentError(
            "rollover must be None, 'all', or a mapping with min, max and periods, or one of these"
            f" for each of the plan's quota types, not {rule!r:.80}"
        )
    least = checked_amount(rule.get("min") or 0, zero_allowed=True, name="rollover min")
    most = rule.get("max")
    if most is not None:
        most = checked_amount(most, name="rollover max")
        if least > most:
            raise InvalidArgumentError(f"rollover min {least} is above its max {most}")
    periods = rule.get("periods")
    if periods is not None:
        periods = checked_amount(periods, name="rollover periods")
        if periods > ROLLOVER_PERIODS_MAX:
            raise InvalidArgumentError(
                f"rollover periods must be at most {ROLLOVER_PERIODS_MAX}, not {periods}"
            )
    return Rollover(min=least, max=most, periods=periods)
