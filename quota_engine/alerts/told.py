"""What is told of alerts: to callers as values, to channels as messages. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from quota_engine.alerts.channels import Delivery
from quota_engine.alerts.crossing import ESCALATED, FIRED, RESOLVED
from quota_engine.alerts.rules import CRITICAL, KINDS, SEVERITIES
from quota_engine.amounts import checked_amount
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_account
from quota_engine.instants import to_ms
from quota_engine.viewing import check_seen, checked_viewer

OPEN, RESOLVED_STATE, ALL = "open", "resolved", "all"
STATES = (OPEN, RESOLVED_STATE, ALL)
LIMIT = 1_000

TEST, MORE = "test", "more"
#: So many alerts are named in a message that tells of many.
NAMED_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """
    One alert. ``state``: open or resolved; ``severity``: the worst it was.

    ``value`` and ``threshold``: when it fired, or escalated. ``acknowledged_by`` and
    ``resolved_by``: operators; ``resolved_by`` None: by itself. ``recovered_at``: when the value
    was well again, so that the rule is armed.
    """

    alert_id: str
    rule: str
    kind: str
    subject: str
    account: str | None
    quota_type: str | None
    state: str
    severity: str
    value: Decimal
    threshold: Decimal | None
    text: str
    opened_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    recovered_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertStep:
    """One transition: fired, escalated, acknowledged or resolved; who did it, if somebody did."""

    sequence: int
    action: str
    severity: str
    value: Decimal | None
    threshold: Decimal | None
    at: datetime
    operator: str | None
    remark: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertStory:
    """An alert with its transitions and what became of its messages, oldest first."""

    alert: Alert
    steps: tuple[AlertStep, ...]
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMessage:
    """
    What a callback is given. ``message_id``: the same at every attempt, to take it once.

    ``action``: fired, escalated, resolved, or more: then ``alert`` is None, and ``body`` tells of
    many. ``body`` is what a webhook gets.
    """

    message_id: str
    action: str
    text: str
    alert: dict[str, Any] | None
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertQuery:
    """Which alerts are asked for."""

    state: str
    severity: str | None
    account: str | None
    rule: str | None
    since: datetime | None
    viewer: str | None
    limit: int


def checked_alert_query(
    *,
    state: object,
    severity: object,
    account: object,
    rule: object,
    since: object,
    viewer: object,
    limit: object,
) -> AlertQuery:
    """Return a query; raise ``InvalidArgumentError`` for what it cannot mean."""
    if state not in STATES:
        raise InvalidArgumentError(f"state must be {', '.join(STATES)}, not {state!r:.80}")
    if severity is not None and severity not in SEVERITIES:
        raise InvalidArgumentError(
            f"severity must be {' or '.join(SEVERITIES)}, not {severity!r:.80}"
        )
    if since is not None:
        to_ms(since, name="since")
    name, who = None if account is None else checked_account(account), checked_viewer(viewer)
    if name is not None:
        check_seen(name, who)
    return AlertQuery(
        state=str(state),
        severity=None if severity is None else str(severity),
        account=name,
        rule=None if rule is None else str(rule),
        since=since,  # type: ignore[arg-type]
        viewer=who,
        limit=LIMIT if limit is None else checked_amount(limit, name="limit"),
    )


def plain_number(value: Decimal | int | None) -> str | None:
    """Return a number as text: every digit, and no zeros after the last one."""
    if value is None:
        return None
    text = f"{Decimal(value):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def text_of(
    kind: str,
    subject: str,
    value: Decimal | int | None,
    threshold: Decimal | int | None = None,
    *,
    period: str | None = None,
    currency: str | None = None,
) -> str:
    """Return an alert in a sentence; ``threshold`` None: not beyond one (any more)."""
    known = KINDS[kind]
    number = plain_number(value)
    if number is None:
        return f"{subject}: {kind}"
    said = f"{subject} {known.says.format(value=number, period=period, currency=currency)}"
    if threshold is None:
        return said
    is_below = known.is_falling or not known.has_thresholds
    return f"{said}, at or {'below' if is_below else 'above'} {plain_number(threshold)}"


def body_of(delivery_id: str, deployment_id: str, alert: Alert, step: AlertStep) -> dict[str, Any]:
    """
    Return the message of one transition, in JSON's kinds; numbers as text.

    ``alert``: as the transition left it.
    """
    return {
        "id": delivery_id,
        "type": f"alert.{step.action}",
        "at": step.at.isoformat(),
        "deployment": deployment_id,
        "text": f"{HEADINGS[step.action].format(severity=step.severity)}: {alert.text}",
        "alert": {
            "alert_id": alert.alert_id,
            "sequence": step.sequence,
            "rule": alert.rule,
            "kind": alert.kind,
            "subject": alert.subject,
            "account": alert.account,
            "quota_type": alert.quota_type,
            "severity": step.severity,
            "value": plain_number(step.value),
            "threshold": plain_number(step.threshold),
            "opened_at": alert.opened_at.isoformat(),
        },
    }


HEADINGS = {FIRED: "{severity}", ESCALATED: "{severity} (worse)", RESOLVED: "resolved"}


def body_of_many(
    delivery_id: str, deployment_id: str, at: datetime, bodies: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return one message about many, the critical ones first."""
    counts = Counter(one["alert"]["severity"] for one in bodies)
    worst = sorted(bodies, key=lambda one: one["alert"]["severity"] != CRITICAL)
    by = ", ".join(f"{counts[name]} {name}" for name in reversed(SEVERITIES) if counts[name])
    return {
        "id": delivery_id,
        "type": f"alerts.{MORE}",
        "at": at.isoformat(),
        "deployment": deployment_id,
        "text": f"{len(bodies)} more messages ({by}); `quota-engine alerts list` has the alerts",
        "count": len(bodies),
        "by_severity": dict(counts),
        "alerts": [one["alert"] for one in worst[:NAMED_MAX]],
    }


def body_of_test(
    delivery_id: str, deployment_id: str, at: datetime, channel: str
) -> dict[str, Any]:
    """Return the message that tries a channel out."""
    return {
        "id": delivery_id,
        "type": f"alert.{TEST}",
        "at": at.isoformat(),
        "deployment": deployment_id,
        "text": f"a test of the channel {channel}: nothing has happened",
    }


def message_of(body: dict[str, Any]) -> AlertMessage:
    """Return what a callback is given of a message."""
    return AlertMessage(
        message_id=body["id"],
        action=body["type"].partition(".")[2],
        text=body["text"],
        alert=body.get("alert"),
        body=body,
    )
