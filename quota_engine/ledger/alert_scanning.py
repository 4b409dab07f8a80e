"""
Looking at all there is: for a rule that was made or changed, over what was there before.

Shards are told of the rule first; then their quotas are looked at, a page at a time, each under
the lock of its shard's row: so what persisters see and what is seen here cannot cross.
"""

from __future__ import annotations

import time
from typing import Any

import psycopg
from sqlalchemy import Connection, text

from quota_engine.alerts.crossing import Changes, Crossing, Limits, Subject
from quota_engine.alerts.rules import CRITICAL, OF_ENTRIES, AlertRule, By
from quota_engine.alerts.watching import RuleBook
from quota_engine.keys import QuotaName, shard_of
from quota_engine.ledger import alert_rules
from quota_engine.ledger.alert_writing import (
    NOBODY,
    granted_of,
    standing_of_rule,
    standing_of_subjects,
    write_changes,
)
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.shards import lock_shard
from quota_engine.viewing import bounds_below, sees

#: Quotas that one transaction looks at, and keeps their shard's persister waiting for.
PAGE = 1_000
LOCK_WAIT_MS = 30_000

_BEHIND = text("""
SELECT s.shard, c.revision
FROM (SELECT max(revision) AS revision FROM alert_changes) AS c
JOIN shards s ON s.rules_revision < c.revision
ORDER BY s.shard
""")
_QUOTAS = """
SELECT account, quota_type, balance, debt, frozen FROM quotas
WHERE shard = :shard AND (account, quota_type) > (:after_account, :after_type) {scope}
ORDER BY account, quota_type LIMIT :limit
"""
_ORPHANS = text("""
SELECT DISTINCT a.rule FROM alerts a
WHERE a.recovered_at IS NULL AND NOT EXISTS (SELECT 1 FROM alert_rules r WHERE r.name = a.rule)
""")
_NOW = text("SELECT clock_timestamp()")


def tell_shards(ledger: Ledger) -> None:
    """Let every persister know the rules as they are now: each from its next batch on."""
    with ledger.transaction() as connection:
        behind = connection.execute(_BEHIND).all()
    for row in behind:
        with ledger.transaction() as connection:
            lock_shard(connection, row.shard, LOCK_WAIT_MS)
            alert_rules.tell_shard(connection, row.shard, row.revision)


def catch_up(ledger: Ledger, seconds: float) -> bool:
    """
    Look at all there is for rules that were changed; return whether all of it was done in time.

    Running it twice, or beside another, makes no alert twice.
    """
    until = time.monotonic() + seconds
    tell_shards(ledger)
    with ledger.transaction() as connection:
        orphans = list(connection.execute(_ORPHANS).scalars())
        unscanned = alert_rules.read_unscanned(connection)
    for name in orphans:
        end_alerts(ledger, name)
    return all(_scan(ledger, rule, until) for rule in unscanned)


def end_alerts(ledger: Ledger, rule: str, by: By = NOBODY) -> None:
    """Resolve what is open of a rule that there is no more; nobody is told."""
    with ledger.transaction() as connection, _cursor(connection) as cursor:
        now = connection.execute(_NOW).scalar_one()
        standing = standing_of_rule(cursor, rule)
        changes = Changes(standing)
        for one in standing:
            changes.leave(one, now)
        write_changes(cursor, changes, By(by.operator, by.remark or "the rule was removed"))


def _scan(ledger: Ledger, rule: AlertRule, until: float) -> bool:
    """Look at every quota of a rule, unless time is over first."""
    _leave_what_is_beyond(ledger, rule)
    if rule.kind in OF_ENTRIES:
        shards = range(ledger.shard_count)
        if rule.account is not None:
            shard = shard_of(rule.account, ledger.shard_count)
            shards = range(shard, shard + 1)
        for shard in shards:
            after: QuotaName | None = QuotaName("", "")
            while after is not None:
                if time.monotonic() > until:
                    return False
                after = _scan_page(ledger, rule, shard, after)
    with ledger.transaction() as connection:
        alert_rules.mark_scanned(connection, rule)
    return True


def _leave_what_is_beyond(ledger: Ledger, rule: AlertRule) -> None:
    """Resolve alerts on what the rule is not about any more."""
    with ledger.transaction() as connection, _cursor(connection) as cursor:
        now = connection.execute(_NOW).scalar_one()
        standing = standing_of_rule(cursor, rule.name)
        changes = Changes(standing)
        for one in standing:
            if one.kind != rule.kind or not _is_about(rule, one.subject):
                changes.leave(one, now)
        write_changes(cursor, changes, By(None, "the rule was changed"))


def _is_about(rule: AlertRule, subject: Subject) -> bool:
    if rule.kind not in OF_ENTRIES or subject.account is None:
        return True
    if rule.quota_type not in (None, subject.quota_type):
        return False
    if rule.account is None:
        return True
    return sees(rule.account, subject.account) and (
        rule.subtree or subject.account == rule.account
    )


def _scan_page(ledger: Ledger, rule: AlertRule, shard: int, after: QuotaName) -> QuotaName | None:
    """Compare a page of quotas with a rule; return the last one, None at the end."""
    with ledger.transaction() as connection, _cursor(connection) as cursor:
        lock_shard(connection, shard, LOCK_WAIT_MS)
        book = alert_rules.read_book(connection, 0)
        rows = _read_page(connection, rule, shard, after)
        quotas = [QuotaName(row.account, row.quota_type) for row in rows]
        meant = [
            (quota, row)
            for quota, row in zip(quotas, rows, strict=True)
            if _is_about(rule, Subject(str(quota), *_parts(quota)))
        ]
        if rule in book.rules and meant:
            _compare(cursor, connection, rule, book, meant)
    return quotas[-1] if len(quotas) == PAGE else None


def _compare(
    cursor: psycopg.Cursor[Any],
    connection: Connection,
    rule: AlertRule,
    book: RuleBook,
    meant: list[tuple[QuotaName, Any]],
) -> None:
    now = connection.execute(_NOW).scalar_one()
    limits, channels = Limits.of(rule), book.channels_of(rule)
    names = [quota for quota, _ in meant]
    changes = Changes(standing_of_subjects(cursor, map(str, names)))
    granted = granted_of(cursor, names) if rule.kind == "balance" else {}
    for quota, row in meant:
        value, base = row.balance, 0
        if rule.kind == "balance":
            known = granted[quota]
            if not known.is_granted:
                continue
            base = known.counting
        if rule.kind == "shortfall":
            continue  # no state tells of it: what was not paid, and was told of, is over
        value = row.debt if rule.kind == "debt" else row.balance
        crossing = limits.crossed(value, base)
        if rule.kind == "frozen":
            crossing = Crossing(CRITICAL, 1) if row.frozen else None
        subject = Subject(str(quota), *_parts(quota))
        changes.meet(rule, subject, crossing, now, channels, value=value)
    write_changes(cursor, changes)


def _read_page(connection: Connection, rule: AlertRule, shard: int, after: QuotaName) -> list[Any]:
    asked = {
        "shard": shard,
        "after_account": after.account,
        "after_type": after.quota_type,
        "limit": PAGE,
    }
    scope = ""
    if rule.account is not None:
        scope = "AND account = :account"
        asked["account"] = rule.account
        if rule.subtree:
            scope = "AND account >= :account AND account < :end"
            asked["end"] = bounds_below(rule.account)[1]
    return list(connection.execute(text(_QUOTAS.format(scope=scope)), asked))


def _parts(quota: QuotaName) -> tuple[str, str]:
    return quota.account, quota.quota_type


def _cursor(connection: Connection) -> psycopg.Cursor[Any]:
    driver: Any = connection.connection.driver_connection
    cursor: psycopg.Cursor[Any] = driver.cursor()
    return cursor
