"""
Rules, channels and alerts in PostgreSQL, as callers ask for them and change them by hand.

What finds and tells alerts is elsewhere: ``alert_writing``, ``alert_scanning``, ``alert_levels``
and ``alert_deliveries``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from sqlalchemy import Connection, Row, func, select, text, true, update

from quota_engine.alerts.channels import Channel, ChannelTerms, Delivery, shown_target
from quota_engine.alerts.crossing import ACKNOWLEDGED, RESOLVED, Step
from quota_engine.alerts.rules import AlertChange, AlertRule, By, RuleTerms
from quota_engine.alerts.told import ALL, OPEN, Alert, AlertQuery, AlertStory
from quota_engine.errors import (
    AlertNotFoundError,
    EngineUnavailableError,
    InvalidArgumentError,
)
from quota_engine.ledger import alert_rules as rules
from quota_engine.ledger.alert_deliveries import Deliveries
from quota_engine.ledger.alert_rows import alert_of, delivery_of, step_of
from quota_engine.ledger.alert_scanning import catch_up, end_alerts, tell_shards
from quota_engine.ledger.alert_tables import (
    alert_channels,
    alert_deliveries,
    alert_steps,
    alerts,
)
from quota_engine.ledger.alert_writing import write_steps
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.reports import within
from quota_engine.viewing import sees

log = logging.getLogger("quota_engine.alerts")

#: Who changes a rule looks at what is there for so long; workers do the rest.
SCAN_SECONDS = 2.0


class AlertTables:
    """The alerts of one ledger. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.deliveries = Deliveries(ledger)

    # -- rules

    def put_rule(self, name: str, terms: RuleTerms, by: By) -> AlertRule:
        """Make or change a rule, and look at what is there already; the same changes nothing."""
        with self._ledger.transaction() as connection:
            if missing := rules.missing_channels(connection, terms.channels or ()):
                raise InvalidArgumentError(
                    f"there is no channel {missing[0]}: add it first, or see `quota-engine alerts"
                    " channels list`"
                )
            made, _ = rules.put_rule(connection, name, terms, by)
        self._let_know(lambda: catch_up(self._ledger, SCAN_SECONDS))
        return made

    def drop_rule(self, name: str, by: By) -> None:
        """Remove a rule; its open alerts are resolved, and nobody is told."""
        with self._ledger.transaction() as connection:
            if rules.drop_rule(connection, name, by) is None:
                raise AlertNotFoundError(f"there is no alert rule {name}")
        self._let_know(lambda: tell_shards(self._ledger))
        end_alerts(self._ledger, name, by)

    def list_rules(self, viewer: str | None) -> list[AlertRule]:
        """Return the rules, by name; of a viewer those on its account and below."""
        with self._ledger.transaction() as connection:
            found = rules.read_rules(connection)
        if viewer is None:
            return found
        return [one for one in found if one.account is not None and sees(viewer, one.account)]

    def history(self, what: str, name: str) -> list[AlertChange]:
        """Return the changes of a rule or channel, oldest first."""
        with self._ledger.transaction() as connection:
            return rules.read_changes(connection, what, name)

    def _let_know(self, act: Callable[[], object]) -> None:
        """Let others know a change at once; where a shard is busy for long workers do, later."""
        try:
            act()
        except EngineUnavailableError as error:
            log.info("workers will look at what the change of an alert rule means: %s", error)

    # -- channels

    def put_channel(self, name: str, terms: ChannelTerms, by: By) -> Channel:
        """Make or change a channel; the same changes nothing. A secret that is made is told."""
        with self._ledger.transaction() as connection:
            _, made_up = rules.put_channel(connection, name, terms, by)
        self._let_know(lambda: tell_shards(self._ledger))
        made = next(one for one in self.list_channels() if one.name == name)
        return replace(made, secret=made_up)

    def drop_channel(self, name: str, by: By) -> None:
        """Remove a channel; what waits for it is given up."""
        with self._ledger.transaction() as connection:
            if rules.drop_channel(connection, name, by) is None:
                raise AlertNotFoundError(f"there is no alert channel {name}")
        self._let_know(lambda: tell_shards(self._ledger))

    def list_channels(self) -> list[Channel]:
        """Return the channels, by name, without what is secret of them."""
        table, sent = alert_channels, alert_deliveries.c
        counts = [
            select(func.count())
            .where(sent.channel == table.c.name, sent.state == state)
            .scalar_subquery()
            .label(state)
            for state in ("pending", "dead")
        ]
        asked = select(table, *counts).order_by(table.c.name)
        with self._ledger.transaction() as connection:
            return [
                Channel(
                    name=row.name,
                    kind=row.kind,
                    target=shown_target(rules.channel_terms(row)),
                    per_minute=row.per_minute,
                    created_at=row.created_at,
                    pending=row.pending,
                    dead=row.dead,
                )
                for row in connection.execute(asked)
            ]

    def channel_terms(self, name: str) -> ChannelTerms:
        """Return a channel's terms, secret included: for who delivers."""
        table = alert_channels
        with self._ledger.transaction() as connection:
            row = connection.execute(select(table).where(table.c.name == name)).one_or_none()
        if row is None:
            raise AlertNotFoundError(f"there is no alert channel {name}")
        return rules.channel_terms(row)

    # -- alerts

    def list_alerts(self, query: AlertQuery) -> list[Alert]:
        """Return alerts, the newest first."""
        columns = alerts.c
        asked = select(alerts).where(_seen_by(query.viewer))
        if query.state != ALL:
            is_open = columns.resolved_at.is_(None)
            asked = asked.where(is_open if query.state == OPEN else ~is_open)
        for name in ("severity", "rule"):
            if (said := getattr(query, name)) is not None:
                asked = asked.where(columns[name] == said)
        if query.account is not None:
            asked = asked.where(within(columns.account, query.account))
        if query.since is not None:
            asked = asked.where(columns.opened_at >= query.since)
        order = (columns.opened_at.desc(), columns.alert_id.desc())
        with self._ledger.transaction() as connection:
            found = connection.execute(asked.order_by(*order).limit(query.limit))
            return [alert_of(row) for row in found]

    def story(self, alert_id: str, viewer: str | None) -> AlertStory:
        """Return an alert, its transitions and its messages."""
        with self._ledger.transaction() as connection:
            row = _find(connection, alert_id, viewer)
            steps = connection.execute(
                select(alert_steps)
                .where(alert_steps.c.alert_id == alert_id)
                .order_by(alert_steps.c.sequence)
            ).all()
            told: Sequence[Delivery] = []
            if viewer is None:
                columns = alert_deliveries.c
                sent = select(alert_deliveries).where(columns.alert_id == alert_id)
                order = (columns.sequence, columns.channel)
                told = [delivery_of(one) for one in connection.execute(sent.order_by(*order))]
        return AlertStory(
            alert=alert_of(row), steps=tuple(step_of(one) for one in steps), deliveries=tuple(told)
        )

    def acknowledge(self, alert_id: str, by: By, viewer: str | None) -> Alert:
        """Record that somebody has taken an open alert up; again changes nothing."""
        return self._settle(alert_id, ACKNOWLEDGED, by, viewer)

    def resolve(self, alert_id: str, by: By, viewer: str | None) -> Alert:
        """Resolve an alert by hand: it is silent until its value has recovered, or escalates."""
        return self._settle(alert_id, RESOLVED, by, viewer)

    def _settle(
        self,
        alert_id: str,
        action: str,
        by: By,
        viewer: str | None,
    ) -> Alert:
        with self._ledger.transaction() as connection:
            row = _find(connection, alert_id, viewer, is_locked=True)
            is_done = row.resolved_at is not None
            if is_done and action == ACKNOWLEDGED:
                raise InvalidArgumentError(f"alert {alert_id} is resolved already")
            if is_done or (action == ACKNOWLEDGED and row.acknowledged_at is not None):
                return alert_of(row)
            now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            step = Step(
                alert_id=alert_id,
                sequence=row.sequence + 1,
                action=action,
                severity=row.severity,
                value=None,
                threshold=row.threshold,
                at=now,
                channels=_channels_of(connection, row.rule),
            )
            told = {f"{action}_at": now, f"{action}_by": by.operator}
            connection.execute(
                update(alerts)
                .where(alerts.c.alert_id == alert_id)
                .values(sequence=row.sequence + 1, **told)
            )
            driver: Any = connection.connection.driver_connection
            cursor: psycopg.Cursor[Any]
            with driver.cursor() as cursor:
                write_steps(cursor, [step], by)
            return alert_of(_find(connection, alert_id, viewer))


def _channels_of(connection: Connection, rule: str) -> tuple[str, ...]:
    """Return who is told of a rule's alerts; of a removed rule's nobody."""
    book = rules.read_book(connection, 0)
    found = next((one for one in book.rules if one.name == rule), None)
    return () if found is None else book.channels_of(found)


def _seen_by(viewer: str | None) -> Any:
    return true() if viewer is None else within(alerts.c.account, viewer)


def _find(
    connection: Connection, alert_id: str, viewer: str | None, *, is_locked: bool = False
) -> Row[Any]:
    """Return an alert's row; one that a viewer does not see is not there."""
    asked = select(alerts).where(alerts.c.alert_id == alert_id, _seen_by(viewer))
    row = connection.execute(asked.with_for_update() if is_locked else asked).one_or_none()
    if row is None:
        raise AlertNotFoundError(f"there is no alert {alert_id}")
    return row
