"""
What the worker tells Prometheus: the deployment, in time, whatever is away.

Goal: a scrape shows what is there, and neither hangs nor fails without a store. Method: looks at
real servers that hold something, are gone, or answer nothing; the page of a real worker is fetched
over HTTP while a replay runs, and read by prometheus-client's own parser.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from quota_engine import QuotaEngine
from quota_engine.deployment import Deployment
from quota_engine.embedded import ValkeyServer
from quota_engine.errors import InvalidArgumentError
from quota_engine.jobs.looking import LOOK_SECONDS_MAX, DeploymentLook
from quota_engine.jobs.schedule import DUTIES, Scheduler
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger
from quota_engine.ledger.connection import open_engine
from quota_engine.metrics.described import DEPLOYMENT, PREFIX
from quota_engine.replay.synthetic import synthetic_calls
from quota_engine.settings import Settings
from quota_engine.spool import Spool
from quota_engine.stores import redis_client
from quota_engine.workers.endpoint import Endpoint, MetricsEndpoint
from tests.programs import COMMAND_LINE, Program
from tests.proxy import Proxy
from tests.spools import capture
from tests.unit.test_metrics import key, read
from tests.workers import wait_until

ACCOUNT, TYPE = "user:42", "text_token"
#: A look takes no longer than it may; a busy machine may add to that.
PATIENCE_SECONDS = LOOK_SECONDS_MAX + 20
CALLS = 2_000

Values = Mapping[tuple[str, ...], float]


@pytest.fixture
def deployment(server: ValkeyServer, database_url: str, tmp_path: Path) -> Iterator[Deployment]:
    settings = Settings(
        redis_url=server.url,
        database_url=database_url,
        shards=2,
        spool_folder=tmp_path / "spools",
        metrics_quotas=f"{ACCOUNT}|{TYPE},user:unlimited|{TYPE},user:unknown|{TYPE}",
    )
    made = Deployment(settings)
    yield made
    made.close()


@contextmanager
def look_at(
    deployment: Deployment, redis_url: str = "", database_url: str = ""
) -> Iterator[DeploymentLook]:
    ledger = Ledger(open_engine(database_url or deployment.database_url, connections_max=2))
    client = redis_client(redis_url or deployment.redis_url, deployment.settings)
    look = DeploymentLook(deployment, client, ledger)
    yield look
    look.close()


def seen(look: DeploymentLook) -> Values:
    """Return what a look sees, by name and the values of its labels."""
    return {(each.name, *each.labels.values()): each.value for each in look.samples()}


def total(values: Values, name: str) -> float:
    return sum(value for (found, *_), value in values.items() if found == name)


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text: str = answer.read().decode()
        return text


def test_a_look_tells_of_all_that_the_deployment_has(deployment: Deployment) -> None:
    engine = QuotaEngine(deployment)
    engine.issue_grant(ACCOUNT, TYPE, 100)
    engine.set_overdraft_limit("user:unlimited", TYPE, None)
    engine.issue_grant("user:ice", TYPE, 1)
    deployment.freeze_by_hand(QuotaName("user:ice", TYPE), actor="ada", reason="a test")
    deployment.drain()
    engine.place_hold(ACCOUNT, TYPE, 30)
    spool = Spool(deployment.settings.spool_place, deployment.deployment_id)
    spool.note(capture(1))
    spool.close()
    with look_at(deployment) as look:
        values = seen(look)
    assert {name for name, *_ in values} <= {metric.name for metric in DEPLOYMENT}
    assert total(values, "up") == 4
    pending = total(values, "outbox_pending")
    assert pending >= 1
    assert total(values, "issued_entries_total") - total(values, "persisted_entries_total") == (
        pending
    )
    assert total(values, "outbox_lag_seconds") > 0
    assert values["quota_balance", ACCOUNT, TYPE] == 100
    assert values["quota_held", ACCOUNT, TYPE] == 30
    assert values["quota_spendable", ACCOUNT, TYPE] == 70
    assert values["quota_spendable", "user:unlimited", TYPE] == float("inf")
    assert ("quota_spendable", "user:unknown", TYPE) not in values
    assert values["frozen_quotas",] == 1
    assert values["spool_waiting",] == 1
    assert values["spool_oldest_seconds",] > 0
    assert ("drifting_quotas",) not in values
    engine._transport.close()


def test_drift_and_duties_are_those_of_the_last_run(deployment: Deployment) -> None:
    engine = QuotaEngine(deployment)
    engine.issue_grant(ACCOUNT, TYPE, 100)
    deployment.drain()
    keys = deployment.client.keys(f"*quota:{ACCOUNT}|{TYPE}")
    scheduler = Scheduler(deployment)
    (reconcile,) = (duty for duty in DUTIES if duty.name == "reconcile")
    with look_at(deployment) as look:
        scheduler.run(reconcile)
        assert seen(look)["drifting_quotas",] == 0
    deployment.client.hset(keys[0], "remaining", 99)
    with look_at(deployment) as look:
        scheduler.run(reconcile)
        values = seen(look)
    assert values["drifting_quotas",] == 1
    assert values["duty_failed", "reconcile"] == 1
    assert values["duty_late", "reconcile"] == 0
    known = {labels[0] for name, *labels in values if name == "duty_age_seconds"}
    assert known == {duty.name for duty in DUTIES}
    scheduler.close()
    engine._transport.close()


def test_a_quota_that_is_not_loaded_is_told_from_the_ledger_and_stays_unloaded(
    deployment: Deployment,
) -> None:
    engine = QuotaEngine(deployment)
    engine.issue_grant(ACCOUNT, TYPE, 100)
    hold = engine.place_hold(ACCOUNT, TYPE, 30)
    engine.capture_hold(hold, 10)
    deployment.drain()
    pattern = f"*quota:{ACCOUNT}|{TYPE}"
    with look_at(deployment) as look:
        loaded = seen(look)
    for name in deployment.client.keys(f"*{ACCOUNT}|{TYPE}"):
        deployment.client.delete(name)
    with look_at(deployment) as look:
        values = seen(look)
    for name in ("quota_balance", "quota_held", "quota_spendable"):
        assert values[name, ACCOUNT, TYPE] == loaded[name, ACCOUNT, TYPE]
    assert deployment.client.keys(pattern) == []
    engine._transport.close()


def test_a_store_that_is_gone_is_told_and_the_rest_goes_on(deployment: Deployment) -> None:
    QuotaEngine(deployment).issue_grant(ACCOUNT, TYPE, 100)
    with look_at(deployment, redis_url="redis://127.0.0.1:1") as look:
        values = seen(look)
    assert (values["up", "redis"], values["up", "postgresql"]) == (0, 1)
    assert ("outbox_pending", "0") not in values
    assert ("frozen_quotas",) in values
    with look_at(deployment, database_url="postgresql://u:p@127.0.0.1:1/x") as look:
        values = seen(look)
    assert (values["up", "redis"], values["up", "postgresql"]) == (1, 0)
    assert total(values, "outbox_pending") >= 1


def test_stores_that_never_answer_cost_a_bounded_time_and_one_thread_each(
    deployment: Deployment,
) -> None:
    assert deployment.opened.shards == 2
    with silent() as place:
        host, port = place
        gone = f"redis://{host}:{port}", f"postgresql://u:p@{host}:{port}/x"
        with look_at(deployment, *gone) as look:
            started = time.monotonic()
            values = seen(look)
            assert time.monotonic() - started < PATIENCE_SECONDS
            assert (values["up", "redis"], values["up", "postgresql"]) == (0, 0)
            assert values["up", "spool"] == 1
            waiting = [part.begin() for part in look._parts if part.name == "postgresql"]
            assert waiting == [part.begin() for part in look._parts if part.name == "postgresql"]


@contextmanager
def silent() -> Iterator[tuple[str, int]]:
    """A server that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[:2]


def test_a_look_comes_back_when_redis_does(deployment: Deployment) -> None:
    assert deployment.opened.shards == 2
    proxy = Proxy(deployment.redis_url)
    with look_at(deployment, redis_url=proxy.url) as look:
        assert seen(look)["up", "redis"] == 1
        proxy.refuses = True
        proxy.cut()
        wait_until(lambda: seen(look)["up", "redis"] == 0, "Redis is told as away")
        proxy.refuses = False
        wait_until(lambda: seen(look)["up", "redis"] == 1, "Redis is told as back")
    proxy.close()


def test_a_port_that_is_taken_is_told(deployment: Deployment) -> None:
    with MetricsEndpoint(deployment, 0) as first:
        port = int(first.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(InvalidArgumentError, match="--metrics-port"):
            MetricsEndpoint(deployment, port)
        read(page(first.url).encode())


def test_without_the_extra_it_is_told_what_to_install(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "quota_engine.metrics.prometheus", raising=False)
    with pytest.raises(InvalidArgumentError, match=r"quota-engine\[metrics\]"):
        MetricsEndpoint(deployment, 0)


def test_only_the_page_is_served() -> None:
    with Endpoint("127.0.0.1", 0, lambda: b"") as endpoint:
        assert page(endpoint.url) == ""
        assert endpoint.url.startswith("http://127.0.0.1:")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(endpoint.url.replace("/metrics", "/"), timeout=20)


def test_the_page_is_read_while_a_replay_runs(
    server: ValkeyServer, database_url: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "QUOTA_ENGINE_REDIS_URL": server.url,
        "QUOTA_ENGINE_DATABASE_URL": database_url,
        "QUOTA_ENGINE_METRICS_PORT": str(port),
    }
    trace = tmp_path / "trace.csv"
    lines = [
        f"2023-11-16 18:15:{call.offset_seconds % 60:010.7f},{call.context_tokens},"
        f"{call.generated_tokens}"
        for call in synthetic_calls(CALLS, seed=3)
    ]
    lines.sort()
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n")
    replay = ("replay", str(trace), "--users", "6", "--processes", "2", "--json")
    with (tmp_path / "said").open("w+b") as said:
        running = Program(COMMAND_LINE, *replay, env=environment, stdout=said)
        pages: list[dict[tuple[str, frozenset[tuple[str, str]]], float]] = []

        def has_ended() -> bool:
            with suppress(urllib.error.URLError, ConnectionError):
                pages.append(read(page(f"http://127.0.0.1:{port}/metrics").encode()))
            return running.poll() is not None

        try:
            wait_until(has_ended, "the replay ends", 300)
        finally:
            if running.poll() is None:
                running.kill()
            running.wait()
        said.seek(0)
        assert json.loads(said.read())["holds"] is True
    last = pages[-1]
    shards = range(8)
    named = {metric.name for metric in DEPLOYMENT}
    assert {name.removeprefix(PREFIX) for name, _ in last} <= named
    assert all(last[key("up", part=part)] == 1 for part in ("redis", "postgresql", "spool"))
    persisted = [
        sum(each[key("persisted_entries_total", shard=str(shard))] for shard in shards)
        for each in pages
        if each[key("up", part="postgresql")] == 1
    ]
    assert persisted == sorted(persisted)
    assert persisted[-1] > 0
