"""Health of alerts: what is open and critical, and what could not be told."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import Connection, select

from quota_engine.ledger import gauges
from quota_engine.ledger.alert_rows import alert_of
from quota_engine.ledger.alert_tables import alerts

SHOWN = 5


class Noting(Protocol):
    """What a look at the health notes its findings in."""

    facts: dict[str, str]
    numbers: dict[str, float]

    def note(self, code: str, message: str, fix: str, *, is_fatal: bool = True) -> None: ...


def examine_alerts(health: Noting, connection: Connection) -> None:
    """Note open critical alerts, which say nothing of the deployment, and dead letters."""
    counts = gauges.alert_counts(connection)
    health.facts["alerts"] = (
        f"{counts.critical} critical and {counts.warning} warnings are open,"
        f" {counts.waiting} messages wait, {counts.dead} are dead letters"
    )
    health.numbers |= {"open_critical_alerts": counts.critical, "dead_letters": counts.dead}
    columns = alerts.c
    asked = select(alerts).where(columns.resolved_at.is_(None), columns.severity == "critical")
    for row in connection.execute(asked.order_by(columns.opened_at.desc()).limit(SHOWN)):
        one = alert_of(row)
        fix = f"`quota-engine alerts show {one.alert_id}`"
        health.note("alert", f"critical alert {one.rule}: {one.text}", fix, is_fatal=False)
    if counts.critical > SHOWN:
        rest = f"{counts.critical - SHOWN} more critical alerts are open"
        fix = "`quota-engine alerts list --severity critical`"
        health.note("alert", rest, fix, is_fatal=False)
    if counts.dead:
        message = f"{counts.dead} messages about alerts could not be delivered"
        fix = "`quota-engine alerts dead` says why, `quota-engine alerts retry` tries anew"
        health.note("dead_letters", message, fix)
