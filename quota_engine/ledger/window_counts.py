"""
What counts in the limits of quotas, step by step: so that windows outlive Redis.

Only of windows of an hour and more, and of each only what counts still: so a limit has as many
rows as its window has steps, however old it is. Written with the heads, in one transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import psycopg
from sqlalchemy import BigInteger, Column, Table, Text

from quota_engine.chain import QuotaLog
from quota_engine.counting import floors
from quota_engine.keys import QuotaName
from quota_engine.ledger.arrays import columns
from quota_engine.ledger.tables import metadata

#: ``limit_key`` and ``since_ms`` name a limit (``quota_engine.limits``); ``starts_at_ms``: where a
#: step of its window, or its period, begins; ``counted``: units or calls.
window_counts = Table(
    "window_counts",
    metadata,
    Column("account", Text(collation="C"), primary_key=True),
    Column("quota_type", Text(collation="C"), primary_key=True),
    Column("limit_key", Text(collation="C"), primary_key=True),
    Column("since_ms", BigInteger, primary_key=True),
    Column("starts_at_ms", BigInteger, primary_key=True),
    Column("counted", BigInteger, nullable=False),
)

_ADD = """
INSERT INTO window_counts AS w (
    account, quota_type, limit_key, since_ms, starts_at_ms, counted
)
SELECT n.* FROM unnest(
    %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[]
) AS n
ON CONFLICT (account, quota_type, limit_key, since_ms, starts_at_ms) DO UPDATE SET
    counted = w.counted + excluded.counted
"""

_FORGET = """
DELETE FROM window_counts w
USING unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
    AS n (account, quota_type, limit_key, since_ms, floor_ms)
WHERE w.account = n.account AND w.quota_type = n.quota_type AND w.limit_key = n.limit_key
    AND w.since_ms = n.since_ms AND w.starts_at_ms < n.floor_ms
"""

_PURGE = """
DELETE FROM window_counts w
USING unnest(%s::text[], %s::text[]) AS n (account, quota_type)
WHERE w.account = n.account AND w.quota_type = n.quota_type AND NOT EXISTS (
    SELECT FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
        AS l (account, quota_type, limit_key, since_ms, floor_ms)
    WHERE l.account = w.account AND l.quota_type = w.quota_type AND l.limit_key = w.limit_key
        AND l.since_ms = w.since_ms
)
"""

#: One quota's counts, as a part of a query on ``quotas`` as q.
COUNTS = """
CASE WHEN q.limits <> '' THEN (
    SELECT json_agg(json_build_array(w.limit_key, w.since_ms, w.starts_at_ms, w.counted))
    FROM window_counts w
    WHERE w.account = q.account AND w.quota_type = q.quota_type
) END
"""


def write_counts(
    cursor: psycopg.Cursor[Any], logs: Iterable[QuotaLog], changed: Collection[QuotaName]
) -> None:
    """Add what a batch counts; forget what counts no more. ``changed``: their limits did."""
    first = [
        (log.name.account, log.name.quota_type, key, since_ms, floor_ms)
        for log in logs
        for (key, since_ms), floor_ms in floors(log).items()
    ]
    if changed:
        names = [(name.account, name.quota_type) for name in changed]
        cursor.execute(_PURGE, (*columns(names, 2), *columns(first, 5)))
    if not first:
        return
    live = {row[:4]: row[4] for row in first}
    counted = [
        (log.name.account, log.name.quota_type, *place, units)
        for log in logs
        for place, units in log.counts.items()
        if units and place[2] >= live[log.name.account, log.name.quota_type, place[0], place[1]]
    ]
    if counted:
        cursor.execute(_ADD, columns(counted, 6))
    cursor.execute(_FORGET, columns(first, 5))
