"""
Alerts as they change: the open ones, locked, and what is written of them with their messages.

Every function runs in the caller's transaction: of the persister, for what entries cross, or of
whoever looks at all there is. Rows are locked and inserted in the order of rule and subject, so
that two who meet wait, and neither for the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import psycopg

from quota_engine.alerts.crossing import TOLD, Changes, Standing, Step, Subject
from quota_engine.alerts.rules import By
from quota_engine.alerts.watching import Granted, Watcher
from quota_engine.ids import new_id
from quota_engine.keys import QuotaName
from quota_engine.ledger.arrays import columns

Cursor = psycopg.Cursor[Any]
NOBODY = By()

_READ = """
SELECT alert_id, rule, kind, subject, account, quota_type, severity, value, threshold, sequence,
    opened_at, acknowledged_at, resolved_at
FROM alerts
WHERE recovered_at IS NULL AND {condition}
ORDER BY rule, subject
"""
_OF_RULES = _READ.format(condition="rule = ANY(%s::text[])")
_OF_SUBJECTS = _READ.format(condition="subject = ANY(%s::text[])") + "FOR UPDATE"
_OF_RULE = _READ.format(condition="rule = %s") + "FOR UPDATE"

# Of two who see one crossing at once the second waits here for the first, and makes none.
_INSERT = """
INSERT INTO alerts (alert_id, rule, kind, subject, account, quota_type, period, currency, severity,
    value, threshold, sequence, opened_at, acknowledged_at, resolved_at, recovered_at)
VALUES (%(alert_id)s, %(rule)s, %(kind)s, %(subject)s, %(account)s, %(quota_type)s, %(period)s,
    %(currency)s, %(severity)s, %(value)s, %(threshold)s, %(sequence)s, %(opened_at)s,
    %(acknowledged_at)s, %(resolved_at)s, %(recovered_at)s)
ON CONFLICT (rule, subject) WHERE recovered_at IS NULL DO NOTHING
"""
_UPDATE = """
UPDATE alerts SET severity = %(severity)s, value = %(value)s, threshold = %(threshold)s,
    sequence = %(sequence)s, acknowledged_at = %(acknowledged_at)s,
    acknowledged_by = CASE WHEN %(acknowledged_at)s::timestamptz IS NULL THEN NULL
        ELSE acknowledged_by END,
    resolved_by = CASE WHEN %(resolved_at)s::timestamptz IS NULL THEN NULL
        ELSE coalesce(resolved_by, %(operator)s) END,
    resolved_at = %(resolved_at)s, recovered_at = %(recovered_at)s
WHERE alert_id = %(alert_id)s
"""
_INSERT_STEP = """
INSERT INTO alert_steps (alert_id, sequence, action, severity, value, threshold, at, operator,
    remark)
VALUES (%(alert_id)s, %(sequence)s, %(action)s, %(severity)s, %(value)s, %(threshold)s, %(at)s,
    %(operator)s, %(remark)s)
"""
_INSERT_DELIVERY = """
INSERT INTO alert_deliveries (delivery_id, channel, alert_id, sequence, action)
VALUES (%s, %s, %s, %s, %s)
"""

_GRANTED = """
SELECT n.account, n.quota_type,
    coalesce((
        SELECT sum(g.amount) FROM grants g
        WHERE g.account = n.account AND g.quota_type = n.quota_type AND g.state = 'live'
            AND (g.remaining > 0 OR g.reserved > 0)
    ), 0)::bigint,
    EXISTS (
        SELECT 1 FROM grants g
        WHERE g.account = n.account AND g.quota_type = n.quota_type
            AND g.state NOT IN ('intent', 'pending')
    )
FROM unnest(%s::text[], %s::text[]) AS n (account, quota_type)
"""


def standing_of_subjects(cursor: Cursor, subjects: Iterable[str]) -> list[Standing]:
    """Return the alerts on these subjects that have not recovered, locked."""
    return _standing(cursor, _OF_SUBJECTS, [[*subjects]])


def read_standing(cursor: Cursor, rules: Sequence[str]) -> list[Standing]:
    """Return the alerts of some rules that have not recovered, as they are now."""
    return _standing(cursor, _OF_RULES, [[*rules]])


def standing_of_rule(cursor: Cursor, rule: str) -> list[Standing]:
    """Return the alerts of a rule that have not recovered, locked."""
    return _standing(cursor, _OF_RULE, [rule])


def granted_of(cursor: Cursor, quotas: Sequence[QuotaName]) -> dict[QuotaName, Granted]:
    """Return what per cents of balances are of."""
    cursor.execute(_GRANTED, columns([(one.account, one.quota_type) for one in quotas], 2))
    return {
        QuotaName(account, quota_type): Granted(counting, is_granted)
        for account, quota_type, counting, is_granted in cursor
    }


def write_watched(cursor: Cursor, watcher: Watcher) -> None:
    """Judge what a batch has done to watched quotas, once it is written."""
    changes = Changes(standing_of_subjects(cursor, map(str, watcher.seen)))
    balances = watcher.balances
    watcher.judge(changes, granted_of(cursor, balances) if balances else {})
    write_changes(cursor, changes)


def write_changes(cursor: Cursor, changes: Changes, by: By = NOBODY) -> None:
    """Record what has become of alerts, who did it and why, and the messages about it."""
    changed = sorted(changes.changed.values(), key=lambda one: (one.rule, one.subject.name))
    if not changed:
        return
    lost = set()
    for one in changed:
        if not one.is_new:
            cursor.execute(_UPDATE, {**_row(one), "operator": by.operator})
    for one in changed:
        if one.is_new and not cursor.execute(_INSERT, _row(one)).rowcount:
            lost.add(one.alert_id)
    steps = [step for step in changes.steps if step.alert_id not in lost]
    write_steps(cursor, steps, by)


def write_steps(cursor: Cursor, steps: Sequence[Step], by: By) -> None:
    """Record transitions, and a message for each channel that is to be told."""
    if not steps:
        return
    told = asdict(by)
    cursor.executemany(_INSERT_STEP, [{**asdict(step), **told} for step in steps])
    messages = [
        (new_id("delivery"), channel, step.alert_id, step.sequence, step.action)
        for step in steps
        if step.action in TOLD
        for channel in step.channels
    ]
    if messages:
        cursor.executemany(_INSERT_DELIVERY, messages)


def _row(one: Standing) -> dict[str, Any]:
    row = asdict(one)
    subject = row.pop("subject")
    return {**row, **subject, "subject": subject["name"]}


def _standing(cursor: Cursor, asked: str, values: list[Any]) -> list[Standing]:
    cursor.execute(asked, values)
    return [
        Standing(
            alert_id=row[0],
            rule=row[1],
            kind=row[2],
            subject=Subject(*row[3:6]),
            severity=row[6],
            value=row[7],
            threshold=row[8],
            sequence=row[9],
            opened_at=row[10],
            acknowledged_at=row[11],
            resolved_at=row[12],
        )
        for row in cursor
    ]
