"""
Backups and restores of both stores, with the commands of docs/operations.md, "Backups".

Copies are made while the servers run and clients write; only a restore stops its server.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import redis

from quota_engine.embedded import PostgresServer, ValkeyServer
from quota_engine.embedded.binaries import find_postgres
from quota_engine.embedded.postgres import DATABASE
from tests.servers import administer, conninfo
from tests.workers import wait_until


def copy_redis(server: ValkeyServer, to: Path) -> None:
    """Copy its append-only files; no rewrite may replace them meanwhile."""
    with redis.Redis.from_url(server.url) as client:
        before: Any = client.config_get("auto-aof-rewrite-percentage")
        client.config_set("auto-aof-rewrite-percentage", 0)

        def is_quiet() -> bool:
            info: Any = client.info("persistence")
            return not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]

        wait_until(is_quiet, "no rewrite runs")
        shutil.copytree(server.place / "data" / "appendonlydir", to)
        client.config_set(*next(iter(before.items())))


def restore_redis(server: ValkeyServer, copy: Path) -> None:
    """Put a copy in place of its append-only files."""
    server.stop()
    shutil.rmtree(server.place / "data")
    shutil.copytree(copy, server.place / "data" / "appendonlydir")
    server.start()


def dump_ledger(server: PostgresServer, to: Path) -> None:
    """Write a consistent copy of the whole database to a file."""
    _postgres_program("pg_dump", "--format=custom", f"--file={to}", conninfo(server.url))


def restore_ledger(server: PostgresServer, copy: Path) -> None:
    """Make the database again from a copy; sessions are ended."""
    administer(server, f"DROP DATABASE {DATABASE} WITH (FORCE)", f"CREATE DATABASE {DATABASE}")
    _postgres_program(
        "pg_restore", "--exit-on-error", f"--dbname={conninfo(server.url)}", str(copy)
    )


def _postgres_program(name: str, *arguments: str) -> None:
    done = subprocess.run(
        [find_postgres().folder / name, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{name}: {done.stderr}"
