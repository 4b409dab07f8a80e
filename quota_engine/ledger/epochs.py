"""
What the recovery gate asks and tells the ledger: who is recorded, which entries it knows, which
heads it has, and what it has opened. Every function runs in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import psycopg
from sqlalchemy import Connection, exc, insert, select, text

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import GENESIS, Event, EventId
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from quota_engine.ledger.history import QuotaHead, quota_head
from quota_engine.ledger.locks import bound
from quota_engine.ledger.shards import Deployment, ShardState, read_deployment, read_shards


@dataclass(frozen=True, slots=True)
class Recorded:
    """The deployment as the ledger knows it, and each shard's epoch, cursor and incarnation."""

    deployment: Deployment
    shards: tuple[ShardState, ...]

    @property
    def was_opened(self) -> bool:
        """Whether a gate has ever opened this deployment."""
        return any(shard.epoch for shard in self.shards)


@dataclass(frozen=True, slots=True)
class Clue:
    """What the gate knows of an outbox entry when it asks whether the ledger has it."""

    quota: QuotaName
    version: int
    operation_id: str
    chain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryTold:
    """One recovery, as it is kept: why it was, what was missing, and who accepted that."""

    epoch: int
    reason: str
    incarnation: str
    #: Who accepted that entries are lost, and why; None when nobody had to.
    accepted_by: str | None
    entries: int
    gaps: Sequence[str]
    #: Quotas that were frozen because entries of theirs are in neither store.
    lost: Sequence[str]
    #: Of each shard that came back older than the ledger: from where on nothing is known.
    losses: Sequence[str]
    #: Entries that only the outboxes had, and what became of them.
    appended: int
    quarantined: int
    #: Loaded quotas that were not as the ledger has them.
    dropped: int
    #: When the newest entry of either store was made, by Redis' clock.
    last_entry_at: datetime | None


RECORDED = "recorded"
OPERATION_KNOWN = "operation known"
UNKNOWN = "unknown"

#: A gate that was stopped (SIGSTOP) in its transaction loses it after this, and its locks.
IDLE_TIMEOUT_MS = 90_000

_LOCK = text("SELECT shard FROM shards ORDER BY shard FOR UPDATE")

_KNOWN = text("""
SELECT CASE
    WHEN EXISTS (
        SELECT FROM ledger_entries e
        WHERE e.account = w.account AND e.quota_type = w.quota_type AND e.version = w.version
            AND e.chain = w.chain
    ) THEN 'recorded'
    WHEN EXISTS (
        SELECT FROM ledger_entries e
        WHERE e.account = w.account AND e.quota_type = w.quota_type
            AND e.operation_id = w.operation_id AND e.duplicate_of IS NULL
    ) THEN 'operation known'
    ELSE 'unknown'
END
FROM unnest(
    CAST(:accounts AS text[]), CAST(:quota_types AS text[]), CAST(:versions AS bigint[]),
    CAST(:operation_ids AS text[]), CAST(:chains AS text[])
) WITH ORDINALITY AS w(account, quota_type, version, operation_id, chain, place)
ORDER BY place
""")

_HEADS = text("""
SELECT q.* FROM unnest(CAST(:accounts AS text[]), CAST(:quota_types AS text[]))
    AS w(account, quota_type)
JOIN quotas q ON q.account = w.account AND q.quota_type = w.quota_type
""")

_QUARANTINED = text("""
SELECT DISTINCT w.event_id
FROM unnest(
    CAST(:event_ids AS text[]), CAST(:entries AS bytea[]), CAST(:chains AS bytea[])
) AS w(event_id, raw_entry, raw_chain)
JOIN quarantine USING (event_id, raw_entry, raw_chain)
WHERE shard = :shard
""")

_FREEZE_BEHIND = text("""
INSERT INTO quotas AS q (
    account, quota_type, version, chain, balance, held, debt, overdraft_limit, frozen, shard,
    updated_at
)
SELECT w.account, w.quota_type, 0, :genesis, 0, 0, 0, 0,
    'lost: Redis had issued version ' || w.version || '; ' || :reason, :shard, clock_timestamp()
FROM unnest(
    CAST(:accounts AS text[]), CAST(:quota_types AS text[]), CAST(:versions AS bigint[])
) AS w(account, quota_type, version)
LEFT JOIN quotas known ON known.account = w.account AND known.quota_type = w.quota_type
WHERE coalesce(known.version, 0) < w.version AND coalesce(known.frozen, '') = ''
ON CONFLICT (account, quota_type) DO UPDATE SET frozen = excluded.frozen
RETURNING q.account, q.quota_type
""")

_OPENED = text("""
UPDATE shards SET
    epoch = :epoch, cursor_epoch = :epoch, cursor_n = 0, incarnation = :incarnation,
    opened_at = clock_timestamp(), stopped = NULL, last_drain_at = clock_timestamp(),
    seen_epoch = :epoch, seen_n = 0
WHERE shard = :shard
""")

_SUPERSEDE = text("""
INSERT INTO superseded_incarnations (incarnation)
SELECT DISTINCT incarnation FROM shards WHERE incarnation NOT IN ('', :incarnation)
ON CONFLICT DO NOTHING
""")

_READMIT = text("DELETE FROM superseded_incarnations WHERE incarnation = :incarnation")


def read_recorded(connection: Connection) -> Recorded | None:
    """Return what is recorded, or None before the first start."""
    deployment = read_deployment(connection)
    return None if deployment is None else Recorded(deployment, tuple(read_shards(connection)))


def lock_recorded(connection: Connection, wait_ms: int) -> Recorded:
    """
    Lock every shard's row until the transaction ends, and return what is recorded then.

    Nobody persists, trims or opens meanwhile. Raises ``EngineUnavailableError`` after ``wait_ms``.
    """
    bound(connection, wait_ms=wait_ms, idle_ms=IDLE_TIMEOUT_MS)
    try:
        connection.execute(_LOCK)
    except exc.OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        raise EngineUnavailableError(
            f"another process has held the shards for {wait_ms / 1000:.0f} s, probably to recover"
            " them; try again"
        ) from error
    recorded = read_recorded(connection)
    assert recorded is not None, "shards exist only with a deployment"
    return recorded


def is_superseded(connection: Connection, incarnation: str) -> bool:
    """Return whether another incarnation has replaced this one."""
    table = tables.superseded_incarnations
    found = connection.execute(select(table).where(table.c.incarnation == incarnation))
    return found.first() is not None


def known(connection: Connection, clues: Sequence[Clue]) -> list[str]:
    """
    Return of each entry: ``RECORDED`` (this very row), ``OPERATION_KNOWN`` or ``UNKNOWN``.

    A chain commits to everything before it, so an equal chain at its version is the same row.
    """
    asked = {
        "accounts": [clue.quota.account for clue in clues],
        "quota_types": [clue.quota.quota_type for clue in clues],
        "versions": [clue.version for clue in clues],
        "operation_ids": [clue.operation_id for clue in clues],
        "chains": [clue.chain for clue in clues],
    }
    return list(connection.execute(_KNOWN, asked).scalars())


def quarantined(connection: Connection, shard: int, events: Sequence[Event]) -> set[EventId]:
    """Return which messages of an outbox have been quarantined already, byte for byte."""
    if not events:
        return set()
    asked = {
        "shard": shard,
        "event_ids": [str(event.event_id) for event in events],
        "entries": [event.entry for event in events],
        "chains": [event.chain for event in events],
    }
    return {EventId.parse(found) for found in connection.execute(_QUARANTINED, asked).scalars()}


def heads_of(connection: Connection, quotas: Iterable[QuotaName]) -> dict[QuotaName, QuotaHead]:
    """Return the heads of those quotas that the ledger knows."""
    names = list(quotas)
    asked = {
        "accounts": [name.account for name in names],
        "quota_types": [name.quota_type for name in names],
    }
    rows = connection.execute(_HEADS, asked)
    return {head.quota: head for head in map(quota_head, rows)}


def freeze_behind(
    connection: Connection, shard: int, issued: Mapping[str, int], reason: str
) -> list[QuotaName]:
    """
    Freeze those quotas that the ledger has at an older version than was issued; return them.

    One that it does not know is made, so that it is not taken for one that nobody knows.
    """
    names = [QuotaName.parse(name) for name in issued]
    asked = {
        "accounts": [name.account for name in names],
        "quota_types": [name.quota_type for name in names],
        "versions": list(issued.values()),
        "shard": shard,
        "reason": reason,
        "genesis": GENESIS,
    }
    rows = connection.execute(_FREEZE_BEHIND, asked)
    return [QuotaName(row.account, row.quota_type) for row in rows]


def record_recovery(connection: Connection, told: RecoveryTold) -> None:
    """Keep what a recovery did."""
    connection.execute(insert(tables.recoveries).values(**asdict(told)))


def read_recoveries(connection: Connection, limit: int) -> list[dict[str, object]]:
    """Return the last recoveries, newest first."""
    table = tables.recoveries
    rows = connection.execute(select(table).order_by(table.c.id.desc()).limit(limit))
    return [dict(row._mapping) for row in rows]


def record_opening(connection: Connection, epochs: Mapping[int, int], incarnation: str) -> None:
    """Record the epochs that begin with their markers, and whom they were opened for."""
    connection.execute(_SUPERSEDE, {"incarnation": incarnation})
    connection.execute(_READMIT, {"incarnation": incarnation})
    connection.execute(
        _OPENED,
        [
            {"shard": shard, "epoch": epoch, "incarnation": incarnation}
            for shard, epoch in epochs.items()
        ],
    )
