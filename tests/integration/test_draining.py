"""
Whoever drains leaves a shard to who is faster, and takes up one that has nobody.

Goal: shards spread over drainers without a lease, and none is forgotten. Method: drainers in
threads of this process, with looks so frequent that nothing waits for time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from quota_engine import QuotaEngine
from quota_engine.events import EventId
from quota_engine.jobs import draining
from quota_engine.jobs.draining import Drainer
from quota_engine.jobs.lookout import Lookout
from quota_engine.jobs.persist import PersistOutcome
from quota_engine.keys import QuotaName, ShardKeys
from tests.workers import QUOTA_TYPE, pending, wait_until

SHARDS = range(4)


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=4) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {
        "LOOK_SECONDS": 0.05,
        "BEHIND_SECONDS": 0.2,
        "LOCKED_PAUSE_SECONDS": 0.01,
        "STOPPED_PAUSE_SECONDS": 0.05,
    }.items():
        monkeypatch.setattr(draining, name, seconds)


@pytest.fixture
def stopping() -> threading.Event:
    return threading.Event()


def issue(engine: QuotaEngine, *, shard: int | None = None) -> int:
    """Make an entry in each shard, or in one; return how many that were."""
    wanted = set(SHARDS) if shard is None else {shard}
    count = len(wanted)
    number = 0
    while wanted:
        account = f"user:{number}"
        number += 1
        found = engine.deployment.ledger.shard_of(QuotaName(account, QUOTA_TYPE))
        if found in wanted:
            wanted.discard(found)
            engine.issue_grant(account, QUOTA_TYPE, 5)
    return count


def in_thread(drainer: Drainer, seconds: float = 20) -> threading.Thread:
    thread = threading.Thread(target=drainer.run, args=(seconds,))
    thread.start()
    return thread


def test_a_drainer_persists_what_comes_until_it_is_stopped(
    engine: QuotaEngine, stopping: threading.Event
) -> None:
    drainer = Drainer(engine.deployment, SHARDS, stopping)
    thread = in_thread(drainer)
    for _ in range(3):
        issue(engine)
        wait_until(lambda: pending(engine) == 0, "all is persisted")
    stopping.set()
    thread.join(3)
    assert not thread.is_alive()
    assert drainer.events == 12
    assert drainer.followed == set(SHARDS)


def test_a_drainer_ends_with_its_time(engine: QuotaEngine, stopping: threading.Event) -> None:
    assert Drainer(engine.deployment, SHARDS, stopping).run(0.2) == 0


@pytest.mark.parametrize("status", ["locked", "empty"])
def test_a_shard_that_another_drains_is_left_to_it(
    engine: QuotaEngine,
    stopping: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    status: Any,
) -> None:
    issue(engine, shard=1)
    tried: list[int] = []

    def be_late(client: object, ledger: object, shard: int, **_: object) -> PersistOutcome:
        tried.append(shard)
        return PersistOutcome(shard=shard, status=status, cursor=EventId(0, 0))

    monkeypatch.setattr(draining, "persist_batch", be_late)
    monkeypatch.setattr(draining, "BEHIND_SECONDS", 60)
    drainer = Drainer(engine.deployment, {1}, stopping)
    drainer.run(20)
    assert tried == [1] * draining.LOSSES_MAX
    assert drainer.followed == set()


def test_a_shard_that_has_nobody_is_taken_up(
    engine: QuotaEngine, stopping: threading.Event
) -> None:
    issue(engine)
    drainer = Drainer(engine.deployment, {0}, stopping)
    thread = in_thread(drainer)
    wait_until(lambda: pending(engine) == 0, "all is persisted")
    stopping.set()
    thread.join()
    assert drainer.followed == set(SHARDS)


def test_several_drainers_persist_everything_once(
    engine: QuotaEngine, stopping: threading.Event
) -> None:
    drainers = [Drainer(engine.deployment, SHARDS, stopping) for _ in range(3)]
    threads = [in_thread(drainer) for drainer in drainers]
    count = sum(issue(engine) for _ in range(20))
    wait_until(lambda: pending(engine) == 0, "all is persisted")
    stopping.set()
    for thread in threads:
        thread.join()
    assert sum(drainer.events for drainer in drainers) == count
    assert engine.reconcile().is_clean


def test_a_stopped_shard_is_told_once_and_holds_nobody_up(
    engine: QuotaEngine, stopping: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    issue(engine)
    client = engine.deployment.client
    client.xdel(ShardKeys(2).outbox, "1-1")
    issue(engine)
    drainer = Drainer(engine.deployment, SHARDS, stopping)
    thread = in_thread(drainer)
    wait_until(lambda: drainer.events == 6, "the others are persisted")
    issue(engine, shard=3)
    wait_until(lambda: drainer.events == 7, "and go on")
    stopping.set()
    thread.join()
    told = [record.getMessage() for record in caplog.records if "stopped" in record.getMessage()]
    assert len(told) == 1
    assert "shard 2 is stopped, nothing of it is lost: gap" in told[0]


def test_what_waits_is_seen_by_how_long_it_waits(engine: QuotaEngine) -> None:
    lookout = Lookout(engine.deployment)
    assert lookout.behind(0) == set()
    lookout.look()
    assert lookout.behind(0) == set()
    issue(engine, shard=1)
    lookout.look()
    assert lookout.behind(0) == {1}
    assert lookout.behind(60) == set()
    engine.drain()
    assert lookout.look().why_gate == ""
    assert lookout.behind(0) == set()
