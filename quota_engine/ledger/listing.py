"""
What a person asks the ledger for: an account's quota types and grants, holds that are open, and
what needs somebody's attention. Every function runs in the caller's transaction.

The ledger is a little behind Redis; who shows these rows lays what Redis says over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, select, text, union

from quota_engine.chain import OPEN
from quota_engine.instants import from_ms, from_ms_or_none
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from quota_engine.listed import ListedGrant


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedHold:
    """An open hold."""

    account: str
    quota_type: str
    hold_id: str
    amount: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """What the ledger has that somebody should look at."""

    #: Each frozen quota and why, the first few.
    frozen: tuple[tuple[QuotaName, str], ...]
    frozen_count: int
    #: Entries in quarantine that nobody has resolved.
    quarantined: int
    #: Grants promised more than a minute ago and not applied yet.
    intents: int
    #: Repairs begun more than a minute ago and not finished.
    repairs: int


_ATTENTION = text("""
SELECT
    (SELECT count(*) FROM quotas WHERE frozen <> '') AS frozen,
    (SELECT count(*) FROM quarantine WHERE resolved_at IS NULL) AS quarantined,
    (
        SELECT count(*) FROM grants
        WHERE state = 'intent' AND intended_at < clock_timestamp() - interval '1 minute'
    ) AS intents,
    (
        SELECT count(*) FROM repairs
        WHERE finished_at IS NULL AND begun_at < clock_timestamp() - interval '1 minute'
    ) AS repairs
""")


def quota_types_of(connection: Connection, account: str) -> list[str]:
    """Return the quota types that the ledger knows of an account, promised ones included."""
    either = union(
        *(
            select(table.c.quota_type).where(table.c.account == account)
            for table in (tables.quotas, tables.grants)
        )
    )
    return sorted(connection.execute(either).scalars())


def grants_of(connection: Connection, account: str, quota_type: str | None) -> list[ListedGrant]:
    """Return every grant of an account, or of one of its quotas, in the order of their making."""
    table = tables.grants
    query = select(table).where(*_of(table, account, quota_type))
    order = (table.c.quota_type, table.c.created_at_ms, table.c.grant_id)
    return [_grant(row) for row in connection.execute(query.order_by(*order))]


def open_holds(
    connection: Connection, account: str | None = None, quota_type: str | None = None
) -> list[ListedHold]:
    """Return the holds that the ledger knows as open, those that expire first first."""
    table = tables.holds
    query = select(table).where(table.c.state == OPEN, *_of(table, account, quota_type))
    order = (table.c.expires_at_ms, table.c.account, table.c.hold_id)
    return [
        ListedHold(
            account=row.account,
            quota_type=row.quota_type,
            hold_id=row.hold_id,
            amount=row.amount,
            expires_at=from_ms(row.expires_at_ms),
        )
        for row in connection.execute(query.order_by(*order))
    ]


def attention(connection: Connection, shown_max: int) -> Attention:
    """Return what needs somebody's attention, with at most ``shown_max`` frozen quotas."""
    counts = connection.execute(_ATTENTION).one()
    table = tables.quotas
    query = (
        select(table.c.account, table.c.quota_type, table.c.frozen)
        .where(table.c.frozen != "")
        .order_by(table.c.account, table.c.quota_type)
        .limit(shown_max)
    )
    frozen = () if not counts.frozen else tuple(connection.execute(query))
    return Attention(
        frozen=tuple((QuotaName(row.account, row.quota_type), row.frozen) for row in frozen),
        frozen_count=counts.frozen,
        quarantined=counts.quarantined,
        intents=counts.intents,
        repairs=counts.repairs,
    )


def _of(table: Table, account: str | None, quota_type: str | None) -> list[ColumnElement[bool]]:
    wanted = {"account": account, "quota_type": quota_type}
    return [table.c[name] == value for name, value in wanted.items() if value is not None]


def _grant(row: Any) -> ListedGrant:
    return ListedGrant(
        account=row.account,
        quota_type=row.quota_type,
        grant_id=row.grant_id,
        state=row.state,
        amount=row.amount,
        remaining=row.remaining,
        reserved=row.reserved,
        priority=row.priority,
        starts_at=from_ms(row.starts_at_ms) if row.starts_at_ms else None,
        expires_at=from_ms_or_none(row.expires_at_ms),
        source=row.source,
        reference=row.reference,
        description=row.description,
    )
