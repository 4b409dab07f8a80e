"""Rows of alerts as values, and what messages say of them. Runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, select

from quota_engine.alerts.channels import Delivery
from quota_engine.alerts.crossing import RESOLVED
from quota_engine.alerts.told import OPEN, RESOLVED_STATE, Alert, AlertStep, body_of, text_of
from quota_engine.ledger.alert_tables import alert_deliveries, alert_steps, alerts


def alert_of(row: Row[Any]) -> Alert:
    """Return an alert's row as an alert."""
    told: dict[str, Any] = {name: getattr(row, name, None) for name in Alert.__slots__}
    told["state"] = OPEN if row.resolved_at is None else RESOLVED_STATE
    told["text"] = text_of(
        *(row.kind, row.subject, row.value, row.threshold),
        period=row.period,
        currency=row.currency,
    )
    return Alert(**told)


def step_of(row: Row[Any]) -> AlertStep:
    """Return a transition's row as a transition."""
    return AlertStep(**{name: getattr(row, name) for name in AlertStep.__slots__})


def delivery_of(row: Row[Any]) -> Delivery:
    """Return a message's row as a delivery."""
    return Delivery(**{name: getattr(row, name) for name in Delivery.__slots__})


def bodies(
    connection: Connection, deployment_id: str, which: ColumnElement[bool]
) -> list[dict[str, Any]]:
    """Return what some messages say, each of one transition, oldest first."""
    sent = alert_deliveries.c
    steps = {name: alert_steps.c[name].label(f"step_{name}") for name in AlertStep.__slots__}
    joined = alert_deliveries.join(alerts, alerts.c.alert_id == sent.alert_id).join(
        alert_steps,
        and_(alert_steps.c.alert_id == sent.alert_id, alert_steps.c.sequence == sent.sequence),
    )
    asked = (
        select(sent.delivery_id, alerts, *steps.values())
        .select_from(joined)
        .where(which)
        .order_by(sent.created_at, sent.delivery_id)
    )
    found = []
    for row in connection.execute(asked):
        step = AlertStep(**{name: getattr(row, f"step_{name}") for name in AlertStep.__slots__})
        threshold = None if step.action == RESOLVED else step.threshold
        said = text_of(
            *(row.kind, row.subject, step.value, threshold),
            period=row.period,
            currency=row.currency,
        )
        alert = replace(alert_of(row), text=said)
        found.append(body_of(row.delivery_id, deployment_id, alert, step))
    return found
