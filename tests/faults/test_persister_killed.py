"""A persister that dies at any step leaves each entry in the ledger once, or not yet."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Connection, text

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import EventId
from quota_engine.jobs import crash_points
from quota_engine.jobs.persist import drain, persist_batch
from quota_engine.jobs.trim import trim
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.ledger.locks import lock_named
from quota_engine.ledger.shards import lock_shard
from quota_engine.outbox import Outbox
from quota_engine.scripts import load_scripts
from tests.entries import LogWriter, Written
from tests.outboxes import OutboxWriter, opened_world
from tests.programs import Program

pytestmark = pytest.mark.fault

#: Drains shard 0 and trims it, as a worker would.
PERSISTER = """
import sys, time
from datetime import timedelta
import redis
from quota_engine.jobs.persist import drain
from quota_engine.jobs import crash_points, trim
from quota_engine.ledger import Ledger

redis_url, database_url, pause = sys.argv[1:]
if pause:
    reach = crash_points.reach
    def paused(name):
        if name == pause:
            print("paused", flush=True)
            time.sleep(30)
        reach(name)
    crash_points.reach = paused
trim.SLICE = 20
client, ledger = redis.Redis.from_url(redis_url), Ledger.open(database_url)
print(drain(client, ledger, [0], batch_max=30), flush=True)
trim.trim(client, ledger, 0, trim_after=timedelta(0), keep_max=0)
"""


@pytest.fixture
def outbox(redis_url: str, database_url: str) -> Iterator[OutboxWriter]:
    with opened_world(redis_url, database_url) as world:
        world.client.script_load(load_scripts()["trim_outbox"].source)
        yield world


@pytest.fixture
def written(outbox: OutboxWriter) -> list[Written]:
    """Fill the outbox with the entries of five quotas."""
    writers = [LogWriter(QuotaName(f"user:{number}", "credit")) for number in range(5)]
    entries = [writer.issue_grant("g", 1_000) for writer in writers]
    for turn in range(10):
        entries += [writer.place_hold(f"h{turn}", 5) for writer in writers]
        entries += [writer.capture_hold(f"h{turn}", 3) for writer in writers]
    outbox.send_many(entries)
    return entries


def start_persister(
    redis_url: str, database_url: str, *, crash_point: str = "", pause: str = ""
) -> Program:
    return Program(
        *(PERSISTER, redis_url, database_url, pause),
        env={**os.environ, crash_points.VARIABLE: crash_point},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(outbox: OutboxWriter, written: list[Written]) -> None:
    """Drain and trim what is left, and check that every entry is in the ledger, once."""
    drain(outbox.client, outbox.ledger, [0])
    trim(outbox.client, outbox.ledger, 0, trim_after=timedelta(0), keep_max=0)
    assert list(verify(outbox.ledger)) == []
    heads = {head.quota: head for head in outbox.ledger.known_quotas()}
    last = {one.entry.name: one for one in written}
    assert {name: head.version for name, head in heads.items()} == {
        name: one.entry.version for name, one in last.items()
    }
    assert {head.chain for head in heads.values()} == {one.chain for one in last.values()}
    assert Outbox(outbox.client, 0).first_id() is None
    with outbox.ledger.transaction() as connection:
        assert connection.execute(text("SELECT count(*) FROM quarantine")).scalar_one() == 0


@pytest.mark.parametrize("crash_point", sorted(crash_points.NAMES))
def test_a_persister_killed_at_any_step_loses_and_doubles_nothing(
    outbox: OutboxWriter,
    written: list[Written],
    redis_url: str,
    database_url: str,
    crash_point: str,
) -> None:
    persister = start_persister(redis_url, database_url, crash_point=crash_point)
    persister.communicate(timeout=30)
    assert persister.returncode == -signal.SIGKILL
    finish(outbox, written)


def test_persisters_killed_over_and_over_get_there(
    outbox: OutboxWriter, written: list[Written], redis_url: str, database_url: str
) -> None:
    for _ in range(3):
        persister = start_persister(redis_url, database_url, crash_point="after_commit")
        persister.communicate(timeout=30)
        assert persister.returncode == -signal.SIGKILL
    assert outbox.ledger.read_shards()[0].cursor == EventId(1, 90)
    finish(outbox, written)


def test_a_stopped_persister_loses_its_lock_and_cannot_finish(
    outbox: OutboxWriter,
    written: list[Written],
    redis_url: str,
    database_url: str,
) -> None:
    zombie = start_persister(redis_url, database_url, pause="before_commit")
    assert zombie.stdout is not None
    assert zombie.stdout.readline() == "paused\n"
    zombie.send_signal(signal.SIGSTOP)
    try:
        assert persist_batch(outbox.client, outbox.ledger, 0).status == "locked"
        with outbox.ledger.transaction() as connection:  # what the idle timeout does later
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state ="
                    " 'idle in transaction' AND datname = current_database()"
                )
            )
        deadline = time.monotonic() + 10
        while persist_batch(outbox.client, outbox.ledger, 0).status == "locked":
            assert time.monotonic() < deadline
    finally:
        zombie.kill()
        zombie.communicate(timeout=30)
    finish(outbox, written)


def test_a_persister_in_its_transaction_has_an_idle_timeout(
    outbox: OutboxWriter, written: list[Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quota_engine.ledger.locks.IDLE_TIMEOUT_MS", 100)
    slept: list[str] = []

    def dawdle(name: str) -> None:
        if name == "before_commit" and not slept:
            slept.append(name)
            time.sleep(1)

    monkeypatch.setattr(crash_points, "reach", dawdle)
    with pytest.raises(EngineUnavailableError):
        persist_batch(outbox.client, outbox.ledger, 0)
    finish(outbox, written)


@pytest.mark.parametrize(
    "lock",
    [
        pytest.param(lambda connection: lock_shard(connection, 0, 10_000), id="a shard"),
        pytest.param(lambda connection: lock_named(connection, "order:7"), id="a name"),
    ],
)
def test_who_vanished_with_a_lock_keeps_it_for_a_moment_only(
    outbox: OutboxWriter, monkeypatch: pytest.MonkeyPatch, lock: Callable[[Connection], object]
) -> None:
    monkeypatch.setattr("quota_engine.ledger.locks.IDLE_TIMEOUT_MS", 100)

    def vanish() -> None:
        with outbox.ledger.transaction() as vanished:
            lock(vanished)  # and no word any more, as of a machine that lost its power
            with outbox.ledger.transaction() as other:
                other.execute(text("SET LOCAL statement_timeout = '10s'"))
                lock(other)

    with pytest.raises(EngineUnavailableError, match="idle"):
        vanish()
