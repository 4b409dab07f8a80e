"""
Bring a database's tables to a revision, also when several processes want to at once.

Alembic runs on one connection that holds an advisory lock; the second process waits, finds
nothing left to do and leaves. The migrations are found inside the package, so a wheel has them.
Who only asks whether the tables are this release's needs no Alembic, which is slow to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, text

from quota_engine.errors import EngineUnavailableError
from quota_engine.ledger.connection import answering, open_engine

if TYPE_CHECKING:
    from alembic.config import Config

#: One number for everybody who migrates a quota engine's tables ("quota" in ASCII).
LOCK = 0x71756F7461
LOCK_WAIT_MS = 60_000


def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the tables up to ``revision``. Does nothing when they are there already."""
    from alembic import command

    _migrate(database_url, lambda config: command.upgrade(config, revision))


def downgrade(database_url: str, revision: str) -> None:
    """Bring the tables down to ``revision``; ``base`` drops them all, and what they hold."""
    from alembic import command

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
    return revisions()[-1]


@cache
def revisions() -> tuple[str, ...]:
    """Return this release's revisions, oldest first: its migrations' names begin with them."""
    folder = files("quota_engine.migrations.versions")
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(name.partition("_")[0] for name in names if name[:1].isdigit()))


def revision_of(engine: Engine) -> str | None:
    """Return the revision of the tables behind ``engine``, or None when there are none."""
    with answering(engine), engine.connect() as connection:
        is_there = text("SELECT to_regclass('alembic_version') IS NOT NULL")
        if not connection.execute(is_there).scalar_one():
            return None
        found = connection.execute(text("SELECT version_num FROM alembic_version"))
        revision: str | None = found.scalar_one_or_none()
        return revision


def check_migrated(engine: Engine) -> None:
    """
    Raise ``EngineUnavailableError`` unless the tables are those of this release.

    A revision that this release has never heard of is newer: migrations expand first, so an old
    release goes on working with it.
    """
    revision = revision_of(engine)
    if revision is None or revision in revisions()[:-1]:
        found = f"at revision {revision}" if revision else "not there"
        raise EngineUnavailableError(
            f"the ledger's tables are {found}; run `quota-engine ledger migrate`"
        )


@contextmanager
def _config() -> Iterator[Config]:
    """Yield Alembic's configuration, with the package's migrations as files."""
    from alembic.config import Config

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
