"""
Duties may run twice, late, or in two schedulers at once, and each thing is done once.

Goal: whatever is due, promised or idle is dealt with, exactly once. Method: the engine on real
servers, and schedulers with a clock of their own; nothing waits for time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from quota_engine import QuotaEngine
from quota_engine.commands import GrantTerms, IssueGrant
from quota_engine.errors import EngineUnavailableError, IdempotencyConflictError
from quota_engine.jobs import clocks
from quota_engine.jobs.intents import Kept, apply_intents
from quota_engine.jobs.schedule import DUTIES, Duty, Outcome, Scheduler
from quota_engine.jobs.sweep import sweep
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.ledger import duties

QUOTA = QuotaName("user:42", "text_token")
NOW = datetime.now(UTC)
LATER = NOW + timedelta(hours=2)
AT_ONCE = timedelta(0)


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(
        redis_url, database_url, shards=4, trim_after_seconds=0, unload_after_seconds=0
    ) as opened:
        yield opened


def scheduler_of(engine: QuotaEngine, at: datetime | None = None) -> Scheduler:
    return Scheduler(engine.deployment, clock=None if at is None else lambda: at)


def duty(name: str) -> Duty:
    (found,) = (one for one in DUTIES if one.name == name)
    return found


def kinds(engine: QuotaEngine) -> list[str]:
    return [entry.kind for entry in engine.history(QUOTA.account, QUOTA.quota_type)]


def promise(engine: QuotaEngine, grant_id: str, **terms: int) -> None:
    """Record an intent, as an issuer does before it dies."""
    command = IssueGrant(
        quota=QUOTA,
        grant_id=grant_id,
        terms=GrantTerms(**{"amount": 100, "source": "purchase", **terms}),  # type: ignore[arg-type]
        details='{"source":"purchase","reference":"order:7"}',
    )
    engine.deployment.record_intent(command)


def keep_promises(engine: QuotaEngine) -> Kept:
    scheduler = scheduler_of(engine)
    return apply_intents(engine.deployment, scheduler.transport, AT_ONCE)


def is_loaded(engine: QuotaEngine, quota: QuotaName = QUOTA) -> bool:
    keys = ShardKeys(engine.deployment.ledger.shard_of(quota))
    return bool(engine.deployment.client.exists(keys.quota(str(quota))))


# -- sweep


def due_quota(engine: QuotaEngine) -> None:
    """Make a quota of which a hold, a grant's start and a grant's end are due later."""
    account, quota_type = QUOTA.account, QUOTA.quota_type
    engine.issue_grant(account, quota_type, 100, expires_at=NOW + timedelta(hours=1))
    engine.issue_grant(account, quota_type, 50, starts_at=NOW + timedelta(minutes=30))
    engine.place_hold(account, quota_type, 10, ttl=600)


CHANGES = ["grant.expired", "grant.started", "hold.expired"]


def test_what_is_due_is_applied_once_by_two_schedulers(engine: QuotaEngine) -> None:
    due_quota(engine)

    def run(_: int) -> int:
        scheduler = scheduler_of(engine, LATER)
        return sweep(engine.deployment, scheduler.transport, scheduler.now_ms()).changes

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(run, range(2))) == 3
    assert run(0) == 0
    assert sorted(kinds(engine)[3:]) == CHANGES
    assert engine.read_balance(QUOTA.account, QUOTA.quota_type).balance == 50


def test_nothing_is_swept_before_its_time(engine: QuotaEngine) -> None:
    due_quota(engine)
    assert scheduler_of(engine).run(duty("sweep")) == Outcome("0 changes applied to 0 quotas")


def test_an_unloaded_quota_is_swept_too(engine: QuotaEngine) -> None:
    due_quota(engine)
    engine.drain()
    (key,) = engine.deployment.client.scan_iter("*:quota:*")
    engine.deployment.client.delete(key, *engine.deployment.client.scan_iter("*:due"))
    swept = scheduler_of(engine, LATER).run(duty("sweep"))
    assert swept == Outcome("3 changes applied to 1 quotas")
    assert sorted(kinds(engine)[3:]) == CHANGES


def test_with_clocks_apart_nothing_is_swept_or_issued(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    due_quota(engine)
    promise(engine, "grant-1")
    monkeypatch.setattr(clocks, "difference_ms", lambda client, ledger: 61_000)
    scheduler = scheduler_of(engine, LATER)
    scheduler.intent_age = AT_ONCE
    for name in ("clocks", "sweep", "intents"):
        outcome = scheduler.run(duty(name))
        assert not outcome.is_ok
        assert "+61 s from PostgreSQL's" in outcome.text
        assert scheduler.run(duty(name)) == outcome
    assert len(caplog.records) == 3, "an alarm is logged once"
    assert len(kinds(engine)) == 3


def test_the_clocks_of_both_stores_are_compared(engine: QuotaEngine) -> None:
    difference = clocks.difference_ms(engine.deployment.client, engine.deployment.ledger)
    assert abs(difference) < 1_000
    assert scheduler_of(engine).run(duty("clocks")).is_ok


# -- intents


def test_a_promise_is_kept_once_by_two_schedulers(engine: QuotaEngine) -> None:
    for number in range(10):
        promise(engine, f"grant-{number}")
    with ThreadPoolExecutor(2) as threads:
        kept = list(threads.map(lambda _: keep_promises(engine), range(2)))
    assert sum(one.kept for one in kept) >= 10
    assert kinds(engine) == ["grant.issued"] * 10
    engine.drain()
    assert engine.deployment.ledger.open_intents() == []
    assert keep_promises(engine) == Kept()
    (entry, *_) = engine.history(QUOTA.account, QUOTA.quota_type)
    assert (entry.amount, entry.reference) == (100, "order:7")


def test_a_grant_by_the_id_of_something_else_keeps_no_promise(engine: QuotaEngine) -> None:
    engine.issue_grant(QUOTA.account, QUOTA.quota_type, 10)
    engine.debit(QUOTA.account, QUOTA.quota_type, 4, operation_id="d")
    engine.drain()
    with pytest.raises(IdempotencyConflictError):
        engine.issue_grant(QUOTA.account, QUOTA.quota_type, 5, grant_id="d")
    assert engine.deployment.ledger.open_intents() == []
    promise(engine, "d")
    with pytest.raises(IdempotencyConflictError):
        engine.issue_grant(QUOTA.account, QUOTA.quota_type, 100, grant_id="d", source="purchase")
    assert engine.deployment.ledger.open_intents() == [], "whoever promised it"


def test_a_young_promise_is_its_issuers(engine: QuotaEngine) -> None:
    promise(engine, "grant-1")
    scheduler = scheduler_of(engine)
    assert scheduler.run(duty("intents")).text.startswith("0 promises kept")
    scheduler.intent_age = AT_ONCE
    assert scheduler.run(duty("intents")).text.startswith("1 promises kept")


def test_an_engine_does_what_is_due_at_once(
    engine: QuotaEngine, redis_url: str, database_url: str
) -> None:
    promise(engine, "grant-1")
    assert engine.run_schedule()["intents"].startswith("1 promises kept")
    due_quota(engine)
    with QuotaEngine.open(redis_url, database_url, clock=lambda: LATER) as later:
        done = list(later.run_schedule())
        assert done == ["accounts", "intents", "renewals", "reminders", "alerts"], (
            "others' quotas are left alone"
        )
    assert engine.run_schedule()["sweep"].startswith("0 changes")


def test_a_promise_kept_long_ago_is_not_kept_again(engine: QuotaEngine) -> None:
    promise(engine, "grant-1")
    assert keep_promises(engine).kept == 1
    for key in engine.deployment.client.scan_iter("*:ops?:*"):
        engine.deployment.client.delete(key)  # Redis has forgotten; the entry is still pending
    assert keep_promises(engine).kept == 0
    assert kinds(engine) == ["grant.issued"]


@pytest.mark.parametrize("terms", [{"expires_at_ms": 1_000}, {"amount": 2**53 - 1}])
def test_a_promise_that_cannot_be_kept_is_withdrawn(
    engine: QuotaEngine, caplog: pytest.LogCaptureFixture, terms: dict[str, int]
) -> None:
    engine.issue_grant(QUOTA.account, QUOTA.quota_type, 5)
    promise(engine, "grant-1", **terms)
    assert keep_promises(engine) == Kept(refused=1)
    assert "grant-1" in caplog.text
    assert keep_promises(engine) == Kept()
    assert kinds(engine) == ["grant.issued"]


def test_a_promise_to_a_frozen_quota_waits(engine: QuotaEngine) -> None:
    engine.issue_grant(QUOTA.account, QUOTA.quota_type, 5)
    engine.deployment.freeze(QUOTA, "in doubt")
    promise(engine, "grant-1")
    assert keep_promises(engine) == Kept(wait=1)
    engine.deployment.freeze(QUOTA, "")
    assert keep_promises(engine) == Kept(kept=1)


def test_promises_of_a_shard_that_cannot_be_drained_wait(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise(engine, "grant-1")

    def refuse(_: QuotaName) -> None:
        raise EngineUnavailableError("stopped")

    monkeypatch.setattr(engine.deployment, "persist_tail", refuse)
    assert keep_promises(engine) == Kept(wait=1)


# -- trim, unload, reconcile


def test_persisted_entries_leave_the_outboxes(engine: QuotaEngine) -> None:
    for number in range(8):
        engine.issue_grant(f"user:{number}", QUOTA.quota_type, 5)
    engine.drain()
    scheduler = scheduler_of(engine)
    assert scheduler.run(duty("trim")) == Outcome("12 persisted entries left the outboxes")
    assert scheduler.run(duty("trim")) == Outcome("0 persisted entries left the outboxes")


def test_idle_quotas_leave_redis_and_come_back(engine: QuotaEngine) -> None:
    for account in ("idle", "held", "pending"):
        engine.issue_grant(account, QUOTA.quota_type, 5)
    engine.place_hold("held", QUOTA.quota_type, 1)
    engine.drain()
    engine.debit("pending", QUOTA.quota_type, 1)
    scheduler = scheduler_of(engine)
    assert scheduler.run(duty("unload")) == Outcome("1 idle quotas left Redis")
    assert not is_loaded(engine, QuotaName("idle", QUOTA.quota_type))
    assert engine.read_balance("idle", QUOTA.quota_type).balance == 5


def test_a_quota_in_use_stays(engine: QuotaEngine, redis_url: str, database_url: str) -> None:
    engine.issue_grant(QUOTA.account, QUOTA.quota_type, 5)
    engine.drain()
    settings = {"unload_after_seconds": 3_600, "reconcile_every_seconds": 7_200}
    with QuotaEngine.open(redis_url, database_url, **settings) as other:
        assert scheduler_of(other).run(duty("unload")).text.startswith("0 ")
    settings["unload_after_seconds"] = 0
    with engine.deployment.ledger.transaction() as sql:
        sql.exec_driver_sql("UPDATE quotas SET updated_at = now() + interval '1 minute'")
    with QuotaEngine.open(redis_url, database_url, **settings) as other:
        assert scheduler_of(other).run(duty("unload")).text.startswith("0 ")
    assert is_loaded(engine)


def test_drift_is_told(engine: QuotaEngine, caplog: pytest.LogCaptureFixture) -> None:
    engine.issue_grant(QUOTA.account, QUOTA.quota_type, 5)
    engine.drain()
    scheduler = scheduler_of(engine)
    assert scheduler.run(duty("reconcile")) == Outcome("1 quotas compared, 0 differ")
    (key,) = engine.deployment.client.scan_iter("*:quota:*")
    engine.deployment.client.hset(key, "remaining", 6)
    found = scheduler.run(duty("reconcile"))
    assert found.text.startswith("1 quotas compared, 1 differ; the first: ")
    with engine.deployment.ledger.transaction() as sql:
        (run,) = duties.read_runs(sql)
    assert (run.duty, run.outcome, run.is_ok) == ("reconcile", found.text, False)
    assert any(record.levelno == logging.ERROR for record in caplog.records)


# -- turns


def test_of_many_workers_one_takes_a_duty_up(engine: QuotaEngine) -> None:
    sweeping = duty("sweep")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: scheduler_of(engine).run_if_due(sweeping), range(4)))
    assert sum(outcome is not None for outcome in found) == 1
    often = replace(sweeping, every=lambda settings: 0)
    assert scheduler_of(engine).run_if_due(often) is not None


def test_a_duty_that_fails_says_so_until_it_works(
    engine: QuotaEngine, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = scheduler_of(engine)
    reached: list[str] = []

    def fail(_: Scheduler) -> Outcome:
        if len(reached) < 2:
            reached.append("")
            raise EngineUnavailableError("no answer")
        return Outcome("done")

    failing = Duty("failing", lambda settings: 1, fail)
    outcomes = [scheduler.run(failing) for _ in range(3)]
    assert [outcome.is_ok for outcome in outcomes] == [False, False, True]
    assert [record.getMessage() for record in caplog.records] == [
        "failing: failed: no answer",
        "failing is well again: done",
    ]


@pytest.mark.row(
    26,
    injection="CONFIG SET maxmemory-policy allkeys-lru while all runs",
    outcome="workers alarm within 30 s, and the row of the duty says so",
)
def test_an_eviction_policy_is_alarmed_of(
    engine: QuotaEngine, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler, server = scheduler_of(engine), duty("server")
    assert scheduler.seconds_between(server) <= 30
    assert scheduler.run(server).is_ok
    engine.deployment.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = scheduler.run(server)
    finally:
        engine.deployment.client.config_set("maxmemory-policy", "noeviction")
    assert not found.is_ok
    assert "maxmemory-policy is allkeys-lru" in found.text
    assert "maxmemory-policy is allkeys-lru" in caplog.text
    with engine.deployment.ledger.transaction() as sql:
        assert not next(run for run in duties.read_runs(sql) if run.duty == "server").is_ok
    assert scheduler.run(server).is_ok


def test_every_duty_is_done_twice_without_harm(engine: QuotaEngine) -> None:
    due_quota(engine)
    scheduler = scheduler_of(engine)
    for one in [*DUTIES, *DUTIES]:
        assert scheduler.run(one).is_ok, one.name
    with engine.deployment.ledger.transaction() as sql:
        runs = duties.read_runs(sql)
    assert {run.duty for run in runs} == {one.name for one in DUTIES}
    assert all(run.finished_at is not None and run.is_ok for run in runs)
    assert engine.reconcile().is_clean


def test_a_duty_does_not_run_on_another_history(engine: QuotaEngine) -> None:
    """The epoch that a scheduler knows is checked where something is removed."""
    engine.issue_grant(QUOTA.account, QUOTA.quota_type, 5)
    engine.drain()
    keys = ShardKeys(engine.deployment.ledger.shard_of(QUOTA))
    engine.deployment.client.hset(keys.versions, "@epoch", 99)
    assert not scheduler_of(engine).run(duty("unload")).is_ok
    assert is_loaded(engine)
