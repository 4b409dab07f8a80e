"""The doctor finds what is wrong with a deployment, says what to do, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import create_engine, text

from quota_engine.embedded import ValkeyServer
from quota_engine.jobs.health import examine
from quota_engine.jobs.schedule import DUTIES, Scheduler
from quota_engine.keys import ShardKeys
from tests.commands import Cli


@pytest.fixture
def cli(
    server: ValkeyServer,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    made = Cli(monkeypatch, capsys)
    made.aim(server.url, database_url)
    return made


@pytest.fixture
def client(server: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client
        client.config_set("appendonly", "yes")


def codes(cli: Cli, code: int) -> list[str]:
    """Return what is wrong, beside that the tests' servers do not wait for the disk."""
    problems = cli.json("doctor", code=code)["problems"]
    return [problem["code"] for problem in problems if problem["code"] != "seldom_synced"]


def run_sql(database_url: str, *statements: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_a_new_deployment_is_well_before_and_after_its_first_call(cli: Cli) -> None:
    facts = cli.json("doctor")["facts"]
    assert facts["deployment"].startswith("none yet")
    cli.done("grants", "issue", "user:42", "text_token", "5")
    found = cli.json("doctor")
    assert found["facts"]["gate"] == "open"
    assert sum(shard["pending"] for shard in found["shards"]) == 1
    said = cli.done("doctor")
    assert "1 not persisted" in said
    assert said.endswith("all is well\n")


@pytest.mark.parametrize(
    ("setting", "value", "found"),
    [("maxmemory-policy", "allkeys-lru", "evicts"), ("appendonly", "no", "not_durable")],
)
def test_a_redis_that_could_lose_money_is_refused_and_explained(
    cli: Cli, client: redis.Redis, setting: str, value: str, found: str
) -> None:
    client.config_set(setting, value)
    assert found in codes(cli, 1)
    ended = cli.run("doctor")
    assert f"CONFIG SET {setting}" in ended.out
    refused = cli.run("accounts", "show", "user:42")
    assert refused.code == 1
    assert f"CONFIG SET {setting}" in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("redis_at", "database_at", "found"),
    [
        ("redis://127.0.0.1:1", "", ["redis"]),
        ("", "postgresql://u:secret@127.0.0.1:1/x", ["postgresql"]),
        (
            "redis://127.0.0.1:1",
            "postgresql://u:secret@127.0.0.1:1/x",
            ["redis", "postgresql"],
        ),
    ],
)
def test_each_store_that_does_not_answer_is_named(
    cli: Cli,
    *,
    server: ValkeyServer,
    database_url: str,
    redis_at: str,
    database_at: str,
    found: list[str],
) -> None:
    cli.aim(redis_at or server.url, database_at or database_url)
    assert codes(cli, 1) == found
    assert "secret" not in cli.run("doctor").out


def test_another_redis_is_recognised(cli: Cli, client: redis.Redis) -> None:
    cli.done("grants", "issue", "user:42", "text_token", "5")
    client.set("qe:deployment", "deployment_other 8")
    assert "gate" in codes(cli, 1)
    refused = cli.run("accounts", "show", "user:42")
    assert refused.code in (0, 1)


def test_a_wiped_outbox_is_told_and_left_to_the_gate(cli: Cli, client: redis.Redis) -> None:
    cli.done("grants", "issue", "user:42", "text_token", "5")
    cli.done("ledger", "drain")
    client.delete(ShardKeys(3).outbox)
    assert codes(cli, 0) == ["gate"]
    assert "to be recovered" in cli.json("doctor")["facts"]["gate"]
    cli.done("grants", "issue", "user:42", "text_token", "5")
    assert cli.json("doctor")["facts"]["gate"] == "open"


def test_what_needs_somebody_is_told(cli: Cli, database_url: str) -> None:
    cli.done("grants", "issue", "用户 42", "text_token", "5")
    cli.done("ledger", "drain")
    run_sql(
        database_url,
        "UPDATE quotas SET frozen = 'its chain broke'",
        "UPDATE shards SET stopped = 'gap: 1-3 comes after 1-1' WHERE shard = 2",
        "INSERT INTO quarantine"
        " (shard, event_id, raw_entry, raw_chain, cause, reason, created_at)"
        " VALUES (0, '1-1', '', '', 'chain', 'x', now())",
        "INSERT INTO repairs"
        " (account, quota_type, repair_id, cause, actor, reason, details, begun_at)"
        " VALUES ('a', 'image', 'thaw:1', 'held', 'a', 'r', '{}', now() - interval '1 h')",
        "INSERT INTO grants (account, quota_type, grant_id, state, fingerprint, amount, remaining,"
        " reserved, priority, starts_at_ms, expires_at_ms, created_at_ms, intended_at)"
        " VALUES ('a', 'image', 'g', 'intent', 'f', 1, 0, 0, 5, 0, 9, 1, now() - interval '1 h')",
    )
    assert {"frozen", "quarantine", "intents", "stopped", "repairs"} <= set(codes(cli, 1))
    said = cli.run("doctor").out
    assert "用户 42|text_token is frozen: its chain broke" in said
    assert "shard 2 is stopped: gap: 1-3 comes after 1-1" in said
    assert said.endswith("something needs you\n")


def test_a_refund_that_was_promised_and_not_made_is_told_when_it_is_late(
    cli: Cli, database_url: str
) -> None:
    cli.done("grants", "issue", "user:42", "text_token", "5")
    cli.done("ledger", "drain")
    promise = (
        "INSERT INTO refunds"
        " (account, quota_type, refund_id, operation_id, amount, parts, grace_ms, intended_at)"
        " VALUES ('user:42', 'text_token', '{}', 'op', 1, '', 0, now() - interval '{}')"
    )
    run_sql(database_url, promise.format("refund-1", "1 s"))
    assert codes(cli, 0) == []
    assert cli.json("doctor")["facts"]["promises"] == "1 open"
    run_sql(database_url, promise.format("refund-2", "1 h"))
    assert codes(cli, 1) == ["promises"]
    assert "2 refunds were promised and not seen to be made" in cli.run("doctor").out


def reconciled(cli: Cli) -> None:
    """Have the workers' reconciliation done once."""
    with cli.engine() as engine:
        scheduler = Scheduler(engine.deployment)
        scheduler.run(next(duty for duty in DUTIES if duty.name == "reconcile"))
        scheduler.close()


def test_the_drift_of_the_last_reconciliation_is_told(cli: Cli, client: redis.Redis) -> None:
    cli.done("grants", "issue", "user:42", "text_token", "5")
    assert "drift" not in cli.json("doctor")["facts"]
    reconciled(cli)
    assert cli.json("doctor")["facts"]["drift"].startswith("0 quotas differed")
    (key,) = client.keys("*quota:user:42|text_token")
    client.hset(key, "remaining", 6)
    reconciled(cli)
    found = cli.json("doctor", code=1)
    assert found["facts"]["drift"].startswith("1 quotas differed")
    assert "duty" in {problem["code"] for problem in found["problems"]}


def test_entries_that_wait_too_long_are_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.done("grants", "issue", "user:42", "text_token", "5")
    monkeypatch.setenv("QUOTA_ENGINE_DRAIN_LATE_SECONDS", "0.001")
    assert codes(cli, 1) == ["lag"]
    assert "quota-engine worker" in cli.run("doctor").out


def test_a_deployment_whose_duties_nobody_does_is_told(
    cli: Cli, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.done("grants", "issue", "user:42", "text_token", "5")
    assert codes(cli, 0) == [], "it is new"
    run_sql(database_url, "UPDATE deployment SET created_at = now() - interval '2 h'")
    assert set(codes(cli, 1)) == {"late"}
    said = cli.run("doctor").out
    assert "the duty reconcile has never been done; run `quota-engine worker`" in said
    with cli.engine() as engine:
        engine.drain()
        scheduler = Scheduler(engine.deployment)
        assert all(scheduler.run(duty).is_ok for duty in DUTIES)
        scheduler.close()
    assert codes(cli, 0) == []
    shown = {duty["duty"]: duty for duty in cli.json("doctor")["duties"]}
    assert shown["reconcile"]["outcome"] == "1 quotas compared, 0 differ"
    assert shown["trim"]["is_ok"]
    run_sql(
        database_url,
        "UPDATE duties SET finished_at = now() - interval '31 min' WHERE duty = 'reconcile'",
        "UPDATE duties SET finished_at = now() - interval '6 min' WHERE duty = 'sweep'",
    )
    assert codes(cli, 1) == ["late", "late"]
    said = cli.run("doctor").out
    assert "the duty reconcile was done 0:31:0" in said
    assert "the duty sweep was done 0:06:0" in said
    monkeypatch.setenv("QUOTA_ENGINE_RECONCILE_LATE_SECONDS", "7200")
    monkeypatch.setenv("QUOTA_ENGINE_DUTY_LATE_SECONDS", "7200")
    assert codes(cli, 0) == []
    run_sql(database_url, "UPDATE duties SET is_ok = false, outcome = 'x' WHERE duty = 'clocks'")
    assert codes(cli, 1) == ["duty"]


def test_pressure_is_a_note_at_first_and_then_a_problem(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        cli.done("grants", "issue", "user:42", "text_token", "5", "--grant-id", f"g{number}")
    monkeypatch.setenv("QUOTA_ENGINE_OUTBOX_SOFT_LIMIT", "3")
    assert codes(cli, 0) == ["pressure"]
    monkeypatch.setenv("QUOTA_ENGINE_OUTBOX_HARD_LIMIT", "3")
    assert codes(cli, 1) == ["pressure"]
    refused = cli.run("grants", "issue", "user:42", "text_token", "5")
    assert refused.code == 1
    assert "3 entries of shard" in refused.err


def test_every_number_can_be_collected(cli: Cli, client: redis.Redis, database_url: str) -> None:
    cli.done("grants", "issue", "user:42", "text_token", "5")
    health = examine(client, "here", database_url)
    found = {(one.name, *one.labels.values()): one.value for one in health.measures()}
    waiting = [value for key, value in found.items() if key[0] == "outbox_pending"]
    assert sum(waiting) == 1
    assert found["duty_late", "reconcile"] == 0
    assert found["frozen_quotas",] == 0
    assert found["redis_memory_bytes",] > 0
    assert found["clock_difference_seconds",] < 60
