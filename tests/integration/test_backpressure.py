"""Too much waits, or Redis is full: what is new is refused with numbers, what was used passes."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from quota_engine import QuotaEngine
from quota_engine.embedded import PostgresServer
from quota_engine.errors import BackpressureError, EngineUnavailableError
from quota_engine.jobs.schedule import DUTIES, Scheduler
from quota_engine.ledger.migrate import upgrade
from tests.servers import TestServers, administer

QUOTA = ("user:42", "text_token")
SOFT, HARD = 20, 40


@pytest.fixture(scope="module")
def own_postgres(servers: TestServers) -> PostgresServer:
    return servers.postgres()


@pytest.fixture
def engine(redis_url: str, own_postgres: PostgresServer) -> Iterator[QuotaEngine]:
    """An engine of one shard, on a PostgreSQL that may be stopped."""
    own_postgres.start()
    administer(own_postgres, "DROP DATABASE IF EXISTS away", "CREATE DATABASE away")
    url = own_postgres.url_of("away")
    upgrade(url)
    settings: dict[str, Any] = {
        "shards": 1,
        "outbox_soft_limit": SOFT,
        "outbox_hard_limit": HARD,
        "call_timeout_seconds": 3.0,
        "trim_after_seconds": 0,
    }
    with QuotaEngine.open(redis_url, url, **settings) as engine:
        engine.issue_grant(*QUOTA, 10_000)
        yield engine
    own_postgres.start()


def length(engine: QuotaEngine) -> int:
    found: Any = engine.deployment.client.xlen("{qe:00}:outbox")
    return int(found)


def test_calls_go_on_without_postgresql_until_the_limit_and_catch_up_in_order(
    engine: QuotaEngine, own_postgres: PostgresServer
) -> None:
    engine.drain()
    hold = engine.place_hold(*QUOTA, 100)
    own_postgres.stop()
    for _ in range(HARD - 1):  # the hold waits, too
        engine.debit(*QUOTA, 1)
    with pytest.raises(BackpressureError) as refused:
        engine.debit(*QUOTA, 1)
    error = refused.value
    assert (error.pending, error.limit, error.shard) == (HARD, HARD, 0)
    again = pickle.loads(pickle.dumps(error))
    assert (again.pending, str(again)) == (HARD, str(error))
    for refuse in (engine.place_hold, engine.debit):
        with pytest.raises(BackpressureError):
            refuse(*QUOTA, 1)
    with pytest.raises(BackpressureError):
        engine.extend_hold(hold, amount=200)
    with pytest.raises(EngineUnavailableError):
        engine.issue_grant(*QUOTA, 1)  # it is promised in PostgreSQL first
    engine.extend_hold(hold, ttl=600)
    assert engine.capture_hold(hold, 60).amount == 60
    assert engine.debit(*QUOTA, 5, already_used=True).amount == 5
    most = length(engine)
    own_postgres.start()
    assert engine.drain() == HARD + 2
    engine.debit(*QUOTA, 1)
    engine.drain()
    trim(engine)
    assert length(engine) < most / 2, "memory returns"
    versions = [entry.version for entry in engine.history(*QUOTA)]
    assert versions == list(range(1, len(versions) + 1))
    assert engine.read_balance(*QUOTA).balance == 10_000 - (HARD - 1) - 60 - 5 - 1
    assert engine.reconcile().drifts == ()


def test_persisted_entries_that_are_kept_do_not_press(engine: QuotaEngine) -> None:
    for _ in range(3):
        for _ in range(HARD - 5):
            engine.debit(*QUOTA, 1)
        engine.drain()
    assert length(engine) > 2 * HARD


def test_a_recovery_counts_what_it_keeps_as_persisted(engine: QuotaEngine) -> None:
    for _ in range(HARD - 2):
        engine.debit(*QUOTA, 1)
    engine.deployment.client.delete("{qe:00}:versions")
    for _ in range(HARD - 2):
        engine.debit(*QUOTA, 1)
    assert length(engine) > HARD


def test_a_grant_that_is_refused_for_pressure_stays_promised(engine: QuotaEngine) -> None:
    for _ in range(HARD - 1):
        engine.debit(*QUOTA, 1)
    before = engine.read_balance(*QUOTA).balance
    with pytest.raises(BackpressureError):
        engine.issue_grant(*QUOTA, 500)
    assert engine.run_schedule()["intents"].startswith("1 promises kept")
    assert engine.read_balance(*QUOTA).balance == before + 500


def test_a_full_redis_takes_late_captures_of_quotas_that_are_not_loaded(
    engine: QuotaEngine,
) -> None:
    hold = engine.place_hold(*QUOTA, 100)
    other = engine.place_hold(*QUOTA, 50)
    engine.drain()
    client: Any = engine.deployment.client
    for key in client.keys("{qe:00}:*:user:42|text_token"):
        client.delete(key)
    client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)
    try:
        with pytest.raises(BackpressureError) as refused:
            engine.place_hold(*QUOTA, 1)
        assert refused.value.pending is None
        assert engine.capture_hold(hold, 70).amount == 70
        assert engine.debit("nobody:yet", "text_token", 5, already_used=True).shortfall == 5
        assert engine.release_hold(other).amount == 50
        engine.drain()
        trim(engine)
    finally:
        client.config_set("maxmemory", 0)
    assert engine.read_balance(*QUOTA).balance == 10_000 - 70
    assert engine.reconcile().drifts == ()


def test_a_client_warns_once_when_the_soft_limit_is_crossed(
    engine: QuotaEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quota_engine._sync.transport.LOOK_SECONDS", 0.0)
    engine._transport._look_at = 0.0

    def warnings() -> list[str]:
        return [one.getMessage() for one in caplog.records if "persisted" in one.getMessage()]

    with caplog.at_level(logging.WARNING, "quota_engine.client"):
        for _ in range(SOFT + 5):
            engine.debit(*QUOTA, 1)
        assert len(warnings()) == 1
        assert f"shard 0: {SOFT} entries wait" in warnings()[0]
        engine.drain()
        engine.debit(*QUOTA, 1)
        assert "shard 0" in warnings()[1]
        assert len(warnings()) == 2


def trim(engine: QuotaEngine) -> None:
    scheduler = Scheduler(engine.deployment)
    [duty] = [duty for duty in DUTIES if duty.name == "trim"]
    assert scheduler.run(duty).is_ok
    scheduler.close()
