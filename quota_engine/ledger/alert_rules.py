"""
Rules and channels of alerts: changed one after the other, and known to every persister in time.

A change is committed first, and then every shard's row is told its revision. A persister reads
that with the lock of the row, and reads the rules again where it knows older ones: so whoever
persists after a shard was told judges by the change, and whoever looks at a shard's quotas after
that misses nothing in between.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as insert_or

from quota_engine.alerts.channels import WEBHOOK, ChannelTerms, new_secret, shown_target
from quota_engine.alerts.rules import AlertChange, AlertRule, By, RuleTerms
from quota_engine.alerts.watching import RuleBook
from quota_engine.ledger.alert_tables import alert_changes, alert_channels, alert_rules
from quota_engine.ledger.locks import lock_named

#: Rules and channels are changed by one at a time: revisions are in the order of commits.
LOCK = "alert_rules"
RULE, CHANNEL = "rule", "channel"
DEFINED, CHANGED, REMOVED, ADDED = "defined", "changed", "removed", "added"

_TELL = text("""
UPDATE shards SET rules_revision = :revision WHERE shard = :shard AND rules_revision < :revision
""")
_DEAD = text("""
UPDATE alert_deliveries SET state = 'dead', ended_at = clock_timestamp(),
    error = 'the channel was removed'
WHERE channel = :channel AND state = 'pending'
""")


class KnownRules:
    """The rules as one process read them last. Safe in threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._book = RuleBook(0, (), ())

    def book(self, connection: Connection, revision: int) -> RuleBook:
        """Return the rules of a revision that a shard was told, or newer ones."""
        with self._lock:
            if revision > self._book.revision:
                self._book = read_book(connection, revision)
            return self._book


def read_book(connection: Connection, revision: int) -> RuleBook:
    """Return all rules, and the channels that there are."""
    return RuleBook(revision, read_rules(connection), channel_names(connection))


def read_rules(connection: Connection) -> list[AlertRule]:
    """Return every rule, by name."""
    asked = select(alert_rules).order_by(alert_rules.c.name)
    return [rule_of(row) for row in connection.execute(asked)]


def find_rule(connection: Connection, name: str) -> AlertRule | None:
    """Return a rule, or None."""
    asked = select(alert_rules).where(alert_rules.c.name == name)
    row = connection.execute(asked).one_or_none()
    return None if row is None else rule_of(row)


def channel_names(connection: Connection) -> list[str]:
    """Return the names of all channels."""
    asked = select(alert_channels.c.name).order_by(alert_channels.c.name)
    return list(connection.execute(asked).scalars())


def put_rule(
    connection: Connection, name: str, terms: RuleTerms, by: By
) -> tuple[AlertRule, bool]:
    """Make or change a rule; return it, and whether anything changed."""
    lock_named(connection, LOCK)
    known = find_rule(connection, name)
    if known is not None and known.terms == terms:
        return known, False
    action = DEFINED if known is None else CHANGED
    said = asdict(terms)
    revision = _record(connection, (RULE, name), action, said, by)
    values = {**said, "revision": revision, "scanned": 0, "changed_by": by.operator}
    values["changed_at"] = text("clock_timestamp()")
    values["channels"] = None if terms.channels is None else list(terms.channels)
    connection.execute(
        insert_or(alert_rules)
        .values(name=name, **values)
        .on_conflict_do_update(index_elements=["name"], set_=values)
    )
    made = find_rule(connection, name)
    assert made is not None
    return made, True


def drop_rule(connection: Connection, name: str, by: By) -> int | None:
    """Remove a rule; return the revision of that, or None where there is none."""
    lock_named(connection, LOCK)
    known = find_rule(connection, name)
    if known is None:
        return None
    connection.execute(delete(alert_rules).where(alert_rules.c.name == name))
    return _record(connection, (RULE, name), REMOVED, asdict(known.terms), by)


def put_channel(
    connection: Connection, name: str, terms: ChannelTerms, by: By
) -> tuple[bool, str | None]:
    """
    Make or change a channel; return whether anything changed, and a secret that was made up.

    A webhook without a secret keeps the one it has, or gets one.
    """
    lock_named(connection, LOCK)
    table, made_up = alert_channels, None
    row = connection.execute(select(table).where(table.c.name == name)).one_or_none()
    known = None if row is None else channel_terms(row)
    if terms.kind == WEBHOOK and terms.secret is None:
        made_up = None if known is not None and known.secret else new_secret()
        terms = replace(terms, secret=made_up or (None if known is None else known.secret))
    if known == terms:
        return False, None
    connection.execute(
        insert_or(table)
        .values(name=name, **asdict(terms))
        .on_conflict_do_update(index_elements=["name"], set_=asdict(terms))
    )
    action = ADDED if known is None else CHANGED
    _record(connection, (CHANNEL, name), action, _shown(terms), by)
    return True, made_up


def drop_channel(connection: Connection, name: str, by: By) -> int | None:
    """Remove a channel; what waits for it is dead. Return the revision, None: there is none."""
    lock_named(connection, LOCK)
    table = alert_channels
    row = connection.execute(
        delete(table).where(table.c.name == name).returning(table)
    ).one_or_none()
    if row is None:
        return None
    connection.execute(_DEAD, {"channel": name})
    return _record(connection, (CHANNEL, name), REMOVED, _shown(channel_terms(row)), by)


def tell_shard(connection: Connection, shard: int, revision: int) -> None:
    """Let whoever persists a shard from now on read the rules again."""
    connection.execute(_TELL, {"shard": shard, "revision": revision})


def mark_scanned(connection: Connection, rule: AlertRule) -> None:
    """Record that all there was when a rule was changed has been looked at."""
    columns = alert_rules.c
    connection.execute(
        update(alert_rules)
        .where(columns.name == rule.name, columns.revision == rule.revision)
        .values(scanned=rule.revision)
    )


def read_unscanned(connection: Connection) -> list[AlertRule]:
    """Return the rules of which not all that there is was looked at yet."""
    columns = alert_rules.c
    asked = select(alert_rules).where(columns.scanned < columns.revision).order_by(columns.name)
    return [rule_of(row) for row in connection.execute(asked)]


def read_changes(connection: Connection, what: str, name: str) -> list[AlertChange]:
    """Return the changes of a rule or channel, oldest first."""
    columns = alert_changes.c
    asked = select(alert_changes).where(columns.what == what, columns.name == name)
    return [
        AlertChange(**row._mapping) for row in connection.execute(asked.order_by(columns.revision))
    ]


def rule_of(row: Row[Any]) -> AlertRule:
    """Return a rule's row as a rule."""
    told = {name: getattr(row, name) for name in AlertRule.__slots__}
    told["channels"] = None if row.channels is None else tuple(row.channels)
    return AlertRule(**told)


def channel_terms(row: Row[Any]) -> ChannelTerms:
    """Return what a channel's row says, secret included: never to be shown."""
    return ChannelTerms(
        kind=row.kind, target=row.target, secret=row.secret, per_minute=row.per_minute
    )


def _shown(terms: ChannelTerms) -> dict[str, Any]:
    """Return what may be kept of a channel's terms in the history."""
    return {
        "kind": terms.kind,
        "target": shown_target(terms),
        "per_minute": terms.per_minute,
        "signed": terms.secret is not None,
    }


def _record(
    connection: Connection, what: tuple[str, str], action: str, terms: dict[str, Any], by: By
) -> int:
    recorded = connection.execute(
        insert(alert_changes)
        .values(what=what[0], name=what[1], action=action, terms=terms, **asdict(by))
        .returning(alert_changes.c.revision)
    )
    revision: int = recorded.scalar_one()
    return revision


def missing_channels(connection: Connection, names: Sequence[str]) -> list[str]:
    """Return those of some names that no channel has."""
    known = set(channel_names(connection))
    return [name for name in names if name not in known]
