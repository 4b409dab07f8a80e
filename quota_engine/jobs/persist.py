"""
Persist: move a shard's outbox into the ledger, batch by batch, each in one transaction.

The lock of the shard's row is the ownership: a second drainer finds it locked and leaves. The
cursor moves in the same transaction as the entries, so a batch is there once or not at all,
whoever dies when. Anything that does not look like the epoch that PostgreSQL knows stops the
shard, with nothing skipped and nothing lost; the next attempt looks again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import psycopg
import redis
from sqlalchemy import Connection
from sqlalchemy import exc as sql_errors

from quota_engine.alerts.watching import RuleBook
from quota_engine.commands.outbox import NotePersisted
from quota_engine.errors import EngineUnavailableError
from quota_engine.events import EventId, UnknownFormatError
from quota_engine.jobs import crash_points
from quota_engine.jobs.running import run_on_shard
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger
from quota_engine.ledger.appending import append
from quota_engine.ledger.incoming import Incoming, judge
from quota_engine.ledger.shards import ShardState, lock_shard, move_cursor, set_stopped
from quota_engine.outbox import START, Outbox, OutboxPage

log = logging.getLogger("quota_engine.persist")

#: Told of every quota that had something quarantined, after the commit, each time again.
OnFreeze = Callable[[QuotaName, str], None]

BATCH_MAX = 2_000
LOCK_WAIT_MS = 5_000
DRAIN_TIMEOUT_S = 60.0

Status = Literal["persisted", "empty", "locked", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistOutcome:
    """
    What one attempt did.

    ``persisted``: a batch is committed, ``empty``: nothing waits, ``locked``: another drains it,
    ``stopped``: ``reason`` says why it cannot go on (part of a batch may be committed before).
    """

    shard: int
    status: Status
    reason: str = ""
    #: Entries that left the outbox: recorded ones and quarantined ones.
    events: int = 0
    quarantined: int = 0
    duplicates: int = 0
    cursor: EventId = START
    #: Whether more waited when the batch was read.
    is_more: bool = False
    #: The ledger has lost commits: Redis was told that it had everything up to here.
    lost_until: EventId | None = None


@dataclass(slots=True)
class _Scan:
    """The part of a page that may be persisted, and why it ends where it does."""

    batch: list[Incoming]
    cursor: EventId
    stopped: str | None = None


def persist_batch(
    client: redis.Redis,
    ledger: Ledger,
    shard: int,
    *,
    batch_max: int = BATCH_MAX,
    wait: bool = False,
    on_freeze: OnFreeze | None = None,
) -> PersistOutcome:
    """
    Persist at most ``batch_max`` messages of a shard's outbox in one transaction.

    Another drainer's lock ends it at once, or with ``wait`` after a bounded wait. Running it
    twice, late, or beside another is harmless.
    """
    frozen: dict[QuotaName, str] = {}
    with ledger.transaction() as connection:
        state = locked_shard(connection, shard, wait)
        if state is None:
            return PersistOutcome(shard=shard, status="locked", reason="another drains it")
        page = Outbox(client, shard).read_calls(state.cursor, batch_max)
        crash_points.reach("after_read")
        rules = ledger.known_rules.book(connection, state.rules_revision)
        outcome = persist_page(connection, ledger.shard_count, state, page, frozen, rules=rules)
        crash_points.reach("before_commit")
    crash_points.reach("after_commit")
    note_persisted(client, outcome, page)
    if on_freeze is not None:
        for name, reason in frozen.items():
            on_freeze(name, reason)
    return outcome


def drain(
    client: redis.Redis,
    ledger: Ledger,
    shards: Iterable[int],
    on_freeze: OnFreeze | None = None,
    *,
    batch_max: int = BATCH_MAX,
    timeout_s: float = DRAIN_TIMEOUT_S,
) -> int:
    """
    Persist everything that waits in these shards' outboxes now; return how many entries that was.

    Entries that another drainer persists meanwhile are not counted. Raises
    ``EngineUnavailableError``, after the other shards are done, if one cannot be drained.
    """
    count = 0
    failures: list[str] = []
    until = time.monotonic() + timeout_s
    for shard in shards:
        tail = Outbox(client, shard).last_id()
        while True:
            outcome = persist_batch(
                client, ledger, shard, batch_max=batch_max, wait=True, on_freeze=on_freeze
            )
            count += outcome.events
            if outcome.status == "stopped":
                failures.append(f"shard {shard}: {outcome.reason}")
                break
            if outcome.status == "empty" or (tail is not None and outcome.cursor >= tail):
                break
            if time.monotonic() > until:
                failures.append(f"shard {shard}: not drained in time")
                break
    if failures:
        raise EngineUnavailableError("the outbox could not be drained: " + "; ".join(failures))
    return count


def note_persisted(client: redis.Redis, outcome: PersistOutcome, page: OutboxPage) -> None:
    """Tell Redis how far the ledger is; a failure is made good by the next batch."""
    if outcome.status == "stopped" or outcome.cursor in (page.noted, START):
        return
    note = NotePersisted(cursor=outcome.cursor)
    try:
        run_on_shard(client, outcome.shard, outcome.cursor.epoch, note)
    except EngineUnavailableError as error:
        log.info("shard %d: %s", outcome.shard, error)


def locked_shard(connection: Connection, shard: int, wait: bool) -> ShardState | None:
    """Return the shard's row, locked, or None while another has it."""
    try:
        state = lock_shard(connection, shard, LOCK_WAIT_MS if wait else None)
    except sql_errors.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            connection.rollback()
            return None
        raise
    if state is None and wait:
        raise EngineUnavailableError(f"shard {shard} is not in the ledger")
    return state


def persist_page(
    connection: Connection,
    shards: int,
    state: ShardState,
    page: OutboxPage,
    frozen: dict[QuotaName, str],
    *,
    rules: RuleBook,
) -> PersistOutcome:
    """Write what may be written of a page, and move the cursor; the caller commits."""
    shard = state.shard
    stopped = reason_to_stop(state, page)
    if stopped is not None:
        if stopped != state.stopped:
            set_stopped(connection, shard, stopped)
        return PersistOutcome(shard=shard, status="stopped", reason=stopped, cursor=state.cursor)
    scan = _scan(state, page, shards)
    is_behind = page.noted is not None and page.noted > state.cursor
    appended = append(connection, shard, scan.batch, crash_points.reach, rules=rules)
    frozen.update(appended.frozen)
    if is_behind:
        log.warning(
            "shard %d: the ledger is at %s, but had persisted up to %s: it has lost commits, and"
            " is fed again from what the outbox keeps",
            *(shard, state.cursor, page.noted),
        )
    if scan.cursor != state.cursor or scan.stopped != state.stopped:
        at_ms = [one.entry.at_ms for one in scan.batch if one.entry is not None]
        move_cursor(
            *(connection, shard, scan.cursor, scan.stopped),
            seen=page.last_id or scan.cursor,
            entry_at_ms=at_ms[-1] if at_ms else None,
        )
    status: Status = "persisted" if scan.cursor != state.cursor else "empty"
    return PersistOutcome(
        shard=shard,
        status="stopped" if scan.stopped else status,
        reason=scan.stopped or "",
        events=len(scan.batch),
        quarantined=appended.quarantined,
        duplicates=appended.duplicates,
        cursor=scan.cursor,
        is_more=page.last_id is not None and page.last_id > scan.cursor,
        lost_until=page.noted if is_behind else None,
    )


def reason_to_stop(state: ShardState, page: OutboxPage) -> str | None:
    """Return why nothing of this outbox may be persisted, or None when it may."""
    if state.epoch == 0:
        return "the gate has not opened the shard yet"
    if page.incarnation != state.incarnation:
        return "another Redis answers than the one the shard was opened for; the gate must run"
    last_id = page.last_id
    if last_id is None:
        return "the outbox is gone; the gate must run"
    if last_id.epoch > state.epoch:
        return f"stale epoch: the outbox is of epoch {last_id.epoch}, the ledger of {state.epoch}"
    if last_id.epoch < state.epoch:
        return f"foreign epoch: the outbox ends in {last_id.epoch}, the ledger is at {state.epoch}"
    if last_id < state.cursor:
        return f"the outbox ends at {last_id}, below the cursor {state.cursor}"
    return None


def _scan(state: ShardState, page: OutboxPage, shards: int) -> _Scan:
    """Return the messages that follow the cursor without a gap, as far as they can be read."""
    scan = _Scan(batch=[], cursor=state.cursor)
    for event in page.events:
        is_new_epoch = scan.cursor.epoch < state.epoch
        expected = (
            EventId(state.epoch, 0) if is_new_epoch else EventId(state.epoch, scan.cursor.n + 1)
        )
        if event.event_id != expected:
            scan.stopped = f"gap: {event.event_id} comes after {scan.cursor}"
            break
        if is_new_epoch and not event.is_marker:
            scan.stopped = f"{event.event_id} begins an epoch without the gate's marker"
            break
        if not is_new_epoch:
            try:
                scan.batch.append(judge(event, state.shard, shards))
            except UnknownFormatError as error:
                scan.stopped = f"{event.event_id}: {error}"
                break
        scan.cursor = event.event_id
    else:
        if not page.events and page.last_id is not None and page.last_id > scan.cursor:
            scan.stopped = f"gap: nothing is left between {scan.cursor} and {page.last_id}"
    return scan
