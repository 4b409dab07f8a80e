"""Batches of grants by their ids: which table each was. The grants are intents of their own."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Table, Text, func, select
from sqlalchemy.dialects.postgresql import insert

from quota_engine.batches import Batch
from quota_engine.errors import IdempotencyConflictError
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.tables import metadata

#: ``kind``: grants or opening. ``digest``: the hash of what the table says.
batches = Table(
    "batches",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("batch_id", Text(collation="C"), primary_key=True),
    Column("digest", Text, nullable=False),
    Column("lines", BigInteger, nullable=False),
    Column("actor", Text),
    Column("begun_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)


class BatchTables:
    """The batches of one ledger's database. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def now_ms(self) -> int:
        """Return PostgreSQL's clock in milliseconds."""
        with self._ledger.transaction() as connection:
            now = connection.execute(select(func.clock_timestamp())).scalar_one()
        return int(now.timestamp() * 1000)

    def check(self, batch: Batch) -> bool:
        """Return whether a batch was begun before; raise if its id was used for another table."""
        table = batches
        query = select(table.c.digest, table.c.lines, table.c.begun_at).where(
            table.c.kind == batch.kind, table.c.batch_id == batch.batch_id
        )
        with self._ledger.transaction() as connection:
            found = connection.execute(query).one_or_none()
        if found is not None and found.digest != batch.digest:
            raise IdempotencyConflictError(
                f"batch {batch.batch_id} was begun at {found.begun_at:%Y-%m-%d %H:%M:%S%z} with"
                f" another table, of {found.lines} lines, or with other options: take another id"
            )
        return found is not None

    def begin(self, batch: Batch, actor: str | None) -> None:
        """Record a batch once; raise if its id was used for another table."""
        with self._ledger.transaction() as connection:
            connection.execute(
                insert(batches)
                .values(
                    kind=batch.kind,
                    batch_id=batch.batch_id,
                    digest=batch.digest,
                    lines=batch.lines,
                    actor=actor,
                )
                .on_conflict_do_nothing()
            )
        self.check(batch)
