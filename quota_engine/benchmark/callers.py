"""
Callers: who makes the calls whose rate is measured, in this process or in one of its own.

Each way (the engine, row locks, a bare EVALSHA for the client's own cost) can debit, and hold and
capture; one call of ``hold + capture`` is both together.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import redis
import redis.asyncio

from quota_engine.benchmark.row_lock import AsyncRowLock, RowLock
from quota_engine.benchmark.server_time import BARE_SCRIPT
from quota_engine.benchmark.servers import TYPE, account_names
from quota_engine.engine import AsyncQuotaEngine, QuotaEngine
from quota_engine.usage import Usage

ENGINE, ROW_LOCK, BARE = "engine", "row lock", "bare EVALSHA"
DEBIT, HOLD = "debit", "hold + capture"
HOT, SPREAD = "one account", "spread"
USAGE = Usage(input_tokens=1000, cached_input_tokens=200, output_tokens=200, reasoning_tokens=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where callers call: both servers, and how many accounts and tasks there are."""

    redis_url: str
    database_url: str
    accounts: int
    tasks: int

    @property
    def conninfo(self) -> str:
        """The database as psycopg reads it."""
        return self.database_url.replace("postgresql+psycopg://", "postgresql://", 1)


@dataclass(frozen=True, slots=True)
class Work:
    """What is called: by which way, what, and on which accounts."""

    way: str
    call: str
    reach: str


class Caller:
    """One process's callers: ``run`` is one after the other, ``run_tasks`` many at once."""

    def __init__(self, place: Place, seed: int) -> None:
        self._place = place
        self._names = account_names(place.accounts)
        self._random = random.Random(seed)
        self._ids = (f"hold_{seed:08x}{number:024x}" for number in itertools.count())
        self._engine = QuotaEngine.open(place.redis_url, place.database_url)
        self._rows = RowLock(place.conninfo)
        self._redis: Any = redis.Redis.from_url(place.redis_url, protocol=2)
        self._sha: str = self._redis.script_load(BARE_SCRIPT)
        self._loop = asyncio.Runner()
        self._tasks: Tasks | None = None

    def close(self) -> None:
        """Close every connection."""
        if self._tasks is not None:
            self._loop.run(self._tasks.close())
        self._loop.close()
        self._engine.close()
        self._rows.close()
        self._redis.close()

    def run(self, work: Work, seconds: float) -> float:
        """Return calls per second, one after the other."""
        call = self._call(work)
        count, started = 0, time.perf_counter()
        until = started + seconds
        while time.perf_counter() < until:
            call()
            count += 1
        return count / (time.perf_counter() - started)

    def _account(self, reach: str) -> str:
        return self._names[0] if reach == HOT else self._random.choice(self._names)

    def _call(self, work: Work) -> Callable[[], object]:
        engine, rows, reach = self._engine, self._rows, work.reach

        def hold_and_capture() -> None:
            hold = engine.place_hold(self._account(reach), TYPE, 30)
            engine.capture_hold(hold, 20, usage=USAGE)

        calls: dict[tuple[str, str], Callable[[], object]] = {
            (ENGINE, DEBIT): lambda: engine.debit(self._account(reach), TYPE, 3, usage=USAGE),
            (ENGINE, HOLD): hold_and_capture,
            (ROW_LOCK, DEBIT): lambda: rows.debit(self._account(reach), 3),
            (ROW_LOCK, HOLD): lambda: rows.hold_and_capture(
                self._account(reach), next(self._ids), 30, 20
            ),
            (BARE, DEBIT): lambda: self._redis.evalsha(self._sha, 1, "bench:bare", 1),
        }
        return calls[work.way, work.call]

    def run_tasks(self, work: Work, seconds: float) -> float:
        """Return calls per second of many tasks in one event loop."""
        return self._loop.run(self._run_tasks(work, seconds))

    async def _run_tasks(self, work: Work, seconds: float) -> float:
        if self._tasks is None:
            self._tasks = await Tasks.open(self._place)
        call, count = self._async_call(work, self._tasks), self._place.tasks
        await asyncio.gather(*(call() for _ in range(count)))  # opens connections
        started = time.perf_counter()
        counts = await asyncio.gather(*(_repeat(call, started + seconds) for _ in range(count)))
        return sum(counts) / (time.perf_counter() - started)

    def _async_call(self, work: Work, tasks: Tasks) -> Callable[[], Awaitable[object]]:
        engine, rows, client, reach = tasks.engine, tasks.rows, tasks.redis, work.reach

        async def hold_and_capture() -> None:
            hold = await engine.place_hold(self._account(reach), TYPE, 30)
            await engine.capture_hold(hold, 20, usage=USAGE)

        calls: dict[tuple[str, str], Callable[[], Awaitable[object]]] = {
            (ENGINE, DEBIT): lambda: engine.debit(self._account(reach), TYPE, 3, usage=USAGE),
            (ENGINE, HOLD): hold_and_capture,
            (ROW_LOCK, DEBIT): lambda: rows.debit(self._account(reach), 3),
            (ROW_LOCK, HOLD): lambda: rows.hold_and_capture(
                self._account(reach), next(self._ids), 30, 20
            ),
            (BARE, DEBIT): lambda: client.evalsha(self._sha, 1, "bench:bare", 1),
        }
        return calls[work.way, work.call]


@dataclass(frozen=True, slots=True)
class Tasks:
    """What the tasks of one event loop share."""

    engine: AsyncQuotaEngine
    rows: AsyncRowLock
    redis: Any

    @classmethod
    async def open(cls, place: Place) -> Tasks:
        """Open the three ways."""
        engine = await AsyncQuotaEngine.open(place.redis_url, place.database_url)
        rows = AsyncRowLock(place.conninfo, place.tasks)
        await rows.open()
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            place.redis_url, max_connections=20, protocol=2
        )
        return cls(engine, rows, redis.asyncio.Redis.from_pool(pool))

    async def close(self) -> None:
        """Close every connection."""
        await self.redis.aclose()
        await self.rows.close()
        await self.engine.aclose()


async def _repeat(call: Callable[[], Awaitable[object]], until: float) -> int:
    count = 0
    while time.perf_counter() < until:
        await call()
        count += 1
    return count


class Processes:
    """Several processes with a caller each, that start and stop together."""

    def __init__(self, place: Place, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, place, number + 1), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def start(self, work: Work, seconds: float) -> None:
        """Let every process call for so long."""
        for pipe in self._pipes:
            pipe.send((work, seconds))

    def rates(self) -> Sequence[float]:
        """Return the calls per second of each, when they are done."""
        return [pipe.recv() for pipe in self._pipes]

    def run(self, work: Work, seconds: float) -> float:
        """Return the calls per second of all together."""
        self.start(work, seconds)
        return sum(self.rates())

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)
            pipe.close()
        for process in self._processes:
            process.join()


def _serve(pipe: Connection, place: Place, seed: int) -> None:
    """Be one process: say when ready, then run what is sent, until nothing more is."""
    caller = Caller(place, seed)
    pipe.send(0.0)
    while (order := pipe.recv()) is not None:
        pipe.send(caller.run(*order))
    caller.close()
