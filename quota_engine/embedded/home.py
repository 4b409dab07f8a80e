"""The pair of servers that all processes of one home share. It must not know what they keep."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from quota_engine.embedded.folders import make_home
from quota_engine.embedded.postgres import postgres_of, start_postgres
from quota_engine.embedded.process import Server, explained
from quota_engine.embedded.valkey import ValkeyServer, start_valkey, valkey_of


@dataclass(frozen=True, slots=True)
class ServerUrls:
    """How to connect to the two servers of a home."""

    redis_url: str
    database_url: str


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server of a home, as it is now."""

    name: str
    running: bool
    pid: int | None
    url: str
    version: str | None
    data_dir: Path
    message: str
    """One phrase for a person: running, stopped, starting, or the command to connect with."""


def ensure_servers(home: Path) -> ServerUrls:
    """
    Start the servers of ``home`` that aren't running, and return how to connect.

    Safe from any number of processes at once, and cheap when both run. The servers outlive the
    process that started them; ``stop_servers`` ends them. Raises EngineUnavailableError.
    """
    with explained(f"{home} can not be used"):
        home = make_home(home)
    with ThreadPoolExecutor(2) as pool:  # a first start of PostgreSQL takes most of a second
        postgres = pool.submit(start_postgres, home / "postgresql")
        valkey = pool.submit(start_valkey, home / "valkey")
        return ServerUrls(valkey.result().url, postgres.result().url)


def stop_servers(home: Path) -> tuple[str, ...]:
    """Stop the servers of ``home`` in an orderly way; return the names of those that ran."""
    return tuple(server.name for server in _servers(home) if server.stop())


def home_valkey(home: Path) -> ValkeyServer:
    """Return the Redis of ``home``, running or not, as ``ensure_servers`` starts it."""
    return valkey_of(home.expanduser().absolute() / "valkey")


def server_status(home: Path) -> tuple[ServerStatus, ...]:
    """Return what runs in ``home``. It starts nothing and makes nothing."""
    return tuple(_status(server) for server in _servers(home))


def _servers(home: Path) -> Iterator[Server]:
    home = home.expanduser().absolute()
    with explained(f"{home} can not be used"):
        yield valkey_of(home / "valkey")
        yield postgres_of(home / "postgresql")


def _status(server: Server) -> ServerStatus:
    with explained(f"{server.name} in {server.place} can not be seen"):
        version = server.version()
        if version is not None:
            message = "running"
        else:
            message = "starting, or not answering" if server.is_locked() else "stopped"
        return ServerStatus(
            name=server.name,
            running=version is not None,
            pid=server.pid,
            url=server.url,
            version=version,
            data_dir=server.place / "data",
            message=message,
        )
