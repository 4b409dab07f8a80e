"""
Workers are killed, stopped, doubled, or missing.

Goal: each entry reaches the ledger once, whoever persists it. Method: ``quota-engine worker`` and
persisters in processes of their own, beside clients that never stop.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from quota_engine import EngineUnavailableError, QuotaEngine
from quota_engine.embedded import PostgresServer
from quota_engine.jobs import crash_points
from quota_engine.jobs.health import examine
from quota_engine.keys import ShardKeys
from quota_engine.settings import Settings
from tests.faults.conftest import MakeWorld
from tests.faults.postgres import end_sleeping_sessions, in_front_of, url_through
from tests.faults.rare import RARE
from tests.faults.world import SHARDS, World
from tests.programs import Program, run
from tests.servers import TestServers
from tests.workers import Worker, pending, persisted, wait_until

#: Other tests may run beside: only a bound.
TAKEOVER_SECONDS = 90.0
#: Workers need a processor, too.
PAUSE_SECONDS = 0.02


def environment(world: World, **more: str) -> dict[str, str]:
    """Return what a worker of this world reads."""
    return {
        "QUOTA_ENGINE_REDIS_URL": world.url,
        "QUOTA_ENGINE_DATABASE_URL": world.database_url,
        "QUOTA_ENGINE_SHARDS": str(SHARDS),
        "QUOTA_ENGINE_DRAIN_SLICE_SECONDS": "3",
        **more,
    }


def wait_for_more(world: World, seconds: float = TAKEOVER_SECONDS) -> None:
    """Return once the ledger has an entry more than now."""
    before = persisted(world.engine)
    wait_until(lambda: persisted(world.engine) > before, "an entry is persisted", seconds)


@pytest.mark.fault_slow
@pytest.mark.row(
    37,
    injection="a worker kills itself at a step of persisting or trimming, under load; one follows",
    outcome="the next worker goes on; no entry is lost or there twice",
)
@pytest.mark.parametrize("crash_point", sorted(crash_points.NAMES))
def test_a_worker_that_dies_at_any_step_is_followed_by_another(
    world: World, tmp_path: Path, crash_point: str
) -> None:
    often = {
        "QUOTA_ENGINE_TRIM_AFTER_SECONDS": "0",
        "QUOTA_ENGINE_PERSIST_BATCH_MAX": "10",
    }
    crashing = environment(world, **often, **{crash_points.VARIABLE: crash_point})
    with world.writing(pause_seconds=PAUSE_SECONDS) as writers:
        writers.wait_for(40)
        with world.fault(), Worker(crashing, tmp_path / "crashing.log") as worker:
            wait_until(
                lambda: worker.process.poll() is not None or "ended with -9" in worker.said(),
                "a process has died",
                TAKEOVER_SECONDS,
            )
        with Worker(environment(world, **often), tmp_path / "next.log"):
            wait_for_more(world)
            wait_for_more(world)
            writers.wait_for(40)
    world.check(writers=[writers])


#: Drains and trims over and over, like a worker; stops at a named step for as long as it is told.
SLEEPER = """
import sys, time
from datetime import timedelta
import redis
from quota_engine.jobs import crash_points
from quota_engine.jobs.persist import persist_batch
from quota_engine.jobs.trim import trim
from quota_engine.ledger import Ledger

redis_url, database_url, step = sys.argv[1:]
reach = crash_points.reach
def pausing(name):
    if name == step:
        print("paused", flush=True)
        sys.stdin.readline()
    reach(name)
crash_points.reach = pausing
client, ledger = redis.Redis.from_url(redis_url), Ledger.open(database_url)
said = []
for shard in range(2):
    try:
        outcome = persist_batch(client, ledger, shard)
        said.append(f"{outcome.status} {outcome.reason}")
        trimmed = trim(client, ledger, shard, trim_after=timedelta(0), keep_max=0)
        said.append(f"trimmed {trimmed}")
    except Exception as error:
        said.append(f"failed {type(error).__name__} {error}")
print(*said, "over", sep="; ", flush=True)
"""


@contextmanager
def sleeping_at(step: str, world: World) -> Iterator[Program]:
    """Run a persister that has been stopped (SIGSTOP) at a step."""
    sleeper = Program(
        *(SLEEPER, world.server.url, world.database_url, step),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "paused\n"
        sleeper.send_signal(signal.SIGSTOP)
        yield sleeper
    finally:
        sleeper.kill()
        sleeper.communicate(timeout=30)


@pytest.mark.row(
    38,
    injection="SIGSTOP of a persister at a step; Redis restarts, the gate opens; SIGCONT",
    outcome="it has lost its lock or meets the epoch: it commits nothing, trims nothing new",
)
@pytest.mark.parametrize(
    "step", [RARE("after_read"), "before_commit", RARE("after_commit"), RARE("before_trim")]
)
def test_a_worker_that_sleeps_through_a_recovery_does_nothing_to_the_new_epoch(
    world: World, step: str
) -> None:
    with world.writing(pause_seconds=PAUSE_SECONDS) as writers:
        writers.wait_for(60)
        with sleeping_at(step, world) as sleeper:
            writers.wait_for(40)
            before = world.epochs()
            with world.fault():
                world.restart()
            if step in {"after_read", "before_commit"}:  # what the idle timeout does later
                wait_until(
                    lambda: end_sleeping_sessions(world.database_url) > 0, "its session is ended"
                )
            world.heal()
            writers.wait_for(60)
            assert all(new > old for new, old in zip(world.epochs(), before, strict=True))
            tops = [first_of(world, shard) for shard in range(SHARDS)]
            sleeper.send_signal(signal.SIGCONT)
            said, _ = sleeper.communicate("go on\n" * 8, timeout=30)
            assert "over" in said, said
            assert [first_of(world, shard) for shard in range(SHARDS)] >= tops
            if step == "before_commit":
                assert "failed" in said, said
        writers.wait_for(40)
    world.check(writers=[writers])


def first_of(world: World, shard: int) -> tuple[int, int]:
    """Return the first id that an outbox still has."""
    ((event_id, _),) = world.admin.xrange(ShardKeys(shard).outbox, count=1)
    epoch, n = event_id.split(b"-")
    return int(epoch), int(n)


@pytest.mark.row(
    39,
    injection="two workers and ten threads of five engines drain at once",
    outcome="one at a time persists a shard; no entry is there twice",
)
def test_many_drainers_at_once_do_the_work_once(world: World, tmp_path: Path) -> None:
    over = threading.Event()
    strange: list[str] = []

    def drain(engine: QuotaEngine) -> None:
        while not over.wait(0.01):
            try:
                engine.drain()
            except EngineUnavailableError:
                pass
            except Exception as error:
                strange.append(f"{type(error).__name__}: {error}")

    engines = [world.open_engine() for _ in range(5)]
    threads = [threading.Thread(target=drain, args=(engines[n % 5],)) for n in range(10)]
    with (
        world.writing(pause_seconds=PAUSE_SECONDS) as writers,
        Worker(environment(world), tmp_path / "one.log"),
        Worker(environment(world), tmp_path / "two.log"),
    ):
        for thread in threads:
            thread.start()
        try:
            writers.wait_for(300)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert strange == []
    world.check(writers=[writers])


#: A drain job whose time is over while PostgreSQL is at its COMMIT: RQ raises inside of it.
TIMED = """
import sys, time
import redis
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from quota_engine.jobs.persist import persist_batch
from quota_engine.ledger import Ledger

redis_url, database_url = sys.argv[1:]
client, ledger = redis.Redis.from_url(redis_url), Ledger.open(database_url)
timed_out = persisted = 0
for turn in range(12):
    started = time.monotonic()
    try:
        with UnixSignalDeathPenalty(1, JobTimeoutException):
            while True:
                for shard in range(2):
                    persisted += persist_batch(client, ledger, shard, batch_max=10).events
    except Exception as error:  # of a job, any ends it
        timed_out += 1
        print(f"{time.monotonic() - started:.2f} s", type(error).__name__, error)
print(timed_out, "ended after", persisted, flush=True)
"""


@pytest.mark.fault_slow
@pytest.mark.row(
    40,
    injection="RQ's timeout is raised in a drain, 12 times, most of them in a slow PostgreSQL",
    outcome="the next one goes on where the ledger is; no entry is there twice",
)
def test_a_job_that_times_out_in_its_commit_doubles_nothing(
    make_world: MakeWorld, postgres: PostgresServer
) -> None:
    world = make_world(database=postgres.url)
    with in_front_of(postgres) as proxy, world.writing(pause_seconds=PAUSE_SECONDS) as writers:
        proxy.delay = 0.005
        writers.wait_for(30)
        with world.fault():
            job = run(TIMED, world.url, url_through(proxy))
        assert "12 ended after" in job.stdout, job.stderr
        assert int(job.stdout.split()[-1]) > 0, job.stdout
        writers.wait_for(30)
    world.check(writers=[writers])


@pytest.mark.fault_slow
@pytest.mark.row(
    41,
    injection="FLUSHALL of the Redis that RQ lives in, three times, jobs running",
    outcome="the keepers enqueue again or drain themselves, within seconds",
)
def test_a_wiped_redis_of_rq_stops_nothing(
    world: World, servers: TestServers, tmp_path: Path
) -> None:
    rq_server = servers.valkey()
    settings = environment(world, QUOTA_ENGINE_RQ_REDIS_URL=rq_server.url)
    try:
        with (
            world.writing(pause_seconds=PAUSE_SECONDS) as writers,
            Worker(settings, tmp_path / "worker.log"),
        ):
            wait_for_more(world)
            for _ in range(3):
                with redis.Redis.from_url(rq_server.url) as client:
                    client.flushall()
                wait_for_more(world)
                wait_for_more(world)
                writers.wait_for(40)
    finally:
        rq_server.kill()
    world.check(writers=[writers])


@pytest.mark.fault_slow
@pytest.mark.row(
    42,
    injection="no worker runs; then one is started",
    outcome="entries that wait too long are an alarm; the worker persists all of them",
)
def test_without_a_worker_there_is_an_alarm_and_then_all_is_caught_up(
    world: World, tmp_path: Path
) -> None:
    with world.writing(pause_seconds=PAUSE_SECONDS) as writers:
        writers.wait_for(60)
        settings = Settings(drain_late_seconds=0.5)

        def is_alarmed() -> bool:
            found = examine(world.admin, world.url, world.database_url, settings)
            return "lag" in {problem.code for problem in found.problems}

        wait_until(is_alarmed, "an alarm", TAKEOVER_SECONDS)
        with world.fault(), Worker(environment(world), tmp_path / "worker.log"):
            waiting = pending(world.engine)
            was = persisted(world.engine)
            wait_until(
                lambda: persisted(world.engine) >= was + waiting, "all persist", TAKEOVER_SECONDS
            )
            writers.wait_for(40)
    world.check(writers=[writers])
