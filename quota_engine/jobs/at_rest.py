"""
See a shard at rest: Redis in one instant, and the ledger as of the same.

A quota that is charged all the time has entries on their way whenever somebody looks, so that its
grants and holds in Redis are never those of the ledger. So Redis is looked at while the shard's
row is locked, and what the outbox held in that instant is persisted before the ledger is read, in
the same transaction. Callers go on meanwhile; only other drainers of that shard wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import redis
from sqlalchemy import Connection

from quota_engine.events import EventId
from quota_engine.jobs import crash_points, persist
from quota_engine.jobs.persist import OnFreeze, PersistOutcome
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger
from quota_engine.outbox import Outbox, OutboxPage

S = TypeVar("S")
T = TypeVar("T")

#: Batches that may be persisted within one look: beyond that the shard must be drained first.
BATCHES_MAX = 5


def look_at_rest(
    client: redis.Redis,
    ledger: Ledger,
    shard: int,
    *,
    see: Callable[[], tuple[EventId, S]],
    tell: Callable[[Connection, S], T],
    on_freeze: OnFreeze | None = None,
) -> T | None:
    """
    Return what ``tell`` makes of the ledger as of the instant that ``see`` saw Redis in.

    ``see`` returns the end of the shard's outbox in that instant, and what it saw. None: another
    drains the shard for too long, it is stopped, or too much waits. What was persisted stays.
    """
    frozen: dict[QuotaName, str] = {}
    done: list[tuple[PersistOutcome, OutboxPage]] = []
    told: T | None = None
    with ledger.transaction() as connection:
        state = persist.locked_shard(connection, shard, wait=True)
        if state is None:
            return None
        last_id, seen = see()
        rules = ledger.known_rules.book(connection, state.rules_revision)
        while state.cursor < last_id and len(done) < BATCHES_MAX:
            page = Outbox(client, shard).read_calls(state.cursor, persist.BATCH_MAX)
            crash_points.reach("after_read")
            until = tuple(event for event in page.events if event.event_id <= last_id)
            outcome = persist.persist_page(
                *(connection, ledger.shard_count, state, replace(page, events=until), frozen),
                rules=rules,
            )
            done.append((outcome, page))
            if outcome.status != "persisted":
                break
            state = replace(state, cursor=outcome.cursor)
        if state.cursor == last_id:
            told = tell(connection, seen)
        if done:
            crash_points.reach("before_commit")
    if done:
        crash_points.reach("after_commit")
        persist.note_persisted(client, *done[-1])
    if on_freeze is not None:
        for name, reason in frozen.items():
            on_freeze(name, reason)
    return told
