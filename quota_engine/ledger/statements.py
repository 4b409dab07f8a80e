"""
What is asked about an account's past: statements from the ledger's entries, and grants.

A statement needs to know where its period begins and ends in a log, and sums between.

A period is cut by places of the log, so a statement's closing is the next one's opening, whatever
the clocks did: an entry belongs to the period of the latest instant that any entry up to it tells.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, text

from quota_engine.history import HistoryEntry, history_entry
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName
from quota_engine.ledger import listing
from quota_engine.ledger.alerting import AlertTables
from quota_engine.ledger.history import read_last
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.limiting import LimitTables
from quota_engine.ledger.pooling import PoolTables
from quota_engine.ledger.reminders import ReminderTables
from quota_engine.ledger.reports import ReportTables
from quota_engine.listed import ListedGrant
from quota_engine.statements import Period, Place, Statement, Sum, statement_of

# The first entry of either instant or later begins what comes after it.
_EDGES = text("""
SELECT
    coalesce(min(version) FILTER (WHERE at_ms >= :since_ms), max(version) + 1, 1) AS first,
    coalesce(min(version) FILTER (WHERE at_ms >= :until_ms), max(version) + 1, 1) AS next,
    coalesce(max(at_ms), 0) AS last_at_ms,
    (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms
FROM ledger_entries
WHERE account = :account AND quota_type = :quota_type
""")

_SUMS = text("""
SELECT e.kind, g.source, count(*) AS entries, sum(e.delta) AS delta, sum(e.shortfall) AS shortfall
FROM ledger_entries e
LEFT JOIN grants g ON e.kind IN ('grant.issued', 'grant.started') AND g.account = e.account
    AND g.quota_type = e.quota_type AND g.grant_id = e.subject COLLATE "C"
WHERE e.account = :account AND e.quota_type = :quota_type
    AND e.version >= :first AND e.version < :next
GROUP BY e.kind, g.source
""")

_PLACE = text("""
SELECT balance_after, held_after, debt_after FROM ledger_entries
WHERE account = :account AND quota_type = :quota_type AND version = :version
""")

# A grant that starts later changes no balance when it is issued, nor when it ends before that.
_PENDING = text("""
SELECT coalesce(sum(CASE WHEN kind = 'grant.issued' THEN amount ELSE -amount END), 0)
FROM ledger_entries
WHERE account = :account AND quota_type = :quota_type AND version <= :version
    AND (kind IN ('grant.issued', 'grant.expired', 'grant.voided') AND delta = 0
        OR kind = 'grant.started')
""")


class StatementTables:
    """Statements from one ledger. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.reminders = ReminderTables(ledger)
        self.reports = ReportTables(ledger)
        self.pools = PoolTables(ledger)
        self.alerts = AlertTables(ledger)
        self.limits = LimitTables(ledger)

    def read_statement(self, quota: QuotaName, period: Period) -> Statement:
        """Return a quota's statement, as of one instant of the ledger."""
        with self._ledger.transaction() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            return _statement(connection, quota, period)

    def read_grants(self, quota: QuotaName) -> tuple[datetime, list[ListedGrant]]:
        """Return PostgreSQL's now, and every grant of a quota with the state it has there."""
        with self._ledger.transaction() as connection:
            now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            return now, listing.grants_of(connection, quota.account, quota.quota_type)

    def last_entries(self, quota: QuotaName, count: int) -> list[HistoryEntry]:
        """Return a quota's last entries, oldest first."""
        with self._ledger.transaction() as connection:
            found = read_last(connection, quota, count)
        return [
            history_entry(
                one.entry,
                one.chain,
                recorded_at=one.recorded_at,
                duplicate_of=one.duplicate_of,
            )
            for one in found
        ]

    def quota_types_of(self, account: str) -> list[str]:
        """Return the quota types that the ledger knows of an account."""
        with self._ledger.transaction() as connection:
            return listing.quota_types_of(connection, account)


def _statement(connection: Connection, quota: QuotaName, period: Period) -> Statement:
    name = {"account": quota.account, "quota_type": quota.quota_type}
    since_ms = 0 if period.since_ms is None else period.since_ms
    edges = connection.execute(
        _EDGES, {**name, "since_ms": since_ms, "until_ms": period.until_ms}
    ).one()
    until_ms = period.until_ms
    if until_ms is None:  # everything: so it ends after all that there is
        until_ms = max(edges.now_ms, edges.last_at_ms + 1)
    sums = [
        Sum(row.kind, row.source, row.entries, int(row.delta), int(row.shortfall))
        for row in connection.execute(_SUMS, {**name, "first": edges.first, "next": edges.next})
    ]
    ends = (_place(connection, name, edges.first - 1), _place(connection, name, edges.next - 1))
    since = None if period.since_ms is None else from_ms(period.since_ms)
    return statement_of(quota, (since, from_ms(until_ms)), ends, sums)


def _place(connection: Connection, name: dict[str, str], version: int) -> Place:
    """Return what a quota had after an entry; before the first one, nothing."""
    if version == 0:
        return Place()
    at = {**name, "version": version}
    row = connection.execute(_PLACE, at).one_or_none()
    if row is None:  # somebody took it away: the difference will show it
        return Place()
    pending = int(connection.execute(_PENDING, at).scalar_one())
    return Place(row.balance_after, row.held_after, row.debt_after, pending)
