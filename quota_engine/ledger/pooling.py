"""
Provider pools in PostgreSQL: what was paid in, and what usage records cost of it.

Records are inserted by many persisters, in transactions that commit in any order. A trigger notes
what each insert costs, by pool and day, in its transaction; whoever takes notes up adds them to
the pool's days in the statement that deletes them. So a balance is what was paid in less days and
notes, read as of one instant: a record counts from its commit on, once, taken up or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, select, text, union_all, update

from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import new_id
from quota_engine.instants import from_ms, to_ms
from quota_engine.ledger import pool_rows
from quota_engine.ledger.locks import lock_named
from quota_engine.ledger.pool_exports import compare_export
from quota_engine.ledger.pool_rows import is_pool, key_of
from quota_engine.ledger.pool_tables import pool_days, pool_notes, provider_pools
from quota_engine.pools import (
    DEFINED,
    PoolEntry,
    PoolName,
    PoolStanding,
    PoolTerms,
    history_of,
)
from quota_engine.provider_exports import Comparison, Difference, ExportReport

if TYPE_CHECKING:
    from quota_engine.ledger.ledger import Ledger

#: Who takes notes up or sums again holds it: days are added to by one at a time.
LOCK = "provider_pools"
#: Notes that one transaction takes up.
PAGE = 10_000

_TAKE_UP = text("""
WITH taken AS (
    DELETE FROM pool_notes
    WHERE id IN (SELECT id FROM pool_notes ORDER BY id LIMIT :limit)
    RETURNING provider, currency, day, cost
), added AS (
    INSERT INTO pool_days (provider, currency, day, cost)
    SELECT provider, currency, day, sum(cost) FROM taken GROUP BY 1, 2, 3
    ON CONFLICT (provider, currency, day) DO UPDATE SET cost = pool_days.cost + excluded.cost
)
SELECT count(*) FROM taken
""")

_RECORDS = """
SELECT DATE '1970-01-01' + (u.at_ms / 86400000)::integer AS day, sum(u.cost) AS cost
FROM usage_records u
WHERE u.provider = :provider AND u.currency = :currency AND u.cost <> 0
    AND u.at_ms >= (
        SELECT p.starts_at_ms FROM provider_pools p
        WHERE p.provider = :provider AND p.currency = :currency
    )
GROUP BY 1
"""
# One statement sees a record and its note, or neither.
_SUM_AGAIN = text(f"""
WITH taken AS (
    DELETE FROM pool_notes WHERE provider = :provider AND currency = :currency
)
INSERT INTO pool_days (provider, currency, day, cost)
SELECT CAST(:provider AS text), CAST(:currency AS text), day, cost FROM ({_RECORDS}) AS records
""")
_WRONG = text(f"""
WITH told AS (
    SELECT day, sum(cost) AS cost FROM (
        SELECT day, cost FROM pool_days WHERE provider = :provider AND currency = :currency
        UNION ALL
        SELECT day, cost FROM pool_notes WHERE provider = :provider AND currency = :currency
    ) AS parts GROUP BY day
)
SELECT coalesce(told.day, records.day) AS day
FROM told FULL JOIN ({_RECORDS}) AS records ON told.day = records.day
WHERE told.cost IS DISTINCT FROM records.cost
ORDER BY 1
""")


class PoolTables:
    """The pools of one ledger. Safe to share between threads, and beside other processes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def define(
        self,
        name: PoolName,
        terms: PoolTerms,
        now: datetime | None,
        *,
        operator: str | None = None,
        remark: str | None = None,
    ) -> PoolStanding:
        """
        Make a pool, or change its thresholds; the same again changes nothing.

        A new one waits for those who insert records, so that none of them misses it.
        """
        told = {
            "warning": str(terms.warning),
            "critical": None if terms.critical is None else str(terms.critical),
        }
        with self._ledger.transaction() as connection:
            lock_named(connection, LOCK)
            row = pool_rows.find_pool(connection, name)
            at = pool_rows.instant(connection, now)
            if row is None:
                starts_at_ms = to_ms(terms.starts_at or at, name="starts_at")
                pool_rows.make_pool(connection, name, {**told, "starts_at_ms": starts_at_ms})
            else:
                _check_start(name, row.starts_at_ms, terms)
                connection.execute(update(provider_pools).where(*is_pool(name)).values(**told))
            if row is None or (row.warning, row.critical) != (told["warning"], told["critical"]):
                said = f"warning {terms.warning}, critical {terms.critical or 'a fifth of it'}"
                entry = _entry(name, DEFINED, Decimal(0), at)
                entry = replace(entry, entry_id=new_id("definition"), operator=operator)
                remark = f"{said}: {remark}" if remark else said
                pool_rows.add_entry(connection, replace(entry, remark=remark))
        return self.standing(name)

    def enter(
        self,
        name: PoolName,
        kind: str,
        amount: Decimal,
        now: datetime | None,
        *,
        entry_id: str,
        operator: str | None,
        remark: str | None,
    ) -> PoolEntry:
        """
        Record a recharge or a correction, once by its id; the same again is replayed.

        Another amount by the same id raises ``IdempotencyConflictError``.
        """
        with self._ledger.transaction() as connection:
            if pool_rows.find_pool(connection, name) is None:
                raise pool_rows.no_pool(connection, name.provider, name.currency)
            entry = replace(
                _entry(name, kind, amount, pool_rows.instant(connection, now)),
                entry_id=entry_id,
                operator=operator,
                remark=remark,
            )
            if not pool_rows.add_entry(connection, entry):
                return pool_rows.replayed(connection, entry)
        return replace(entry, balance_after=self.standing(name).balance)

    def name_of(self, provider: str, currency: str | None) -> PoolName:
        """Return which pool is meant; a provider with several needs a currency."""
        with self._ledger.transaction() as connection:
            known = pool_rows.currencies_of(connection, provider)
            if currency is None and len(known) > 1:
                raise InvalidArgumentError(
                    f"{provider} has pools in {' and '.join(known)}: say which currency"
                )
            if not known or (currency is not None and currency not in known):
                raise pool_rows.no_pool(connection, provider, currency)
            return PoolName(provider, currency or known[0])

    def currencies_of(self, provider: str) -> list[str]:
        """Return the currencies in which a provider has pools."""
        with self._ledger.transaction() as connection:
            return pool_rows.currencies_of(connection, provider)

    def standing(self, name: PoolName) -> PoolStanding:
        """Return a pool as it is now; raise ``PoolNotFoundError`` where there is none."""
        self._sum_new(name)
        with self._ledger.transaction() as connection:
            rows = pool_rows.standing_rows(connection, name)
            if not rows:
                raise pool_rows.no_pool(connection, name.provider, name.currency)
            return pool_rows.standing(rows[0])

    def standings(self) -> list[PoolStanding]:
        """Return every pool as it is now, by provider and currency. Waits for no writer."""
        with self._ledger.transaction() as connection:
            rows = pool_rows.standing_rows(connection)
        return [
            pool_rows.standing(row)
            if row.summed_at is not None
            else self.standing(PoolName(row.provider, row.currency))
            for row in rows
        ]

    def history(self, name: PoolName, now: datetime | None) -> list[PoolEntry]:
        """Return a pool's entries and the costs of its days, oldest first."""
        self._sum_new(name)
        with self._ledger.transaction() as connection:
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            return history_of(
                name,
                pool_rows.read_entries(connection, name),
                _costs(connection, name),
                pool_rows.instant(connection, now),
            )

    def compare(
        self,
        comparison: Comparison,
        file: Path,
        on_difference: Callable[[Difference], object] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ExportReport:
        """Compare a provider's own export with the usage records: see ``pool_exports``."""
        with self._ledger.transaction() as connection:
            return compare_export(connection, comparison, file, on_difference, progress)

    # -- sums

    def take_up(self, *, page: int = PAGE) -> int:
        """Add notes to the days of their pools; return how many. Each once, whoever asks."""
        with self._ledger.transaction() as connection:
            lock_named(connection, LOCK)
            return int(connection.execute(_TAKE_UP, {"limit": page}).scalar_one())

    def rebuild(self, name: PoolName) -> int:
        """Sum a pool's days again from the records; return how many. They come out the same."""
        with self._ledger.transaction() as connection:
            lock_named(connection, LOCK)
            connection.execute(pool_days.delete().where(*is_pool(name, pool_days)))
            made = connection.execute(_SUM_AGAIN, key_of(name))
            connection.execute(
                update(provider_pools)
                .where(*is_pool(name), provider_pools.c.summed_at.is_(None))
                .values(summed_at=func.clock_timestamp())
            )
            return made.rowcount

    def wrong_days(self, name: PoolName) -> list[date]:
        """Return the days on which a pool's costs are not those of the records."""
        with self._ledger.transaction() as connection:
            return list(connection.execute(_WRONG, key_of(name)).scalars())

    def _sum_new(self, name: PoolName) -> None:
        """Sum the records that were there when a pool was defined, if nobody has yet."""
        with self._ledger.transaction() as connection:
            row = pool_rows.find_pool(connection, name)
        if row is not None and row.summed_at is None:
            self.rebuild(name)


def _entry(name: PoolName, kind: str, amount: Decimal, at: datetime) -> PoolEntry:
    return PoolEntry(
        provider=name.provider, currency=name.currency, kind=kind, amount=amount, at=at
    )


def _check_start(name: PoolName, starts_at_ms: int, terms: PoolTerms) -> None:
    if terms.starts_at not in (None, from_ms(starts_at_ms)):
        raise InvalidArgumentError(
            f"the pool of {name} starts at {from_ms(starts_at_ms).isoformat()}, which is not"
            " changed: correct its balance instead"
        )


def _costs(connection: Connection, name: PoolName) -> list[tuple[date, Decimal]]:
    """Return what each day cost, notes included."""
    parts = [
        select(table.c.day, table.c.cost).where(*is_pool(name, table))
        for table in (pool_days, pool_notes)
    ]
    each = union_all(*parts).subquery()
    asked = select(each.c.day, func.sum(each.c.cost)).group_by(each.c.day)
    return [(row[0], row[1]) for row in connection.execute(asked)]
