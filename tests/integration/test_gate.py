"""The recovery gate: who passes, who is refused, and what is still there afterwards."""

from __future__ import annotations

import dataclasses
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import text

from quota_engine.commands.replies import FencedError
from quota_engine.embedded import ValkeyServer
from quota_engine.errors import EngineUnavailableError
from quota_engine.jobs import gate, gate_server
from quota_engine.jobs.gate import Recovery, ensure_open
from quota_engine.jobs.server_check import check_server, read_incarnation
from quota_engine.keys import DEPLOYMENT_KEY, QuotaName, ShardKeys
from quota_engine.ledger import Ledger
from quota_engine.scripts import load_scripts
from tests.deployments import SETTINGS, Deployment
from tests.servers import TestServers

TOKENS = QuotaName("acme/team-7", "text_token")
IMAGES = QuotaName("user:42", "image")


class CrashError(Exception):
    """The process ends here."""


@pytest.fixture(scope="module")
def own_server(servers: TestServers) -> ValkeyServer:
    """A server that these tests kill and start again."""
    return servers.valkey()


@pytest.fixture
def server(own_server: ValkeyServer) -> ValkeyServer:
    """The tests' own server, emptied."""
    own_server.start()
    with redis.Redis.from_url(own_server.url) as client:
        client.flushall()
        client.script_flush()
        client.config_set("maxmemory-policy", "noeviction")
    return own_server


@pytest.fixture
def deployment(server: ValkeyServer, database_url: str) -> Iterator[Deployment]:
    """A deployment on a server that may be killed, not opened yet."""
    with Deployment(server.url, database_url) as made:
        yield made


def restart(server: ValkeyServer) -> None:
    """Kill the server and start it on the same data."""
    server.kill()
    server.start()


def _open_in_child(redis_url: str, database_url: str, start: Any, answers: Queue[object]) -> None:
    with redis.Redis.from_url(redis_url) as client, Ledger.open(database_url) as ledger:
        start.wait()
        opened = ensure_open(client, ledger, SETTINGS)
    answers.put((opened.deployment_id, dict(opened.epochs)))


def test_eight_first_starts_at_once_make_one_deployment_of_epoch_1(
    redis_url: str, database_url: str
) -> None:
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(8), context.Queue()
    children = [
        context.Process(target=_open_in_child, args=(redis_url, database_url, start, answers))
        for _ in range(8)
    ]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join(30)
    assert len({deployment_id for deployment_id, _ in found}) == 1
    assert {tuple(epochs.values()) for _, epochs in found} == {(1, 1, 1, 1)}
    with Deployment(redis_url, database_url) as deployment:
        assert deployment.open().deployment_id == found[0][0]
        assert [row.epoch for row in deployment.ledger.read_shards()] == [1] * 4
        marker = deployment.redis.xrange(ShardKeys(3).outbox)
        assert [event_id for event_id, _ in marker] == [b"1-0"]


def test_a_restart_opens_new_epochs_and_loses_nothing_that_was_pending(
    deployment: Deployment, server: ValkeyServer
) -> None:
    deployment.open()
    deployment.issue(TOKENS, 1000)
    deployment.drain()
    deployment.debit(TOKENS, 300)
    deployment.place(TOKENS, 100, "hold-1")
    deployment.issue(IMAGES, 5)
    restart(server)
    opened = deployment.open()
    assert set(opened.epochs.values()) == {2}
    rows = deployment.ledger.read_shards()
    assert {(row.epoch, row.cursor, row.incarnation) for row in rows} == {
        (2, (2, 0), read_incarnation(deployment.redis))
    }
    assert len(deployment.operations(TOKENS)) == 3
    for quota in (TOKENS, IMAGES):
        assert deployment.redis.exists(deployment.keys(quota).quota(str(quota)))
    assert deployment.balance(TOKENS).available == 600
    deployment.capture(TOKENS, "hold-1", 40)
    assert deployment.drain() == 1
    assert deployment.balance(TOKENS).balance == 660


def test_a_writer_of_the_old_epoch_is_fenced(deployment: Deployment, server: ValkeyServer) -> None:
    old = deployment.open()
    deployment.issue(TOKENS, 10)
    restart(server)
    deployment.open()
    deployment.opened = old
    with pytest.raises(FencedError):
        deployment.debit(TOKENS, 1)


def test_flushed_scripts_are_loaded_again_in_the_same_epoch(deployment: Deployment) -> None:
    deployment.open()
    deployment.issue(TOKENS, 10)
    deployment.redis.script_flush()
    with pytest.raises(EngineUnavailableError, match="gate"):
        deployment.debit(TOKENS, 1)
    assert set(deployment.open().epochs.values()) == {1}
    deployment.debit(TOKENS, 1)


def test_another_release_loads_its_scripts_in_the_same_epoch(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.open()
    scripts = {
        name: dataclasses.replace(script, source=f"{script.source}\n-- newer\n", sha="")
        for name, script in load_scripts().items()
    }
    monkeypatch.setattr(gate_server, "load_scripts", lambda: scripts)
    assert set(deployment.open().epochs.values()) == {1}
    shas = [script.sha for release in (scripts, load_scripts()) for script in release.values()]
    assert all(deployment.redis.script_exists(*shas))


def test_a_fresh_server_is_left_as_it_is(deployment: Deployment) -> None:
    opened = deployment.open()
    deployment.issue(TOKENS, 10)
    changes = deployment.redis.info("persistence")["rdb_changes_since_last_save"]
    assert deployment.open() == opened
    assert deployment.redis.info("persistence")["rdb_changes_since_last_save"] == changes


def test_a_flushed_server_is_filled_from_the_ledger(deployment: Deployment) -> None:
    deployment.open()
    deployment.issue(TOKENS, 100)
    deployment.debit(TOKENS, 30, "debit-of-30")
    deployment.drain()
    deployment.redis.flushall()
    with pytest.raises(FencedError):
        deployment.debit(TOKENS, 30, "debit-of-30")
    assert set(deployment.open().epochs.values()) == {2}
    deployment.debit(TOKENS, 30, "debit-of-30")
    assert deployment.balance(TOKENS).balance == 70
    assert deployment.drain() == 0


@pytest.mark.parametrize("key", ["outbox", "versions"])
def test_a_lost_key_of_one_shard_opens_new_epochs(deployment: Deployment, key: str) -> None:
    deployment.open()
    deployment.issue(TOKENS, 100)
    deployment.drain()
    deployment.redis.delete(getattr(deployment.keys(TOKENS), key))
    assert set(deployment.open().epochs.values()) == {2}
    assert deployment.balance(TOKENS).balance == 100


def test_the_next_epoch_is_above_ledger_and_server(deployment: Deployment) -> None:
    deployment.open()
    deployment.issue(TOKENS, 10)
    for _ in range(3):
        deployment.redis.delete(ShardKeys(0).versions)
        deployment.open()
    with deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE shards SET epoch = 1, cursor_epoch = 1, cursor_n = 0"))
    assert set(deployment.open().epochs.values()) == {5}
    assert len(deployment.operations(TOKENS)) == 1


# -- crashes

STEPS = (
    "lock",
    "check",
    "rewrite_aof",
    "place_markers",
    "absorb",
    "drop_differing",
    "open_epochs",
    "record",
)


@pytest.mark.parametrize("step", STEPS)
def test_a_recovery_that_dies_after_a_step_is_done_again(
    deployment: Deployment, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _fill(deployment)
    restart(server)
    method = getattr(Recovery, step)

    def crash(self: Recovery, *arguments: object) -> None:
        method(self, *arguments)
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(Recovery, step, crash)
        with pytest.raises(CrashError):
            deployment.open()
    assert set(deployment.open().epochs.values()) <= {2, 3}
    _check_filled(deployment)


def test_a_recovery_that_dies_before_the_scripts_is_finished_by_the_next(
    deployment: Deployment, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(deployment)
    restart(server)

    def crash(*_: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(gate_server, "load_missing_scripts", crash)
        with pytest.raises(CrashError):
            deployment.open()
    assert set(deployment.open().epochs.values()) == {2}
    _check_filled(deployment)


@pytest.mark.parametrize("step", ["place_markers", "drop_differing", "open_epochs"])
def test_a_recovery_whose_locks_are_gone_does_not_count(
    deployment: Deployment, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _fill(deployment)
    restart(server)
    method = getattr(Recovery, step)

    def lose_locks(self: Recovery, *arguments: object) -> None:
        mine = self.sql.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with deployment.ledger.transaction() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})
        method(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Recovery, step, lose_locks)
        with pytest.raises(EngineUnavailableError):
            deployment.open()
    assert {row.epoch for row in deployment.ledger.read_shards()} == {1}
    assert set(deployment.open().epochs.values()) == {3}
    _check_filled(deployment)


def test_a_recovery_ends_with_its_connection(
    deployment: Deployment, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(deployment)
    restart(server)

    def restarted(self: Recovery) -> None:
        restart(server)

    with monkeypatch.context() as patch:
        patch.setattr(Recovery, "rewrite_aof", restarted)
        with pytest.raises(EngineUnavailableError, match="does not answer"):
            deployment.open()
    deployment.open()
    _check_filled(deployment)


def test_a_recovery_that_was_overtaken_opens_nothing(
    deployment: Deployment, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(deployment)
    restart(server)

    def overtaken(self: Recovery) -> None:
        self.reader.xadd(ShardKeys(2).outbox, {"marker": "{}"}, id="7-0")

    with monkeypatch.context() as patch:
        patch.setattr(Recovery, "drop_differing", overtaken)
        with pytest.raises(EngineUnavailableError, match="newer epoch"):
            deployment.open()
    assert deployment.redis.hget(ShardKeys(0).versions, "@epoch") is None
    assert deployment.open().epochs == {0: 3, 1: 3, 2: 8, 3: 3}
    _check_filled(deployment)


def _fill(deployment: Deployment) -> None:
    """Leave entries that are persisted, and some that are not."""
    deployment.open()
    deployment.issue(TOKENS, 1000)
    deployment.drain()
    deployment.debit(TOKENS, 1, "pending-debit")
    deployment.issue(IMAGES, 5)


def _check_filled(deployment: Deployment) -> None:
    deployment.debit(TOKENS, 1, "pending-debit")
    assert deployment.balance(TOKENS).balance == 999
    assert deployment.balance(IMAGES).balance == 5
    assert deployment.drain() == 0
    assert len(deployment.operations(TOKENS)) == 2
    assert len(deployment.operations(IMAGES)) == 1


# -- older and other histories


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
        assert gate.ensure_open(client, ledger, SETTINGS).shards == 4


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
