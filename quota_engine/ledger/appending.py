"""
Appending to the ledger: a batch of judged messages becomes rows, in a few statements.

The touched part of each quota's log is loaded, every entry is checked against it in memory, and
what fits is written. A quota whose entry does not fit is frozen, and that entry and all its later
ones are quarantined, in order; the others go on. The caller owns the transaction and the lock of
the shard's row, and moves the cursor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import Connection

from quota_engine import events, kinds
from quota_engine.alerts.watching import RuleBook, Watcher
from quota_engine.chain import Cause, Misfit, QuotaLog
from quota_engine.events import Entry
from quota_engine.keys import QuotaName
from quota_engine.ledger import writing
from quota_engine.ledger.alert_rules import read_book
from quota_engine.ledger.alert_writing import write_watched
from quota_engine.ledger.incoming import Details, Incoming, details_of
from quota_engine.ledger.loading import Named, load
from quota_engine.ledger.transfers import write_transfers
from quota_engine.ledger.window_counts import write_counts

log = logging.getLogger("quota_engine.alerts")

_NO_DETAILS = Details()


@dataclass(slots=True)
class Appended:
    """What became of a batch."""

    recorded: int = 0
    duplicates: int = 0
    quarantined: int = 0
    #: Quotas that had something quarantined, with the reason they are frozen for.
    frozen: dict[QuotaName, str] = field(default_factory=dict)


def append(
    connection: Connection,
    shard: int,
    batch: Sequence[Incoming],
    reach: Callable[[str], None] | None = None,
    *,
    rules: RuleBook | None = None,
) -> Appended:
    """
    Write a shard's messages, in outbox order, to the ledger or to the quarantine.

    ``reach`` is told the names of steps, for the fault tests. ``rules``: what alerts look at;
    None: as they are now.
    """
    if not batch:
        return Appended()
    if rules is None:
        rules = read_book(connection, 0)
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        work = _Batch(*load(cursor, batch), rules)
        for incoming in batch:
            work.take(incoming)
        work.write(cursor, shard, reach or (lambda step: None))
    return work.appended


class _Batch:
    """The logs that a batch touches, and what is to be written."""

    def __init__(
        self,
        logs: dict[QuotaName, QuotaLog],
        versions: dict[Named, int],
        rules: RuleBook,
    ) -> None:
        self.appended = Appended()
        self._watcher = Watcher(rules, logs) if rules.watches_quotas else None
        self._logs = logs
        self._versions = versions
        self._recorded: list[writing.Recorded] = []
        self._quarantined: list[tuple[Incoming, Misfit]] = []
        self._sent: list[Entry] = []
        self._limited: set[QuotaName] = set()
        self._touched_grants: set[tuple[QuotaName, str]] = set()
        self._touched_holds: set[tuple[QuotaName, str]] = set()

    def take(self, incoming: Incoming) -> None:
        """Check the next message against its quota's log, and move the log over it if it fits."""
        if incoming.quota is None:
            misfit = incoming.misfit
            assert misfit is not None
            self._quarantined.append((incoming, misfit))
            return
        log = self._logs[incoming.quota]
        misfit = self._misfit(log, incoming)
        if misfit is None:
            assert incoming.entry is not None
            self._extend(log, incoming, incoming.entry)
            return
        log.frozen = log.frozen or f"{misfit.cause}: {misfit.reason}"
        self.appended.frozen[log.name] = log.frozen
        self._quarantined.append((incoming, misfit))

    def _misfit(self, log: QuotaLog, incoming: Incoming) -> Misfit | None:
        if log.frozen:
            return Misfit(Cause.FROZEN, "it came after the quota was frozen")
        if incoming.entry is None:
            return incoming.misfit
        return kinds.misfit(log, incoming.entry, incoming.text, incoming.chain)

    def _extend(self, log: QuotaLog, incoming: Incoming, entry: Entry) -> None:
        kinds.apply(log, entry, incoming.chain)
        if self._watcher is not None:
            self._watcher.see(log, entry)
        name = log.name
        operation = (name.account, name.quota_type, entry.operation_id)
        first = self._versions.setdefault(operation, entry.version)
        duplicate_of = None if first == entry.version else first
        self.appended.duplicates += duplicate_of is not None
        if entry.kind == events.QUOTA_TRANSFERRED_OUT and duplicate_of is None:
            self._sent.append(entry)
        elif entry.kind == events.LIMIT_SET:
            self._limited.add(name)
        for move in entry.movements:
            self._touched_grants.add((name, move.grant_id))
        if entry.kind.startswith("hold."):
            self._touched_holds.add((name, entry.subject))
        elif entry.kind.startswith("grant."):
            self._touched_grants.add((name, entry.subject))
        details = details_of(entry)
        if entry.kind not in events.TELL_USAGE and details.usage is not None:
            details = Details(reference=details.reference)
        self._recorded.append((incoming, duplicate_of, details))

    def write(self, cursor: psycopg.Cursor[Any], shard: int, reach: Callable[[str], None]) -> None:
        """Write everything. The clock is asked after the outbox was read: entries are older."""
        now = _clock(cursor)
        writing.write_entries(cursor, self._recorded, now, reach)
        writing.write_usage(cursor, self._recorded, now)
        writing.write_refunds(cursor, self._recorded, now)
        write_transfers(cursor, self._sent, now)
        writing.write_quarantine(cursor, shard, self._quarantined, now)
        changed = {incoming.quota for incoming, _, _ in self._recorded} | set(self.appended.frozen)
        heads = [log for name, log in self._logs.items() if name in changed]
        writing.write_heads(cursor, shard, heads, now)
        write_counts(cursor, heads, self._limited)
        logs = self._logs
        grants = [(name, logs[name].grants[id_]) for name, id_ in self._touched_grants]
        writing.write_grants(cursor, grants)
        touched = ((name, logs[name].holds.get(id_)) for name, id_ in self._touched_holds)
        writing.write_holds(cursor, [(name, hold) for name, hold in touched if hold is not None])
        if self._watcher is not None:
            self._alert(cursor, self._watcher, now)
        self.appended.recorded = len(self._recorded)
        self.appended.quarantined = len(self._quarantined)

    def _alert(self, cursor: psycopg.Cursor[Any], watcher: Watcher, now: datetime) -> None:
        """Record what alerts the batch has brought. A mistake here keeps no entry from SQL."""
        for name in self.appended.frozen:
            watcher.see_frozen(self._logs[name], now)
        if not watcher.seen:
            return
        try:
            with cursor.connection.transaction():
                write_watched(cursor, watcher)
        except psycopg.OperationalError:
            raise
        except Exception:
            log.exception("what a batch of entries crossed cannot be told")


def _clock(cursor: psycopg.Cursor[Any]) -> datetime:
    row = cursor.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now
