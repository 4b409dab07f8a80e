"""
Trim: let go of what an outbox has told the ledger, some time later.

Later, because a PostgreSQL that comes back without its last commits is fed again from what is
still there. A mark in the shard's row says up to which id everything was committed by when; once
it is old enough the outbox is cut there and the mark moves on, so persisted events stay between
one and two times that long.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import redis
from sqlalchemy import text

from quota_engine.commands.outbox import TrimOutbox
from quota_engine.events import EventId
from quota_engine.jobs import crash_points
from quota_engine.jobs.running import run_on_shard
from quota_engine.ledger import Ledger
from quota_engine.ledger.shards import ShardState, lock_shard, set_trim_mark
from quota_engine.outbox import Outbox, OutboxPage

#: Events that one call drops: a few milliseconds of the server's time.
SLICE = 5_000


def trim(
    client: redis.Redis,
    ledger: Ledger,
    shard: int,
    *,
    trim_after: timedelta,
    keep_max: int,
) -> int:
    """
    Drop events that were persisted at least ``trim_after`` ago; return how many went.

    Of persisted events never more than ``keep_max`` stay. Does nothing while somebody persists the
    shard, and nothing in another epoch than the ledger's. May be called as often as one likes.
    """
    outbox = Outbox(client, shard)
    with ledger.transaction() as connection:
        state = lock_shard(connection, shard, None)
        if state is None or state.epoch == 0:
            return 0
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        is_due = state.trim_mark_at is None or now - state.trim_mark_at >= trim_after
        if is_due and state.trim_mark != state.cursor:
            set_trim_mark(connection, shard, state.cursor)
    page = outbox.read(state.cursor, 1)
    if page.noted is not None and page.noted > state.cursor:
        return 0  # the ledger has lost commits, and is fed again first
    min_id = _first_to_stay(state, page, now, trim_after, keep_max)
    crash_points.reach("before_trim")
    return _cut(client, outbox, state.epoch, min_id)


def _first_to_stay(
    state: ShardState, page: OutboxPage, now: datetime, trim_after: timedelta, keep_max: int
) -> EventId:
    """Return the first id to keep: nothing that is not persisted lies before it."""
    cursor = state.cursor
    until = EventId(0, 0)
    if not trim_after:
        until = cursor
    elif state.trim_mark_at is not None and now - state.trim_mark_at >= trim_after:
        until = state.trim_mark
    if cursor.n >= keep_max:
        until = max(until, EventId(cursor.epoch, cursor.n - keep_max))
    elif page.last_id is not None and page.last_id.epoch == cursor.epoch:
        persisted = page.length - (page.last_id.n - cursor.n)
        if persisted > keep_max:  # the rest is of earlier epochs
            return max(EventId(until.epoch, until.n + 1), EventId(cursor.epoch, 0))
    until = min(until, cursor)
    return EventId(until.epoch, until.n + 1)


def _cut(client: redis.Redis, outbox: Outbox, epoch: int, min_id: EventId) -> int:
    """Drop what lies before ``min_id``, slice by slice, as long as the epoch is the same."""
    trimmed = 0
    first = outbox.first_id()
    while first is not None and first < min_id:
        cut = min(min_id, EventId(first.epoch, first.n + SLICE))
        gone = run_on_shard(client, outbox.shard, epoch, TrimOutbox(min_id=cut))
        if not gone:
            break
        trimmed += gone
        crash_points.reach("mid_trim")
        first = outbox.first_id()
    return trimmed
