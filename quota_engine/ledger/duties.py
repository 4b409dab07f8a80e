"""
Which duty was taken up when, and what came of it. Every function runs in the caller's transaction.

A claim keeps many workers from doing the same at the same time; it promises nothing. Whoever dies
after a claim leaves the duty to the next turn, so a duty must be safe to run late, or twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from quota_engine.ledger import tables


@dataclass(frozen=True, slots=True, kw_only=True)
class DutyRun:
    """The last run of a duty. ``finished_at`` is of the last one that ended, None before it."""

    duty: str
    claimed_at: datetime
    finished_at: datetime | None
    outcome: str
    is_ok: bool


def claim(connection: Connection, duty: str, every: timedelta) -> bool:
    """Take a duty up unless somebody has in the last ``every``; tell whether that worked."""
    table = tables.duties
    claimed = connection.execute(
        insert(table)
        .values(duty=duty, claimed_at=func.clock_timestamp())
        .on_conflict_do_update(
            index_elements=["duty"],
            set_={"claimed_at": func.clock_timestamp()},
            where=table.c.claimed_at <= func.clock_timestamp() - every,
        )
        .returning(table.c.duty)
    )
    return claimed.first() is not None


def finish(connection: Connection, duty: str, outcome: str, *, is_ok: bool) -> None:
    """Record what came of a duty."""
    connection.execute(
        update(tables.duties)
        .where(tables.duties.c.duty == duty)
        .values(finished_at=func.clock_timestamp(), outcome=outcome, is_ok=is_ok)
    )


def read_runs(connection: Connection) -> list[DutyRun]:
    """Return the last run of every duty, by name."""
    rows = connection.execute(select(tables.duties).order_by(tables.duties.c.duty))
    return [DutyRun(**row._mapping) for row in rows]
