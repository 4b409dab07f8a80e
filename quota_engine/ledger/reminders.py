"""
Reminders in PostgreSQL: made once per grant and threshold, by the table's key, and delivered.

What is left of a grant is what the ledger knows of it: a fraction of a second behind Redis.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Row, select, text, update

from quota_engine.instants import from_ms
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.reminder_tables import reminders
from quota_engine.reminders import Reminder, ReminderQuery

DAY_MS = 86_400_000
#: Reminders that one transaction makes.
PAGE = 1_000
#: Who began to deliver a reminder and is not done by then has died: another may.
CLAIM = timedelta(minutes=5)

# The conditions on state, remaining and end are those of the index grants_ending. A smaller
# threshold that was met already makes a greater one pointless.
_REMIND = text("""
INSERT INTO reminders (account, quota_type, grant_id, days, remaining, source, reference,
    expires_at, reminded_at)
SELECT g.account, g.quota_type, g.grant_id, :days, g.remaining, g.source, g.reference,
    g.expires_at, :now
FROM grants g
JOIN quotas q ON q.account = g.account AND q.quota_type = g.quota_type AND q.frozen = ''
WHERE g.state = 'live' AND g.remaining > 0
    AND g.expires_at_ms >= :first_ms AND g.expires_at_ms <= :last_ms
    AND g.starts_at_ms < g.expires_at_ms - :life_ms
    AND NOT EXISTS (
        SELECT 1 FROM reminders r
        WHERE r.account = g.account AND r.quota_type = g.quota_type AND r.grant_id = g.grant_id
            AND r.days <= :days
    )
ORDER BY g.expires_at_ms
LIMIT :limit
ON CONFLICT DO NOTHING
RETURNING *
""")


class ReminderTables:
    """The reminders in one ledger's database. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def remind(self, now_ms: int, days: int, first_ms: int, last_ms: int) -> list[Reminder]:
        """
        Tell, ``days`` before, of grants that end between two instants, both included.

        Makes a page of reminders, in the order of these ends, and returns those just made.
        Whoever asks at the same time makes others, or none.
        """
        asked = {
            "now": from_ms(now_ms),
            "days": days,
            "life_ms": days * DAY_MS,
            "first_ms": first_ms,
            "last_ms": last_ms,
            "limit": PAGE,
        }
        with self._ledger.transaction() as connection:
            made = [_reminder(row) for row in connection.execute(_REMIND, asked)]
        return sorted(made, key=lambda one: (one.expires_at, one.grant_id))

    def list_reminders(self, query: ReminderQuery) -> list[Reminder]:
        """Return reminders, oldest first."""
        columns = reminders.c
        asked = select(reminders).order_by(
            columns.reminded_at, columns.expires_at, columns.grant_id
        )
        if query.account is not None:
            asked = asked.where(columns.account == query.account)
        if query.since is not None:
            asked = asked.where(columns.reminded_at >= query.since)
        with self._ledger.transaction() as connection:
            return [_reminder(row) for row in connection.execute(asked.limit(query.limit))]

    def claim(self, limit: int) -> list[Reminder]:
        """Return reminders that nobody has delivered or is delivering: they are the caller's."""
        with self._ledger.transaction() as connection:
            claimed = connection.execute(_CLAIM, {"limit": limit, "claim": CLAIM})
            return sorted(
                (_reminder(row) for row in claimed),
                key=lambda one: (one.reminded_at, one.grant_id),
            )

    def mark_delivered(self, reminder: Reminder) -> None:
        """Record that a callback has taken a reminder."""
        columns = reminders.c
        with self._ledger.transaction() as connection:
            connection.execute(
                update(reminders)
                .where(
                    columns.account == reminder.account,
                    columns.quota_type == reminder.quota_type,
                    columns.grant_id == reminder.grant_id,
                    columns.days == reminder.days,
                )
                .values(delivered_at=text("clock_timestamp()"))
            )


_CLAIM = text("""
UPDATE reminders SET claimed_at = clock_timestamp()
WHERE (account, quota_type, grant_id, days) IN (
    SELECT account, quota_type, grant_id, days FROM reminders
    WHERE delivered_at IS NULL
        AND (claimed_at IS NULL OR claimed_at < clock_timestamp() - CAST(:claim AS interval))
    ORDER BY reminded_at
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
RETURNING *
""")


def _reminder(row: Row[Any]) -> Reminder:
    return Reminder(**{name: getattr(row, name) for name in Reminder.__slots__})
