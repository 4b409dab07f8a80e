"""Rows of provider pools, read and written in the caller's transaction. It decides nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, text

from quota_engine.errors import IdempotencyConflictError, PoolNotFoundError
from quota_engine.instants import from_ms, to_ms
from quota_engine.ledger.locks import bound
from quota_engine.ledger.pool_tables import pool_entries, provider_pools
from quota_engine.pools import (
    RECHARGES_LOOKED_AT,
    PoolEntry,
    PoolName,
    PoolStanding,
    PoolTerms,
    checked_threshold,
    standing_of,
)
from quota_engine.prices.price import plain

#: A pool's definition waits so long for those who insert records.
INSERTS_WAIT_MS = 10_000

# A plain INSERT would wait for another one of the id, and fail: this waits, and finds it.
_ENTER = text("""
INSERT INTO pool_entries (provider, currency, entry_id, kind, amount, operator, remark, at)
VALUES (:provider, :currency, :entry_id, :kind, :amount, :operator, :remark, :at)
ON CONFLICT (provider, currency, entry_id) DO NOTHING
""")

_SUM = "coalesce((SELECT sum({0}) FROM {1} x WHERE {2}), 0)"
_OF_POOL = "x.provider = p.provider AND x.currency = p.currency"
_LAST = (
    f"FROM pool_entries x WHERE {_OF_POOL} AND x.kind = 'recharged'"
    f" ORDER BY x.id DESC LIMIT {RECHARGES_LOOKED_AT}"
)
_STANDINGS = f"""
SELECT p.provider, p.currency, p.starts_at_ms, p.warning, p.critical, p.summed_at,
    {_SUM.format("amount", "pool_entries", f"{_OF_POOL} AND x.kind = 'recharged'")} AS recharged,
    {_SUM.format("amount", "pool_entries", f"{_OF_POOL} AND x.kind = 'corrected'")} AS corrected,
    {_SUM.format("cost", "pool_days", _OF_POOL)}
        + {_SUM.format("cost", "pool_notes", _OF_POOL)} AS spent,
    ARRAY(SELECT x.amount {_LAST}) AS amounts,
    ARRAY(SELECT x.at {_LAST}) AS instants
FROM provider_pools p
"""
_ALL = text(f"{_STANDINGS} ORDER BY p.provider, p.currency")
_ONE = text(f"{_STANDINGS} WHERE p.provider = :provider AND p.currency = :currency")


def key_of(name: PoolName) -> dict[str, str]:
    """Return what names a pool in a statement."""
    return {"provider": name.provider, "currency": name.currency}


def is_pool(name: PoolName, table: Any = provider_pools) -> tuple[Any, Any]:
    """Return the conditions that a table's rows are a pool's."""
    return table.c.provider == name.provider, table.c.currency == name.currency


def find_pool(connection: Connection, name: PoolName) -> Row[Any] | None:
    """Return a pool's row, or None."""
    return connection.execute(select(provider_pools).where(*is_pool(name))).one_or_none()


def make_pool(connection: Connection, name: PoolName, told: dict[str, Any]) -> None:
    """Insert a pool, once nobody inserts records who has not seen it."""
    bound(connection, wait_ms=INSERTS_WAIT_MS)
    connection.execute(text("LOCK TABLE usage_records IN SHARE MODE"))
    connection.execute(insert(provider_pools).values(**key_of(name), **told))


def currencies_of(connection: Connection, provider: str) -> list[str]:
    """Return the currencies in which a provider has pools."""
    columns = provider_pools.c
    asked = select(columns.currency).where(columns.provider == provider)
    return sorted(connection.execute(asked).scalars())


def no_pool(connection: Connection, provider: str, currency: str | None) -> PoolNotFoundError:
    """Return what to raise where there is no pool; it tells which there are."""
    columns = provider_pools.c
    asked = select(columns.provider, columns.currency).order_by(columns.provider, columns.currency)
    known = [str(PoolName(*row)) for row in connection.execute(asked)]
    what = provider if currency is None else PoolName(provider, currency)
    there = f"there is {', '.join(known)}" if known else "`quota-engine pools define` makes one"
    return PoolNotFoundError(f"there is no pool of {what}; {there}")


def standing_rows(connection: Connection, name: PoolName | None = None) -> list[Row[Any]]:
    """Return what a pool's standing is made of, or every pool's, as of one instant."""
    asked = (_ALL, {}) if name is None else (_ONE, key_of(name))
    return list(connection.execute(*asked))


def standing(row: Row[Any]) -> PoolStanding:
    """Return what such a row says."""
    critical = row.critical
    instants = [in_ms(at) for at in row.instants]
    return standing_of(
        PoolName(row.provider, row.currency),
        PoolTerms(
            warning=checked_threshold(row.warning, name="warning"),
            critical=None if critical is None else checked_threshold(critical, name="critical"),
            starts_at=from_ms(row.starts_at_ms),
        ),
        recharges=list(zip(row.amounts, instants, strict=True)),
        recharged=row.recharged,
        corrected=row.corrected,
        spent=row.spent,
    )


def add_entry(connection: Connection, entry: PoolEntry) -> bool:
    """Record an entry unless its id was used; return whether it is new."""
    names = ("provider", "currency", "entry_id", "kind", "amount", "operator", "remark", "at")
    told = {name: getattr(entry, name) for name in names}
    return connection.execute(_ENTER, told).rowcount > 0


def replayed(connection: Connection, entry: PoolEntry) -> PoolEntry:
    """Return what an id was used for before; raise if that was something else."""
    name = PoolName(entry.provider, entry.currency)
    row = connection.execute(
        select(pool_entries).where(
            *is_pool(name, pool_entries), pool_entries.c.entry_id == entry.entry_id
        )
    ).one()
    if (row.kind, row.amount) != (entry.kind, entry.amount):
        raise IdempotencyConflictError(
            f"the pool of {name} was {row.kind} by {plain(row.amount):f} as {entry.entry_id}"
        )
    return entry_of(row, replayed=True)


def read_entries(connection: Connection, name: PoolName) -> list[PoolEntry]:
    """Return a pool's entries, oldest first."""
    asked = select(pool_entries).where(*is_pool(name, pool_entries)).order_by(pool_entries.c.id)
    return [entry_of(row) for row in connection.execute(asked)]


def entry_of(row: Row[Any], *, replayed: bool = False) -> PoolEntry:
    """Return an entry's row as an entry."""
    return PoolEntry(
        provider=row.provider,
        currency=row.currency,
        kind=row.kind,
        at=in_ms(row.at),
        amount=plain(row.amount),
        entry_id=row.entry_id,
        operator=row.operator,
        remark=row.remark,
        replayed=replayed,
    )


def instant(connection: Connection, now: datetime | None) -> datetime:
    """Return the instant to record; None: PostgreSQL's now."""
    return in_ms(now or connection.execute(select(func.clock_timestamp())).scalar_one())


def in_ms(at: datetime) -> datetime:
    """Return an instant in whole milliseconds, in UTC."""
    return from_ms(to_ms(at, name="now"))
