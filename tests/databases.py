"""
Databases for tests: clones of one template, emptied and lent again under another name.

Making a database writes five hundred files, emptying one writes none. Who still holds a used one
is cut off, and its old name leads nowhere.
"""

from __future__ import annotations

import itertools

import psycopg

from quota_engine.embedded import PostgresServer
from tests.servers import administer, conninfo

#: One that has grown by so many bytes is not worth emptying.
GROWTH_MAX = 32 * 2**20
#: Tables, columns, triggers, constraints and functions, as one text.
SHAPE = """
SELECT md5(string_agg(told, ' ' ORDER BY told)) FROM (
    SELECT concat_ws(',', c.oid, relname, relkind, relchecks, attname, atttypid, attnotnull)
    FROM pg_class c LEFT JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
    WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT concat_ws(',', tgrelid, tgname, tgenabled) FROM pg_trigger
    UNION ALL SELECT concat_ws(',', conrelid, conname, convalidated) FROM pg_constraint
    UNION ALL SELECT concat_ws(',', indexrelid, indisvalid) FROM pg_index WHERE NOT indisvalid
    UNION ALL SELECT concat_ws(',', proname, md5(prosrc)) FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT array_to_string(setconfig, ',') FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
) AS shapes (told)
"""
TABLES = """
SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'
AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
"""
ROWS = "SELECT json_agg({0})::text FROM {0}"
SEQUENCES = """
SELECT setval(seqrelid, seqstart, false) FROM pg_sequence WHERE pg_sequence_last_value(seqrelid)
IS NOT NULL
"""
CUT_OFF = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{}'"


class Databases:
    """Lends databases of one server that have a template's tables, and its rows alone."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server = server
        self._template = template
        self._numbers = itertools.count(1)
        self._free: list[str] = []
        with psycopg.connect(conninfo(server.url_of(template))) as connection:
            self._shape = _said(connection, SHAPE)
            self._size_max = int(_said(connection, _size_of(template))) + GROWTH_MAX
            tables = [name for (name,) in connection.execute(TABLES)]
            rows = {name: _said(connection, ROWS.format(name)) for name in tables}
        # Triggers keep what is append-only; a server may be killed, so what is done is written.
        self._emptying = "; ".join(
            [
                "SET session_replication_role = replica; SET synchronous_commit = on",
                *(f"DELETE FROM {table}" for table in tables),
                *(
                    f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table},"
                    f" {_quoted(told)})"
                    for table, told in rows.items()
                    if told != "None"
                ),
            ]
        )

    def lend(self) -> str:
        """Return the name of an empty one."""
        if self._free:
            return self._free.pop()
        name = self._name()
        administer(self._server.start(), f"CREATE DATABASE {name} TEMPLATE {self._template}")
        return name

    def take_back(self, name: str) -> None:
        """Empty one, and keep it unless its tables are others than the template's."""
        renamed = self._name()
        administer(
            self._server.start(),
            CUT_OFF.format(name),
            f"SET synchronous_commit = on; ALTER DATABASE {name} RENAME TO {renamed}",
        )
        with psycopg.connect(conninfo(self._server.url_of(renamed))) as connection:
            size = int(_said(connection, _size_of(renamed)))
            is_kept = size < self._size_max and _said(connection, SHAPE) == self._shape
            if is_kept:
                connection.execute(self._emptying.encode())
                connection.execute(SEQUENCES)
        if is_kept:
            self._free.append(renamed)
        else:
            administer(self._server, f"DROP DATABASE {renamed} WITH (FORCE)")

    def _name(self) -> str:
        return f"test_{next(self._numbers)}"


def _size_of(name: str) -> str:
    return f"SELECT pg_database_size('{name}')"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _said(connection: psycopg.Connection, query: str) -> str:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return str(row[0])
