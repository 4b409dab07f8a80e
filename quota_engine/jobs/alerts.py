"""
Alerts that no entry tells of: rules on sums, ends, forecasts, pools and the deployment itself.

Level-triggered: what a rule finds is compared with its open alerts, so it may run twice, late, or
in two processes at once. What is not known (Redis does not answer) changes nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text

from quota_engine.alerts.crossing import Changes, Limits, Standing, Subject
from quota_engine.alerts.rules import OF_ENTRIES, OF_SUMS, AlertRule
from quota_engine.alerts.watching import RuleBook
from quota_engine.errors import QuotaError
from quota_engine.instants import from_ms
from quota_engine.jobs.deployed import Deployed
from quota_engine.jobs.drift_told import found_last
from quota_engine.jobs.reports import sum_days
from quota_engine.ledger import alert_levels, alert_rules, duties
from quota_engine.ledger.alert_levels import Found
from quota_engine.ledger.alert_scanning import catch_up
from quota_engine.ledger.alert_writing import read_standing, standing_of_rule, write_changes
from quota_engine.ledger.shards import read_deployment
from quota_engine.outbox import age_seconds, pressures_of

#: Looking at old quotas for changed rules takes no longer in one run.
SCAN_SECONDS = 20.0
#: Forecasts and ends of grants change slowly.
SLOW = frozenset({"run_dry", "expiring"})
SLOW_SECONDS = 60.0
#: Summing may take at most a tenth of the time.
SUMS_REST = 9.0

#: Kinds that the duty looks at. Freezing is seen by the persister, and by others who freeze here.
OF_LEVELS = frozenset(
    {"frozen", "usage", "cost", "unpriced", "run_dry", "expiring", "pool", "drift"}
    | {"drain_late", "reconcile_late"}
)

DRIFT, DRAIN, RECONCILE = "the deployment", "the drain", "the reconciliation"


@dataclass(frozen=True, slots=True)
class Alerted:
    """What one run did."""

    steps: int
    is_done: bool


class Alerting:
    """Looks at what rules are about, each kind as often as it is worth."""

    def __init__(self, deployment: Deployed) -> None:
        self._deployment = deployment
        self._slow_at = 0.0
        self._sums_at = 0.0

    def run(self, now_ms: int) -> Alerted:
        """Look at everything that is due by ``now_ms``."""
        ledger = self._deployment.ledger
        is_done = catch_up(ledger, SCAN_SECONDS)
        with ledger.transaction() as connection:
            book = alert_rules.read_book(connection, 0)
        rules = [rule for rule in book.rules if rule.kind in OF_LEVELS]
        if not rules:
            return Alerted(0, is_done)
        found = self._found(rules, from_ms(now_ms))
        return Alerted(self._settle(book, found, from_ms(now_ms)), is_done)

    def _found(self, rules: list[AlertRule], now: datetime) -> list[tuple[AlertRule, Found]]:
        found: list[tuple[AlertRule, Found]] = []
        started = time.monotonic()
        is_slow = started >= self._slow_at
        if is_slow:
            self._slow_at = started + SLOW_SECONDS
        summed = [rule for rule in rules if rule.kind in OF_SUMS]
        is_summing = bool(summed) and started >= self._sums_at
        if is_summing or (is_slow and any(rule.kind == "run_dry" for rule in rules)):
            sum_days(self._deployment.ledger)
        if is_summing:
            with self._deployment.ledger.transaction() as connection:
                told = alert_levels.sums(connection, summed, now)
            found += [(rule, told[rule.name]) for rule in summed]
            ended = time.monotonic()
            self._sums_at = ended + SUMS_REST * (ended - started)
        for rule in rules:
            if rule.kind in OF_SUMS or (rule.kind in SLOW and not is_slow):
                continue
            one = self._look(rule, now)
            if one is not None:
                found.append((rule, one))
        return found

    def _look(self, rule: AlertRule, now: datetime) -> Found | None:
        """Return what a rule finds; None: nobody knows."""
        in_ledger: dict[str, Callable[[Connection], Found | None]] = {
            "frozen": lambda sql: alert_levels.frozen(sql, rule),
            "expiring": lambda sql: alert_levels.expiring(sql, rule, now),
            "run_dry": lambda sql: alert_levels.running_dry(sql, rule, now),
            "pool": lambda sql: alert_levels.pools(sql, rule),
            "drift": lambda sql: _drift(sql, rule),
            "reconcile_late": lambda sql: _reconcile_late(sql, rule),
        }
        if rule.kind == "drain_late":
            return self._drain_late(rule)
        with self._deployment.ledger.transaction() as connection:
            return in_ledger[rule.kind](connection)

    def _drain_late(self, rule: AlertRule) -> Found | None:
        deployment = self._deployment
        try:
            found = pressures_of(deployment.client, deployment.opened.shards)
        except QuotaError:
            return None
        oldest = max(age_seconds(one.oldest, time.time()) for one in found)
        return _measured(rule, DRAIN, Decimal(round(oldest, 1)))

    def _settle(self, book: RuleBook, found: list[tuple[AlertRule, Found]], now: datetime) -> int:
        """Compare what was found with the open alerts; return how many transitions that makes."""
        ledger = self._deployment.ledger
        with ledger.transaction() as connection, _cursor(connection) as cursor:
            known = read_standing(cursor, [rule.name for rule, _ in found])
        count = 0
        of_rule: dict[str, list[Standing]] = defaultdict(list)
        for one in known:
            of_rule[one.rule].append(one)
        for rule, told in found:
            if not _changes(book, rule, told, of_rule[rule.name], now):
                continue
            with ledger.transaction() as connection, _cursor(connection) as cursor:
                if alert_rules.find_rule(connection, rule.name) != rule:
                    continue  # it was changed meanwhile: the next run knows
                changes = _changes(book, rule, told, standing_of_rule(cursor, rule.name), now)
                if changes is not None:
                    write_changes(cursor, changes)
                    count += len(changes.steps)
        return count


def _changes(
    book: RuleBook, rule: AlertRule, found: Found, known: list[Standing], now: datetime
) -> Changes | None:
    """Return what becomes of a rule's alerts, or None when nothing does."""
    changes, channels = Changes(known), book.channels_of(rule)
    crossed = {subject.name for subject, _ in found}
    for one in changes.standing(rule):
        if one.subject.name not in crossed:
            changes.meet(rule, one.subject, None, now, channels)
    for subject, crossing in sorted(found, key=lambda pair: pair[0].name):
        changes.meet(rule, subject, crossing, now, channels)
    return changes if changes.changed else None


def _measured(rule: AlertRule, name: str, value: Decimal) -> Found:
    crossing = Limits.of(rule).crossed(value)
    return [] if crossing is None else [(Subject(name), crossing)]


def _drift(connection: Connection, rule: AlertRule) -> Found | None:
    found = found_last(duties.read_runs(connection))
    return None if found is None else _measured(rule, DRIFT, Decimal(found.differ))


def _reconcile_late(connection: Connection, rule: AlertRule) -> Found | None:
    deployment = read_deployment(connection)
    if deployment is None:
        return None
    runs = {run.duty: run for run in duties.read_runs(connection)}
    ended = runs["reconcile"].finished_at if "reconcile" in runs else None
    now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    age = now - (ended or deployment.created_at)
    return _measured(rule, RECONCILE, Decimal(round(age.total_seconds(), 1)))


def _cursor(connection: Connection) -> Any:
    driver: Any = connection.connection.driver_connection
    return driver.cursor()


assert {"balance", "debt", "shortfall"} == OF_ENTRIES - OF_LEVELS
