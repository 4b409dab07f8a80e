"""
Refunds as intents: how much of a call may still be given back, and to which grants.

Decided here, under a lock per charge, so that all refunds together never give back more than was
taken; then applied in Redis by the refund's id. The persister marks it applied.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select

from quota_engine.commands.refunds import (
    RecordedRefund,
    Refund,
    RefundRequest,
    ids_elsewhere,
)
from quota_engine.corrections import SETTLED_TO
from quota_engine.errors import (
    IdempotencyConflictError,
    InvalidAmountError,
    OperationNotFoundError,
)
from quota_engine.events import CHARGES
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from quota_engine.ledger.charges import SUFFIXES, call_of, charges_of_call, entry_of
from quota_engine.ledger.dealing import Paid, deal, paid_for, parts_in
from quota_engine.ledger.locks import lock_named
from quota_engine.ledger.snapshots import find_operation


def record_refunds(
    connection: Connection, requests: Sequence[RefundRequest]
) -> list[RecordedRefund]:
    """
    Promise a refund in each quota that its call charged; return what is recorded, and what is new.

    Raises ``InvalidAmountError`` for more than any of them has left of the charge,
    ``IdempotencyConflictError`` for a refund id that was used for something else. A share is left
    out where the call charged nothing.
    """
    charged = _charged(connection, requests)
    locks = {f"call:{one.quota}|{call_of(charge.operation_id)[0]}" for one, charge in charged}
    locks |= {f"refund:{one.quota}|{one.refund_id}" for one, _ in charged}
    for name in sorted(locks):
        lock_named(connection, name)
    known = [_recorded(connection, request) for request, _ in charged]
    paid = [paid_for(connection, one.quota, charge.operation_id) for one, charge in charged]
    amount = known[0].command.amount if known[0] else _amount(requests[0], paid)
    return [
        recorded or _promised(connection, request, charge, part, amount)
        for recorded, (request, charge), part in zip(known, charged, paid, strict=True)
    ]


def _charged(
    connection: Connection, requests: Sequence[RefundRequest]
) -> list[tuple[RefundRequest, Row[Any]]]:
    """Return the charge of each request; raise where a quota that must have one has none."""
    found = []
    for request in requests:
        charge = entry_of(connection, request.quota, request.operation_id)
        if request.settled is not None and charge is None:  # another of its charges may be there
            others = charges_of_call(connection, request.quota, request.operation_id)
            charge = others[-1] if others else None
        if charge is not None and charge.kind in CHARGES:
            found.append((request, charge))
        elif not request.is_share:
            raise OperationNotFoundError(
                f"{request.quota} has no charge by the operation id {request.operation_id}"
            )
    return found


def _amount(request: RefundRequest, paid: Sequence[Paid]) -> int:
    """Return how many units come back: at most what any of the quotas has left of the call."""
    left, asked = max(one.left for one in paid), request.amount
    if asked is not None and (request.settled is not None or asked <= left):
        return asked
    if asked is None and left:
        return left
    collected = max(one.collected for one in paid)
    wanted = "" if asked is None else f", not {asked}"
    raise InvalidAmountError(
        f"{left} of the {collected} units that {request.operation_id} took can be given back"
        f"{wanted}"
    )


def _promised(
    connection: Connection, request: RefundRequest, charge: Row[Any], paid: Paid, amount: int
) -> RecordedRefund:
    command = Refund(
        quota=request.quota,
        refund_id=request.refund_id,
        charge_id=charge.operation_id,
        amount=amount,
        parts=deal(connection, request, paid, amount),
        grace_ms=request.grace_ms,
        details=request.details,
    )
    connection.execute(
        insert(tables.refunds).values(
            **asdict(command.quota),
            refund_id=command.refund_id,
            operation_id=command.charge_id,
            amount=amount,
            parts=json.dumps([part.words() for part in command.parts]),
            grace_ms=command.grace_ms,
            details=command.details,
            intended_at=func.clock_timestamp(),
        )
    )
    return RecordedRefund(command=command, is_new=True, applied=None)


def withdraw_refund(connection: Connection, quota: QuotaName, refund_id: str) -> None:
    """Forget the promise of a refund and those above that came of it, unless it was kept."""
    table = tables.refunds
    is_open = table.c.applied_version.is_(None)
    charge_id = connection.execute(
        delete(table)
        .where(*_of(quota), table.c.refund_id == refund_id, is_open)
        .returning(table.c.operation_id)
    ).scalar()
    if charge_id is None:
        return
    connection.execute(
        delete(table).where(
            table.c.quota_type == quota.quota_type,
            table.c.refund_id.in_(ids_elsewhere(quota, refund_id, charge_id)),
            is_open,
        )
    )


def open_refunds(connection: Connection, older_than: timedelta, limit: int) -> list[Refund]:
    """Return promised refunds that nobody has applied for at least ``older_than``."""
    table = tables.refunds
    rows = connection.execute(
        select(table)
        .where(table.c.applied_version.is_(None), table.c.intended_at <= func.now() - older_than)
        .order_by(table.c.intended_at)
        .limit(limit)
    )
    return [_command(row) for row in rows]


def _recorded(connection: Connection, request: RefundRequest) -> RecordedRefund | None:
    table = tables.refunds
    row = connection.execute(
        select(table).where(*_of(request.quota), table.c.refund_id == request.refund_id)
    ).one_or_none()
    if row is None:
        return None
    command, applied = _command(row), None
    if row.applied_version is not None:
        applied = find_operation(connection, request.quota, request.refund_id)
    asked = replace(command, grace_ms=request.grace_ms)
    # A ledger that lost commits is fed the entry again: of the grace it has a fingerprint alone.
    has_grace = asked == command or (applied and applied.fingerprint == asked.fingerprint)
    if request.settled is not None:  # to what the call is settled belongs to it
        is_same = _settled_to(row.details) == _settled_to(request.details)
    else:
        is_same = row.operation_id in {request.operation_id + suffix for suffix in SUFFIXES}
    is_same &= request.is_share or request.amount in {None, row.amount}
    if not (is_same and has_grace):
        raise IdempotencyConflictError(
            f"refund {request.refund_id} was made before with other arguments"
        )
    return RecordedRefund(command=command, is_new=False, applied=applied)


def _command(row: Row[Any]) -> Refund:
    return Refund(
        quota=QuotaName(row.account, row.quota_type),
        refund_id=row.refund_id,
        charge_id=row.operation_id,
        amount=row.amount,
        parts=parts_in(row.parts),
        grace_ms=row.grace_ms,
        details=row.details,
    )


def _of(quota: QuotaName) -> Sequence[Any]:
    columns = tables.refunds.c
    return (columns.account == quota.account, columns.quota_type == quota.quota_type)


def _settled_to(details: str) -> Any:
    return json.loads(details).get(SETTLED_TO) if details else None
