"""
What must hold of a healed and drained deployment, whatever was done to it.

Each ``INVARIANTS`` query returns the rows that break it, so none must return any. ``standing``
looks at the server. It must not know which fault was injected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import text

from quota_engine import QuotaEngine
from quota_engine.drift import Cause
from quota_engine.jobs import gate_rules, gate_server
from quota_engine.jobs.pinned import PinnedConnection
from quota_engine.jobs.server_check import read_info
from quota_engine.jobs.verify import verify
from quota_engine.keys import ShardKeys, is_quota_name
from quota_engine.ledger import epochs
from tests.faults.history import SUFFIX

#: Whose call it is, as entries in the quotas of others tell.
CALLER = "(nullif(details, '')::json ->> 'account')"

#: Numbered as in the fault matrix. The chain (I6) is ``verify``'s.
INVARIANTS = {
    "I1 versions are 1, 2, 3 … without gaps": """
        SELECT account, quota_type, count(*) FROM ledger_entries GROUP BY 1, 2
        HAVING min(version) <> 1 OR max(version) <> count(*)
    """,
    "I2 balance and held are the sums before plus the changes": """
        SELECT * FROM (
            SELECT account, quota_type, version, delta, held_delta,
                balance_after - coalesce(lag(balance_after) OVER log, 0) AS moved,
                held_after - coalesce(lag(held_after) OVER log, 0) AS held_moved
            FROM ledger_entries
            WINDOW log AS (PARTITION BY account, quota_type ORDER BY version)
        ) AS steps WHERE moved <> delta OR held_moved <> held_delta
    """,
    "I3 each head is its log's last entry": """
        SELECT account, quota_type FROM quotas q LEFT JOIN LATERAL (
            SELECT * FROM ledger_entries e
            WHERE (e.account, e.quota_type) = (q.account, q.quota_type)
            ORDER BY version DESC LIMIT 1
        ) AS e USING (account, quota_type)
        WHERE (q.version, q.balance, q.held, q.debt, q.chain) IS DISTINCT FROM
            (e.version, e.balance_after, e.held_after, e.debt_after, e.chain)
    """,
    "I4 an operation id is there once": """
        SELECT account, quota_type, operation_id, count(*) FROM ledger_entries GROUP BY 1, 2, 3
        HAVING count(*) > 1
    """,
    "I5 the cursor counts what ledger and quarantine have of its epoch": """
        SELECT shard, epoch, cursor_epoch, cursor_n FROM shards s
        WHERE cursor_epoch <> epoch OR cursor_n <> (
            SELECT count(*) FROM ledger_entries e JOIN quotas q USING (account, quota_type)
            WHERE q.shard = s.shard AND split_part(e.event_id, '-', 1) = s.epoch::text
        ) + (
            SELECT count(*) FROM quarantine r
            WHERE r.shard = s.shard AND split_part(r.event_id, '-', 1) = s.epoch::text
        )
    """,
    "I7 nobody is below the overdraft limit, nothing below zero is held": """
        SELECT account, quota_type, e.version FROM (
            SELECT *, bool_or(flags LIKE '%shadow%') OVER log AS is_after_shadow
            FROM ledger_entries WINDOW log AS (PARTITION BY account, quota_type ORDER BY version)
        ) AS e JOIN quotas q USING (account, quota_type)
        WHERE held_after < 0 OR debt_after < 0 OR (
            balance_after - held_after < -q.overdraft_limit AND NOT late
            AND kind NOT IN ('grant.expired', 'grant.voided') AND NOT is_after_shadow
        )
    """,
    "I8 a hold ends once": """
        SELECT account, quota_type, subject, count(*) FROM ledger_entries
        WHERE kind IN ('hold.released', 'hold.expired')
            OR (kind = 'hold.captured' AND flags NOT LIKE '%part%' AND NOT late)
        GROUP BY 1, 2, 3 HAVING count(*) > 1
    """,
    "I8 held is the sum of the open holds": """
        SELECT account, quota_type, held FROM quotas q WHERE held <> coalesce((
            SELECT sum(amount) FROM holds h WHERE state = 'open' AND NOT is_counted
                AND (h.account, h.quota_type) = (q.account, q.quota_type)
        ), 0)
    """,
    "I9 a grant is applied by one entry, a promise by none": """
        SELECT g.account, g.quota_type, g.grant_id FROM grants g LEFT JOIN ledger_entries e
            ON (e.account, e.quota_type, e.operation_id, e.kind)
                = (g.account, g.quota_type, g.grant_id, 'grant.issued')
        WHERE (g.state = 'intent') = (e.version IS NOT NULL)
            OR g.applied_version IS DISTINCT FROM e.version
    """,
    "I9 what remains of the grants, less debt, is the balance": """
        SELECT account, quota_type, balance FROM quotas q WHERE balance + debt <> coalesce((
            SELECT sum(remaining + reserved) FROM grants g
            WHERE state NOT IN ('intent', 'pending')
                AND (g.account, g.quota_type) = (q.account, q.quota_type)
        ), 0)
    """,
    "I10 the books sum to zero": """
        SELECT quota_type, sum(amount) FROM books GROUP BY 1 HAVING sum(amount) <> 0
    """,
    "I13 what an account is charged for a call below it is what the caller is charged": f"""
        WITH shares AS (
            SELECT account, quota_type, operation_id, amount, kind, {CALLER} AS caller,
                regexp_replace(operation_id, '{SUFFIX}', '') AS own_id
            FROM ledger_entries
            WHERE operation_id ~ '{SUFFIX}' AND kind IN ('quota.debited', 'hold.captured')
        )
        SELECT s.account, s.quota_type, s.operation_id, s.amount, s.caller, e.amount
        FROM shares s JOIN quotas q ON (q.account, q.quota_type) = (s.caller, s.quota_type)
        LEFT JOIN ledger_entries e ON (e.account, e.quota_type, e.operation_id)
            = (s.caller, s.quota_type, s.own_id)
        WHERE q.frozen = '' AND (s.amount, s.kind) IS DISTINCT FROM (e.amount, e.kind)
    """,
    "I13 a hold is over in all of its quotas or in none": f"""
        SELECT e.account, e.quota_type, h.hold_id, h.state, own.state
        FROM ledger_entries e
        JOIN holds h ON (h.account, h.quota_type, h.hold_id)
            = (e.account, e.quota_type, e.subject)
        LEFT JOIN holds own ON (own.account, own.quota_type, own.hold_id)
            = ({CALLER}, e.quota_type, regexp_replace(h.hold_id, '{SUFFIX}', ''))
        WHERE e.kind = 'hold.placed' AND e.subject ~ '{SUFFIX}'
            AND (h.state = 'open') IS DISTINCT FROM (own.state = 'open')
            AND own.account NOT IN (SELECT account FROM quotas WHERE frozen <> '')
    """,
    "I12 nothing is in quarantine": """
        SELECT shard, event_id, quota, cause, reason FROM quarantine WHERE resolved_at IS NULL
    """,
    "I12 nothing is frozen": "SELECT account, quota_type, frozen FROM quotas WHERE frozen <> ''",
}
SHOWN = 3


def broken(engine: QuotaEngine, excepting: Collection[str] = ()) -> Iterator[str]:
    """
    Say what is wrong with a drained deployment: invariants, ledger, Redis against both.

    ``excepting``: numbers of invariants (``"I12"``) that the fault is meant to break.
    """
    ledger = engine.deployment.ledger
    with ledger.transaction() as sql:
        for name, query in INVARIANTS.items():
            if name.split()[0] in excepting:
                continue
            rows = list(sql.execute(text(query)))
            if rows:
                yield f"{name}: {len(rows)} break it, {[tuple(row) for row in rows[:SHOWN]]}"
    for finding in list(verify(ledger))[:SHOWN]:
        yield f"verify: {finding}"
    drifts = engine.reconcile().drifts
    if "I12" in excepting:
        drifts = tuple(drift for drift in drifts if drift.cause is not Cause.FROZEN)
    for drift in drifts[:SHOWN]:
        yield f"reconcile: {drift}"
    yield from standing(engine)


def standing(engine: QuotaEngine) -> Iterator[str]:
    """Say what is wrong with the server: R1, R3, R4 and R5 of a drained deployment."""
    deployment = engine.deployment
    with deployment.ledger.transaction() as sql:
        recorded = epochs.read_recorded(sql)
        heads = {
            f"{row.account}|{row.quota_type}": row
            for row in sql.execute(text("SELECT account, quota_type, version, frozen FROM quotas"))
        }
    assert recorded is not None
    with PinnedConnection(deployment.client) as connection:
        server = gate_server.read_server(connection, len(recorded.shards))
        info = read_info(connection)
    if reason := gate_rules.why_to_recover(recorded, server):
        yield f"R1: {reason}"
    for row, found in zip(recorded.shards, server.shards, strict=True):
        if found.top != row.cursor:
            yield f"R4: outbox {row.shard} ends at {found.top}, the cursor is {row.cursor}"
        versions: Any = deployment.client.hgetall(ShardKeys(row.shard).versions)
        for name, version in versions.items():
            if not is_quota_name(name.decode()):
                continue  # a mark, or what is said of an account
            head = heads.get(name.decode())
            if head is not None and head.frozen:
                continue  # what came after is in the quarantine
            if head is None or head.version != int(version):
                yield f"R3: {name!r} was issued up to {version!r}, its head is {head}"
    wanted = {
        "evicted_keys": "0",
        "maxmemory_policy": "noeviction",
        "aof_enabled": "1",
        "aof_last_write_status": "ok",
    }
    for name, value in wanted.items():
        if info.get(name) != value:
            yield f"R5: {name} is {info.get(name)}"
