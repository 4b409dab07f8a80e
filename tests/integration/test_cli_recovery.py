"""``recovery``: an empty server is opened only when an operator says that it is meant."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from quota_engine import QuotaEngine
from quota_engine.cli import app, main
from quota_engine.embedded import ValkeyServer
from quota_engine.errors import EngineUnavailableError
from tests.servers import TestServers


@pytest.fixture
def other_server(servers: TestServers) -> ValkeyServer:
    return servers.valkey()


def test_an_empty_server_is_adopted_on_request(
    redis_url: str,
    database_url: str,
    other_server: ValkeyServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with QuotaEngine.open(redis_url, database_url, shards=2) as engine:
        engine.issue_grant("user:1", "text_token", 100)
        engine.drain()
    monkeypatch.setenv("QUOTA_ENGINE_REDIS_URL", other_server.url)
    monkeypatch.setenv("QUOTA_ENGINE_DATABASE_URL", database_url)
    monkeypatch.setattr("sys.argv", ["quota-engine", "recovery", "run"])
    with pytest.raises(SystemExit) as refused:
        main()
    assert refused.value.code == 1
    assert "quota-engine recovery run --adopt" in capsys.readouterr().err
    adopted = CliRunner().invoke(app, ["recovery", "run", "--adopt", "--json"])
    assert adopted.exit_code == 0, adopted.output
    assert [(row["shard"], row["epoch"]) for row in json.loads(adopted.output)] == [(0, 2), (1, 2)]
    with QuotaEngine.open(other_server.url, database_url) as engine:
        assert engine.read_balance("user:1", "text_token").balance == 100
    shown = CliRunner().invoke(app, ["recovery", "status", "--json"])
    told = json.loads(shown.output)
    assert [row["epoch"] for row in told["shards"]] == [2, 2]
    assert told["progress"]["state"] == "done"
    [recovery] = told["recoveries"]
    assert recovery["reason"] == told["progress"]["reason"]
    assert (recovery["epoch"], recovery["gaps"], recovery["accepted_by"]) == (2, [], None)


def test_what_a_recovery_did_not_find_is_told_in_words(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTA_ENGINE_REDIS_URL", redis_url)
    monkeypatch.setenv("QUOTA_ENGINE_DATABASE_URL", database_url)
    with QuotaEngine.open(redis_url, database_url, shards=1, resend_seconds=0) as engine:
        engine.issue_grant("user:1", "text_token", 100)
        engine.drain()
        engine.debit("user:1", "text_token", 7)
        engine.deployment.client.flushall()
        assert engine.read_balance("user:1", "text_token").balance == 100
    shown = CliRunner().invoke(app, ["recovery", "status"]).output
    assert "epoch 2: shard 0: the outbox was gone; the ledger has all up to 1-1, of 20" in shown
    [recovery] = json.loads(CliRunner().invoke(app, ["recovery", "status", "--json"]).output)[
        "recoveries"
    ]
    [loss] = recovery["losses"]
    assert loss.endswith("UTC. Anything written after that is lost")
    assert recovery["last_entry_at"][:16] == loss.partition(", of ")[2][:16].replace(" ", "T")


def test_recovery_run_loads_the_busiest_quotas_before_it_ends(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTA_ENGINE_REDIS_URL", redis_url)
    monkeypatch.setenv("QUOTA_ENGINE_DATABASE_URL", database_url)
    with QuotaEngine.open(redis_url, database_url, shards=2) as engine:
        for number in range(9):
            engine.issue_grant(f"user:{number}", "text_token", 100)
        engine.drain()
        client = engine.deployment.client
        client.flushall()
        done = CliRunner().invoke(app, ["recovery", "run"])
        assert done.exit_code == 0, done.output
        assert "9 of the 9 busiest quotas were loaded ahead" in done.output
        assert len(client.keys("{qe:*}:quota:*")) == 9
        again = CliRunner().invoke(app, ["recovery", "run"])
        assert "loaded ahead" not in again.output, "it was open already"
        monkeypatch.setenv("QUOTA_ENGINE_PREWARM_MAX", "4")
        client.flushall()
        told = CliRunner().invoke(app, ["recovery", "run", "--json"])
        assert len(json.loads(told.output)) == 2
        assert len(client.keys("{qe:*}:quota:*")) == 4


def test_a_loading_ahead_that_is_in_trouble_ends_the_wait(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTA_ENGINE_REDIS_URL", redis_url)
    monkeypatch.setenv("QUOTA_ENGINE_DATABASE_URL", database_url)
    with QuotaEngine.open(redis_url, database_url, shards=2) as engine:
        engine.issue_grant("user:1", "text_token", 100)
        engine.drain()
        engine.deployment.client.flushall()

        def broken(*_: object) -> list[object]:
            raise EngineUnavailableError("PostgreSQL is slow today")

        monkeypatch.setattr("quota_engine.jobs.prewarm.busiest", broken)
        done = CliRunner().invoke(app, ["recovery", "run"])
        assert done.exit_code == 0, done.output
        assert "0 of the 0 busiest quotas were loaded ahead: PostgreSQL is slow" in done.output
        assert engine.read_balance("user:1", "text_token").balance == 100
