"""Which quotas are used most, and which not for a while. Runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, text

from quota_engine.keys import QuotaName

_IDLE = text("""
SELECT w.account, w.quota_type, coalesce(q.version, 0) AS version
FROM unnest(CAST(:accounts AS text[]), CAST(:quota_types AS text[])) AS w(account, quota_type)
LEFT JOIN quotas q ON q.account = w.account AND q.quota_type = w.quota_type
WHERE q.account IS NULL
    OR q.frozen = '' AND q.updated_at <= now() - CAST(:idle AS interval)
""")


#: Busy is what got most entries in this time before the ledger's last one.
BUSY_TIME = timedelta(minutes=10)
#: More entries of one quota are not told apart.
BUSY_MAX = 100
#: For each quota that is asked for, so many are counted: those with the longest logs.
CANDIDATES = 10

_BUSIEST = text("""
WITH recent AS MATERIALIZED (
    SELECT max(updated_at) - CAST(:time AS interval) AS begins_at FROM quotas
), candidates AS MATERIALIZED (
    SELECT q.account, q.quota_type, q.updated_at, r.begins_at
    FROM quotas q, recent r
    WHERE q.frozen = ''
    ORDER BY q.updated_at > r.begins_at DESC, q.version DESC, q.updated_at DESC
    LIMIT :candidates
)
SELECT c.account, c.quota_type
FROM candidates c
CROSS JOIN LATERAL (
    SELECT count(*) AS entries FROM (
        SELECT FROM ledger_entries e
        WHERE e.account = c.account AND e.quota_type = c.quota_type AND e.recorded_at > c.begins_at
        LIMIT :most
    ) AS counted
) AS busy
ORDER BY busy.entries DESC, c.updated_at DESC
LIMIT :limit
""")


def busiest(connection: Connection, limit: int) -> list[QuotaName]:
    """
    Return the quotas that got most entries lately, the busiest first.

    Lately: in the ten minutes before the ledger's last entry, however long ago that is. Costs a
    look at every head, and a short look into the logs of ten times as many quotas as are wanted.
    """
    asked = {
        "time": BUSY_TIME,
        "candidates": CANDIDATES * limit,
        "most": BUSY_MAX,
        "limit": limit,
    }
    rows = connection.execute(_BUSIEST, asked)
    return [QuotaName(row.account, row.quota_type) for row in rows]


def idle_versions(
    connection: Connection, quotas: Sequence[QuotaName], idle: timedelta
) -> dict[QuotaName, int]:
    """
    Return the newest versions of those quotas that got no entry in the last ``idle``.

    A quota that the ledger does not know is at version 0: it was only looked at.
    """
    asked = {
        "accounts": [quota.account for quota in quotas],
        "quota_types": [quota.quota_type for quota in quotas],
        "idle": idle,
    }
    rows = connection.execute(_IDLE, asked)
    return {QuotaName(row.account, row.quota_type): row.version for row in rows}
