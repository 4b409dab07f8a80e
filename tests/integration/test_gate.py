"""The recovery gate: who passes, who is refused, and what is still there afterwards."""

from __future__ import annotations

import dataclasses
import multiprocessing
from multiprocessing.queues import Queue
from typing import Any

import pytest
import redis
from sqlalchemy import text

from quota_engine.commands.replies import FencedError
from quota_engine.embedded import ValkeyServer
from quota_engine.errors import EngineUnavailableError
from quota_engine.jobs import gate_server
from quota_engine.jobs.gate import Recovery, ensure_open
from quota_engine.jobs.server_check import read_incarnation
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.ledger import Ledger
from quota_engine.scripts import load_scripts
from tests.deployments import SETTINGS, Deployment, restart

TOKENS = QuotaName("acme/team-7", "text_token")
IMAGES = QuotaName("user:42", "image")


class CrashError(Exception):
    """The process ends here."""


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
