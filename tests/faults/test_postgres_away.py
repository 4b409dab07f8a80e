"""
PostgreSQL dies, is away, refuses, or answers too late.

Goal: calls of loaded quotas go on, and each entry reaches the ledger once. Method: a PostgreSQL of
the test's own, and drainers that never stop, while clients write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from quota_engine import EngineUnavailableError
from quota_engine.embedded import PostgresServer
from quota_engine.jobs.persist import LOCK_WAIT_MS
from quota_engine.jobs.trim import trim
from quota_engine.keys import ShardKeys
from tests.faults.conftest import MakeWorld
from tests.faults.postgres import end_at_once, in_front_of, session, url_through
from tests.faults.world import HOT, SHARDS, World
from tests.workers import pending, persisted, wait_until


class Drains:
    """Drainers of their own engines that go on whatever happens; what they met is kept."""

    def __init__(self, world: World, count: int = 2) -> None:
        self.done = 0
        self.failed = 0
        self.strange: list[str] = []
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(world.open_engine(),)) for _ in range(count)
        ]

    def _run(self, engine: object) -> None:
        while not self._stopping.wait(0.02):
            try:
                self.done += engine.drain()  # type: ignore[attr-defined]
            except EngineUnavailableError:
                self.failed += 1
            except Exception as error:
                self.strange.append(f"{type(error).__name__}: {error}")

    def __enter__(self) -> Drains:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def draining(world: World, count: int = 2) -> Iterator[Drains]:
    """Drain over and over meanwhile; only "unavailable" may be met."""
    with Drains(world, count) as drains:
        yield drains
    assert drains.strange == []


@pytest.mark.row(
    31,
    injection="SIGQUIT (immediate) of PostgreSQL while batches are written, three times",
    outcome="drainers go on when it is back; each entry is in the ledger once",
)
def test_a_postgresql_that_restarts_gets_each_entry_once(
    make_world: MakeWorld, postgres: PostgresServer
) -> None:
    world = make_world(database=postgres.url, persist_batch_max=20)
    with world.writing() as writers, draining(world) as drains:
        for _ in range(3):
            writers.wait_for(60)
            before = drains.failed
            with session(postgres) as intruder:
                # the drainers are in the middle of a batch, and entries wait
                intruder.execute("LOCK TABLE ledger_entries IN EXCLUSIVE MODE")
                wait_until(lambda: pending(world.engine) > 20, "entries wait")
                with world.fault():
                    end_at_once(postgres)
            wait_until(lambda before=before: drains.failed > before, "a drain fails")
            postgres.start()
        writers.wait_for(60)
    world.check(writers=[writers])


@pytest.mark.fault_slow
@pytest.mark.row(
    32,
    injection="PostgreSQL is away for 6 s of full load (its limits: test_backpressure.py)",
    outcome="calls of loaded quotas go on; then all is persisted in order, and memory returns",
)
def test_calls_go_on_while_postgresql_is_away(
    make_world: MakeWorld, postgres: PostgresServer
) -> None:
    world = make_world(database=postgres.url)
    # few grants: each waits for the ledger, and its writer with it
    with world.writing(accounts=HOT, pause_seconds=0.001, grant_share=0.003) as writers:
        writers.wait_for(100)
        world.drain()
        with world.fault() if world.pending() else session(postgres):
            postgres.stop()
        gone = time.monotonic()
        writers.wait_for(300)
        most = lengths(world)
        wait_until(lambda: time.monotonic() - gone > 6, "it has been away for long")
        assert world.admin.ping()
        postgres.start()
        writers.wait_for(100)
    world.check(writers=[writers])
    deployment = world.engine.deployment
    for shard in range(SHARDS):
        trim(*(deployment.client, deployment.ledger, shard), trim_after=timedelta(0), keep_max=0)
    assert lengths(world) < most / 10, "memory returns"


def lengths(world: World) -> int:
    """Return how many messages the outboxes hold."""
    return sum(world.admin.xlen(ShardKeys(shard).outbox) for shard in range(SHARDS))


@pytest.mark.row(
    33,
    injection="a proxy hangs up instead of passing the reply to COMMIT, of every third",
    outcome="the cursor tells whether it was committed; no entry twice, none missing",
)
def test_a_lost_reply_to_commit_doubles_nothing(
    make_world: MakeWorld, postgres: PostgresServer
) -> None:
    with in_front_of(postgres) as proxy:
        world = make_world(database=url_through(proxy), persist_batch_max=10)
        with world.writing() as writers, draining(world) as drains:
            writers.wait_for(40)
            with world.fault() if world.pending() else session(postgres):
                proxy.cut_replies_to("COMMIT", share=0.34, seed=world.seed)
            writers.wait_for(150)
            wait_until(lambda: proxy.cuts > 20 and drains.failed > 5, "commits are cut")
            proxy.cut_replies_to("COMMIT", share=0.0)
            writers.wait_for(40)
        world.check(writers=[writers])


@pytest.mark.row(
    35,
    injection="others lock the shards' rows and a quota's row, then in the other order (deadlock)",
    outcome="drainers wait, give up and come again; nothing is lost",
)
def test_locks_and_deadlocks_only_cost_time(
    make_world: MakeWorld, postgres: PostgresServer
) -> None:
    world = make_world(database=postgres.url)
    with world.writing() as writers, draining(world):
        writers.wait_for(60)
        with session(postgres) as intruder:
            intruder.execute("SELECT FROM shards FOR UPDATE")
            locked = time.monotonic()
            writers.wait_for(40)
            enough = LOCK_WAIT_MS / 1000 + 1
            wait_until(lambda: time.monotonic() - locked > enough, "the drainers have given up")
            assert world.pending() > 20
        for _ in range(2):
            before = persisted(world.engine)
            with session(postgres) as intruder:
                intruder.execute("SET deadlock_timeout = '60s'")  # the drainer is the victim
                intruder.execute("SELECT FROM quotas FOR UPDATE")
                wait_until(lambda: pending(world.engine) > 20, "a batch is stuck at the quotas")
                intruder.execute("SET lock_timeout = '10s'")
                intruder.execute("SELECT FROM shards FOR UPDATE")
            wait_until(lambda before=before: persisted(world.engine) > before, "drains go on", 30)
        writers.wait_for(40)
    world.check(writers=[writers])


@pytest.mark.row(
    36,
    injection="each write to the ledger fails with PostgreSQL's error for a full disk (a trigger)",
    outcome="calls go on, drainers come again; once there is room, all is persisted",
)
def test_a_full_disk_of_postgresql_only_delays(
    make_world: MakeWorld, postgres: PostgresServer
) -> None:
    world = make_world(database=postgres.url)
    with world.writing() as writers, draining(world) as drains:
        writers.wait_for(60)
        with session(postgres) as operator:
            operator.execute(
                "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " RAISE EXCEPTION 'could not extend file: No space left on device'"
                " USING ERRCODE = 'disk_full'; END $$"
            )
            operator.execute(
                "CREATE TRIGGER full_disk BEFORE INSERT ON ledger_entries"
                " FOR EACH ROW EXECUTE FUNCTION fill()"
            )
            operator.commit()
            before, was = drains.failed, persisted(world.engine)
            writers.wait_for(60)
            wait_until(lambda: drains.failed > before + 2, "drains fail")
            assert persisted(world.engine) == was
            operator.execute("DROP TRIGGER full_disk ON ledger_entries")
            operator.commit()
        writers.wait_for(40)
    world.check(writers=[writers])
