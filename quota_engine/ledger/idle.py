"""Which quotas were used last, and which not for a while. Runs in the caller's transaction."""

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


_USED_LAST = text("""
SELECT account, quota_type FROM quotas WHERE frozen = '' ORDER BY updated_at DESC LIMIT :limit
""")


def used_last(connection: Connection, limit: int) -> list[QuotaName]:
    """Return the quotas whose last entries are the newest. Costs a look at every head."""
    rows = connection.execute(_USED_LAST, {"limit": limit})
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
