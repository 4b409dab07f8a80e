"""
Reminders: a grant with something left ends in so many days. Each is made once. Pure.

A grant is reminded of at the smallest of the thresholds that it has crossed, so a scheduler that
was away, or thresholds that were added, bring one reminder and not three. A grant that lives no
longer than a threshold is not reminded of by it: who got it just then knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from quota_engine.amounts import checked_amount
from quota_engine.ids import checked_account
from quota_engine.instants import to_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Reminder:
    """
    A grant's end, ``days`` before it at most. ``remaining``: in units, when it was noticed.

    ``reminded_at``: then. ``delivered_at``: when a callback had taken it, None before.
    """

    account: str
    quota_type: str
    grant_id: str
    days: int
    remaining: int
    source: str | None
    reference: str | None
    expires_at: datetime
    reminded_at: datetime
    delivered_at: datetime | None

    def told(self) -> dict[str, Any]:
        """Return what a line of the log says, in JSON's own kinds."""
        return {
            "account": self.account,
            "quota_type": self.quota_type,
            "grant_id": self.grant_id,
            "days": self.days,
            "remaining": self.remaining,
            "source": self.source,
            "expires_at": self.expires_at.isoformat(),
        }


@dataclass(frozen=True, slots=True)
class ReminderQuery:
    """Which reminders are asked for: of an account, since an instant, at most so many."""

    account: str | None
    since: datetime | None
    limit: int | None


def checked_reminder_query(account: object, since: object, limit: object) -> ReminderQuery:
    """Return a query; raise ``InvalidArgumentError`` for what it cannot mean."""
    if since is not None:
        to_ms(since, name="since")
    return ReminderQuery(
        None if account is None else checked_account(account),
        since,  # type: ignore[arg-type]
        None if limit is None else checked_amount(limit, name="limit"),
    )
