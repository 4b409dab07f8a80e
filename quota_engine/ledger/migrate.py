"""
Bring a database's tables to a revision, also when several processes want to at once.

Alembic runs on one connection that holds an advisory lock; the second process waits, finds
nothing left to do and leaves. The migrations are found inside the package, so a wheel has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from quota_engine.errors import EngineUnavailableError
from quota_engine.ledger.connection import answering, open_engine

#: One number for everybody who migrates a quota engine's tables ("quota" in ASCII).
LOCK = 0x71756F7461
LOCK_WAIT_MS = 60_000


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the tables up to ``revision``. Does nothing when they are there already."""
    _migrate(database_url, lambda config: command.upgrade(config, revision))


def downgrade(database_url: str, revision: str) -> None:
    """Bring the tables down to ``revision``; ``base`` drops them all, and what they hold."""
    _migrate(database_url, lambda config: command.downgrade(config, revision))


def current(database_url: str) -> str | None:
    """Return the revision of the tables, or None when there are none."""
    engine = open_engine(database_url)
    try:
        return revision_of(engine)
    finally:
        engine.dispose()


def newest() -> str:
    """Return the revision that this release wants."""
    with _config() as config:
        revision = ScriptDirectory.from_config(config).get_current_head()
    assert revision is not None, "the package has no migrations"
    return revision


def revision_of(engine: Engine) -> str | None:
    """Return the revision of the tables behind ``engine``, or None when there are none."""
    with answering(engine), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def check_migrated(engine: Engine) -> None:
    """
    Raise ``EngineUnavailableError`` unless the tables are those of this release.

    A revision that this release has never heard of is newer: migrations expand first, so an old
    release goes on working with it.
    """
    revision = revision_of(engine)
    with _config() as config:
        directory = ScriptDirectory.from_config(config)
        known = {script.revision for script in directory.walk_revisions()}
        wanted = directory.get_current_head()
    if revision is None or (revision in known and revision != wanted):
        found = f"at revision {revision}" if revision else "not there"
        raise EngineUnavailableError(
            f"the ledger's tables are {found}; run `quota-engine ledger migrate`"
        )


@contextmanager
def _config() -> Iterator[Config]:
    """Yield Alembic's configuration, with the package's migrations as files."""
    with as_file(files("quota_engine.migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        yield config


def _migrate(database_url: str, run: Callable[[Config], None]) -> None:
    engine = open_engine(database_url)
    try:
        with answering(engine), engine.begin() as connection, _config() as config:
            _check_encoding(connection)
            connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            config.attributes["connection"] = connection
            run(config)
    finally:
        engine.dispose()


def _check_encoding(connection: Connection) -> None:
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise EngineUnavailableError(
            f"the database's encoding is {encoding}; the ledger needs one created with UTF8"
        )
