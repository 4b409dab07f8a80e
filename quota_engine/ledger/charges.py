"""What the ledger knows of a charge, and in which quotas a call left one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, text

from quota_engine.commands.charges import ChargeEntry, ChargeFate
from quota_engine.commands.refunds import CALLER, ENDS
from quota_engine.corrections import CORRECTION
from quota_engine.events import CHARGES, TELL_USAGE
from quota_engine.keys import QuotaName
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

#: The id of any charge of a call: its own or a correction's, in whichever quota.
_OF_CALL = re.compile(
    r"(?P<base>.*?)(?P<correction>:correction:[0-9]+)?(?P<suffix>@[0-9a-f]{16})?"
    r"(?P<end>:capture|:release)?",
    re.DOTALL,
)

_HEAD = text("SELECT version FROM quotas WHERE account = :account AND quota_type = :quota_type")


def find_charge(connection: Connection, quota: QuotaName, operation_id: str) -> ChargeFate:
    """Return a charge (or an entry that tells of a call's usage) and its corrections."""
    head = connection.execute(_HEAD, asdict(quota)).scalar() or 0
    main = entry_of(connection, quota, operation_id)
    if main is None:
        return ChargeFate(version=head)
    place = f"{main.operation_id}{CORRECTION}"
    corrections = charges_by(connection, quota, first=place, last=f"{place[:-1]};")
    return ChargeFate(
        version=head,
        charge=_charge_entry(main),
        corrections=tuple(_charge_entry(row) for row in sorted(corrections, key=_number)),
    )


def charges_by(
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


def call_of(operation_id: str) -> tuple[str, str]:
    """Return the id of a call in its own quota, and what follows its ids in this one."""
    found = _OF_CALL.fullmatch(operation_id)
    assert found is not None
    base, end = found["base"], found["end"] or ""
    return base if found["correction"] else base + end, found["suffix"] or ""


def charges_of_call(connection: Connection, quota: QuotaName, operation_id: str) -> list[Row[Any]]:
    """Return the charges in a quota of the call that one of them is of, oldest first."""
    call, suffix = call_of(operation_id)
    names = {call + suffix}
    for end in ENDS:
        if call.endswith(end):
            names.add(f"{call.removesuffix(end)}{suffix}{end}")
    place = f"{call}{CORRECTION}"
    rows = charges_by(connection, quota, ids=sorted(names), first=place, last=f"{place[:-1]};")
    return [
        row
        for row in rows
        if row.kind in CHARGES
        and (row.operation_id in names or call_of(row.operation_id) == (call, suffix))
    ]


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
UNION
SELECT q.quota_type FROM quotas q JOIN quarantine n
    ON n.quota = q.account || '|' || q.quota_type
WHERE q.account = :account AND q.quota_type <> :quota_type AND n.operation_id = :operation_id
    AND n.kind = ANY(:kinds) AND n.resolved_at IS NULL
ORDER BY quota_type
""")


def quotas_beside(connection: Connection, quota: QuotaName, operation_id: str) -> list[QuotaName]:
    """
    Return which further quota types of its account a call took in the same step.

    One whose entry is in quarantine is among them: it may be.
    """
    asked = {**asdict(quota), "operation_id": operation_id, "kinds": list(TELL_USAGE)}
    return [QuotaName(quota.account, row.quota_type) for row in connection.execute(_BESIDE, asked)]


def entry_of(connection: Connection, quota: QuotaName, operation_id: str) -> Row[Any] | None:
    """Return the entry that an operation id names: a charge, or the end of a hold."""
    ids = [operation_id + suffix for suffix in SUFFIXES]
    rows = charges_by(connection, quota, ids=ids)
    found = {row.operation_id: row for row in rows if row.kind in TELL_USAGE}
    return next((found[id_] for id_ in ids if id_ in found), None)


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
        scopes=tuple(details.get("scopes", ())),
    )


def _number(row: Row[Any]) -> tuple[int, str]:
    number = row.operation_id.rpartition(":")[2]
    return (int(number) if number.isdecimal() else 0, row.operation_id)
