"""``recovery``: an empty server is opened only when an operator says that it is meant."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from quota_engine import QuotaEngine
from quota_engine.cli import app, main
from quota_engine.embedded import ValkeyServer
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
