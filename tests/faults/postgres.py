"""What the fault matrix does to PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from quota_engine.embedded import PostgresServer
from quota_engine.embedded.postgres import DATABASE, USER
from tests.proxy import Proxy
from tests.servers import conninfo
from tests.workers import wait_until


def end_at_once(server: PostgresServer) -> None:
    """Let it die as by ``pg_ctl stop -m immediate``: sessions are cut, nothing is written."""
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGQUIT)
    wait_until(lambda: not server.is_locked(), "PostgreSQL has ended")


def url_through(proxy: Proxy) -> str:
    """Return the URL of the engine's database behind a proxy."""
    return f"postgresql+psycopg://{USER}@127.0.0.1:{proxy.port}/{DATABASE}"


@contextmanager
def in_front_of(server: PostgresServer) -> Iterator[Proxy]:
    """Run a proxy before a server's Unix socket."""
    proxy = Proxy(str(server.socket))
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def session(server: PostgresServer) -> Iterator[psycopg.Connection[Any]]:
    """Open an operator's session; what it has not committed is undone at the end."""
    connection = psycopg.connect(conninfo(server.url))
    try:
        yield connection
    finally:
        connection.close()


def end_sleeping_sessions(server_url: str) -> int:
    """End every session that sleeps in its transaction, as the idle timeout does later."""
    with psycopg.connect(conninfo(server_url), autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
            " state LIKE 'idle in transaction%' AND datname = current_database()"
        )
        return len(rows.fetchall())


def copy_data(server: PostgresServer, to: Path) -> None:
    """Keep a copy of its files; it must not run."""
    shutil.copytree(server.data, to, copy_function=_copy_with_owner)


def restore_data(server: PostgresServer, copy: Path) -> None:
    """Put a copy of its files back; it must not run."""
    shutil.rmtree(server.data)
    shutil.copytree(copy, server.data, copy_function=_copy_with_owner)
    for path in [server.data, *server.data.rglob("*")]:
        os.chown(path, server.owner.uid, server.owner.gid)
    server.data.chmod(0o700)


def _copy_with_owner(source: str, target: str) -> None:
    shutil.copy2(source, target)
    found = os.stat(source)
    os.chown(target, found.st_uid, found.st_gid)
