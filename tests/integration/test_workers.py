"""
Workers persist what waits, replace each other, and survive their servers' restarts.

Goal: whatever is killed, flushed or restarted, entries reach the ledger within seconds. Method:
``quota-engine worker`` in processes of its own, beside clients that never stop.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from quota_engine import QuotaEngine, Usage
from quota_engine.embedded import PostgresServer, ValkeyServer
from quota_engine.ledger import duties
from quota_engine.outbox import ends_of
from quota_engine.workers.queue import queue_name
from tests.deployments import restart
from tests.receivers import Hook, serving
from tests.servers import TestServers
from tests.workers import QUOTA_TYPE, Clients, Worker, pending, persisted, wait_until

#: What the design allows between a worker's death and the next entry in the ledger.
TAKEOVER_SECONDS = 10.0
#: A worker in trouble says so; it does not flood.
LINES_MAX = 40
#: What it says when a trouble with RQ's Redis begins.
TAKES_NO_JOB = "queue: RQ's Redis takes no job, the keeper drains by itself"

Start = Callable[..., Worker]


@pytest.fixture(scope="session")
def rq_server(servers: TestServers) -> ValkeyServer:
    """A Redis for RQ alone."""
    return servers.valkey()


@pytest.fixture
def environment(
    server: ValkeyServer, database_url: str, rq_server: ValkeyServer
) -> dict[str, str]:
    rq_server.start()
    return {
        "QUOTA_ENGINE_REDIS_URL": server.url,
        "QUOTA_ENGINE_DATABASE_URL": database_url,
        "QUOTA_ENGINE_RQ_REDIS_URL": rq_server.url,
        "QUOTA_ENGINE_SHARDS": "4",
        "QUOTA_ENGINE_DRAIN_SLICE_SECONDS": "3",
    }


@pytest.fixture
def engine(environment: dict[str, str]) -> Iterator[QuotaEngine]:
    urls = environment["QUOTA_ENGINE_REDIS_URL"], environment["QUOTA_ENGINE_DATABASE_URL"]
    with QuotaEngine.open(*urls, shards=4, call_timeout_seconds=20) as opened:
        yield opened


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts workers, and kills them at the end."""
    started: list[Worker] = []

    def begin(*arguments: str) -> Worker:
        worker = Worker(environment, tmp_path / f"worker-{len(started)}.log", *arguments)
        started.append(worker)
        return worker

    yield begin
    for worker in started:
        worker.__exit__(None, None, None)
        print(f"-- worker {worker.process.pid}\n{worker.said()}")


def wait_for_more(engine: QuotaEngine, seconds: float = TAKEOVER_SECONDS) -> float:
    """Return after how many seconds the ledger has an entry more than now."""
    before = persisted(engine)
    return wait_until(lambda: persisted(engine) > before, "an entry is persisted", seconds)


def wait_for_all(engine: QuotaEngine) -> float:
    """Return after how many seconds everything is persisted that is in the outboxes now."""
    _, ends = ends_of(engine.deployment.client, 4)

    def is_done() -> bool:
        rows = engine.deployment.ledger.read_shards()
        return all(row.cursor >= end for row, end in zip(rows, ends, strict=True) if end)

    return wait_until(is_done, "every shard is drained", TAKEOVER_SECONDS)


def test_a_worker_persists_while_clients_run_and_ends_well(
    engine: QuotaEngine, start: Start
) -> None:
    with start() as worker, Clients(engine) as clients:
        worker.wait_until_it_runs()
        for _ in range(3):
            wait_for_more(engine)
        (child,) = worker.children()
        assert worker.terminate() < 8
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    clients.check()
    assert "Traceback" not in worker.said()
    assert len(worker.said().splitlines()) < 10
    with engine.deployment.ledger.transaction() as sql:
        assert {run.duty for run in duties.read_runs(sql)} >= {"clocks", "sweep", "reconcile"}


def test_a_killed_worker_is_replaced_by_another(engine: QuotaEngine, start: Start) -> None:
    with start() as first, Clients(engine) as clients:
        wait_for_more(engine)
        with start() as second:
            wait_until(lambda: bool(second.children()), "the other runs")
            wait_for_all(engine)
            for pid in [first.process.pid, *first.children()]:
                os.kill(pid, signal.SIGKILL)
            wait_for_more(engine)
            print(f"taken over after {wait_for_all(engine):.1f} s")
            second.terminate()
    clients.check()


def test_killed_processes_are_replaced_and_all_end_with_their_keeper(
    engine: QuotaEngine, start: Start
) -> None:
    with start("--processes", "2") as worker, Clients(engine) as clients:
        wait_until(lambda: len(worker.children()) == 2, "both run")
        wait_for_more(engine)
        for pid in worker.children():
            os.kill(pid, signal.SIGKILL)
        print(f"replaced after {wait_for_all(engine):.1f} s")
        wait_until(lambda: len(worker.children()) == 2, "both run again")
        children = worker.children()
        worker.process.kill()
        wait_until(lambda: not any(map(is_alive, children)), "they end with it")
    clients.check()


def has_queue_trouble(worker: Worker) -> bool:
    """Return whether a trouble with RQ's Redis has begun that the worker has not called over."""
    said = worker.said()
    return said.count(TAKES_NO_JOB) > said.count("queue: it works again")


def test_it_drains_without_the_redis_of_rq(
    engine: QuotaEngine, start: Start, rq_server: ValkeyServer
) -> None:
    with start() as worker, Clients(engine) as clients:
        worker.wait_until_it_runs()
        wait_for_more(engine)
        with redis.Redis.from_url(rq_server.url) as client:
            assert client.keys(f"rq:*{queue_name(engine.deployment.opened.deployment_id)}*")
            client.flushall()
            wait_for_more(engine)
            client.config_set("maxmemory", 1)
            # by itself, or too: while a job that it cannot see end seems to run
            wait_until(lambda: "the keeper drains" in worker.said(), "it is full")
            wait_for_all(engine)
            client.config_set("maxmemory", 0)
        wait_until(lambda: "it works again" in worker.said(), "it says so")
        wait_until(lambda: not has_queue_trouble(worker), "the queue works, too")
        before = worker.said().count(TAKES_NO_JOB)
        rq_server.kill()
        print(f"without RQ's Redis after {wait_for_all(engine):.1f} s")
        # clients may be drained before it looks for RQ's Redis again
        wait_until(lambda: worker.said().count(TAKES_NO_JOB) > before, "it says so")
        rq_server.start()
        wait_until(lambda: not has_queue_trouble(worker), "it says so")
        wait_for_more(engine)
        worker.terminate()
    clients.check()
    assert "Traceback" not in worker.said()
    assert len(worker.said().splitlines()) < LINES_MAX


def test_it_survives_restarts_of_redis(
    engine: QuotaEngine, start: Start, server: ValkeyServer
) -> None:
    engine.issue_grant("user:1", QUOTA_TYPE, 5)
    with start() as worker:
        wait_until(lambda: pending(engine) == 0, "all is persisted")
        epoch = epoch_of(engine)
        restart(server)
        wait_until(lambda: epoch_of(engine) > epoch, "it has asked the gate, which has run")
        with Clients(engine) as clients:
            wait_for_more(engine)
            restart(server)
            print(f"drained again after {wait_for_all(engine):.1f} s")
        worker.terminate()
    clients.check()
    assert "Traceback" not in worker.said()
    assert len(worker.said().splitlines()) < LINES_MAX


def test_it_survives_a_restart_of_postgresql(
    engine: QuotaEngine, start: Start, postgres_server: PostgresServer
) -> None:
    with start() as worker, Clients(engine) as clients:
        worker.wait_until_it_runs()
        wait_for_more(engine)
        postgres_server.kill()
        # what was persisted may be the reconciliation's, before the first drain has begun
        notices = re.compile("(the drain|this worker process) waits")
        wait_until(lambda: notices.search(worker.said()) is not None, "it notices")
        postgres_server.start()
        print(f"drained again after {wait_for_all(engine):.1f} s")
        worker.terminate()
    clients.check()
    assert "Traceback" not in worker.said()
    assert len(worker.said().splitlines()) < LINES_MAX


def test_it_waits_for_stores_that_start_after_it(
    engine: QuotaEngine, start: Start, server: ValkeyServer, postgres_server: PostgresServer
) -> None:
    engine.issue_grant("user:1", QUOTA_TYPE, 5)
    postgres_server.stop()
    with start() as worker:
        wait_until(lambda: "waits to start: PostgreSQL" in worker.said(), "it notices")
        server.kill()
        postgres_server.start()
        time.sleep(0.5)
        server.start()
        worker.wait_until_it_runs()
        wait_until(lambda: pending(engine) == 0, "all is persisted")
        worker.terminate()
    assert "Traceback" not in worker.said()


def test_burst_does_everything_once(engine: QuotaEngine, start: Start) -> None:
    engine.issue_grant("user:1", QUOTA_TYPE, 5)
    worker = start("--burst", "--json")
    assert worker.process.wait(20) == 0
    told = json.loads(worker.said()[worker.said().index('{\n  "persisted"') :])
    assert told["persisted"] == 1
    assert told["reconcile"] == "1 quotas compared, 0 differ"
    assert pending(engine) == 0


def epoch_of(engine: QuotaEngine) -> int:
    return engine.deployment.ledger.read_shards()[0].epoch


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_tells_of_what_calls_cross(engine: QuotaEngine, start: Start) -> None:
    with serving(Hook()) as hook:
        engine.alerts.add_channel("ops", "webhook", target=hook.url)
        engine.alerts.define("low", "balance", warning=50, channels=["ops"])
        engine.alerts.define("busy", "usage", warning=60, quota_type=QUOTA_TYPE, channels=["ops"])
        engine.issue_grant("user:42", QUOTA_TYPE, 100)
        start()
        engine.debit("user:42", QUOTA_TYPE, 60, usage=Usage(input_tokens=60))
        wait_until(lambda: len(hook.posted) == 2, "both alerts have arrived", 60)
    assert {json.loads(post.body)["alert"]["rule"] for post in hook.posted} == {"low", "busy"}
