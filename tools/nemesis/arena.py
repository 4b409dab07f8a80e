"""
What a run consists of: two servers, two proxies, workers and client processes, each replaceable.

It must not know when a fault comes, or what must be true in the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

from quota_engine.ledger.migrate import upgrade
from tests.faults.world import (
    ENGINE_SETTINGS,
    FEW,
    HOT,
    LEAN,
    ORGANISATIONS,
    POOLS,
    POOR,
    SLOTS,
    TEAM,
    World,
)
from tests.faults.writers import QUOTA_TYPE
from tests.proxy import Proxy
from tests.servers import TestServers, end_forgotten_servers
from tests.workers import Worker
from tools.nemesis.client import Orders

ROOT = Path(__file__).resolve().parents[2]

COLD = (
    *(f"cold:{number}" for number in range(16)),
    *(f"acme/cold-{number}" for number in range(8)),
    *(f"{TEAM}/cold-{number}" for number in range(8)),
    *(f"{team}/cold-{number}" for team in (SLOTS, FEW) for number in range(4)),
)
#: Most calls go to the first three; the poor one is refused now and then; others pay for the lean
#: ones, and call, too, as organisations do; the cold ones hydrate.
ACCOUNTS = HOT * 12 + (POOR,) * 4 + LEAN * 8 + POOLS + COLD + ORGANISATIONS
TYPES = (QUOTA_TYPE, "image")
#: Whom an operator suspends now and then.
SUSPENDED = (*ORGANISATIONS, TEAM, SLOTS, *HOT, *POOLS)
WORKERS = 2
#: Operations are remembered so long: retries come within seconds, hydrations stay small.
HORIZON_SECONDS = 120
SETTINGS = {
    **ENGINE_SETTINGS,
    "horizon_seconds": HORIZON_SECONDS,
    "database_connections_max": 6,
    "unload_after_seconds": 2.0,
    "reconcile_every_seconds": 15.0,
    "trim_after_seconds": 3.0,
}


class ClientProcess:
    """One process of clients, as its parent sees it."""

    def __init__(self, orders: Orders, log: Path) -> None:
        self.orders = orders
        self.counts: Counter[str] = Counter()
        self.is_ready = False
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tools.nemesis.client", orders.text()],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # the last line of one that was killed
                self.counts = Counter(json.loads(line))
                self.is_ready = True

    def finish(self) -> None:
        """Tell it to finish what it began."""
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        """End it at once, stopped or not."""
        self.process.kill()
        self.process.wait()
        self._listening.join(5)


class Arena:
    """Everything that a run starts; a context manager that ends it all."""

    def __init__(self, *, seed: int, processes: int, threads: int, appendfsync: str) -> None:
        self.seed = seed
        self.clients: list[ClientProcess] = []
        self.workers: list[Worker] = []
        self.ended: Counter[str] = Counter()
        self.died: list[str] = []
        self._closing = ExitStack()
        self._orphans: set[int] = set()
        self._generation = 0
        self._processes, self._threads = processes, threads
        self.appendfsync = appendfsync

    def __enter__(self) -> Arena:
        with ExitStack() as stack:
            end_forgotten_servers()
            servers = TestServers()
            stack.callback(servers.end)
            self.folder = servers.folder
            # What it has acknowledged outlives its kills: the host, and so the disk, never fails.
            self.postgres = servers.postgres(settings={"synchronous_commit": "on"})
            upgrade(self.postgres.url)
            self.valkey = servers.valkey(appendfsync=self.appendfsync)
            self.redis_proxy = Proxy(self.valkey.url)
            stack.callback(self.redis_proxy.close)
            self.postgres_proxy = Proxy(str(self.postgres.socket))
            stack.callback(self.postgres_proxy.close)
            self.world = stack.enter_context(
                World(
                    self.valkey,
                    self.postgres.url,
                    seed=self.seed,
                    accounts=ACCOUNTS,
                    types=TYPES,
                    **{**SETTINGS, "call_timeout_seconds": 15.0},  # type: ignore[arg-type]
                )
            )
            stack.callback(self.end_processes)
            for number in range(WORKERS):
                self.workers.append(self._worker(number))
            for number in range(self._processes):
                self.clients.append(self._client(number))
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def proxied_database(self) -> str:
        """PostgreSQL's URL through the proxy."""
        return (
            f"postgresql+psycopg://quota_engine@127.0.0.1:{self.postgres_proxy.port}/quota_engine"
        )

    def _urls(self, number: int, count: int) -> tuple[str, str]:
        """Return both stores' URLs: the last of several reaches them through the proxies."""
        if number == count - 1:
            return self.redis_proxy.url, self.proxied_database
        return self.valkey.url, self.postgres.url

    def _worker(self, number: int) -> Worker:
        redis_url, database_url = self._urls(number, WORKERS)
        settings = {**SETTINGS, "redis_url": redis_url, "database_url": database_url}
        environment = {
            f"QUOTA_ENGINE_{name.upper()}": str(told) for name, told in settings.items()
        }
        environment["PYTHONPATH"] = str(ROOT)
        return Worker(environment, self.folder / f"worker-{number}.log")

    def _client(self, number: int) -> ClientProcess:
        redis_url, database_url = self._urls(number, self._processes)
        self._generation += 1
        name = f"c{self._generation}"
        orders = Orders(
            name=name,
            redis_url=redis_url,
            database_url=database_url,
            seed=self.seed,
            threads=self._threads,
            chronicle=str(self.folder / f"{name}.calls"),
            accounts=ACCOUNTS,
            settings=SETTINGS,
            is_forgetful=self.appendfsync != "always",
        )
        return ClientProcess(orders, self.folder / "clients.log")

    # -- replacing

    def replace_worker(self, number: int) -> None:
        """Start another worker in the place of one that has ended; its children may live on."""
        self.workers[number] = self._worker(number)

    def kill_worker(self, number: int) -> None:
        """End a worker at once; what its children do then is theirs."""
        worker = self.workers[number]
        self._orphans.update(worker.children())
        worker.process.kill()
        worker.process.wait()

    def replace_client(self, number: int) -> None:
        """Kill a client process, and start another in its place."""
        old = self.clients[number]
        old.kill()
        self.ended.update(old.counts)
        self.clients[number] = self._client(number)

    def revive(self) -> None:
        """Start again what has ended by itself, and say so."""
        for number, worker in enumerate(self.workers):
            code = worker.process.poll()
            if code is not None:
                self.died.append(f"worker {number} ended by itself with {code}")
                self.replace_worker(number)
        for number, client in enumerate(self.clients):
            code = client.process.poll()
            if code is not None:
                self.died.append(f"client process {number} ended by itself with {code}")
                self.replace_client(number)

    @property
    def chronicles(self) -> list[Path]:
        """What every client process has written, dead ones too."""
        return sorted(self.folder.glob("c*.calls"))

    @property
    def counts(self) -> Counter[str]:
        """How many calls have ended, and how, as far as the clients have told."""
        counts = Counter(self.ended)
        for client in self.clients:
            counts.update(client.counts)
        return counts

    def end_processes(self) -> None:
        """End clients and workers, and what killed workers left behind."""
        for client in self.clients:
            client.kill()
        for number, worker in enumerate(self.workers):
            if worker.process.poll() is None:
                self.kill_worker(number)
        for pid in self._orphans:
            with suppress(OSError):
                if "quota_engine.workers" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
