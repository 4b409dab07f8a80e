"""
The quarantine and the repairs: what did not fit the ledger, and how it was mended.

Every function runs in the caller's transaction. This module must not know what becomes of an
entry: it keeps what was decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert

from quota_engine.keys import QuotaName
from quota_engine.ledger import tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """One message of an outbox that did not fit. ``quota`` None: none can be recognised."""

    id: int
    shard: int
    event_id: str
    quota: QuotaName | None
    raw_entry: bytes
    raw_chain: bytes
    cause: str
    reason: str
    created_at: datetime
    kind: str | None
    operation_id: str | None
    repair_id: str | None
    #: What became of it, by whom and when; None while nobody has decided.
    resolution: str | None
    resolved_by: str | None
    resolved_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt:
    """A quota that is frozen or has something in quarantine; ``quota`` None: the rest."""

    quota: QuotaName | None
    #: Why it is frozen; empty: it is not.
    frozen: str
    entries: int
    first_id: int | None
    last_id: int | None
    cause: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """One mending of a quota, from its decision to its entry ``quota.repaired``."""

    quota: QuotaName
    repair_id: str
    cause: str
    actor: str
    reason: str
    #: JSON of what Redis and the ledger said when it began.
    details: str
    begun_at: datetime
    finished_at: datetime | None


_IN_DOUBT = text("""
SELECT coalesce(w.quota, f.quota) AS quota, coalesce(f.frozen, '') AS frozen,
    coalesce(w.entries, 0) AS entries, w.first_id, w.last_id, w.cause,
    coalesce(w.since, f.updated_at) AS since
FROM (
    SELECT quota, count(*) AS entries, min(id) AS first_id, max(id) AS last_id,
        (array_agg(cause ORDER BY id))[1] AS cause, min(created_at) AS since
    FROM quarantine WHERE :with_resolved OR resolved_at IS NULL
    GROUP BY quota
) AS w
FULL JOIN (
    SELECT account || '|' || quota_type AS quota, frozen, updated_at
    FROM quotas WHERE frozen <> ''
) AS f ON f.quota = w.quota
ORDER BY quota NULLS LAST
""")

_OPERATIONS_KNOWN = text("""
SELECT operation_id FROM ledger_entries
WHERE account = :account AND quota_type = :quota_type AND duplicate_of IS NULL
    AND operation_id = ANY(CAST(:ids AS text[]))
""")

_LAST = text("""
SELECT coalesce(max(at_ms), 0) FROM ledger_entries
WHERE account = :account AND quota_type = :quota_type AND kind = :kind
""")

_ADOPT_DISCARDED = text("""
UPDATE quarantine SET repair_id = :repair_id
WHERE quota = :quota AND repair_id IS NULL AND resolved_at IS NOT NULL
""")


def in_doubt(connection: Connection, *, with_resolved: bool = False) -> list[InDoubt]:
    """Return every quota that is frozen or has something in quarantine."""
    return [
        InDoubt(
            quota=None if row.quota is None else QuotaName.parse(row.quota),
            frozen=row.frozen,
            entries=row.entries,
            first_id=row.first_id,
            last_id=row.last_id,
            cause=row.cause,
            since=row.since,
        )
        for row in connection.execute(_IN_DOUBT, {"with_resolved": with_resolved})
    ]


def entries_of(
    connection: Connection, quota: QuotaName, *, with_resolved: bool = False
) -> list[Quarantined]:
    """Return a quota's quarantined entries in their order; without those that are resolved."""
    table = tables.quarantine
    query = select(table).where(table.c.quota == str(quota)).order_by(table.c.id)
    if not with_resolved:
        query = query.where(table.c.resolved_at.is_(None))
    return [_quarantined(row) for row in connection.execute(query)]


def entries_of_repair(connection: Connection, repair: Repair) -> list[Quarantined]:
    """Return what a repair has taken up, in order."""
    table = tables.quarantine
    query = (
        select(table)
        .where(table.c.quota == str(repair.quota), table.c.repair_id == repair.repair_id)
        .order_by(table.c.id)
    )
    return [_quarantined(row) for row in connection.execute(query)]


def find_entry(connection: Connection, id_: int) -> Quarantined | None:
    """Return one quarantined entry, or None."""
    table = tables.quarantine
    row = connection.execute(select(table).where(table.c.id == id_)).one_or_none()
    return None if row is None else _quarantined(row)


def take_up(connection: Connection, ids: Sequence[int], repair_id: str) -> None:
    """Note which repair resolves these entries."""
    table = tables.quarantine
    connection.execute(update(table).where(table.c.id.in_(ids)).values(repair_id=repair_id))


def adopt_discarded(connection: Connection, repair: Repair) -> None:
    """Count entries of the quota that were resolved one by one to this repair."""
    asked = {"quota": str(repair.quota), "repair_id": repair.repair_id}
    connection.execute(_ADOPT_DISCARDED, asked)


def resolve(connection: Connection, id_: int, resolution: str, resolved_by: str) -> bool:
    """Note what became of an entry; return False if somebody has before."""
    table = tables.quarantine
    resolved = connection.execute(
        update(table)
        .where(table.c.id == id_, table.c.resolved_at.is_(None))
        .values(
            resolution=resolution,
            resolved_by=resolved_by,
            resolved_at=text("clock_timestamp()"),
        )
    )
    return resolved.rowcount > 0


def known_operations(connection: Connection, quota: QuotaName, ids: Sequence[str]) -> set[str]:
    """Return which of these operation ids the ledger has of a quota."""
    asked = {"account": quota.account, "quota_type": quota.quota_type, "ids": list(ids)}
    return set(connection.execute(_OPERATIONS_KNOWN, asked).scalars())


def last_at_ms(connection: Connection, quota: QuotaName, kind: str) -> int:
    """Return the instant of the last entry of a kind that the ledger has; 0: none."""
    asked = {"account": quota.account, "quota_type": quota.quota_type, "kind": kind}
    found: int = connection.execute(_LAST, asked).scalar_one()
    return found


def thaw(connection: Connection, quota: QuotaName) -> None:
    """Take the mark of a frozen quota away."""
    table = tables.quotas
    connection.execute(
        update(table)
        .where(table.c.account == quota.account, table.c.quota_type == quota.quota_type)
        .values(frozen="", updated_at=text("clock_timestamp()"))
    )


# -- repairs


def begin_repair(connection: Connection, quota: QuotaName, **facts: str) -> Repair:
    """
    Record that a repair begins: ``repair_id``, ``cause``, ``actor``, ``reason``, ``details``.

    One of the same id that was begun before begins anew.
    """
    table = tables.repairs
    named = {"account": quota.account, "quota_type": quota.quota_type}
    anew = {name: facts[name] for name in ("cause", "actor", "reason", "details")}
    statement = insert(table).values(**named, **facts)
    row = connection.execute(
        statement.on_conflict_do_update(
            index_elements=["account", "quota_type", "repair_id"],
            set_={**anew, "begun_at": text("clock_timestamp()"), "finished_at": None},
        ).returning(table)
    ).one()
    return _repair(row)


def end_repairs(connection: Connection, quota: QuotaName) -> None:
    """Record that no repair of a quota goes on, finished or not."""
    table = tables.repairs
    connection.execute(
        update(table)
        .where(
            table.c.account == quota.account,
            table.c.quota_type == quota.quota_type,
            table.c.finished_at.is_(None),
        )
        .values(finished_at=text("clock_timestamp()"))
    )


def withdraw_repair(connection: Connection, repair: Repair) -> None:
    """Forget a repair that was begun and came to nothing."""
    table = tables.repairs
    connection.execute(
        delete(table).where(
            table.c.account == repair.quota.account,
            table.c.quota_type == repair.quota.quota_type,
            table.c.repair_id == repair.repair_id,
            table.c.finished_at.is_(None),
        )
    )


def open_repairs(connection: Connection, quota: QuotaName | None = None) -> list[Repair]:
    """Return repairs that were begun and not finished, of one quota or all, oldest first."""
    table = tables.repairs
    query = select(table).where(table.c.finished_at.is_(None)).order_by(table.c.begun_at)
    if quota is not None:
        query = query.where(
            table.c.account == quota.account, table.c.quota_type == quota.quota_type
        )
    return [_repair(row) for row in connection.execute(query)]


def finish_repair(connection: Connection, repair: Repair) -> None:
    """Record that a repair is finished."""
    table = tables.repairs
    connection.execute(
        update(table)
        .where(
            table.c.account == repair.quota.account,
            table.c.quota_type == repair.quota.quota_type,
            table.c.repair_id == repair.repair_id,
            table.c.finished_at.is_(None),
        )
        .values(finished_at=text("clock_timestamp()"))
    )


def _repair(row: Row[Any]) -> Repair:
    return Repair(
        quota=QuotaName(row.account, row.quota_type),
        repair_id=row.repair_id,
        cause=row.cause,
        actor=row.actor,
        reason=row.reason,
        details=row.details,
        begun_at=row.begun_at,
        finished_at=row.finished_at,
    )


def _quarantined(row: Row[Any]) -> Quarantined:
    return Quarantined(
        id=row.id,
        shard=row.shard,
        event_id=row.event_id,
        quota=None if row.quota is None else QuotaName.parse(row.quota),
        raw_entry=bytes(row.raw_entry),
        raw_chain=bytes(row.raw_chain),
        cause=row.cause,
        reason=row.reason,
        created_at=row.created_at,
        kind=row.kind,
        operation_id=row.operation_id,
        repair_id=row.repair_id,
        resolution=row.resolution,
        resolved_by=row.resolved_by,
        resolved_at=row.resolved_at,
    )
