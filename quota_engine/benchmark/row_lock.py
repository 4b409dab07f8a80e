"""
The way that the engine replaces: one PostgreSQL row per account, locked by each call.

A debit is one transaction: SELECT … FOR UPDATE, UPDATE, a transaction row, a usage row, commit. A
hold is such a transaction, and its capture another. Commits do not wait for the disk, as the
engine's Redis does not: the faster of the two ways to run it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import psycopg

SCHEMA = """
CREATE SCHEMA row_lock;
CREATE TABLE row_lock.accounts (
    account text PRIMARY KEY, balance bigint NOT NULL, held bigint NOT NULL DEFAULT 0
);
CREATE TABLE row_lock.holds (
    hold_id text PRIMARY KEY, account text NOT NULL, amount bigint NOT NULL, state text NOT NULL
);
CREATE TABLE row_lock.transactions (
    id bigserial PRIMARY KEY, account text NOT NULL, kind text NOT NULL, amount bigint NOT NULL,
    balance_after bigint NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON row_lock.transactions (account, created_at);
CREATE TABLE row_lock.usage_records (
    id bigserial PRIMARY KEY, transaction_id bigint NOT NULL, account text NOT NULL,
    input_tokens bigint NOT NULL, output_tokens bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
"""
LOCK = "SELECT balance, held FROM row_lock.accounts WHERE account = %s FOR UPDATE"
PAY = "UPDATE row_lock.accounts SET balance = balance - %s, held = held - %s WHERE account = %s"
HOLD = "INSERT INTO row_lock.holds (hold_id, account, amount, state) VALUES (%s, %s, %s, 'open')"
CLOSE = "UPDATE row_lock.holds SET state = 'captured' WHERE hold_id = %s AND state = 'open'"
NOTE = (
    "INSERT INTO row_lock.transactions (account, kind, amount, balance_after)"
    " VALUES (%s, %s, %s, %s) RETURNING id"
)
USE = (
    "INSERT INTO row_lock.usage_records (transaction_id, account, input_tokens, output_tokens)"
    " VALUES (%s, %s, 1000, 200)"
)
NO_WAIT = "SET synchronous_commit TO off"


def make_tables(conninfo: str, accounts: Iterable[str], balance: int) -> None:
    """Make the scratch schema, with its accounts."""
    with psycopg.connect(conninfo) as connection:
        for statement in SCHEMA.split(";"):
            connection.execute(statement.encode())
        with connection.cursor().copy(
            "COPY row_lock.accounts (account, balance) FROM STDIN"
        ) as copy:
            for account in accounts:
                copy.write_row((account, balance))
        connection.execute("ANALYZE row_lock.accounts")


class RowLock:
    """One connection that debits and holds by row locks."""

    def __init__(self, conninfo: str) -> None:
        self._connection = psycopg.connect(conninfo, autocommit=True)
        self._connection.execute(NO_WAIT)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def debit(self, account: str, amount: int) -> None:
        """Take units, and record it."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            balance, held = _row(cursor.execute(LOCK, (account,)).fetchone())
            _admit(balance - held, amount)
            cursor.execute(PAY, (amount, 0, account))
            noted = cursor.execute(NOTE, (account, "debit", amount, balance - amount)).fetchone()
            cursor.execute(USE, (_row(noted)[0], account))

    def hold_and_capture(self, account: str, hold_id: str, amount: int, used: int) -> None:
        """Set units aside, then take what was used."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            balance, held = _row(cursor.execute(LOCK, (account,)).fetchone())
            _admit(balance - held, amount)
            cursor.execute(PAY, (0, -amount, account))
            cursor.execute(HOLD, (hold_id, account, amount))
        with self._connection.transaction(), self._connection.cursor() as cursor:
            balance, _ = _row(cursor.execute(LOCK, (account,)).fetchone())
            cursor.execute(CLOSE, (hold_id,))
            cursor.execute(PAY, (used, amount, account))
            noted = cursor.execute(NOTE, (account, "capture", used, balance - used)).fetchone()
            cursor.execute(USE, (_row(noted)[0], account))


class AsyncRowLock:
    """The same, awaited, on a pool of connections."""

    def __init__(self, conninfo: str, connections: int) -> None:
        self._conninfo = conninfo
        self._count = connections
        self._free: asyncio.Queue[psycopg.AsyncConnection[Any]] = asyncio.Queue()

    async def open(self) -> None:
        """Make the connections."""
        for _ in range(self._count):
            connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
            await connection.execute(NO_WAIT)
            self._free.put_nowait(connection)

    async def close(self) -> None:
        """Close the connections."""
        for _ in range(self._count):
            await (await self._free.get()).close()

    @asynccontextmanager
    async def _cursor(self) -> AsyncIterator[psycopg.AsyncCursor[Any]]:
        connection = await self._free.get()
        try:
            async with connection.transaction(), connection.cursor() as cursor:
                yield cursor
        finally:
            self._free.put_nowait(connection)

    async def debit(self, account: str, amount: int) -> None:
        """Take units, and record it."""
        async with self._cursor() as cursor:
            await cursor.execute(LOCK, (account,))
            balance, held = _row(await cursor.fetchone())
            _admit(balance - held, amount)
            await cursor.execute(PAY, (amount, 0, account))
            await cursor.execute(NOTE, (account, "debit", amount, balance - amount))
            await cursor.execute(USE, (_row(await cursor.fetchone())[0], account))

    async def hold_and_capture(self, account: str, hold_id: str, amount: int, used: int) -> None:
        """Set units aside, then take what was used."""
        async with self._cursor() as cursor:
            await cursor.execute(LOCK, (account,))
            balance, held = _row(await cursor.fetchone())
            _admit(balance - held, amount)
            await cursor.execute(PAY, (0, -amount, account))
            await cursor.execute(HOLD, (hold_id, account, amount))
        async with self._cursor() as cursor:
            await cursor.execute(LOCK, (account,))
            balance, _ = _row(await cursor.fetchone())
            await cursor.execute(CLOSE, (hold_id,))
            await cursor.execute(PAY, (used, amount, account))
            await cursor.execute(NOTE, (account, "capture", used, balance - used))
            await cursor.execute(USE, (_row(await cursor.fetchone())[0], account))


def _row(found: tuple[Any, ...] | None) -> tuple[Any, ...]:
    if found is None:
        raise LookupError("no such account")
    return found


def _admit(available: int, amount: int) -> None:
    if available < amount:
        raise LookupError("the account is empty")
