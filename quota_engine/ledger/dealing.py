"""
How much of a call a quota gives back, and to which of its grants.

A call is charged in one entry, and in one more for each correction upwards: what a quota has left
of it is of all of them. A gift returns what is asked, as far as the quota has that left. Who
settles a call anew asks all of its quotas for the same: each gives back what it has collected of
the call above what was used, and what it could not collect is not owed any more. The caller's own
quota and those that paid in its place are one purse.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, select, text

from quota_engine.commands.refunds import RefundPart, RefundRequest, Settled, charge_id_in
from quota_engine.corrections import CORRECTION_ID
from quota_engine.events import parse_movements
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from quota_engine.ledger.charges import charges_of_call

_GIVEN = text("""
SELECT refund_id, amount, parts FROM refunds
WHERE account = :account AND quota_type = :quota_type AND operation_id = ANY(:ids)
ORDER BY intended_at
""")


@dataclass(frozen=True, slots=True)
class Paid:
    """What a quota was charged for a call, oldest first, and what it gave back of it."""

    quota: QuotaName
    charges: Sequence[Row[Any]]
    refunds: Sequence[Row[Any]]

    @property
    def collected(self) -> int:
        """Units that the quota has paid for the call."""
        return sum(int(row.amount - row.shortfall) for row in self.charges)

    @property
    def left(self) -> int:
        """Units that it can still give back."""
        return max(0, self.collected - _units_of(self.refunds))

    @property
    def net(self) -> int:
        """Units that it has collected, less what corrections gave back: gifts are not counted."""
        mark = CORRECTION_ID.search
        return self.collected - _units_of(row for row in self.refunds if mark(row.refund_id))


def paid_for(connection: Connection, quota: QuotaName, operation_id: str) -> Paid:
    """Return what a quota was charged for the call that an operation id is of."""
    charges = charges_of_call(connection, quota, operation_id)
    asked = {**asdict(quota), "ids": [row.operation_id for row in charges]}
    return Paid(quota, charges, connection.execute(_GIVEN, asked).all())


def deal(
    connection: Connection, request: RefundRequest, paid: Paid, amount: int
) -> tuple[RefundPart, ...]:
    """Return what a refund of ``amount`` units is in the request's quota."""
    call = request.settled
    if call is None:
        units = min(amount, paid.left)
    elif request.quota in call.purse:
        units = _of_purse(connection, call).get(request.quota, 0)
        payer = call.charges[-1].paid_by
        if not paid.collected and payer is not None and request.quota == call.quota:
            return (RefundPart.counted(payer, amount),)
    else:
        units = min(paid.left, max(0, paid.net - call.units))
    units = min(amount, units)
    taken = _taken(paid)
    paid_debt = min(units, paid.left - sum(taken.values()))
    parts = _parts(connection, paid.quota, taken, units - paid_debt)
    return parts if units == amount else (RefundPart.unreturned(amount - units), *parts)


def _of_purse(connection: Connection, call: Settled) -> dict[QuotaName, int]:
    """Return what each quota of the purse gives back: the newest charge first, by who paid it."""
    paid = {quota: paid_for(connection, quota, call.ids_in(quota)[-1]) for quota in call.purse}
    excess = max(0, sum(one.net for one in paid.values()) - call.units)
    given = dict.fromkeys(paid, 0)
    for charge in reversed(call.charges):
        quota = call.payer_of(charge)
        rows = {row.operation_id: row for row in paid[quota].charges}
        row = rows.get(charge_id_in(quota, call.quota, charge))
        most = 0 if row is None else int(row.amount - row.shortfall)
        units = min(excess, most, paid[quota].left - given[quota])
        given[quota] += units
        excess -= units
    return given


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


def _taken(paid: Paid) -> dict[str, int]:
    """
    Return what is left of each grant's part of a call, first taken first.

    No more than is left in all: of a promise that was made again from its entry, the ledger does
    not know what it forfeited.
    """
    taken: dict[str, int] = {}
    for charge in paid.charges:
        for move in parse_movements(charge.movements):
            if move.consumed > 0:
                taken[move.grant_id] = taken.pop(move.grant_id, 0) + move.consumed
    for refund in paid.refunds:
        for part in parts_in(refund.parts):
            taken[part.grant_id] = taken.get(part.grant_id, 0) - part.units
    left, found = paid.left, dict[str, int]()
    for grant_id, units in taken.items():
        if kept := min(max(units, 0), left):
            found[grant_id] = kept
            left -= kept
    return found


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
