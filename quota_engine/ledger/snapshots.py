"""
One quota, read in one statement: what the engine hydrates from and asks when Redis has forgotten.

One statement sees one instant. That the epoch and the head come from the same instant is what
makes a stale snapshot harmless: Redis refuses it.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Connection, Row, text

from quota_engine.commands.snapshots import (
    GrantState,
    HoldState,
    Operation,
    Snapshot,
    WindowCount,
)
from quota_engine.commands.steps import HoldFate, OperationFate
from quota_engine.errors import EngineUnavailableError
from quota_engine.events import parse_movements
from quota_engine.keys import QuotaName
from quota_engine.ledger.window_counts import COUNTS

#: What an operation is remembered by; the order is that of ``Operation``'s fields.
_OPERATION = """
    e.operation_id, e.fingerprint, e.version, e.amount, e.shortfall,
    e.balance_after, e.held_after, e.debt_after, e.flags, e.terms, e.movements
"""

#: Which entries are remembered: those that somebody asked for, and the expiry of holds.
_IS_REMEMBERED = "e.duplicate_of IS NULL AND e.kind NOT IN ('grant.started', 'grant.expired')"

#: Of a quota that made more within a horizon, Redis is told the newest. An older id that comes
#: back is still found by the ledger's unique key, as a duplicate.
OPERATIONS_MAX = 100_000

# recorded_at is later than the making of an entry, so by PostgreSQL's clock alone this finds every
# operation younger than the horizon, and some more. Each subquery asks for an order that only the
# right index has: a hot quota has millions of closed holds and old entries.
_SNAPSHOT = text(f"""
SELECT s.epoch, q.version, q.chain, q.debt, q.overdraft_limit, q.frozen, q.limits,
    q.last_count_ms, {COUNTS} AS counts,
    EXISTS (
        SELECT FROM grants
        WHERE account = :account AND quota_type = :quota_type AND state <> 'intent'
    ) AS is_granted,
    (
        SELECT json_agg(json_build_array(
            g.grant_id, g.remaining, g.reserved, g.priority,
            g.starts_at_ms, g.expires_at_ms, g.created_at_ms, g.state
        ))
        FROM (
            SELECT * FROM grants
            WHERE account = :account AND quota_type = :quota_type
                AND (state = 'pending' OR remaining > 0 OR reserved > 0)
            ORDER BY priority, expires_at_ms
        ) AS g
    ) AS grants,
    (
        SELECT json_agg(json_build_array(
            h.hold_id, h.amount, h.expires_at_ms, h.allocations, h.counts_at_ms, h.is_counted,
            h.paid_by
        ))
        FROM (
            SELECT * FROM holds
            WHERE account = :account AND quota_type = :quota_type AND state = 'open'
            ORDER BY expires_at_ms
        ) AS h
    ) AS holds,
    (
        SELECT json_agg(json_build_array({_OPERATION}) ORDER BY e.version)
        FROM (
            SELECT * FROM ledger_entries e
            WHERE account = :account AND quota_type = :quota_type AND {_IS_REMEMBERED}
                AND recorded_at >= now() - make_interval(secs => :horizon_ms / 1000.0)
            ORDER BY recorded_at DESC
            LIMIT {OPERATIONS_MAX}
        ) AS e
    ) AS operations
FROM shards s
LEFT JOIN quotas q ON q.account = :account AND q.quota_type = :quota_type
WHERE s.shard = :shard
""")

_FIND_OPERATION = text(f"""
SELECT {_OPERATION} FROM ledger_entries e
WHERE e.account = :account AND e.quota_type = :quota_type AND e.operation_id = :operation_id
    AND e.duplicate_of IS NULL
""")

_FIND_FATE = text(f"""
SELECT
    (
        SELECT q.version FROM quotas q WHERE q.account = :account AND q.quota_type = :quota_type
    ) AS head,
    {_OPERATION}
FROM (SELECT) AS one_row
LEFT JOIN ledger_entries e ON e.account = :account AND e.quota_type = :quota_type
    AND e.operation_id = :operation_id AND e.duplicate_of IS NULL
""")

_FIND_HOLD = text(f"""
SELECT
    (
        SELECT q.version FROM quotas q WHERE q.account = :account AND q.quota_type = :quota_type
    ) AS head,
    EXISTS (
        SELECT FROM holds h
        WHERE h.account = :account AND h.quota_type = :quota_type AND h.hold_id = :hold_id
    ) OR EXISTS (
        SELECT FROM quarantine w
        WHERE w.quota = :quota AND w.operation_id = :hold_id AND w.kind = 'hold.placed'
    ) AS was_placed,
    {_OPERATION}
FROM (SELECT) AS one_row
LEFT JOIN ledger_entries e ON e.account = :account AND e.quota_type = :quota_type
    AND e.operation_id = :operation_id AND e.duplicate_of IS NULL
""")


def read_snapshot(
    connection: Connection, quota: QuotaName, shard: int, horizon_ms: int
) -> Snapshot:
    """Return the quota's newest state, its shard's epoch, and the operations of a horizon."""
    row = connection.execute(
        _SNAPSHOT, {**asdict(quota), "shard": shard, "horizon_ms": horizon_ms}
    ).one_or_none()
    if row is None:
        raise EngineUnavailableError(
            f"shard {shard} is not in the ledger; the engine opens it at its first start"
        )
    if row.version is None:
        return Snapshot(quota=quota, epoch=row.epoch, is_known=False)
    return Snapshot(
        quota=quota,
        epoch=row.epoch,
        version=row.version,
        chain=row.chain,
        debt=row.debt,
        overdraft_limit=row.overdraft_limit,
        limits=row.limits,
        last_count_ms=row.last_count_ms,
        counts=tuple(WindowCount(*values) for values in row.counts or ()),
        frozen=row.frozen,
        is_granted=row.is_granted,
        grants=tuple(GrantState(*values) for values in row.grants or ()),
        holds=tuple(hold_state(values) for values in row.holds or ()),
        operations=tuple(_operation(values) for values in row.operations or ()),
    )


def find_operation(
    connection: Connection, quota: QuotaName, operation_id: str
) -> Operation | None:
    """Return the entry that first used an operation id, as the answer that it was given."""
    row = connection.execute(
        _FIND_OPERATION, {**asdict(quota), "operation_id": operation_id}
    ).one_or_none()
    return None if row is None else _operation(row)


def find_fate(connection: Connection, quota: QuotaName, operation_id: str) -> OperationFate:
    """Return what an operation was answered, and the quota's head, as of one instant."""
    asked = {**asdict(quota), "operation_id": operation_id}
    head, *answer = connection.execute(_FIND_FATE, asked).one()
    return OperationFate(head or 0, None if answer[0] is None else _operation(answer))


def find_hold(connection: Connection, quota: QuotaName, hold_id: str) -> HoldFate:
    """
    Return whether a hold was ever placed, and its final capture.

    One whose placing is in quarantine was placed, too: somebody was told so, and may have used it.
    """
    named = {**asdict(quota), "quota": str(quota)}
    asked = {**named, "hold_id": hold_id, "operation_id": f"{hold_id}:capture"}
    head, was_placed, *capture = connection.execute(_FIND_HOLD, asked).one()
    return HoldFate(
        version=head or 0,
        was_placed=was_placed,
        capture=None if capture[0] is None else _operation(capture),
    )


_OPERATION_FIELDS = tuple(field.name for field in fields(Operation))


def hold_state(values: list[Any]) -> HoldState:
    """Return an open hold from its columns, in the order in which they are asked for."""
    hold_id, amount, expires_at_ms, allocations, *more = values
    pairs = tuple((grant_id, units) for grant_id, units in allocations)
    return HoldState(hold_id, amount, expires_at_ms, pairs, *more)


def _operation(values: list[Any] | Row[Any]) -> Operation:
    facts = dict(zip(_OPERATION_FIELDS, values, strict=True))
    facts["movements"] = parse_movements(facts["movements"])
    return Operation(**facts)
