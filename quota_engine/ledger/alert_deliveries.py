"""
The outbox of messages about alerts: claimed one at a time, marked, tried again, given up.

A claim counts the attempt and moves ``due_at`` behind its longest possible end, in one transaction
under the lock of the channel's row: nobody else attempts the message meanwhile, and where the
claimer dies somebody does afterwards. So a message arrives at least once, and its id tells
repetitions apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, text, update

from quota_engine.alerts.channels import DELIVERED, ChannelTerms, Claimed, Delivery
from quota_engine.alerts.told import MORE, body_of_many
from quota_engine.errors import AlertNotFoundError
from quota_engine.ids import new_id
from quota_engine.ledger import alert_rows
from quota_engine.ledger.alert_tables import alert_deliveries
from quota_engine.ledger.ledger import Ledger

WINDOW_SECONDS = 60
#: Messages that one transaction joins, at most.
JOINED_MAX = 10_000
ERROR_LENGTH_MAX = 500

_DUE = text("""
SELECT c.name FROM alert_channels c
WHERE c.kind = ANY(CAST(:kinds AS text[]))
    AND (
        c.window_count < c.per_minute OR c.window_at IS NULL
        OR c.window_at <= clock_timestamp() - make_interval(secs => :window)
    )
    AND EXISTS (
        SELECT 1 FROM alert_deliveries d
        WHERE d.channel = c.name AND d.state = 'pending' AND d.due_at <= clock_timestamp()
    )
ORDER BY c.name
""")
_CHANNEL = text("""
SELECT *, coalesce(
        window_at > clock_timestamp() - make_interval(secs => :window), false
    ) AS is_counting
FROM alert_channels WHERE name = :channel FOR UPDATE SKIP LOCKED
""")
_COUNT = text("""
UPDATE alert_channels SET
    window_at = CASE WHEN :is_counting THEN window_at ELSE clock_timestamp() END,
    window_count = CASE WHEN :is_counting THEN window_count ELSE 0 END + 1
WHERE name = :channel
""")
_DUE_OF = text("""
SELECT delivery_id FROM alert_deliveries
WHERE channel = :channel AND state = 'pending' AND due_at <= clock_timestamp()
ORDER BY due_at, delivery_id LIMIT :limit
""")
_CLAIM = text("""
UPDATE alert_deliveries SET attempts = attempts + 1,
    due_at = clock_timestamp() + make_interval(secs => :seconds)
WHERE delivery_id = :delivery_id
RETURNING *
""")
_JOIN = text("""
UPDATE alert_deliveries SET state = 'joined', joined_to = :to, ended_at = clock_timestamp()
WHERE delivery_id = ANY(CAST(:ids AS text[]))
""")
# What is joined to something that is joined itself is told by the last one.
_REJOIN = text("""
UPDATE alert_deliveries SET joined_to = :to WHERE joined_to = ANY(CAST(:ids AS text[]))
""")
_FAIL = text("""
UPDATE alert_deliveries SET error = :error,
    state = CASE WHEN attempts >= :attempts_max THEN 'dead' ELSE 'pending' END,
    ended_at = CASE WHEN attempts >= :attempts_max THEN clock_timestamp() END,
    due_at = clock_timestamp() + make_interval(secs => :pause)
WHERE delivery_id = :delivery_id AND attempts = :attempts AND state = 'pending'
RETURNING state
""")
_RETRY = text("""
UPDATE alert_deliveries SET state = 'pending', attempts = 0, due_at = clock_timestamp(),
    ended_at = NULL
WHERE state = 'dead' AND (CAST(:delivery_id AS text) IS NULL OR delivery_id = :delivery_id)
    AND channel IN (SELECT name FROM alert_channels)
""")


class Deliveries:
    """The messages of one ledger. Safe to share between threads, and beside other processes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def due(self, kinds: Sequence[str]) -> list[str]:
        """Return the channels of these kinds that may be told something now."""
        with self._ledger.transaction() as connection:
            asked = {"kinds": list(kinds), "window": WINDOW_SECONDS}
            return list(connection.execute(_DUE, asked).scalars())

    def claim(self, channel: str, seconds: float) -> Claimed | None:
        """
        Take the channel's next message, for ``seconds``; None: there is none for us now.

        Where more wait than the channel may be told, the last of its minute tells of all of them.
        """
        with self._ledger.transaction() as connection:
            asked = {"channel": channel, "window": WINDOW_SECONDS}
            row = connection.execute(_CHANNEL, asked).one_or_none()
            if row is None:
                return None
            left = row.per_minute - (row.window_count if row.is_counting else 0)
            if left <= 0:
                return None
            limit = JOINED_MAX if left == 1 else 1
            due = list(connection.execute(_DUE_OF, {"channel": channel, "limit": limit}).scalars())
            if not due:
                return None
            chosen = due[0] if len(due) == 1 else _joined(connection, channel, due)
            told = {"channel": channel, "is_counting": row.is_counting}
            connection.execute(_COUNT, told)
            taken = connection.execute(_CLAIM, {"delivery_id": chosen, "seconds": seconds}).one()
            terms = ChannelTerms(
                kind=row.kind, target=row.target, secret=row.secret, per_minute=row.per_minute
            )
            body = self._body(connection, taken)
        return Claimed(chosen, taken.attempts, channel, terms, body)

    def mark_delivered(self, claimed: Claimed) -> None:
        """Record that a channel has taken a message."""
        columns = alert_deliveries.c
        with self._ledger.transaction() as connection:
            connection.execute(
                update(alert_deliveries)
                .where(columns.delivery_id == claimed.delivery_id, columns.state != DELIVERED)
                .values(state=DELIVERED, ended_at=text("clock_timestamp()"), error=None)
            )

    def mark_failed(
        self, claimed: Claimed, error: str, *, pause: float, attempts_max: int
    ) -> str | None:
        """Record a failed attempt; return the state that leaves, None: somebody else was next."""
        asked = {
            "delivery_id": claimed.delivery_id,
            "attempts": claimed.attempts,
            "error": error[:ERROR_LENGTH_MAX].replace("\0", " "),
            "pause": pause,
            "attempts_max": attempts_max,
        }
        with self._ledger.transaction() as connection:
            state: str | None = connection.execute(_FAIL, asked).scalar_one_or_none()
            return state

    def list_deliveries(
        self, state: str | None, channel: str | None, limit: int
    ) -> list[Delivery]:
        """Return messages, the newest first."""
        columns = alert_deliveries.c
        asked = select(alert_deliveries).order_by(
            columns.created_at.desc(), columns.delivery_id.desc()
        )
        for name, said in (("state", state), ("channel", channel)):
            if said is not None:
                asked = asked.where(columns[name] == said)
        with self._ledger.transaction() as connection:
            return [alert_rows.delivery_of(row) for row in connection.execute(asked.limit(limit))]

    def retry(self, delivery_id: str | None) -> int:
        """Let dead messages be attempted anew, or one of them; return how many that is."""
        with self._ledger.transaction() as connection:
            count = connection.execute(_RETRY, {"delivery_id": delivery_id}).rowcount
        if not count and delivery_id is not None:
            raise AlertNotFoundError(f"there is no dead message {delivery_id} of a channel")
        return count

    def _body(self, connection: Connection, row: Row[Any]) -> dict[str, Any]:
        """Return what a message says: the same at every attempt."""
        deployment_id, sent = self._ledger.deployment_id, alert_deliveries.c
        is_many = row.action == MORE
        which = (sent.joined_to if is_many else sent.delivery_id) == row.delivery_id
        found = alert_rows.bodies(connection, deployment_id, which)
        if is_many:
            return body_of_many(row.delivery_id, deployment_id, row.created_at, found)
        return found[0]


def _joined(connection: Connection, channel: str, due: list[str]) -> str:
    """Make one message of many; return its id."""
    made = new_id("delivery")
    connection.execute(
        alert_deliveries.insert().values(delivery_id=made, channel=channel, action=MORE)
    )
    asked = {"to": made, "ids": due}
    connection.execute(_REJOIN, asked)
    connection.execute(_JOIN, asked)
    return made
