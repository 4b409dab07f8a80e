"""The recovery gate: older data, other histories, and servers that it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

from quota_engine.embedded import ValkeyServer
from quota_engine.errors import EngineUnavailableError
from quota_engine.jobs.gate import ensure_open
from quota_engine.jobs.server_check import check_server
from quota_engine.jobs.thaw import thaw
from quota_engine.keys import DEPLOYMENT_KEY, QuotaName, ShardKeys
from quota_engine.ledger import Ledger
from tests.deployments import SETTINGS, Deployment, restart
from tests.frozen import ORDER, driver_of
from tests.servers import TestServers

TOKENS = QuotaName("acme/team-7", "text_token")
IMAGES = QuotaName("user:42", "image")


@pytest.fixture
def data_of(server: ValkeyServer, tmp_path: Path) -> Callable[[str], None]:
    """Keep or bring back the server's data under a name: ``keep:a``, ``back:a``."""

    def act(order: str) -> None:
        verb, name = order.split(":")
        server.kill()
        if verb == "keep":
            shutil.copytree(server.place / "data", tmp_path / name)
        else:
            shutil.rmtree(server.place / "data")
            shutil.copytree(tmp_path / name, server.place / "data")
        server.start()

    return act


def test_older_data_give_no_spent_quota_back(
    deployment: Deployment, data_of: Callable[[str], None]
) -> None:
    deployment.open()
    deployment.issue(TOKENS, 100)
    deployment.drain()
    data_of("keep:old")
    deployment.open()
    deployment.debit(TOKENS, 60, "spent")
    deployment.drain()
    data_of("back:old")
    assert set(deployment.open().epochs.values()) == {3}
    assert deployment.balance(TOKENS).balance == 40
    deployment.debit(TOKENS, 60, "spent")
    assert deployment.drain() == 0
    assert _quarantined(deployment) == []


def test_two_histories_of_a_quota_are_kept_apart_and_the_quota_frozen(
    deployment: Deployment, data_of: Callable[[str], None]
) -> None:
    deployment.open()
    deployment.issue(TOKENS, 100)
    deployment.issue(IMAGES, 5)
    deployment.drain()
    data_of("keep:common")
    deployment.open()
    deployment.debit(TOKENS, 60, "of-one-history")
    deployment.debit(IMAGES, 1, "of-both-or-one")
    data_of("keep:one")
    data_of("back:common")
    deployment.open()
    deployment.debit(TOKENS, 70, "of-the-other-history")
    deployment.drain()
    data_of("back:one")
    deployment.open()
    assert deployment.operations(TOKENS)[1:] == ["of-the-other-history"]
    assert [row.quota for row in _quarantined(deployment)] == [str(TOKENS)]
    assert deployment.ledger.read_snapshot(TOKENS, 1).frozen
    assert deployment.operations(IMAGES)[1:] == ["of-both-or-one"]
    assert deployment.redis.hget(deployment.keys(TOKENS).quota(str(TOKENS)), "frozen")
    deployment.redis.delete(ShardKeys(0).versions)
    deployment.open()
    assert len(_quarantined(deployment)) == 1
    thaw(driver_of(deployment), TOKENS, ORDER)
    deployment.drain()
    assert deployment.operations(TOKENS)[2:] == ["of-one-history", "thaw:2"]
    charges = [row.entry for row in deployment.ledger.history(TOKENS)][1:3]
    assert [(one.amount, one.shortfall) for one in charges] == [(70, 0), (60, 30)]


def test_an_entry_missing_in_the_middle_is_told(
    deployment: Deployment, server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    deployment.open()
    deployment.issue(TOKENS, 100)
    deployment.debit(TOKENS, 1)
    deployment.debit(TOKENS, 2)
    deployment.redis.xdel(deployment.keys(TOKENS).outbox, "1-2")
    restart(server)
    deployment.open()
    assert "between 1-1 and 1-3" in caplog.text
    assert deployment.ledger.read_snapshot(TOKENS, 1).frozen


def _quarantined(deployment: Deployment) -> list[Any]:
    with deployment.ledger.transaction() as sql:
        return list(sql.execute(text("SELECT quota, cause FROM quarantine")))


# -- refused


def test_an_empty_other_server_is_refused_unless_adopted(
    deployment: Deployment, servers: TestServers, database_url: str
) -> None:
    deployment.open()
    deployment.issue(TOKENS, 100)
    deployment.drain()
    other = servers.valkey()
    with Deployment(other.url, database_url) as wrong:
        with pytest.raises(EngineUnavailableError, match="recovery run --adopt"):
            wrong.open()
        assert wrong.redis.dbsize() == 0
        assert set(deployment.open().epochs.values()) == {1}
        wrong.open(adopt=True)
        assert wrong.balance(TOKENS).balance == 100
        with pytest.raises(EngineUnavailableError, match="replaced by another"):
            deployment.open()
        deployment.open(adopt=True)
        assert deployment.balance(TOKENS).balance == 100
    other.stop()


def test_an_empty_server_is_filled_where_wiping_is_allowed(
    deployment: Deployment, servers: TestServers, database_url: str
) -> None:
    deployment.open()
    deployment.issue(TOKENS, 100)
    deployment.drain()
    other = servers.valkey()
    with Deployment(other.url, database_url) as wiped:
        assert set(wiped.open(allow_wiped=True).epochs.values()) == {2}
        assert wiped.balance(TOKENS).balance == 100
    other.stop()


@pytest.mark.parametrize("adopt", [False, True])
def test_a_server_of_another_deployment_is_refused(deployment: Deployment, adopt: bool) -> None:
    deployment.open()
    deployment.redis.set(DEPLOYMENT_KEY, "deployment_of_others 4")
    with pytest.raises(EngineUnavailableError, match="belongs to deployment"):
        deployment.open(adopt=adopt)


def test_a_claimed_server_is_refused_by_a_new_database(deployment: Deployment) -> None:
    deployment.open()
    with deployment.ledger.transaction() as sql:
        sql.execute(text("DELETE FROM shards"))
        sql.execute(text("DELETE FROM deployment"))
    with pytest.raises(EngineUnavailableError, match="the database knows none"):
        deployment.open(adopt=True)


@pytest.mark.row(
    26,
    injection="the same, and Redis is recovered",
    outcome="the gate refuses it until it is set right",
)
@pytest.mark.parametrize(
    ("setting", "code"),
    [(("maxmemory-policy", "allkeys-lru"), "evicts"), (("appendonly", "no"), "not_durable")],
)
def test_a_server_that_may_lose_keys_is_refused(
    deployment: Deployment, setting: tuple[str, str], code: str
) -> None:
    name, value = setting
    before = deployment.redis.config_get(name)[name]
    deployment.redis.config_set(name, value)
    try:
        assert [found.code for found in check_server(deployment.redis) if found.is_fatal] == [code]
        with pytest.raises(EngineUnavailableError, match=f"CONFIG SET {name}"):
            deployment.open()
        if code == "not_durable":
            deployment.open(is_durable_elsewhere=True)
    finally:
        deployment.redis.config_set(name, before)
    deployment.open()


def test_a_replica_is_refused(deployment: Deployment) -> None:
    deployment.redis.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(EngineUnavailableError, match="no master but a slave"):
            deployment.open()
    finally:
        deployment.redis.replicaof("NO", "ONE")


def test_a_client_that_decodes_replies_passes_too(redis_url: str, database_url: str) -> None:
    with (
        redis.Redis.from_url(redis_url, decode_responses=True) as client,
        Ledger.open(database_url) as ledger,
    ):
        assert ensure_open(client, ledger, SETTINGS).shards == 4


def test_a_full_server_says_so(deployment: Deployment, server: ValkeyServer) -> None:
    deployment.open()
    restart(server)
    deployment.redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(EngineUnavailableError, match="maxmemory"):
            deployment.open()
    finally:
        deployment.redis.config_set("maxmemory", "0")
    deployment.open()
