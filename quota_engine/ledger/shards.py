"""
Deployment and shards: who this ledger belongs to, and how far each outbox has been persisted.

The row lock of a shard is the right to persist, to trim and to open it; there is no lease beside
it. This module must not know what an outbox holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, select, text, update
from sqlalchemy.dialects.postgresql import insert

from quota_engine.events import EventId
from quota_engine.ledger import tables
from quota_engine.ledger.locks import bound

NOTHING_SEEN = EventId(0, 0)


@dataclass(frozen=True, slots=True)
class Deployment:
    """Which deployment the tables belong to; its number of shards never changes."""

    deployment_id: str
    shards: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardState:
    """One shard's row. Epoch 0: the gate has never opened it."""

    shard: int
    epoch: int
    #: The outbox id persisted last.
    cursor: EventId
    #: ``run_id master_replid`` of the Redis that the epoch was opened for.
    incarnation: str
    opened_at: datetime | None
    #: Why the last attempt to persist could not go on.
    stopped: str | None
    last_drain_at: datetime | None
    #: The outbox's end as the persister saw it last.
    seen: EventId = NOTHING_SEEN
    #: When the entry that was recorded last was made, by Redis' clock.
    entry_at_ms: int | None = None
    #: Everything up to this id was committed before ``trim_mark_at``.
    trim_mark: EventId
    trim_mark_at: datetime | None
    #: The newest change of alert rules that its persisters must know.
    rules_revision: int = 0


def read_deployment(connection: Connection) -> Deployment | None:
    """Return the deployment, or None before the first start."""
    table = tables.deployment
    row = connection.execute(
        select(table.c.deployment_id, table.c.shards, table.c.created_at)
    ).one_or_none()
    return None if row is None else Deployment(*row)


def create_deployment(connection: Connection, deployment_id: str, shards: int) -> Deployment:
    """
    Record a deployment and its shards, unless one is recorded; return the recorded one.

    Of two first starts at once one wins, and both are told who.
    """
    connection.execute(
        insert(tables.deployment)
        .values(deployment_id=deployment_id, shards=shards)
        .on_conflict_do_nothing()
    )
    recorded = read_deployment(connection)
    assert recorded is not None
    connection.execute(
        insert(tables.shards)
        .values([{"shard": shard} for shard in range(recorded.shards)])
        .on_conflict_do_nothing()
    )
    return recorded


def read_shards(connection: Connection) -> list[ShardState]:
    """Return every shard's row, in order."""
    rows = connection.execute(select(tables.shards).order_by(tables.shards.c.shard))
    return [_state(row) for row in rows]


def lock_shard(connection: Connection, shard: int, wait_ms: int | None) -> ShardState | None:
    """
    Lock a shard's row until the transaction ends; return it, or None while another has it.

    The transaction may not stand idle for long: see ``locks``. ``wait_ms`` None: look once. Else
    the wait is bounded, ``sqlalchemy.exc.OperationalError`` (LockNotAvailable) ends it, and None
    means that there is no such shard.
    """
    wanted = select(tables.shards).where(tables.shards.c.shard == shard)
    bound(connection, wait_ms=wait_ms)
    row = connection.execute(wanted.with_for_update(skip_locked=wait_ms is None)).one_or_none()
    return None if row is None else _state(row)


def move_cursor(
    connection: Connection,
    shard: int,
    cursor: EventId,
    stopped: str | None,
    *,
    seen: EventId,
    entry_at_ms: int | None,
) -> None:
    """
    Record how far the shard's outbox is persisted, and why it went no further.

    ``seen``: the outbox's end now; ``entry_at_ms``: when its newest recorded entry was made, None
    where no more was recorded.
    """
    at_ms = tables.shards.c.entry_at_ms if entry_at_ms is None else entry_at_ms
    connection.execute(
        update(tables.shards)
        .where(tables.shards.c.shard == shard)
        .values(
            cursor_epoch=cursor.epoch,
            cursor_n=cursor.n,
            stopped=stopped,
            seen_epoch=seen.epoch,
            seen_n=seen.n,
            entry_at_ms=at_ms,
            last_drain_at=text("clock_timestamp()"),
        )
    )


def set_stopped(connection: Connection, shard: int, stopped: str | None) -> None:
    """Record why the shard cannot be persisted, or with None that it can."""
    connection.execute(
        update(tables.shards).where(tables.shards.c.shard == shard).values(stopped=stopped)
    )


def set_trim_mark(connection: Connection, shard: int, mark: EventId) -> None:
    """Record that everything up to ``mark`` is committed by now."""
    connection.execute(
        update(tables.shards)
        .where(tables.shards.c.shard == shard)
        .values(
            trim_mark_epoch=mark.epoch, trim_mark_n=mark.n, trim_mark_at=text("clock_timestamp()")
        )
    )


def _state(row: Row[tuple[object, ...]]) -> ShardState:
    return ShardState(
        shard=row.shard,
        epoch=row.epoch,
        cursor=EventId(row.cursor_epoch, row.cursor_n),
        incarnation=row.incarnation,
        opened_at=row.opened_at,
        stopped=row.stopped,
        last_drain_at=row.last_drain_at,
        seen=EventId(row.seen_epoch, row.seen_n),
        entry_at_ms=row.entry_at_ms,
        trim_mark=EventId(row.trim_mark_epoch, row.trim_mark_n),
        trim_mark_at=row.trim_mark_at,
        rules_revision=row.rules_revision,
    )
