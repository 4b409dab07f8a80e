"""Redis ends and comes back with all it had: nobody loses anything, and no repeat counts twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from itertools import pairwise

import pytest

from quota_engine.commands import Snapshot
from quota_engine.deployment import Deployment
from quota_engine.jobs.gate import Recovery
from quota_engine.keys import QuotaName
from tests.faults.conftest import MakeWorld
from tests.faults.world import World
from tests.workers import wait_until


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A world whose server writes before it answers: one that syncs may wait for a slow disk."""
    return make_world(appendfsync="no")


@pytest.mark.row(
    1,
    injection="kill -9 of Redis under load, started again on its files",
    outcome="one new epoch, nothing answered is lost",
)
def test_a_killed_redis_loses_nothing(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(150)
        world.drain()
        writers.wait_for(100)
        before = world.epochs()
        with world.fault():
            world.restart()
        writers.wait_for(100)
    world.check(writers=[writers])
    assert world.epochs() == [epoch + 1 for epoch in before]


@pytest.mark.fault_slow
@pytest.mark.row(
    2,
    injection="SIGTERM under load, started again",
    outcome="one new epoch; quotas stay loaded, nothing is lost",
)
def test_a_restart_in_order_loads_nothing_from_the_ledger(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[QuotaName] = []
    read_snapshot = Deployment.read_snapshot

    def counted(self: Deployment, quota: QuotaName) -> Snapshot:
        loaded.append(quota)
        return read_snapshot(self, quota)

    with world.writing() as writers:
        writers.wait_for(100)
        world.drain()
        writers.wait_for(60)
        before = world.epochs()
        monkeypatch.setattr(Deployment, "read_snapshot", counted)
        with world.fault():
            world.server.stop()
        world.server.start()
        writers.wait_for(100)
    assert loaded == []
    assert world.epochs() == [epoch + 1 for epoch in before]
    world.check(writers=[writers])


#: The gate's steps, as the methods of ``Recovery``, after each of which Redis is killed once.
STEPS = (
    "check",
    "rewrite_aof",
    "place_markers",
    "absorb",
    "drop_differing",
    "open_epochs",
    "record",
)


@pytest.mark.row(
    15,
    injection="Redis is killed and started again after each step of the gate",
    outcome="the recovery is done again with higher epochs, and ends right",
)
def test_a_recovery_survives_the_death_of_its_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = [world.epochs()]
    with world.writing() as writers:
        writers.wait_for(60)
        world.drain()
        for step in STEPS:
            writers.wait_for(20)
            with monkeypatch.context() as patch, world.fault():
                is_hit = kill_once_after(step, world, patch)
                world.restart()
                wait_until(is_hit.is_set, f"the gate has done {step}", 30)
                writers.wait_for(20)
            epochs.append(world.epochs())
    assert all(after > before for before, after in pairwise(epochs))
    world.check(writers=[writers])


def kill_once_after(step: str, world: World, patch: pytest.MonkeyPatch) -> threading.Event:
    """Let the next recovery that has done a step find its server dead; tell when it has."""
    method, is_hit, turn = getattr(Recovery, step), threading.Event(), threading.Lock()

    def killing(self: Recovery, *arguments: object) -> object:
        done = method(self, *arguments)
        if turn.acquire(blocking=False):
            world.restart()
            is_hit.set()
        return done

    patch.setattr(Recovery, step, killing)
    return is_hit


@pytest.mark.row(
    24,
    injection="SCRIPT FLUSH under load, three times",
    outcome="the gate loads them again in the same epoch; no caller notices",
)
def test_flushed_scripts_are_loaded_again_and_nobody_notices(world: World) -> None:
    with world.writing() as writers:
        before = world.epochs()
        for _ in range(3):
            writers.wait_for(40)
            with world.fault():
                world.admin.script_flush()
        writers.wait_for(40)
    assert world.epochs() == before
    assert [call.error for call in writers.calls if call.failed] == []
    world.check(writers=[writers])


@pytest.mark.fault_slow
@pytest.mark.row(
    28,
    injection="SIGSTOP for 2 s while the file is rewritten, then SIGCONT",
    outcome="calls wait or are tried again; one effect each, in the same epoch",
)
def test_a_stalled_redis_costs_only_time(make_world: MakeWorld) -> None:
    world = make_world(settings={"no-appendfsync-on-rewrite": "yes"})
    with world.writing() as writers:
        writers.wait_for(100)
        before = world.epochs()
        pid = world.server.pid
        assert pid is not None
        with world.fault():
            world.admin.bgrewriteaof()
            os.kill(pid, signal.SIGSTOP)
        time.sleep(2)  # longer than a client waits for one answer
        os.kill(pid, signal.SIGCONT)
        writers.wait_for(100)
    assert world.epochs() == before
    world.check(writers=[writers])
