"""
Refunds as intents: how much of a charge may still be given back, and to which grants.

Decided here, under a lock per charge, so that all refunds together never give back more than was
taken; then applied in Redis by the refund's id. The persister marks it applied.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, text

from quota_engine.commands.charges import ChargeEntry, ChargeFate
from quota_engine.commands.refunds import (
    CALLER,
    RecordedRefund,
    Refund,
    RefundPart,
    RefundRequest,
    ids_elsewhere,
)
from quota_engine.corrections import CORRECTION
from quota_engine.errors import (
    IdempotencyConflictError,
    InvalidAmountError,
    OperationNotFoundError,
)
from quota_engine.events import CHARGES, TELL_USAGE, parse_movements
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from quota_engine.ledger.locks import lock_named
from quota_engine.ledger.snapshots import find_operation
from quota_engine.payers import payer_in

#: What a caller may name instead of a charge: the hold that was captured or released.
SUFFIXES = ("", ":capture", ":release")

# What counted in limits alone has collected nothing. What corrections give back is not summed here
# but told by their entries: of a promise alone, who tries again would find nothing left to do.
_CHARGES = text("""
SELECT e.operation_id, e.kind, e.at_ms, e.amount,
    CASE WHEN e.flags LIKE '%counted%' THEN e.amount ELSE e.shortfall END AS shortfall,
    e.details, e.movements, e.flags, e.subject,
    coalesce((
        SELECT sum(r.amount) FROM refunds r
        WHERE r.account = e.account AND r.quota_type = e.quota_type
            AND r.operation_id = e.operation_id
            AND NOT starts_with(r.refund_id, split_part(e.operation_id, :mark, 1) || :mark)
            AND NOT starts_with(r.refund_id, split_part(
                regexp_replace(e.operation_id, :caller, ''), :mark, 1
            ) || :mark)
    ), 0) AS refunded
FROM ledger_entries e
WHERE e.account = :account AND e.quota_type = :quota_type AND e.duplicate_of IS NULL
    AND (e.operation_id = ANY(:ids) OR e.operation_id >= :first AND e.operation_id < :last)
ORDER BY e.version
""")

_HEAD = text("SELECT version FROM quotas WHERE account = :account AND quota_type = :quota_type")


def find_charge(connection: Connection, quota: QuotaName, operation_id: str) -> ChargeFate:
    """Return a charge (or an entry that tells of a call's usage) and its corrections."""
    head = connection.execute(_HEAD, asdict(quota)).scalar() or 0
    main = _entry_of(connection, quota, operation_id)
    if main is None:
        return ChargeFate(version=head)
    place = f"{main.operation_id}{CORRECTION}"
    corrections = _charges(connection, quota, first=place, last=f"{place[:-1]};")
    return ChargeFate(
        version=head,
        charge=_charge_entry(main),
        corrections=tuple(_charge_entry(row) for row in sorted(corrections, key=_number)),
    )


def _charges(
    connection: Connection,
    quota: QuotaName,
    *,
    ids: Sequence[str] = (),
    first: str = "",
    last: str = "",
) -> Sequence[Row[Any]]:
    asked = {"ids": list(ids), "first": first, "last": last}
    marks = {"mark": CORRECTION, "caller": CALLER.pattern}
    return connection.execute(_CHARGES, {**asdict(quota), **asked, **marks}).all()


_CALLED = text("""
SELECT DISTINCT account, quota_type FROM usage_records WHERE operation_id = ANY(:ids)
""")


def quotas_of_call(connection: Connection, operation_id: str) -> list[QuotaName]:
    """Return the quotas in which a call left a usage record, by its operation or hold id."""
    ids = [operation_id + suffix for suffix in SUFFIXES]
    rows = connection.execute(_CALLED, {"ids": ids})
    return [QuotaName(row.account, row.quota_type) for row in rows]


_BESIDE = text("""
SELECT e.quota_type FROM quotas q JOIN ledger_entries e
    ON (e.account, e.quota_type) = (q.account, q.quota_type)
WHERE q.account = :account AND q.quota_type <> :quota_type AND e.operation_id = :operation_id
    AND e.kind = ANY(:kinds) AND e.duplicate_of IS NULL
    AND nullif(e.details, '')::json ->> 'account' = q.account
    AND nullif(e.details, '')::json ->> 'quota_type' = :quota_type
ORDER BY e.quota_type
""")


def quotas_beside(connection: Connection, quota: QuotaName, operation_id: str) -> list[QuotaName]:
    """Return which further quota types of its account a call took in the same step."""
    asked = {**asdict(quota), "operation_id": operation_id, "kinds": list(TELL_USAGE)}
    return [QuotaName(quota.account, row.quota_type) for row in connection.execute(_BESIDE, asked)]


def record_refund(connection: Connection, request: RefundRequest) -> RecordedRefund | None:
    """
    Promise a refund; return it as it is recorded, and whether that is new.

    Raises ``InvalidAmountError`` for more than is left of the charge, ``IdempotencyConflictError``
    for a refund id that was used for something else. None: there is nothing to give back of what
    a call charged elsewhere (``is_share``).
    """
    quota = request.quota
    if (known := _recorded(connection, request)) is not None:
        return known
    charge = _entry_of(connection, quota, request.operation_id)
    if charge is None or charge.kind not in CHARGES:
        if request.is_share:
            return None
        raise OperationNotFoundError(
            f"{quota} has no charge by the operation id {request.operation_id}"
        )
    lock_named(connection, f"charge:{quota}|{charge.operation_id}")
    if (known := _recorded(connection, request)) is not None:
        return known
    dealt = _dealt(connection, request, charge)
    if dealt is None:
        return None
    amount, parts = dealt
    command = Refund(
        quota=quota,
        refund_id=request.refund_id,
        charge_id=charge.operation_id,
        amount=amount,
        parts=parts,
        grace_ms=request.grace_ms,
        details=request.details,
    )
    connection.execute(
        insert(tables.refunds).values(
            **asdict(quota),
            refund_id=command.refund_id,
            operation_id=command.charge_id,
            amount=amount,
            parts=json.dumps([part.words() for part in parts]),
            grace_ms=command.grace_ms,
            details=command.details,
            intended_at=func.clock_timestamp(),
        )
    )
    return RecordedRefund(command=command, is_new=True, applied=None)


def _dealt(
    connection: Connection, request: RefundRequest, charge: Row[Any]
) -> tuple[int, tuple[RefundPart, ...]] | None:
    """Return how much of a charge is given back, to which grants; None: of a share, nothing."""
    if request.paid_by is not None and request.amount is not None:
        return request.amount, (RefundPart.counted(request.paid_by, request.amount),)
    quota, table = request.quota, tables.refunds
    earlier = connection.execute(
        select(table).where(*_of(quota), table.c.operation_id == charge.operation_id)
    ).all()
    left = charge.amount - charge.shortfall - sum(row.amount for row in earlier)
    amount = left if request.amount is None else request.amount
    if request.is_share:
        amount = min(amount, left)
        if amount <= 0:
            return None
    if not 0 < amount <= left:
        collected = charge.amount - charge.shortfall
        raise InvalidAmountError(
            f"{left} of the {collected} units that {charge.operation_id} took can be given back,"
            f" not {amount}"
        )
    taken = _left_of_parts(charge, earlier)
    rest = amount - min(amount, left - sum(taken.values()))
    return amount, _parts(connection, quota, taken, rest)


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
    is_same = row.operation_id in {request.operation_id + suffix for suffix in SUFFIXES} and (
        request.is_share or request.amount in {None, row.amount}
    )
    if not (is_same and has_grace):
        raise IdempotencyConflictError(
            f"refund {request.refund_id} was made before with other arguments"
        )
    return RecordedRefund(command=command, is_new=False, applied=applied)


def _entry_of(connection: Connection, quota: QuotaName, operation_id: str) -> Row[Any] | None:
    """Return the entry that an operation id names: a charge, or the end of a hold."""
    ids = [operation_id + suffix for suffix in SUFFIXES]
    rows = _charges(connection, quota, ids=ids)
    found = {row.operation_id: row for row in rows if row.kind in TELL_USAGE}
    return next((found[id_] for id_ in ids if id_ in found), None)


def _left_of_parts(charge: Row[Any], earlier: Iterable[Row[Any]]) -> dict[str, int]:
    """Return what is left of each grant's part of a charge, first taken first."""
    taken = {
        move.grant_id: move.consumed
        for move in parse_movements(charge.movements)
        if move.consumed > 0
    }
    for refund in earlier:
        for grant_id, units, *_ in json.loads(refund.parts):
            taken[grant_id] = taken.get(grant_id, 0) - int(units)
    return {grant_id: units for grant_id, units in taken.items() if units > 0}


def _parts(
    connection: Connection, quota: QuotaName, taken: dict[str, int], amount: int
) -> tuple[RefundPart, ...]:
    """Deal ``amount`` to the grants it was taken from, last taken first, with their terms."""
    dealt: list[tuple[str, int]] = []
    for grant_id, units in reversed(taken.items()):
        part = min(units, amount)
        amount -= part
        if part:
            dealt.append((grant_id, part))
    table = tables.grants
    rows = connection.execute(
        select(table).where(*_of(quota, table), table.c.grant_id.in_([one for one, _ in dealt]))
    )
    terms: dict[str, Any] = {row.grant_id: row for row in rows}
    return tuple(RefundPart.of(terms[grant_id], units) for grant_id, units in dealt)


def _command(row: Row[Any]) -> Refund:
    return Refund(
        quota=QuotaName(row.account, row.quota_type),
        refund_id=row.refund_id,
        charge_id=row.operation_id,
        amount=row.amount,
        parts=tuple(
            RefundPart(grant_id, *map(int, numbers))
            for grant_id, *numbers in json.loads(row.parts)
        ),
        grace_ms=row.grace_ms,
        details=row.details,
    )


def _charge_entry(row: Row[Any]) -> ChargeEntry:
    details = json.loads(row.details) if row.details else {}
    usage = details.get("usage")
    return ChargeEntry(
        operation_id=row.operation_id,
        kind=row.kind,
        at_ms=row.at_ms,
        amount=row.amount,
        shortfall=row.shortfall,
        refunded=int(row.refunded),
        usage=usage if isinstance(usage, dict) else {},
        paid_by=payer_in(row.flags),
        subject=row.subject,
        called_by=details.get("account"),
        first_type=details.get("quota_type"),
    )


def _number(row: Row[Any]) -> tuple[int, str]:
    number = row.operation_id.rpartition(":")[2]
    return (int(number) if number.isdecimal() else 0, row.operation_id)


def _of(quota: QuotaName, table: Any = None) -> Sequence[Any]:
    columns = (tables.refunds if table is None else table).c
    return (columns.account == quota.account, columns.quota_type == quota.quota_type)
