"""Private servers for one run: a Valkey and a database for each section, all gone at its end."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import sqlalchemy

from quota_engine.commands import (
    Command,
    GrantState,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    Snapshot,
)
from quota_engine.deployment import Deployment
from quota_engine.embedded import PostgresServer, Server, start_postgres, start_valkey
from quota_engine.errors import QuotaError
from quota_engine.instants import NEVER_MS
from quota_engine.jobs.running import run_commands
from quota_engine.keys import QuotaName
from quota_engine.ledger.migrate import upgrade
from quota_engine.settings import Settings

TYPE = "text_token"
#: What one grant holds: no run spends it.
PLENTY = 10**14
BATCH = 500
#: Newer servers free what was deleted in a thread of their own, usually within microseconds.
FREED_SECONDS_MAX = 10.0


class Lab:
    """Starts what a section needs, below one folder."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="quota-engine-bench-"))
        if os.geteuid() == 0:
            self.folder.chmod(0o711)  # PostgreSQL's unprivileged user passes through
        self._numbers = itertools.count(1)
        self._servers: list[Server] = []
        self._postgres: PostgresServer | None = None

    @property
    def postgres(self) -> PostgresServer:
        """The one PostgreSQL of the run."""
        if self._postgres is None:
            self._postgres = start_postgres(self.folder / "postgresql")
            self._servers.append(self._postgres)
        return self._postgres

    @contextmanager
    def deployment(self, *, shards: int = 8) -> Iterator[Deployment]:
        """Return an opened deployment on an empty Valkey and an empty database."""
        number = next(self._numbers)
        valkey = start_valkey(self.folder / f"valkey-{number}")
        self._servers.append(valkey)
        name = f"bench_{number}"
        with _administration(self.postgres) as run:
            run(f"CREATE DATABASE {name}")
        database_url = self.postgres.url_of(name)
        upgrade(database_url)
        deployment = Deployment(
            Settings(redis_url=valkey.url, database_url=database_url, shards=shards)
        )
        try:
            _ = deployment.opened
            yield deployment
        finally:
            deployment.close()
            valkey.kill()

    def close(self) -> None:
        """End every server, and remove the folder."""
        for server in self._servers:
            server.kill()
            socket: Path = getattr(server, "socket", self.folder)
            shutil.rmtree(socket.parent, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _administration(server: PostgresServer) -> Iterator[Any]:
    engine = sqlalchemy.create_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield lambda statement: connection.execute(sqlalchemy.text(statement))
    engine.dispose()


def account_names(count: int) -> list[str]:
    """Return the accounts of the spread calls."""
    return [f"user:{number}" for number in range(count)]


def send_all(deployment: Deployment, commands: Iterable[Command[Any]]) -> None:
    """Run commands in batches; the first that is refused ends it."""
    rest = iter(commands)
    while batch := list(itertools.islice(rest, BATCH)):
        for result in run_commands(deployment.client, deployment.opened, batch):
            if isinstance(result, QuotaError):
                raise result


def fill_accounts(deployment: Deployment, accounts: Iterable[str], *, grants: int = 1) -> None:
    """Give each account grants to spend from; issued by the scripts, without an intent."""
    names = [QuotaName(account, TYPE) for account in accounts]
    send_all(deployment, (empty_quota(deployment, name) for name in names))
    terms = GrantTerms(amount=PLENTY // grants, source="purchase")
    send_all(
        deployment,
        (
            IssueGrant(quota=name, grant_id=f"grant_{number:032x}", terms=terms)
            for name in names
            for number in range(grants)
        ),
    )


def empty_quota(deployment: Deployment, name: QuotaName) -> HydrateQuota:
    """Return the command that makes a quota which nobody knows yet."""
    shard = deployment.ledger.shard_of(name)
    snapshot = Snapshot(quota=name, epoch=deployment.opened.epochs[shard], is_known=False)
    return HydrateQuota(snapshot=snapshot, may_create=True)


def known_quota(deployment: Deployment, name: QuotaName) -> HydrateQuota:
    """Return the command that loads a quota with one grant, as if from the ledger."""
    grant = GrantState(f"grant_{0:032x}", PLENTY, 0, 50, 0, NEVER_MS, 0, "live")
    shard = deployment.ledger.shard_of(name)
    snapshot = Snapshot(
        quota=name, epoch=deployment.opened.epochs[shard], version=1, grants=(grant,)
    )
    return HydrateQuota(snapshot=snapshot)


def server_versions(deployment: Deployment) -> tuple[str, str]:
    """Return what the two servers call themselves."""
    info: dict[str, Any] = deployment.client.info("server")
    name = "Valkey" if "valkey_version" in info else "Redis"
    redis_version = f"{name} {info.get('valkey_version') or info['redis_version']}"
    with deployment.ledger.transaction() as connection:
        postgres = connection.execute(sqlalchemy.text("SHOW server_version")).scalar_one()
    return redis_version, f"PostgreSQL {postgres}"


def used_memory(client: redis.Redis) -> int:
    """Return the bytes that the server has in use, once what was deleted is freed, too."""
    until = time.monotonic() + FREED_SECONDS_MAX
    while True:
        memory: dict[str, Any] = client.info("memory")
        if not memory["lazyfree_pending_objects"] or time.monotonic() > until:
            return int(memory["used_memory"])
        time.sleep(0.001)
