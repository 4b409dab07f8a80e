"""
Redis loses data: all of them, a key, or those of the last minutes.

Goal: what the ledger has survives with its answers, what it had not is lost whole and counted, and
no quota that was spent comes back. Method: the loss is done under load, while entries wait.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from quota_engine import EngineUnavailableError
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from tests.faults.history import Window
from tests.faults.named import check_named
from tests.faults.world import ACCOUNTS, HOT, SHARDS, World
from tests.faults.writers import QUOTA_TYPE, debit


@pytest.mark.row(
    9,
    injection="FLUSHALL, or DEL of the outboxes alone, under load; the scripts stay loaded",
    outcome="every call is fenced until the gate has run; only what waited is lost",
)
@pytest.mark.parametrize("gone", ["everything", "outboxes"])
def test_a_wiped_redis_writes_nothing_before_the_gate(world: World, gone: str) -> None:
    with world.writing() as writers:
        writers.wait_for(150)
        since = world.drain()
        writers.wait_for(60)
        before = world.epochs()
        with world.fault():
            if gone == "everything":
                world.admin.flushall()
            else:
                world.admin.delete(*(ShardKeys(shard).outbox for shard in range(SHARDS)))
        until = time.monotonic()
        writers.wait_for(150)
    check_named(world, world.check(writers=[writers], may_lose=Window(since, until)))
    assert world.epochs() == [epoch + 1 for epoch in before]
    for shard, epoch in enumerate(world.epochs()):
        ((first, _),) = world.admin.xrange(ShardKeys(shard).outbox, count=1)
        assert first.decode() == f"{epoch}-0", "nothing was written before the gate's marker"


@pytest.mark.fault_slow
@pytest.mark.row(
    8,
    injection="kill -9, appendonlydir removed, started again",
    outcome="refused until it is adopted; then only what waited is lost",
)
def test_a_lost_file_is_adopted_and_filled_from_the_ledger(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(150)
        since = world.drain()
        writers.wait_for(60)
        with world.fault():
            world.server.kill()
        until = time.monotonic()
        shutil.rmtree(world.data / "appendonlydir")
        world.server.start()
        writers.wait_for_trouble()
        with pytest.raises(EngineUnavailableError, match="recovery run --adopt"):
            world.engine.deployment.recover()
        world.engine.deployment.recover(adopt=True)
        writers.wait_for(100)
    check_named(world, world.check(writers=[writers], may_lose=Window(since, until)))


@pytest.mark.row(
    10,
    injection="DEL of the keys of busy quotas, over and over",
    outcome="loaded from the ledger once it has all that was issued; no fork, nothing lost",
)
def test_a_deleted_quota_is_loaded_again_and_gives_nothing_back(world: World) -> None:
    chance = random.Random(world.seed)
    deleted = 0
    with world.writing() as writers:
        for turn in range(12):
            writers.wait_for(25)
            name = QuotaName(chance.choice(HOT), QUOTA_TYPE)
            world.ask(debit(name.account, f"before-{turn}", 1))
            keys = ShardKeys(shard_of(name.account, SHARDS))
            with world.fault():
                deleted += world.admin.delete(keys.quota(str(name)))
        writers.wait_for(50)
    world.check(writers=[writers])
    assert deleted > 8


@pytest.mark.row(
    11,
    injection="Redis is stopped, a copy of its folder from before is put back",
    outcome="older quotas are dropped before any write; no entry is in conflict",
)
def test_an_old_backup_gives_no_spent_quota_back(world: World, tmp_path: Path) -> None:
    with world.writing() as writers:
        writers.wait_for(100)
        world.server.kill()
        shutil.copytree(world.data, tmp_path / "backup")
        world.server.start()
        writers.wait_for(150)
        since = world.drain()
        writers.wait_for(60)
        with world.fault():
            world.server.kill()
        until = time.monotonic()
        shutil.rmtree(world.data)
        shutil.copytree(tmp_path / "backup", world.data)
        world.server.start()
        writers.wait_for(150)
    check_named(world, world.check(writers=[writers], may_lose=Window(since, until)))


@pytest.mark.fault_slow
@pytest.mark.row(
    22,
    injection="calls are answered and persisted, FLUSHALL, each is asked for again",
    outcome="each gets its first answer again and has no second effect",
)
def test_a_retry_after_everything_was_forgotten_is_answered_as_before(world: World) -> None:
    asked = [
        debit(account, f"retry-{number}", 2)
        for number, account in enumerate(ACCOUNTS)
        if account in HOT
    ]
    first = [world.ask(one) for one in asked]
    with world.writing() as writers:
        writers.wait_for(50)
        since = world.drain()
        writers.wait_for(30)
        with world.fault():
            world.admin.flushall()
        until = time.monotonic()
        again = [method(world.engine) for _, method in asked]
        writers.wait_for(30)
    assert all(answer.replayed for answer in again)
    assert [(one.version, one.balance) for one in again] == [
        (one.version, one.balance) for one in first
    ]
    world.check(writers=[writers], may_lose=Window(since, until))
