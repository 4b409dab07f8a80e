"""
Writing a batch: rows by COPY, changed state by one statement per table.

Entries are inserted plainly: a conflict is a bug, and must be loud, never skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import psycopg

from quota_engine.chain import Grant, Hold, Misfit, QuotaLog
from quota_engine.commands.refunds import RefundPart
from quota_engine.events import QUOTA_REFUNDED, Entry, movements_text, unreturned_in
from quota_engine.keys import QuotaName
from quota_engine.ledger.arrays import columns
from quota_engine.ledger.incoming import Details, Incoming, details_of
from quota_engine.ledger.usage_records import TOLD_COLUMNS, columns_told_by
from quota_engine.limits import limits_text

Cursor = psycopg.Cursor[Any]
#: An entry with what is known of it beside its text: the version it repeats, and its details.
Recorded = tuple[Incoming, int | None, Details]

_COPY_ENTRIES = """
COPY ledger_entries (
    account, quota_type, version, format, kind, at_ms, operation_id, fingerprint, amount, delta,
    held_delta, balance_after, held_after, debt_after, shortfall, subject, flags, terms, movements,
    details, chain, event_id, duplicate_of, late, reference, recorded_at
) FROM STDIN
"""

_COPY_USAGE = f"""
COPY usage_records (
    account, quota_type, version, operation_id, amount, shortfall, late, usage, at_ms,
    recorded_at, {", ".join(TOLD_COLUMNS)}
) FROM STDIN
"""

_COPY_QUARANTINE = """
COPY quarantine (
    shard, event_id, quota, raw_entry, raw_chain, cause, reason, created_at, kind, operation_id
) FROM STDIN
"""

_HEADS = """
INSERT INTO quotas (
    account, quota_type, version, chain, balance, held, debt, overdraft_limit, frozen,
    limits, last_count_ms, shard, updated_at
)
SELECT n.*, %s, %s
FROM unnest(
    %s::text[], %s::text[], %s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[],
    %s::bigint[], %s::text[], %s::text[], %s::bigint[]
) AS n
ON CONFLICT (account, quota_type) DO UPDATE SET
    version = excluded.version, chain = excluded.chain, balance = excluded.balance,
    held = excluded.held, debt = excluded.debt, overdraft_limit = excluded.overdraft_limit,
    frozen = excluded.frozen, limits = excluded.limits,
    last_count_ms = excluded.last_count_ms, updated_at = excluded.updated_at
"""

_HOLDS = """
INSERT INTO holds (
    account, quota_type, hold_id, state, amount, expires_at_ms, placed_version, closed_version,
    allocations, counts_at_ms, is_counted, paid_by
)
SELECT n.account, n.quota_type, n.hold_id, n.state, n.amount, n.expires_at_ms, n.placed_version,
    n.closed_version, n.allocations::json, n.counts_at_ms, n.is_counted, n.paid_by
FROM unnest(
    %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[],
    %s::bigint[], %s::text[], %s::bigint[], %s::boolean[], %s::text[]
) AS n (
    account, quota_type, hold_id, state, amount, expires_at_ms, placed_version, closed_version,
    allocations, counts_at_ms, is_counted, paid_by
)
ON CONFLICT (account, quota_type, hold_id) DO UPDATE SET
    state = excluded.state, amount = excluded.amount, allocations = excluded.allocations,
    expires_at_ms = excluded.expires_at_ms, placed_version = excluded.placed_version,
    closed_version = excluded.closed_version, counts_at_ms = excluded.counts_at_ms,
    is_counted = excluded.is_counted, paid_by = excluded.paid_by
"""

# A grant that was promised keeps its promise's details until its entry brings them.
_GRANTS = """
INSERT INTO grants (
    account, quota_type, grant_id, state, fingerprint, amount, remaining, reserved, priority,
    starts_at_ms, expires_at_ms, created_at_ms, applied_version, source, reference, description,
    details
)
SELECT n.* FROM unnest(
    %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[],
    %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
    %s::text[], %s::text[], %s::text[], %s::text[]
) AS n
ON CONFLICT (account, quota_type, grant_id) DO UPDATE SET
    state = excluded.state, fingerprint = excluded.fingerprint, amount = excluded.amount,
    remaining = excluded.remaining, reserved = excluded.reserved, priority = excluded.priority,
    starts_at_ms = excluded.starts_at_ms, expires_at_ms = excluded.expires_at_ms,
    created_at_ms = excluded.created_at_ms, applied_version = excluded.applied_version,
    source = coalesce(excluded.source, grants.source),
    reference = coalesce(excluded.reference, grants.reference),
    description = coalesce(excluded.description, grants.description),
    details = CASE WHEN excluded.details = '' THEN grants.details ELSE excluded.details END
"""


_REFUNDS = """
INSERT INTO refunds (
    account, quota_type, refund_id, operation_id, amount, parts, applied_version,
    grace_ms, intended_at
)
SELECT n.*, 0, %s
FROM unnest(
    %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::bigint[]
) AS n
ON CONFLICT (account, quota_type, refund_id) DO UPDATE SET
    applied_version = excluded.applied_version
"""


def write_entries(
    cursor: Cursor,
    rows: Sequence[Recorded],
    recorded_at: datetime,
    reach: Callable[[str], None],
) -> None:
    """Append entries to the ledger."""
    with cursor.copy(_COPY_ENTRIES) as copy:
        for number, row in enumerate(rows):
            copy.write_row(_entry_row(row, recorded_at))
            if number == len(rows) // 2:
                reach("in_copy")


def _entry_row(row: Recorded, recorded_at: datetime) -> Sequence[Any]:
    incoming, duplicate_of, details = row
    entry, name = incoming.entry, incoming.quota
    assert entry is not None
    assert name is not None
    return (
        name.account,
        name.quota_type,
        entry.version,
        entry.format,
        entry.kind,
        entry.at_ms,
        entry.operation_id,
        entry.fingerprint,
        entry.amount,
        entry.delta,
        entry.held_delta,
        entry.balance,
        entry.held,
        entry.debt,
        entry.shortfall,
        entry.subject,
        entry.flags,
        entry.terms,
        movements_text(entry.movements),
        entry.details,
        incoming.chain,
        str(incoming.event.event_id),
        duplicate_of,
        "late" in entry.flags.split(),
        details.reference,
        recorded_at,
    )


def write_usage(cursor: Cursor, rows: Iterable[Recorded], recorded_at: datetime) -> None:
    """Keep what calls used, charged or not, one row per entry that says it."""
    used = [row for row in rows if row[2].usage is not None]
    if not used:
        return
    with cursor.copy(_COPY_USAGE) as copy:
        for incoming, _, details in used:
            entry, name = incoming.entry, incoming.quota
            assert entry is not None
            assert name is not None
            place = (name.account, name.quota_type, entry.version, entry.operation_id)
            late = "late" in entry.flags.split()
            rest = (entry.shortfall, late, details.usage, entry.at_ms, recorded_at)
            copy.write_row((*place, entry.charged, *rest, *columns_told_by(details.told)))


def write_refunds(cursor: Cursor, rows: Iterable[Recorded], recorded_at: datetime) -> None:
    """Mark refunds as applied; one that nobody promised here is kept all the same."""
    entries = [row[0].entry for row in rows if row[1] is None]
    refunds = [entry for entry in entries if entry and entry.kind == QUOTA_REFUNDED]
    told = [
        (
            entry.name.account,
            entry.name.quota_type,
            entry.operation_id,
            entry.subject,
            entry.amount,
            json.dumps([part.words() for part in _returned(entry)]),
            entry.version,
        )
        for entry in refunds
    ]
    if told:
        cursor.execute(_REFUNDS, (recorded_at, *columns(told, 7)))


def _returned(entry: Entry) -> list[RefundPart]:
    """Return what a refund gave, without the terms of grants: nobody will apply it again."""
    unreturned = unreturned_in(entry.flags, entry.amount)
    return [
        *([RefundPart.unreturned(unreturned)] if unreturned else []),
        *(RefundPart(move.grant_id, move.remaining, 0, 0, 0, 0) for move in entry.movements),
    ]


def write_quarantine(
    cursor: Cursor,
    shard: int,
    rows: Sequence[tuple[Incoming, Misfit]],
    created_at: datetime,
) -> None:
    """Keep the raw bytes of what did not fit, in order."""
    if not rows:
        return
    with cursor.copy(_COPY_QUARANTINE) as copy:
        for incoming, misfit in rows:
            event = incoming.event
            quota = None if incoming.quota is None else str(incoming.quota)
            told = (event.entry, event.chain, misfit.cause.value, misfit.reason, created_at)
            entry = incoming.entry
            known_by = (None, None) if entry is None else (entry.kind, entry.operation_id)
            copy.write_row((shard, str(event.event_id), quota, *told, *known_by))


def write_heads(
    cursor: Cursor, shard: int, logs: Iterable[QuotaLog], updated_at: datetime
) -> None:
    """Move the heads of quotas, and make those that are new."""
    rows = [
        (
            log.name.account,
            log.name.quota_type,
            log.version,
            log.chain,
            log.balance,
            log.held,
            log.debt,
            log.overdraft_limit,
            log.frozen,
            limits_text(log.limits),
            log.last_count_ms,
        )
        for log in logs
    ]
    if rows:
        cursor.execute(_HEADS, (shard, updated_at, *columns(rows, 11)))


def write_holds(cursor: Cursor, holds: Iterable[tuple[QuotaName, Hold]]) -> None:
    """Write holds as they are now."""
    rows = [
        (
            name.account,
            name.quota_type,
            hold.hold_id,
            hold.state,
            hold.amount,
            hold.expires_at_ms,
            hold.placed_version,
            hold.closed_version,
            json.dumps(hold.allocations) if hold.allocations else "[]",
            hold.counts_at_ms,
            hold.is_counted,
            hold.paid_by,
        )
        for name, hold in holds
    ]
    if rows:
        cursor.execute(_HOLDS, columns(rows, 12))


def write_grants(cursor: Cursor, grants: Iterable[tuple[QuotaName, Grant]]) -> None:
    """Write grants as they are now; an intent whose entry has come is one no longer."""
    rows = [
        (
            name.account,
            name.quota_type,
            grant.grant_id,
            grant.state,
            grant.fingerprint,
            grant.amount,
            grant.remaining,
            grant.reserved,
            grant.priority,
            grant.starts_at_ms,
            grant.expires_at_ms,
            grant.created_at_ms,
            grant.applied_version,
            *_words(grant),
        )
        for name, grant in grants
    ]
    if rows:
        cursor.execute(_GRANTS, columns(rows, 17))


def _words(grant: Grant) -> tuple[str | None, str | None, str | None, str]:
    if grant.issued_by is None:
        return None, None, None, ""
    details = details_of(grant.issued_by)
    return details.source, details.reference, details.description, grant.issued_by.details
