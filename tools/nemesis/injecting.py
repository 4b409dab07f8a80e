"""
How each kind of fault is done to an arena. It must not know what must be true afterwards.

A method per kind, named like it; each returns when its fault is over and healed.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import redis
from sqlalchemy import text

from quota_engine.commands import UnloadQuota
from quota_engine.errors import EngineUnavailableError
from quota_engine.jobs.running import run_commands
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from tests.faults import aof
from tests.faults.history import Window
from tests.faults.world import (
    FEW,
    LEAN,
    ORGANISATIONS,
    PAYERS,
    POOLS,
    SHARDS,
    SLOTS,
    TEAM,
)
from tests.workers import wait_until
from tools.nemesis.arena import ACCOUNTS, COLD, SUSPENDED, TYPES, WORKERS, Arena
from tools.nemesis.schedule import Fault, Kind

TORN_KEY = "nemesis:torn"
#: The beginning of a script's transaction, as a power cut may leave it at the end of the file.
TORN = b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$12\r\nnemesis:torn\r\n$1\r\n1\r\n*3\r\n$3\r\nSE"
DRAINERS = 6
PAUSE_SECONDS = 0.05
#: Whose keys vanish: of those who call, and of those above.
DELETED = ACCOUNTS + (*ORGANISATIONS, *POOLS, TEAM, SLOTS, FEW) * 4
#: So long an operator tries; all faults are over by then.
OPERATOR_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Suspension:
    """
    An account was suspended from when an operator was told so, until it was to be opened.

    ``of_payers``: instead, nobody paid for it meanwhile.
    """

    account: str
    since: float
    until: float
    of_payers: bool = False


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was done: from when to when, by ``time.monotonic``; ``error``: it was not."""

    fault: Fault
    began: float
    ended: float
    error: str = ""


class Injector:
    """Does faults to an arena, those of one target one after another."""

    def __init__(self, arena: Arena) -> None:
        self.done: list[Injected] = []
        #: What a fault met that must not be, such as drift under load.
        self.findings: list[str] = []
        #: When answered calls may have been lost: only where the server syncs every second.
        self.windows: list[Window] = []
        self.suspensions: list[Suspension] = []
        self._arena = arena
        self._world = arena.world
        self._locks: dict[str, threading.Lock] = {}
        self._threads: list[threading.Thread] = []

    def begin(self, fault: Fault) -> None:
        """Let a fault happen beside everything else."""
        lock = self._locks.setdefault(fault.kind.target, threading.Lock())
        thread = threading.Thread(target=self._inject, args=(fault, lock))
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> Injector:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()

    def finish(self) -> None:
        """Return when every fault is over and everything runs again."""
        for thread in self._threads:
            thread.join()
        for server in (self._arena.postgres, self._arena.valkey):
            server.start()
        self._arena.revive()

    def _inject(self, fault: Fault, lock: threading.Lock) -> None:
        with lock:
            began, error = time.monotonic(), ""
            try:
                getattr(self, method_of(fault.kind))(fault)
            except Exception as problem:  # a fault that could not be done must not pass for one
                error = f"{type(problem).__name__}: {problem}"
            self.done.append(Injected(fault, began, time.monotonic(), error))

    # -- Redis

    def redis_kill(self, fault: Fault) -> None:
        self._world.server.kill()
        time.sleep(fault.seconds)
        self._world.server.start()

    def redis_terminate(self, fault: Fault) -> None:
        self._world.server.stop()
        time.sleep(fault.seconds)
        self._world.server.start()

    def redis_torn_file(self, fault: Fault) -> None:
        self._world.server.kill()
        with aof.last_file(self._world.data).open("ab") as file:
            file.write(TORN)
        time.sleep(fault.seconds)
        self._world.server.start()

    def redis_power_loss(self, fault: Fault) -> None:
        path = aof.last_file(self._world.data)
        since, synced = time.monotonic(), path.stat().st_size
        time.sleep(1.0)
        self._world.server.kill()
        if path.exists() and path == aof.last_file(self._world.data):
            aof.cut(path, aof.boundary_before(path, synced))
            self.windows.append(Window(since, time.monotonic()))
        time.sleep(fault.seconds)
        self._world.server.start()

    def redis_stall(self, fault: Fault) -> None:
        with stopped(self._world.server.pid):
            time.sleep(fault.seconds)

    def redis_rewrite(self, _: Fault) -> None:
        with suppress(redis.ResponseError):  # one is under way
            self._world.admin.bgrewriteaof()

    def script_flush(self, _: Fault) -> None:
        self._world.admin.script_flush()

    def connections_killed(self, _: Fault) -> None:
        self._world.admin.client_kill_filter(_type="normal", skipme=True)

    def quota_deleted(self, fault: Fault) -> None:
        chance = random.Random(fault.pick)
        for _ in turns(fault.seconds, 0.2):
            name = QuotaName(chance.choice(DELETED), chance.choice(TYPES))
            keys = ShardKeys(shard_of(name.account, SHARDS))
            self._world.admin.delete(keys.quota(str(name)))

    # -- PostgreSQL

    def postgres_restart(self, fault: Fault) -> None:
        server = self._arena.postgres
        if (pid := server.pid) is not None:
            os.kill(pid, signal.SIGQUIT)
        wait_until(lambda: not server.is_locked(), "PostgreSQL ends", 30)
        time.sleep(fault.seconds)
        server.start()

    postgres_away = postgres_restart

    def commit_reply_lost(self, fault: Fault) -> None:
        self._arena.postgres_proxy.cut_replies_to("COMMIT", 0.3, fault.number)
        time.sleep(fault.seconds)
        self._arena.postgres_proxy.cut_replies_to("COMMIT", 0.0)

    def postgres_connections_cut(self, _: Fault) -> None:
        self._arena.postgres_proxy.cut()

    # -- workers

    def worker_kill(self, fault: Fault) -> None:
        number = int(fault.pick * WORKERS)
        self._arena.kill_worker(number)
        time.sleep(fault.seconds)
        self._arena.replace_worker(number)

    def worker_child_kill(self, fault: Fault) -> None:
        for pid in self._arena.workers[int(fault.pick * WORKERS)].children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def worker_terminate(self, fault: Fault) -> None:
        number = int(fault.pick * WORKERS)
        worker = self._arena.workers[number]
        worker.process.send_signal(signal.SIGTERM)
        code = worker.process.wait(60)
        if code not in {0, -signal.SIGTERM}:  # the signal, when it came before its handler
            self.findings.append(f"a worker that was told to end did so with {code}")
        time.sleep(fault.seconds)
        self._arena.replace_worker(number)

    def worker_stall(self, fault: Fault) -> None:
        worker = self._arena.workers[int(fault.pick * WORKERS)]
        with stopped(worker.process.pid, *worker.children()):
            time.sleep(fault.seconds)

    # -- the network between the last client, the last worker and both stores

    def replies_lost(self, fault: Fault) -> None:
        self._arena.redis_proxy.cut_replies_to("EVALSHA", 0.02 + fault.pick / 5, fault.number)
        time.sleep(fault.seconds)
        self._arena.redis_proxy.cut_replies_to("EVALSHA", 0.0)

    def network_slow(self, fault: Fault) -> None:
        self._arena.redis_proxy.delay = fault.pick
        time.sleep(fault.seconds)
        self._arena.redis_proxy.delay = 0.0

    def network_drops(self, fault: Fault) -> None:
        proxy = self._arena.redis_proxy
        proxy.drops_requests, proxy.drops_replies = fault.pick < 0.5, fault.pick >= 0.5
        time.sleep(fault.seconds)
        proxy.drops_requests = proxy.drops_replies = False
        proxy.cut()

    def network_refuses(self, fault: Fault) -> None:
        proxy = self._arena.redis_proxy
        proxy.refuses = True
        proxy.cut()
        time.sleep(fault.seconds)
        proxy.refuses = False

    # -- beside the workers

    def many_drainers(self, fault: Fault) -> None:
        def drain() -> None:
            for _ in turns(fault.seconds, PAUSE_SECONDS):
                with suppress(EngineUnavailableError):
                    self._world.engine.drain()

        drainers = [threading.Thread(target=drain) for _ in range(DRAINERS)]
        for one in drainers:
            one.start()
        for one in drainers:
            one.join()

    def unload_races(self, fault: Fault) -> None:
        """Unload what clients use, over and over: each of their next calls must hydrate it."""
        deployment = self._world.engine.deployment
        query = text("SELECT * FROM quotas WHERE account = ANY(:accounts)")
        names = [*COLD, *LEAN, *POOLS, *ORGANISATIONS, TEAM, SLOTS, FEW]
        for _ in turns(fault.seconds, PAUSE_SECONDS):
            with suppress(EngineUnavailableError):
                with deployment.ledger.transaction() as sql:
                    rows = list(sql.execute(query, {"accounts": names}))
                commands = [
                    UnloadQuota(
                        quota=QuotaName(row.account, row.quota_type),
                        version=row.version,
                        change_after_ms=0,
                    )
                    for row in rows
                ]
                opened = deployment.opened
                results = run_commands(deployment.client, opened, commands)
                if any(isinstance(result, EngineUnavailableError) for result in results):
                    deployment.reopen(opened)

    def reconcile_under_load(self, _: Fault) -> None:
        with suppress(EngineUnavailableError):
            report = self._world.engine.reconcile(repair=True)
            self.findings.extend(f"reconciled under load: {drift}" for drift in report.drifts)

    def account_suspended(self, fault: Fault) -> None:
        """Suspend an account, perhaps one above others, and open it again."""
        account = SUSPENDED[int(fault.pick * len(SUSPENDED))]
        accounts, name = self._world.engine.accounts, f"nemesis-{fault.number}"
        try:
            insist(lambda: accounts.suspend(account, reason="nemesis", operation_id=name))
            since = time.monotonic()
            time.sleep(fault.seconds)
            self.suspensions.append(Suspension(account, since, time.monotonic()))
        finally:
            insist(lambda: accounts.activate(account, operation_id=f"{name}-over"))

    def payers_changed(self, fault: Fault) -> None:
        """Let nobody pay for an account for a moment. What is held for it stays paid for."""
        account = LEAN[int(fault.pick * len(LEAN))]
        say, name = self._world.engine.accounts.set_pays_after, f"nemesis-{fault.number}"
        try:
            insist(lambda: say(account, (), operation_id=name))
            since = time.monotonic()
            time.sleep(fault.seconds)
            self.suspensions.append(Suspension(account, since, time.monotonic(), of_payers=True))
        finally:
            insist(lambda: say(account, PAYERS[account], operation_id=f"{name}-over"))

    # -- clients

    def client_kill(self, fault: Fault) -> None:
        self._arena.replace_client(int(fault.pick * len(self._arena.clients)))

    def client_stall(self, fault: Fault) -> None:
        client = self._arena.clients[int(fault.pick * len(self._arena.clients))]
        with stopped(client.process.pid):
            time.sleep(fault.seconds)


def method_of(kind: Kind) -> str:
    """Return the name of the method that does faults of a kind."""
    return kind.name.replace("-", "_")


def insist(method: Callable[[], object]) -> None:
    """Call until there is an answer: an operator tries again."""
    until = time.monotonic() + OPERATOR_SECONDS
    while True:
        try:
            method()
        except EngineUnavailableError:
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return


def turns(seconds: float, pause: float) -> Iterator[None]:
    """Yield now and after each pause, for so long; once at least."""
    until = time.monotonic() + seconds
    while True:
        yield
        time.sleep(pause)
        if time.monotonic() >= until:
            return


@contextmanager
def stopped(*pids: int | None) -> Iterator[None]:
    """Let processes stand still inside."""
    present = [pid for pid in pids if pid is not None]
    try:
        for pid in present:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in present:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
