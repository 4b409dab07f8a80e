"""
Connections to PostgreSQL: one small pool per process, and what its failures mean.

Whoever reads or writes the ledger does it inside ``answering()``, so that every way of not
answering becomes one ``EngineUnavailableError`` that says what to do and shows no password.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any

import psycopg
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy import exc as sql_errors

from quota_engine.errors import EngineUnavailableError, InvalidArgumentError

#: Connections of one process at once: drains, hydrations, duties and reports together.
CONNECTIONS_MAX = 10
POOL_WAIT_S = 10
CONNECT_TIMEOUT_S = 5.0
#: libpq takes whole seconds, and no fewer.
CONNECT_TIMEOUT_LEAST_S = 2

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forget_inherited_connections() -> None:
    """Let a forked child open connections of its own: its parent goes on using the old ones."""
    for engine in list(_engines):
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_inherited_connections)


def checked_url(database_url: str) -> URL:
    """Return the URL with the driver that the engine uses; raise if it is no PostgreSQL URL."""
    try:
        url = make_url(database_url)
    except (sql_errors.ArgumentError, ValueError):
        raise InvalidArgumentError(
            "the database URL cannot be read; expected postgresql://user:password@host:port/name"
        ) from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise InvalidArgumentError(
            f"the database URL must begin with postgresql://, not {url.drivername}://"
        )
    return url.set(drivername="postgresql+psycopg")


def open_engine(
    database_url: str,
    *,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_S,
    connections_max: int = CONNECTIONS_MAX,
) -> Engine:
    """
    Return a pool for ``database_url``. Nothing connects yet.

    Half of ``connections_max`` stay open, the others are opened when they are needed.

    Statements are not prepared on the server: a pooler may stand in between, and plans made while
    a table was empty must not outlive that.
    """
    engine = create_engine(
        checked_url(database_url),
        pool_size=(connections_max + 1) // 2,
        max_overflow=connections_max // 2,
        pool_timeout=POOL_WAIT_S,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": max(ceil(connect_timeout_seconds), CONNECT_TIMEOUT_LEAST_S),
            "application_name": "quota-engine",
            "prepare_threshold": None,
        },
    )
    _engines.add(engine)
    _close_what_comes_back_late(engine)
    return engine


def _close_what_comes_back_late(engine: Engine) -> None:
    """Close a connection that was in use while its pool was disposed of: nobody else would."""

    @event.listens_for(engine, "connect")
    def note(_: object, record: Any) -> None:
        record.info["pool"] = engine.pool

    @event.listens_for(engine, "checkin")
    def close(_: object, record: Any) -> None:
        if record.info.get("pool") is not engine.pool:
            record.close()


@contextmanager
def answering(engine: Engine) -> Iterator[None]:
    """Turn every failure of PostgreSQL to answer into ``EngineUnavailableError``."""
    try:
        yield
    except sql_errors.TimeoutError as error:
        raise EngineUnavailableError(
            "PostgreSQL: no connection of this process became free in time"
        ) from error
    except sql_errors.DBAPIError as error:
        message = _unavailable(error.orig, error.connection_invalidated)
        if message is None:
            raise
        raise EngineUnavailableError(f"PostgreSQL at {shown(engine.url)}: {message}") from error
    except psycopg.Error as error:  # from COPY, which SQLAlchemy does not see
        message = _unavailable(error, False)
        if message is None:
            raise
        raise EngineUnavailableError(f"PostgreSQL at {shown(engine.url)}: {message}") from error


def shown(url: URL) -> str:
    """Return host, port and database: what a message may show of a URL."""
    return f"{url.host or 'the local socket'}:{url.port or 5432}/{url.database or ''}"


def _unavailable(error: BaseException | None, is_cut: bool) -> str | None:
    """Return what to tell about an error that means "not now", None for any other."""
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return "the tables are missing or old; run `quota-engine ledger migrate`"
    if is_cut or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    return None
