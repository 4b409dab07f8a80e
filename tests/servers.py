"""
The servers of one test process: private, on their own folder, gone at its end.

A run that was killed leaves its servers behind; the next run finds their folder and ends them.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psycopg

from quota_engine.embedded import PostgresServer, ValkeyServer, start_postgres, start_valkey
from quota_engine.embedded.postgres import postgres_of
from quota_engine.embedded.valkey import valkey_of

CHECKOUT = Path(__file__).resolve().parent.parent
PREFIX = f"quota-engine-tests-{os.geteuid()}-"


class TestServers:
    """Starts servers below one folder of /tmp, and ends them all."""

    __test__ = False

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir="/tmp"))
        if os.geteuid() == 0:
            self.folder.chmod(0o711)  # PostgreSQL's unprivileged user passes through
        self._numbers = itertools.count(1)

    def folder_named(self, name: str) -> Path:
        """Return a folder for one more server."""
        return self.folder / f"{name}-{next(self._numbers)}"

    def valkey(
        self,
        *,
        binary: Path | None = None,
        port: int | None = None,
        appendfsync: str = "no",
        settings: Mapping[str, str] | None = None,
    ) -> ValkeyServer:
        """Start a Valkey, or with ``binary`` a Redis, on a new folder."""
        return start_valkey(
            self.folder_named("valkey"),
            binary=binary,
            port=port,
            appendfsync=appendfsync,
            settings=settings,
        )

    def postgres(self, *, settings: Mapping[str, str] | None = None) -> PostgresServer:
        """Start a PostgreSQL that does not wait for the disk, on a new folder."""
        return start_postgres(self.folder_named("postgresql"), fsync=False, settings=settings)

    def end(self) -> None:
        """Kill every server below the folder, and remove the folder."""
        end_servers_in(self.folder)


def end_servers_in(folder: Path) -> None:
    """Kill the servers of a test process's folder, and remove it."""
    for lock in folder.rglob("server.lock"):
        place = lock.parent
        server = postgres_of(place) if "postgresql" in place.name else valkey_of(place)
        server.kill()
        shutil.rmtree(server.socket.parent, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def end_forgotten_servers() -> None:
    """End what killed test processes left behind."""
    for folder in Path("/tmp").glob(f"{PREFIX}*"):
        pid = int(folder.name.removeprefix(PREFIX).split("-")[0])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            end_servers_in(folder)
        except PermissionError:
            pass


def redis7_program() -> Path | None:
    """Return Debian 12's Redis 7.0, from the environment or as tools/debian_parts.py put it."""
    named = os.environ.get("QUOTA_ENGINE_TEST_REDIS7")
    path = Path(named) if named else CHECKOUT / ".cache/debian/bin/redis-server"
    return path if os.access(path, os.X_OK) else None


def administer(server: PostgresServer, *statements: str) -> None:
    """Run statements outside a transaction, in the server's own database."""
    with psycopg.connect(conninfo(server.url_of("postgres")), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def conninfo(url: str) -> str:
    """Return what psycopg and psql read, from an SQLAlchemy URL."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)
