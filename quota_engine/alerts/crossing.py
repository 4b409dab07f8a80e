"""
What becomes of alerts as values are met: they fire once, escalate, and recover. Pure.

An alert fires when its subject's value crosses a threshold, escalates when a warning's value
crosses the critical one, and is resolved when the value recovers: only then can it fire again. One
that somebody has resolved by hand stays silent until then, unless it escalates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from quota_engine.alerts.rules import CRITICAL, KINDS, WARNING, AlertRule, threshold_of
from quota_engine.ids import new_id
from quota_engine.instants import to_ms
from quota_engine.pools import Threshold

FIRED, ESCALATED, ACKNOWLEDGED, RESOLVED = "fired", "escalated", "acknowledged", "resolved"
#: What channels are told; who acknowledges knows already.
TOLD = frozenset({FIRED, ESCALATED, RESOLVED})

Number = int | Decimal


@dataclass(frozen=True, slots=True)
class Subject:
    """What a rule looks at. ``account`` None: of no account, or of all of them."""

    name: str
    account: str | None = None
    quota_type: str | None = None


@dataclass(frozen=True, slots=True)
class Crossing:
    """A value at or beyond a threshold. ``threshold`` None: it has no number."""

    severity: str
    value: Number
    threshold: Number | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The thresholds of one rule."""

    warning: Threshold | None
    critical: Threshold | None
    is_falling: bool

    @classmethod
    def of(cls, rule: AlertRule) -> Limits:
        """Return a rule's thresholds."""
        falling = KINDS[rule.kind].is_falling
        return cls(threshold_of(rule.warning), threshold_of(rule.critical), falling)

    @property
    def has_percent(self) -> bool:
        """Whether any is per cent of something."""
        return any(one is not None and one.is_percent for one in (self.warning, self.critical))

    def crossed(self, value: Number, base: Number = 0) -> Crossing | None:
        """Return the worst threshold that a value has reached; ``base``: what per cents are of."""
        for severity, threshold in ((CRITICAL, self.critical), (WARNING, self.warning)):
            if threshold is None:
                continue
            at = threshold.amount(Decimal(base))
            if value <= at if self.is_falling else value >= at:
                return Crossing(severity, value, at)
        return None


@dataclass(slots=True, kw_only=True)
class Standing:
    """An alert that has not recovered; ``is_new``: nobody has recorded it yet."""

    alert_id: str
    rule: str
    kind: str
    subject: Subject
    severity: str
    value: Number
    threshold: Number | None
    sequence: int
    opened_at: datetime
    period: str | None = None
    currency: str | None = None
    acknowledged_at: datetime | None = None
    resolved_at: datetime | None = None
    recovered_at: datetime | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One transition of an alert, to be recorded. ``sequence`` counts an alert's from 1."""

    alert_id: str
    sequence: int
    action: str
    severity: str
    value: Number | None
    threshold: Number | None
    at: datetime
    channels: tuple[str, ...] = ()


@dataclass(slots=True)
class Changes:
    """The alerts of some rules and subjects: as they are, and what becomes of them."""

    known: Iterable[Standing]
    changed: dict[str, Standing] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    _standing: dict[tuple[str, str], Standing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._standing = {(one.rule, one.subject.name): one for one in self.known}

    def standing(self, rule: AlertRule) -> list[Standing]:
        """Return the alerts of a rule that have not recovered."""
        return [one for one in self._standing.values() if one.rule == rule.name]

    def knows(self, rule: AlertRule, subject: Subject) -> bool:
        """Return whether there is an alert of a rule on a subject that has not recovered."""
        return (rule.name, subject.name) in self._standing

    def meet(
        self,
        rule: AlertRule,
        subject: Subject,
        crossing: Crossing | None,
        at: datetime,
        channels: tuple[str, ...],
        *,
        value: Number | None = None,
        may_recover: bool = True,
    ) -> None:
        """
        Take note of what a rule has found: a crossing, or None for a ``value`` that is well.

        ``may_recover`` False: it is well only because the threshold has moved.
        """
        one = self._standing.get((rule.name, subject.name))
        if crossing is None:
            if one is not None and may_recover:
                self._recover(one, value, at, channels)
        elif one is None:
            self._fire(rule, subject, crossing, at, channels)
        elif crossing.severity == CRITICAL and one.severity == WARNING:
            one.severity, one.acknowledged_at, one.resolved_at = CRITICAL, None, None
            one.value, one.threshold = crossing.value, crossing.threshold
            self._step(one, ESCALATED, crossing.value, at, channels)

    def leave(self, one: Standing, at: datetime) -> None:
        """Resolve an alert that its rule is not about any more; nobody is told."""
        self._recover(one, None, at, ())

    def _fire(
        self,
        rule: AlertRule,
        subject: Subject,
        crossing: Crossing,
        at: datetime,
        channels: tuple[str, ...],
    ) -> None:
        one = Standing(
            alert_id=new_id("alert", to_ms(at, name="at")),
            rule=rule.name,
            kind=rule.kind,
            subject=subject,
            severity=crossing.severity,
            value=crossing.value,
            threshold=crossing.threshold,
            sequence=0,
            opened_at=at,
            period=rule.period,
            currency=rule.currency,
            is_new=True,
        )
        self._standing[rule.name, subject.name] = one
        self._step(one, FIRED, one.value, at, channels)

    def _recover(
        self, one: Standing, value: Number | None, at: datetime, channels: tuple[str, ...]
    ) -> None:
        one.recovered_at = at
        del self._standing[one.rule, one.subject.name]
        if one.resolved_at is None:
            one.resolved_at = at
            self._step(one, RESOLVED, value, at, channels)
        else:
            self.changed[one.alert_id] = one

    def _step(
        self,
        one: Standing,
        action: str,
        value: Number | None,
        at: datetime,
        channels: tuple[str, ...],
    ) -> None:
        one.sequence += 1
        self.changed[one.alert_id] = one
        self.steps.append(
            Step(
                alert_id=one.alert_id,
                sequence=one.sequence,
                action=action,
                severity=one.severity,
                value=value,
                threshold=one.threshold,
                at=at,
                channels=channels,
            )
        )
