"""
Redis is at a limit: of memory, of disk, of what an operator may do to it.

Goal: what is refused has no effect at all, what was used is still charged, and all goes on when
the limit is gone. Method: the limit is set under load.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quota_engine import EngineFault, EngineUnavailableError
from quota_engine.drift import Cause
from quota_engine.embedded.binaries import find_valkey
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from tests.faults.conftest import MakeWorld
from tests.faults.history import Call, Window
from tests.faults.world import COLD, HOT, POOR, SHARDS, World
from tests.faults.writers import (
    QUOTA_TYPE,
    Writers,
    capture,
    capture_part,
    place_hold,
    release,
)
from tests.workers import Worker, wait_until


def fill(world: World) -> None:
    """Let the server's memory be full from now on."""
    used = int(world.admin.info("memory")["used_memory"])
    world.admin.config_set("maxmemory", used // 2)


def count(writers: Writers, is_one: Callable[[Call], bool]) -> int:
    return sum(is_one(call) for call in list(writers.calls))


def is_refused(call: Call) -> bool:
    return call.error.startswith("BackpressureError")


@pytest.mark.row(
    25,
    injection="maxmemory set below what is used, under load",
    outcome="holds, debits and grants are refused without effect, captures and releases pass",
)
def test_a_full_redis_still_takes_what_was_used(world: World) -> None:
    for number in range(3):
        world.ask(place_hold(HOT[number], f"hold-{number}", 50))
    with world.writing() as writers:
        writers.wait_for(60)
        with world.fault():
            fill(world)
        wait_until(lambda: count(writers, is_refused) > 30, "new calls are refused")
        world.ask(capture_part(HOT[0], "hold-0", "part", 20))
        world.ask(capture(HOT[0], "hold-0", 20))
        world.ask(capture(HOT[1], "hold-1", 70))
        world.ask(release(HOT[2], "hold-2"))
        world.admin.config_set("maxmemory", 0)
        writers.wait_for(60)
    refused = [call for call in writers.calls if is_refused(call)]
    assert {call.verb for call in refused} - {"issue_grant"} == {"debit", "place_hold"}
    assert [call.outcome for call in world.calls if call.hold_id.startswith("hold-")] == (
        ["done"] * 7
    )
    world.check(writers=[writers])


@pytest.fixture
def limited_program(tmp_path: Path) -> Path:
    """A server that is told when a file may not grow, instead of being killed for it."""
    program = tmp_path / "valkey"
    program.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {find_valkey()} \"$@\"\n")
    program.chmod(0o755)
    return program


@pytest.mark.row(
    27,
    injection="no file of the server may grow any more, under load; later they may again",
    outcome="writes are refused without effect and with the reason; then all goes on",
)
def test_a_full_disk_refuses_and_loses_nothing(
    make_world: MakeWorld, limited_program: Path
) -> None:
    world = make_world(binary=limited_program, call_timeout_seconds=1)
    pid = world.server.pid
    assert pid is not None
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    with world.writing() as writers:
        writers.wait_for(60)
        before = world.epochs()
        with world.fault():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, unlimited[1]))
        writers.wait_until_stuck()
        assert any("cannot write its files" in call.error for call in writers.calls)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        writers.wait_for(60)
    assert world.epochs() == before
    world.check(writers=[writers])


@pytest.mark.row(
    29,
    injection="an operator sets a quota's key to a text",
    outcome="its calls fail without effect, others go on; reconciling names it",
)
def test_a_quota_of_another_type_harms_itself_alone(world: World) -> None:
    victim = QuotaName(COLD[0], QUOTA_TYPE)
    keys = ShardKeys(shard_of(victim.account, SHARDS))
    with world.writing(accounts=(*HOT, POOR)) as writers:
        writers.wait_for(50)
        with world.fault():
            world.admin.set(keys.quota(str(victim)), "a text")
        with pytest.raises(EngineFault, match="WRONGTYPE"):
            world.engine.debit(victim.account, QUOTA_TYPE, 1)
        writers.wait_for(50)
        drifts = world.engine.reconcile().drifts
        assert [(one.account, one.cause) for one in drifts] == [
            (victim.account, Cause.UNEXPLAINED)
        ]
        world.admin.delete(keys.quota(str(victim)))
    assert world.engine.debit(victim.account, QUOTA_TYPE, 1, operation_id="kept").version
    world.calls.append(Call("debit", victim.account, "kept", 1, outcome="unknown"))
    world.check(writers=[writers])


@pytest.mark.fault_slow
@pytest.mark.row(
    29,
    injection="an operator sets an outbox to a text, and deletes it when it is seen",
    outcome="nothing is written to that shard; lost is only what waited in it",
)
def test_an_outbox_of_another_type_is_not_written(world: World) -> None:
    since = world.drain()
    victim = next(account for account in HOT if shard_of(account, SHARDS) == 1)
    others = [account for account in (*HOT, *COLD) if shard_of(account, SHARDS) == 0]
    with world.writing(accounts=others) as writers:
        writers.wait_for(30)
        world.engine.debit(victim, QUOTA_TYPE, 1, operation_id="lost")
        world.calls.append(Call("debit", victim, "lost", 1, ended=since, outcome="done"))
        before = world.admin.hgetall(ShardKeys(1).quota(f"{victim}|{QUOTA_TYPE}"))
        with world.fault():
            world.admin.set(ShardKeys(1).outbox, "a text")
        until = time.monotonic()
        with pytest.raises((EngineFault, EngineUnavailableError), match="WRONGTYPE"):
            world.engine.debit(victim, QUOTA_TYPE, 1)
        assert world.admin.hgetall(ShardKeys(1).quota(f"{victim}|{QUOTA_TYPE}")) == before
        writers.wait_for(30)
        world.admin.delete(ShardKeys(1).outbox)
    verdict = world.check(writers=[writers], may_lose=Window(since, until))
    assert {call.operation_id for call in verdict.lost} <= {"lost"}


@pytest.fixture
def worker_of(tmp_path: Path) -> Iterator[Callable[[World], Worker]]:
    started: list[Worker] = []

    def start(world: World) -> Worker:
        environment = {
            "QUOTA_ENGINE_REDIS_URL": world.url,
            "QUOTA_ENGINE_DATABASE_URL": world.database_url,
            "QUOTA_ENGINE_TRIM_AFTER_SECONDS": "0",
        }
        started.append(Worker(environment, tmp_path / f"worker-{len(started)}.log"))
        return started[-1]

    yield start
    for worker in started:
        worker.__exit__(None, None, None)
        print(worker.said())


@pytest.mark.fault_slow
@pytest.mark.row(
    66,
    injection="the outboxes fill Redis, which is also RQ's, while no worker runs; then one starts",
    outcome="what was used is taken, the keeper drains by itself, memory returns",
)
def test_memory_returns_although_rq_shares_it(
    world: World, worker_of: Callable[[World], Worker]
) -> None:
    with world.writing(pause_seconds=0.05) as writers:
        writers.wait_for(50)
        used = int(world.admin.info("memory")["used_memory"])
        world.admin.config_set("maxmemory", used + 300_000)
        wait_until(lambda: count(writers, is_refused) > 10, "Redis is full", 60)
        assert world.pending() > 0
        worker = worker_of(world)
        refused = count(writers, is_refused)
        wait_until(lambda: world.pending() < 50, "the worker drains", 60)
        done = writers.answered - count(writers, is_refused)
        wait_until(
            lambda: writers.answered - count(writers, is_refused) > done + 60,
            "calls are admitted again",
            60,
        )
        assert refused
        assert "the keeper drains by itself" in worker.said()
        worker.terminate()
        world.admin.config_set("maxmemory", 0)
    world.check(writers=[writers])
