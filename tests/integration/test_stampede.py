"""After a wipe everybody asks at once: PostgreSQL is asked by a few, and nobody gets an error."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import text

from quota_engine import QuotaEngine
from quota_engine.benchmark.servers import fill_accounts
from quota_engine.commands import Snapshot
from quota_engine.errors import EngineUnavailableError
from quota_engine.jobs import gate
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.ledger.idle import busiest
from quota_engine.ledger.ledger import Ledger
from tests.servers import conninfo
from tests.workers import wait_until

TYPE = "text_token"
ACCOUNTS, CLIENTS, LIMIT = 2_000, 200, 3


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    settings = {"shards": 4, "hydrations_max": LIMIT, "prewarm_max": 0, "call_timeout_seconds": 30}
    with QuotaEngine.open(redis_url, database_url, **settings) as engine:
        yield engine


def wipe(engine: QuotaEngine, accounts: int) -> None:
    """Fill the ledger, and lose Redis."""
    fill_accounts(engine.deployment, (f"user:{number}" for number in range(accounts)))
    engine.drain()
    engine.deployment.client.flushall()


class Watched:
    """Counts how many hydrations read the ledger at once."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.most = self.now = 0
        self._lock = threading.Lock()
        read = Ledger.read_snapshot

        def watched(ledger: Ledger, quota: QuotaName, horizon_ms: int) -> Snapshot:
            with self._lock:
                self.now += 1
                self.most = max(self.most, self.now)
            try:
                return read(ledger, quota, horizon_ms)
            finally:
                with self._lock:
                    self.now -= 1

        patch.setattr(Ledger, "read_snapshot", watched)


@pytest.mark.row(
    55,
    injection="2,000 quotas in the ledger, FLUSHALL, 200 clients at once",
    outcome="each process reads as many quotas at once as its setting says; nobody gets an error",
)
def test_two_hundred_clients_after_a_wipe_share_a_few_connections(
    engine: QuotaEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wipe(engine, ACCOUNTS)
    watched, done = Watched(monkeypatch), threading.Event()
    chance = random.Random(7)
    asked = [[chance.randrange(ACCOUNTS) for _ in range(10)] for _ in range(CLIENTS)]

    def client(numbers: list[int]) -> int:
        return sum(engine.debit(f"user:{number}", TYPE, 1).amount for number in numbers)

    active: list[int] = []

    def look() -> None:
        with psycopg.connect(conninfo(database_url), autocommit=True) as connection:
            while not done.wait(0.02):
                row = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND state <> 'idle' AND pid <> pg_backend_pid()"
                ).fetchone()
                active.append(row[0] if row else 0)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        with ThreadPoolExecutor(CLIENTS) as clients:
            charged = list(clients.map(client, asked))
    finally:
        done.set()
        looker.join()
    assert charged == [10] * CLIENTS
    assert 1 < watched.most <= LIMIT
    assert max(active) <= LIMIT + 1, "the gate has one"
    engine.drain()
    assert engine.reconcile().drifts == ()


def loaded_in(engine: QuotaEngine) -> set[str]:
    keys = engine.deployment.client.keys("{qe:*}:quota:*")
    return {key.decode().split(":quota:")[1] for key in keys}  # type: ignore[union-attr]


def test_the_busiest_quotas_are_loaded_ahead_not_those_touched_last(
    engine: QuotaEngine, redis_url: str, database_url: str
) -> None:
    wipe(engine, 60)
    for number in (5, 6, 7):
        for _ in range(number):
            engine.debit(f"user:{number}", TYPE, 1)
    engine.drain()
    for number in range(20, 60):  # as a table of grants does: each once, and after all others
        engine.issue_grant(f"user:{number}", TYPE, 1, grant_id=f"again-{number}")
    engine.drain()
    engine.deployment.client.flushall()
    with QuotaEngine.open(redis_url, database_url, prewarm_max=3) as other:
        wanted = {f"user:{number}|{TYPE}" for number in (5, 6, 7)}
        wait_until(lambda: loaded_in(other) >= wanted, "the three are loaded")
        assert loaded_in(other) == wanted
        warming = other.deployment.warming
        assert warming is not None
        assert warming.ended.wait(10)
        assert (warming.loaded, warming.wanted) == (3, 3)
        assert other.reconcile().drifts == ()


def test_what_was_busy_is_told_as_of_the_last_entry_and_what_is_old_does_not_count(
    engine: QuotaEngine,
) -> None:
    """Redis may have been away for hours; and who was busy last year need not be now."""
    wipe(engine, 12)
    for number in range(6):
        engine.debit(f"user:{number}", TYPE, 1)
    engine.drain()
    with engine.deployment.ledger.transaction() as sql:
        sql.execute(text("ALTER TABLE ledger_entries DISABLE TRIGGER USER"))
        for table, column in (("ledger_entries", "recorded_at"), ("quotas", "updated_at")):
            sql.execute(text(f"UPDATE {table} SET {column} = {column} - interval '5 hours'"))
        for table, column in (("ledger_entries", "recorded_at"), ("quotas", "updated_at")):
            older = f"{column} - interval '1 hour' WHERE account < 'user:2'"
            sql.execute(text(f"UPDATE {table} SET {column} = {older}"))
        found = busiest(sql, 4)
        assert {quota.account for quota in found} == {"user:2", "user:3", "user:4", "user:5"}
        assert busiest(sql, 1_000) == [*found, *busiest(sql, 1_000)[4:]]
        assert len(busiest(sql, 1_000)) == 12, "the others come after them"
        sql.execute(text("DELETE FROM quotas"))
        assert busiest(sql, 4) == []
        sql.rollback()


def test_of_equally_busy_quotas_those_used_last_are_loaded_ahead(
    engine: QuotaEngine, redis_url: str, database_url: str
) -> None:
    wipe(engine, 60)
    assert engine.debit("user:5", TYPE, 1).amount == 1
    engine.drain()
    for number in range(20, 30):
        engine.debit(f"user:{number}", TYPE, 1)
        engine.drain()
    engine.deployment.client.flushall()
    with QuotaEngine.open(redis_url, database_url, prewarm_max=10) as other:
        wanted = {f"user:{number}|{TYPE}" for number in range(20, 30)}
        wait_until(lambda: loaded_in(other) >= wanted, "the last ten are loaded")
        assert loaded_in(other) == wanted
        assert other.reconcile().drifts == ()


def test_a_caller_waits_boundedly_for_a_gate_and_is_told_how_far_it_is(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with QuotaEngine.open(redis_url, database_url, call_timeout_seconds=0.5) as engine:
        engine.issue_grant("user:1", TYPE, 100)
        going_on, absorb = threading.Event(), gate.Recovery.absorb

        def slow(recovery: gate.Recovery, shard: int, cursor: object) -> None:
            going_on.wait(20)
            absorb(recovery, shard, cursor)  # type: ignore[arg-type]

        monkeypatch.setattr(gate.Recovery, "absorb", slow)
        engine.deployment.client.delete(ShardKeys(0).versions)
        owner = "user:1"
        engine.deployment.client.delete(
            ShardKeys(engine.deployment.ledger.shard_of(QuotaName(owner, TYPE))).versions
        )
        started = time.monotonic()
        with pytest.raises(EngineUnavailableError, match="reading the outboxes, 0 of") as told:
            engine.debit(owner, TYPE, 1)
        assert time.monotonic() - started < 10
        assert "recovery status" in str(told.value)
        going_on.set()
        wait_until(lambda: _is_charged(engine, owner), "it is opened")


def _is_charged(engine: QuotaEngine, owner: str) -> bool:
    try:
        return engine.debit(owner, TYPE, 1, operation_id="again").amount == 1
    except EngineUnavailableError:
        return False
