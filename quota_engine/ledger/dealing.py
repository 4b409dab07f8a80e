"""
How much of a charge a quota gives back, and to which of its grants.

A gift returns what is asked, as far as the quota has collected it and not given it back yet. Who
settles a call anew asks all of its quotas for the same: each gives back what it has collected of
the call above what was used, and what it could not collect is not owed any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, select, text

from quota_engine.commands.refunds import RefundPart, RefundRequest, Settled
from quota_engine.corrections import CORRECTION
from quota_engine.events import parse_movements
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from quota_engine.ledger.charges import charges_by

_GIVEN = text("""
SELECT operation_id, amount, parts FROM refunds
WHERE account = :account AND quota_type = :quota_type AND operation_id = ANY(:ids)
    AND (:mark = '' OR starts_with(refund_id, :mark))
""")


def left_of(connection: Connection, quota: QuotaName, charge: Row[Any]) -> int:
    """Return how many units of a charge its quota can still give back."""
    earlier = _given(connection, quota, [charge.operation_id])
    return int(charge.amount - charge.shortfall - _units_of(earlier))


def deal(
    connection: Connection, request: RefundRequest, charge: Row[Any], amount: int
) -> tuple[RefundPart, ...]:
    """Return what a refund of ``amount`` units is in the request's quota."""
    if request.paid_by is not None:
        return (RefundPart.counted(request.paid_by, amount),)
    quota = request.quota
    earlier = _given(connection, quota, [charge.operation_id])
    left = int(charge.amount - charge.shortfall - _units_of(earlier))
    units = min(amount, left)
    if request.settled is not None:
        units = min(units, _above(connection, quota, request.settled))
    taken = _left_of_parts(charge, earlier)
    paid_debt = min(units, left - sum(taken.values()))
    parts = _parts(connection, quota, taken, units - paid_debt)
    return parts if units == amount else (RefundPart.unreturned(amount - units), *parts)


def _above(connection: Connection, quota: QuotaName, call: Settled) -> int:
    """Return what a quota has collected of a call above what that used; gifts are not counted."""
    ids = call.ids_in(quota)
    charges = charges_by(connection, quota, ids=ids)
    collected = sum(row.amount - row.shortfall for row in charges)
    mark = f"{call.charges[0].operation_id}{CORRECTION}"
    return max(0, int(collected - _units_of(_given(connection, quota, ids, mark)) - call.units))


def _given(
    connection: Connection, quota: QuotaName, ids: Sequence[str], mark: str = ""
) -> Sequence[Row[Any]]:
    """Return the refunds of charges, promised or made; those whose ids begin with ``mark``."""
    asked = {**asdict(quota), "ids": list(ids), "mark": mark}
    return connection.execute(_GIVEN, asked).all()


def _units_of(refunds: Iterable[Row[Any]]) -> int:
    """Return what refunds give back, or have given."""
    return sum(
        row.amount - sum(part.units for part in parts_in(row.parts) if not part.moves)
        for row in refunds
    )


def parts_in(text_: str) -> tuple[RefundPart, ...]:
    """Return the parts of a refund, as the ledger keeps them."""
    words = json.loads(text_)
    return tuple(RefundPart(grant_id, *map(int, numbers)) for grant_id, *numbers in words)


def _left_of_parts(charge: Row[Any], earlier: Iterable[Row[Any]]) -> dict[str, int]:
    """Return what is left of each grant's part of a charge, first taken first."""
    taken = {
        move.grant_id: move.consumed
        for move in parse_movements(charge.movements)
        if move.consumed > 0
    }
    for refund in earlier:
        for part in parts_in(refund.parts):
            taken[part.grant_id] = taken.get(part.grant_id, 0) - part.units
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
        select(table).where(
            table.c.account == quota.account,
            table.c.quota_type == quota.quota_type,
            table.c.grant_id.in_([one for one, _ in dealt]),
        )
    )
    terms: dict[str, Any] = {row.grant_id: row for row in rows}
    return tuple(RefundPart.of(terms[grant_id], units) for grant_id, units in dealt)
