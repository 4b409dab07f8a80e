"""
Loading what a batch touches: heads, grants, holds and operation ids, in four statements.

Only what the batch names is loaded, so a quota with a million holds costs what its entries touch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from quota_engine.chain import Grant, Hold, QuotaLog
from quota_engine.keys import QuotaName
from quota_engine.ledger.arrays import columns
from quota_engine.ledger.incoming import Incoming
from quota_engine.limits import parse_limits

#: (account, quota type, id of a grant, hold or operation)
Named = tuple[str, str, str]

# Every look-up goes through an index, whatever the planner believes of tables that were empty when
# it last looked.
_PLAN = "SELECT set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)"

_HEADS = """
SELECT q.account, q.quota_type, q.version, q.chain, q.balance, q.held, q.debt,
    q.overdraft_limit, q.frozen, q.limits, q.last_count_ms
FROM unnest(%s::text[], %s::text[]) AS n (account, quota_type)
JOIN quotas q ON q.account = n.account AND q.quota_type = n.quota_type
"""

_GRANTS = """
SELECT g.account, g.quota_type, g.grant_id, g.state, g.fingerprint, g.amount, g.remaining,
    g.reserved, g.priority, g.starts_at_ms, g.expires_at_ms, g.created_at_ms, g.applied_version
FROM unnest(%s::text[], %s::text[], %s::text[]) AS n (account, quota_type, id)
JOIN grants g
    ON g.account = n.account AND g.quota_type = n.quota_type AND g.grant_id = n.id
"""

_HOLDS = """
SELECT h.account, h.quota_type, h.hold_id, h.state, h.amount, h.allocations, h.expires_at_ms,
    h.placed_version, h.closed_version, h.counts_at_ms, h.is_counted, h.paid_by
FROM unnest(%s::text[], %s::text[], %s::text[]) AS n (account, quota_type, id)
JOIN holds h ON h.account = n.account AND h.quota_type = n.quota_type AND h.hold_id = n.id
"""

# Asked as "the first id from here on", because only the index on operation ids can answer that in
# order. Asked plainly, a planner that takes each quota for one row may walk through a hot one.
_OPERATIONS = """
SELECT n.account, n.quota_type, n.id, e.version
FROM unnest(%s::text[], %s::text[], %s::text[]) AS n (account, quota_type, id)
CROSS JOIN LATERAL (
    SELECT version, operation_id FROM ledger_entries
    WHERE account = n.account AND quota_type = n.quota_type AND operation_id >= n.id
        AND duplicate_of IS NULL
    ORDER BY operation_id
    LIMIT 1
) AS e
WHERE e.operation_id = n.id
"""


def load(
    cursor: psycopg.Cursor[Any], batch: Sequence[Incoming]
) -> tuple[dict[QuotaName, QuotaLog], dict[Named, int]]:
    """
    Return the logs that ``batch`` touches, as far as it touches them, and the versions of those of
    its operation ids that the ledger knows.
    """
    logs = {
        name: QuotaLog(name=name)
        for name in dict.fromkeys(incoming.quota for incoming in batch)
        if name is not None
    }
    grants: set[Named] = set()
    holds: set[Named] = set()
    operations: set[Named] = set()
    for incoming in batch:
        entry, name = incoming.entry, incoming.quota
        if entry is None or name is None:
            continue
        place = (name.account, name.quota_type)
        operations.add((*place, entry.operation_id))
        grants.update((*place, move.grant_id) for move in entry.movements)
        if entry.kind.startswith("hold."):
            holds.add((*place, entry.subject))
        elif entry.kind.startswith("grant."):
            grants.add((*place, entry.subject))
    cursor.execute(_PLAN)
    _load_heads(cursor, logs)
    _load_grants(cursor, logs, grants)
    _load_holds(cursor, logs, holds)
    cursor.execute(_OPERATIONS, columns(operations, 3))
    return logs, {(account, kind, id_): version for account, kind, id_, version in cursor}


def _load_heads(cursor: psycopg.Cursor[Any], logs: dict[QuotaName, QuotaLog]) -> None:
    names = [(name.account, name.quota_type) for name in logs]
    cursor.execute(_HEADS, columns(names, 2))
    for account, quota_type, version, chain, balance, held, debt, limit, frozen, *more in cursor:
        log = logs[QuotaName(account, quota_type)]
        log.version, log.chain = version, chain
        log.balance, log.held, log.debt = balance, held, debt
        log.overdraft_limit, log.frozen = limit, frozen
        log.limits, log.last_count_ms = parse_limits(more[0]), more[1]


def _load_grants(
    cursor: psycopg.Cursor[Any], logs: dict[QuotaName, QuotaLog], grants: set[Named]
) -> None:
    cursor.execute(_GRANTS, columns(grants, 3))
    for account, quota_type, *values in cursor:
        logs[QuotaName(account, quota_type)].grants[values[0]] = Grant(*values)


def _load_holds(
    cursor: psycopg.Cursor[Any], logs: dict[QuotaName, QuotaLog], holds: set[Named]
) -> None:
    cursor.execute(_HOLDS, columns(holds, 3))
    for account, quota_type, hold_id, state, amount, allocations, *rest in cursor:
        pairs = [(grant_id, units) for grant_id, units in allocations]
        log = logs[QuotaName(account, quota_type)]
        log.holds[hold_id] = Hold(hold_id, state, amount, pairs, *rest)
