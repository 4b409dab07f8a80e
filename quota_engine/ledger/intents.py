"""
Grants as intents: promised here first, under a unique id, then applied in Redis by that id.

Whoever dies in between leaves the intent open, and somebody else applies it. The persister marks
it applied when the grant's entry arrives. This module must not know who promises, nor who applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Row, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from quota_engine.chain import INTENT
from quota_engine.commands.grants import GrantTerms, IssueGrant
from quota_engine.errors import IdempotencyConflictError
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from quota_engine.ledger.policies import refuse_closed


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantIntent:
    """
    A grant that was promised. ``details`` is the JSON that its entry carries or will carry.

    ``applied_version`` is the entry that issued it, None while it is open.
    """

    quota: QuotaName
    grant_id: str
    terms: GrantTerms
    details: str
    intended_at: datetime | None
    applied_version: int | None


def record_intent(
    connection: Connection, quota: QuotaName, grant_id: str, terms: GrantTerms, details: str
) -> tuple[GrantIntent, bool]:
    """
    Promise a grant; return it as it is recorded, and whether that is new.

    The same id with the same terms is recorded once. Raises ``IdempotencyConflictError`` for the
    same id with other terms, also when the grant was issued without an intent, and
    ``AccountClosedError`` for a new one to an account that is closed.
    """
    table = tables.grants
    inserted = connection.execute(
        insert(table)
        .values(**_values(quota, grant_id, terms, details), intended_at=func.clock_timestamp())
        .on_conflict_do_nothing()
        .returning(table.c.grant_id)
    ).one_or_none()
    row = connection.execute(
        select(table).where(
            table.c.account == quota.account,
            table.c.quota_type == quota.quota_type,
            table.c.grant_id == grant_id,
        )
    ).one()
    if row.fingerprint != terms.fingerprint:
        raise IdempotencyConflictError(f"grant {grant_id} exists with other terms")
    if inserted is not None:
        refuse_closed(connection, quota.account)
    return _intent(row), inserted is not None


def record_intents(connection: Connection, commands: Sequence[IssueGrant]) -> list[IssueGrant]:
    """
    Promise many grants in one statement, each once; return those that were not promised before.

    Meant for ids that nobody else makes: what an id was promised for before is not compared.
    """
    if not commands:
        return []
    table = tables.grants
    rows = [
        {
            **_values(command.quota, command.grant_id, command.terms, command.details),
            "intended_at": func.clock_timestamp(),
        }
        for command in commands
    ]
    made = connection.execute(
        insert(table)
        .values(rows)
        .on_conflict_do_nothing()
        .returning(table.c.account, table.c.quota_type, table.c.grant_id)
    )
    new = {tuple(row) for row in made}
    return [
        command
        for command in commands
        if (command.quota.account, command.quota.quota_type, command.grant_id) in new
    ]


def _values(quota: QuotaName, grant_id: str, terms: GrantTerms, details: str) -> dict[str, object]:
    return {
        "account": quota.account,
        "quota_type": quota.quota_type,
        "grant_id": grant_id,
        "state": INTENT,
        "fingerprint": terms.fingerprint,
        "amount": terms.amount,
        "remaining": 0,
        "reserved": 0,
        "priority": terms.priority,
        "starts_at_ms": terms.starts_at_ms,
        "expires_at_ms": terms.expires_at_ms,
        "created_at_ms": 0,
        "source": terms.source,
        "reference": terms.reference,
        "description": terms.description,
        "details": details,
    }


def find_intent(connection: Connection, quota: QuotaName, grant_id: str) -> GrantIntent | None:
    """Return a grant as it was promised or issued, or None where the ledger has none."""
    table = tables.grants
    row = connection.execute(
        select(table).where(
            table.c.account == quota.account,
            table.c.quota_type == quota.quota_type,
            table.c.grant_id == grant_id,
        )
    ).one_or_none()
    return None if row is None else _intent(row)


def withdraw_intent(connection: Connection, quota: QuotaName, grant_id: str) -> None:
    """Forget the promise of a grant, unless it was kept."""
    table = tables.grants
    connection.execute(
        delete(table).where(
            table.c.account == quota.account,
            table.c.quota_type == quota.quota_type,
            table.c.grant_id == grant_id,
            table.c.state == INTENT,
        )
    )


def open_intents(connection: Connection, older_than: timedelta, limit: int) -> list[GrantIntent]:
    """Return promised grants that nobody has applied for at least ``older_than``, oldest first."""
    table = tables.grants
    rows = connection.execute(
        select(table)
        .where(table.c.state == INTENT, table.c.intended_at <= func.now() - older_than)
        .order_by(table.c.intended_at)
        .limit(limit)
    )
    return [_intent(row) for row in rows]


def open_intents_of(connection: Connection, of: ColumnElement[bool]) -> list[GrantIntent]:
    """Return the promised grants that a condition holds for, and that nobody has applied."""
    table = tables.grants
    rows = connection.execute(select(table).where(table.c.state == INTENT, of))
    return [_intent(row) for row in rows]


def _intent(row: Row[tuple[object, ...]]) -> GrantIntent:
    return GrantIntent(
        quota=QuotaName(row.account, row.quota_type),
        grant_id=row.grant_id,
        terms=GrantTerms(
            amount=row.amount,
            source=row.source or "",
            reference=row.reference,
            description=row.description,
            priority=row.priority,
            starts_at_ms=row.starts_at_ms,
            expires_at_ms=row.expires_at_ms,
        ),
        details=row.details,
        intended_at=row.intended_at,
        applied_version=row.applied_version,
    )
