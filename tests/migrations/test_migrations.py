"""The tables come and go with the migrations, and are the ones that SQLAlchemy believes in."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from quota_engine import migrations
from quota_engine.errors import EngineUnavailableError
from quota_engine.ledger import migrate
from quota_engine.ledger.connection import open_engine
from quota_engine.ledger.tables import metadata

COLUMNS = """
SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name,
    is_identity, is_generated, generation_expression
FROM information_schema.columns
WHERE table_schema = 'public' AND table_name = ANY(:tables)
ORDER BY table_name, column_name
"""
INDEXES = """
SELECT tablename, indexname, indexdef FROM pg_indexes
WHERE schemaname = 'public' AND tablename = ANY(:tables) ORDER BY indexname
"""
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid::regclass::text = ANY(:tables) AND contype <> 'n' ORDER BY 1, 2
"""


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    engine = open_engine(empty_database_url)
    yield engine
    engine.dispose()


def tables_of(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        )
        return {name for (name,) in found} - {"alembic_version"}


def shape_of(engine: Engine) -> list[tuple[object, ...]]:
    names = {"tables": list(metadata.tables)}
    with engine.connect() as connection:
        return [
            tuple(row)
            for query in (COLUMNS, INDEXES, CONSTRAINTS)
            for row in connection.execute(text(query), names)
        ]


def test_migrations_are_numbered_in_their_order() -> None:
    folder = str(Path(migrations.__file__ or "").parent)
    walked = ScriptDirectory(folder).walk_revisions()
    assert tuple(script.revision for script in walked)[::-1] == migrate.revisions()


def test_empty_to_head_to_base_to_head(empty_database_url: str, engine: Engine) -> None:
    assert migrate.current(empty_database_url) is None
    migrate.upgrade(empty_database_url)
    made = tables_of(engine)
    assert set(metadata.tables) <= made
    assert migrate.current(empty_database_url) == migrate.newest()
    migrate.downgrade(empty_database_url, "base")
    assert tables_of(engine) == set()
    migrate.upgrade(empty_database_url)
    assert tables_of(engine) == made


def test_tables_and_migrations_agree(
    empty_database_url: str, database_url: str, engine: Engine
) -> None:
    metadata.create_all(engine)
    migrated = open_engine(database_url)
    try:
        assert shape_of(engine) == shape_of(migrated)
    finally:
        migrated.dispose()


def test_two_processes_may_migrate_at_once(empty_database_url: str) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            migrate.upgrade(empty_database_url)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert migrate.current(empty_database_url) == migrate.newest()


def test_missing_tables_are_said_in_one_sentence(empty_database_url: str, engine: Engine) -> None:
    with pytest.raises(EngineUnavailableError, match=r"run `quota-engine ledger migrate`"):
        migrate.check_migrated(engine)
    migrate.upgrade(empty_database_url)
    migrate.check_migrated(engine)


def test_a_newer_schema_is_left_to_newer_releases(empty_database_url: str, engine: Engine) -> None:
    migrate.upgrade(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    migrate.check_migrated(engine)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET delta = 1",
        "DELETE FROM ledger_entries",
        "TRUNCATE ledger_entries",
        "TRUNCATE ledger_entries_{partition}",
        "UPDATE ledger_entries_{partition} SET delta = 1",
    ],
)
def test_the_ledger_is_append_only(database_url: str, statement: str) -> None:
    engine = open_engine(database_url)
    numbers = "account, quota_type, version, format, kind, at_ms, operation_id, fingerprint"
    others = "subject, flags, terms, movements, details, chain, event_id, late, recorded_at"
    sums = "amount, delta, held_delta, balance_after, held_after, debt_after, shortfall"
    try:
        with engine.begin() as connection:
            connection.execute(
                text(
                    f"INSERT INTO ledger_entries ({numbers}, {others}, {sums}) VALUES"
                    " ('a', 'credit', 1, '1', 'quota.debited', 0, 'd', '', '', '', '', '', '', '',"
                    " '1-1', false, now(), 0, 0, 0, 0, 0, 0, 0)"
                )
            )
            found = connection.execute(text("SELECT tableoid::regclass::text FROM ledger_entries"))
            partition = re.sub(r"\D", "", found.scalar_one())
        with pytest.raises(Exception, match="append-only"), engine.begin() as connection:
            connection.execute(text(statement.format(partition=partition)))
    finally:
        engine.dispose()
