"""
Reading the log and its heads: histories, pages of quotas, and what is due.

Rows become the very entries they were persisted from: ``Entry.text()`` gives the same bytes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, select, text, tuple_

from quota_engine.events import Entry, EventId, parse_movements
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """An entry in the ledger. ``duplicate_of``: the version that used its operation id first."""

    entry: Entry
    chain: str
    event_id: EventId
    duplicate_of: int | None
    recorded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaHead:
    """Where a quota's log in the ledger has got to. ``overdraft_limit`` None: unlimited."""

    quota: QuotaName
    shard: int
    version: int
    chain: str
    balance: int
    held: int
    debt: int
    overdraft_limit: int | None
    frozen: str


# Frozen quotas take no changes; counted before the limit, they would starve the others.
_DUE = text("""
SELECT DISTINCT account, quota_type
FROM (
    (
        SELECT account, quota_type FROM grants JOIN quotas USING (account, quota_type)
        WHERE state = 'pending' AND starts_at_ms <= :now_ms AND frozen = ''
        ORDER BY starts_at_ms LIMIT :limit
    )
    UNION ALL
    (
        SELECT account, quota_type FROM grants JOIN quotas USING (account, quota_type)
        WHERE state = 'live' AND (remaining > 0 OR reserved > 0) AND expires_at_ms <= :now_ms
            AND frozen = ''
        ORDER BY expires_at_ms LIMIT :limit
    )
    UNION ALL
    (
        SELECT account, quota_type FROM holds JOIN quotas USING (account, quota_type)
        WHERE state = 'open' AND expires_at_ms <= :now_ms AND frozen = ''
        ORDER BY expires_at_ms LIMIT :limit
    )
) AS due
LIMIT :limit
""")


def recorded_entry(row: Row[tuple[object, ...]]) -> RecordedEntry:
    """Return the entry that a whole row of ``ledger_entries`` keeps."""
    return RecordedEntry(
        entry=Entry(
            format=row.format,
            kind=row.kind,
            quota=f"{row.account}|{row.quota_type}",
            version=row.version,
            at_ms=row.at_ms,
            operation_id=row.operation_id,
            fingerprint=row.fingerprint,
            amount=row.amount,
            delta=row.delta,
            held_delta=row.held_delta,
            balance=row.balance_after,
            held=row.held_after,
            debt=row.debt_after,
            shortfall=row.shortfall,
            subject=row.subject,
            flags=row.flags,
            terms=row.terms,
            movements=parse_movements(row.movements),
            details=row.details,
        ),
        chain=row.chain,
        event_id=EventId.parse(row.event_id),
        duplicate_of=row.duplicate_of,
        recorded_at=row.recorded_at,
    )


def read_last(connection: Connection, quota: QuotaName, count: int) -> list[RecordedEntry]:
    """Return a quota's last entries, oldest first."""
    table = tables.ledger_entries
    rows = connection.execute(
        select(table)
        .where(table.c.account == quota.account, table.c.quota_type == quota.quota_type)
        .order_by(table.c.version.desc())
        .limit(count)
    )
    return [recorded_entry(row) for row in reversed(rows.all())]


def read_history(
    connection: Connection, quota: QuotaName, after_version: int, limit: int | None
) -> list[RecordedEntry]:
    """Return a quota's entries after a version, oldest first."""
    table = tables.ledger_entries
    rows = connection.execute(
        select(table)
        .where(
            table.c.account == quota.account,
            table.c.quota_type == quota.quota_type,
            table.c.version > after_version,
        )
        .order_by(table.c.version)
        .limit(limit)
    )
    return [recorded_entry(row) for row in rows]


def read_heads(
    connection: Connection, *, shard: int | None, after: QuotaName | None, limit: int
) -> list[QuotaHead]:
    """Return a page of heads in the order of (account, quota type), beginning after ``after``."""
    table = tables.quotas
    query = select(table).order_by(table.c.account, table.c.quota_type).limit(limit)
    if shard is not None:
        query = query.where(table.c.shard == shard)
    if after is not None:
        place = tuple_(table.c.account, table.c.quota_type)
        query = query.where(place > tuple_(after.account, after.quota_type))
    return [quota_head(row) for row in connection.execute(query)]


def quota_head(row: Row[tuple[object, ...]]) -> QuotaHead:
    """Return the head that a whole row of ``quotas`` keeps."""
    return QuotaHead(
        quota=QuotaName(row.account, row.quota_type),
        shard=row.shard,
        version=row.version,
        chain=row.chain,
        balance=row.balance,
        held=row.held,
        debt=row.debt,
        overdraft_limit=row.overdraft_limit,
        frozen=row.frozen,
    )


def quotas_with_due_changes(connection: Connection, now_ms: int, limit: int) -> list[QuotaName]:
    """Return quotas of which a grant begins or ends, or a hold expires, by ``now_ms``."""
    rows = connection.execute(_DUE, {"now_ms": now_ms, "limit": limit})
    return [QuotaName(row.account, row.quota_type) for row in rows]
