"""
Rules on what no entry tells: sums of calls, ends of grants, forecasts, pools, the deployment.

Goal: each fires for what it names, in its scope and period, and is resolved when that is over.
Method: an engine with its own clock makes calls; the schedule looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import QuotaEngine
from quota_engine.jobs.alerts import Alerting
from quota_engine.jobs.schedule import DUTIES, Scheduler
from tests.called import record
from tests.engines import TestClock

TYPE = "text_token"
BEGIN = datetime(2026, 5, 14, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def clock() -> TestClock:
    return TestClock(BEGIN)


@pytest.fixture
def engine(redis_url: str, database_url: str, clock: TestClock) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=2, clock=clock) as opened:
        yield opened


def call(
    engine: QuotaEngine, account: str, units: int, cost: str | None = None, **told: Any
) -> None:
    usage = record(told.pop("model", "m"), 10, cost, told.pop("currency", "USD"), **told)
    engine.debit(account, TYPE, units, usage=usage, already_used=True)


def look(engine: QuotaEngine) -> set[str]:
    """Persist and look at everything; return the open alerts, as rule and sentence."""
    engine.drain()
    engine.run_schedule()
    return {f"{alert.rule}: {alert.text}" for alert in engine.alerts.list()}


def test_usage_and_cost_of_a_period_are_told(engine: QuotaEngine, clock: TestClock) -> None:
    define = engine.alerts.define
    define("all", "usage", warning=100, quota_type=TYPE)
    define("team", "cost", warning=2, critical=5, account="acme", subtree=True, period="month")
    define("each", "cost", warning=2, account="acme", subtree=True, each=True)
    define("own", "cost", warning="0.5", account="acme", currency="CNY")
    call(engine, "acme", 10, "1.5")
    call(engine, "acme/ann", 20, "0.499999999999")
    call(engine, "acme2", 60, "9")
    assert look(engine) == set()
    call(engine, "acme/ann", 10, "1.500000000001")
    assert look(engine) == {
        "all: *|text_token used 100 this day, at or above 100",
        "team: acme cost 3.5 USD this month, at or above 2",
        "each: acme/ann cost 2 USD this day, at or above 2",
    }
    (team,) = engine.alerts.list(rule="team")
    assert (team.account, team.severity) == ("acme", "warning")
    call(engine, "acme", 1, "0.5", currency="CNY")
    call(engine, "acme/ben", 1, "1.5")
    told = look(engine)
    assert "own: acme cost 0.5 CNY this day, at or above 0.5" in told
    assert engine.alerts.list(rule="team")[0].severity == "critical"
    clock.now += DAY
    assert look(engine) == {"team: acme cost 5 USD this month, at or above 5"}
    clock.now = datetime(2026, 6, 1, tzinfo=UTC)
    assert look(engine) == set()
    assert [alert.rule for alert in engine.alerts.list(state="resolved", rule="team")] == ["team"]


def test_a_quota_is_used_by_calls_of_accounts_below_and_of_several_types(
    engine: QuotaEngine,
) -> None:
    for account in ("acme", "acme/ann"):
        for quota_type in (TYPE, "image"):
            engine.issue_grant(account, quota_type, 1_000)
    define = engine.alerts.define
    define("own", "usage", warning=50, account="acme", quota_type=TYPE)
    define("each", "usage", warning=50, account="acme", subtree=True, each=True, quota_type=TYPE)
    define("team", "usage", warning=100, account="acme", subtree=True, quota_type=TYPE)
    define("all", "usage", warning=100, quota_type=TYPE)
    define("images", "usage", warning=5, account="acme", quota_type="image")
    define("dry", "run_dry", warning=10, account="acme", quota_type="image")
    engine.debit("acme/ann", {TYPE: 60, "image": 600}, operation_id="d")
    images = {
        "images: acme|image used 600 this day, at or above 5",
        "dry: acme|image runs dry in 0.33 days, at or below 10",
    }
    assert look(engine) == images | {
        "own: acme|text_token used 60 this day, at or above 50",
        "each: acme|text_token used 60 this day, at or above 50",
        "each: acme/ann|text_token used 60 this day, at or above 50",
    }, "of all together each call counts once"
    engine.debit("acme", TYPE, 40)
    assert look(engine) >= {
        "team: acme|text_token used 100 this day, at or above 100",
        "all: *|text_token used 100 this day, at or above 100",
    }
    engine.correct_usage("d", 10, account="acme/ann", quota_type=TYPE)
    assert look(engine) == images | {
        "own: acme|text_token used 60 this day, at or above 50",
        "each: acme|text_token used 60 this day, at or above 50",
    }, "50 are left"
    (found,) = [one for one in engine.reports.account("acme") if one.quota_type == TYPE]
    assert (found.used, found.period_used, found.period_refunded) == (100, 100, 50)
    forecast = engine.reports.forecast("acme", TYPE)
    assert (forecast.pace, forecast.spendable) == (100, 950)


def test_who_is_paid_for_does_not_run_dry_and_no_sum_stops_the_persister(
    engine: QuotaEngine,
) -> None:
    engine.issue_grant("acme/ann", TYPE, 500)
    engine.issue_grant("acme/wallet", TYPE, 3_000)
    engine.accounts.set_pays_after("acme/ann", ["acme/wallet"])
    engine.alerts.define("dry", "run_dry", warning=10)
    team = {"account": "acme", "subtree": True, "quota_type": TYPE}
    engine.alerts.define("team", "usage", warning=1_000, **team)
    engine.debit("acme/ann", TYPE, 1_000, operation_id="trace@0123456789abcdef")
    assert look(engine) == {
        "dry: acme/wallet|text_token runs dry in 1 days, at or below 10",
        "team: acme|text_token used 1000 this day, at or above 1000",
    }
    assert engine.reports.forecast("acme/ann", TYPE).pace == 0
    most = 2**53 - 1
    for _ in range(1_030):
        engine.debit("much", TYPE, most, already_used=True)
    engine.drain()
    with engine.deployment.ledger.transaction() as sql:
        asked = text("SELECT charged FROM daily_charges WHERE account = 'much'")
        assert sql.execute(asked).scalar_one() == 1_030 * most


def test_a_model_without_a_price_is_told(engine: QuotaEngine, clock: TestClock) -> None:
    engine.alerts.define("prices", "unpriced", critical=3)
    call(engine, "acme", 1, "1")
    assert look(engine) == set()
    call(engine, "acme", 1, None, model="new", unbilled="unconfigured")
    for _ in range(2):
        call(engine, "ann", 1, None, model="new", unpriced="unconfigured")
    assert look(engine) == {
        "prices: openai/new was used without a price 3 times this day, at or above 3"
    }
    engine.alerts.define("prices", "unpriced")
    clock.now += DAY
    assert look(engine) == set()


def test_grants_that_end_and_quotas_that_run_dry_are_told(
    engine: QuotaEngine, clock: TestClock
) -> None:
    engine.alerts.define("ends", "expiring", warning=7, critical=1)
    engine.alerts.define("dry", "run_dry", warning=5, critical=2)
    engine.issue_grant("ann", TYPE, 1_000, grant_id="g", expires_at=BEGIN + 30 * DAY)
    engine.issue_grant("ann", TYPE, 10, grant_id="short", expires_at=BEGIN + 2 * DAY)
    engine.issue_grant("idle", TYPE, 10)
    call(engine, "ann", 60)
    assert look(engine) == set(), "950 last for eight days; who lives for two days knows"
    clock.now = BEGIN + 25 * DAY
    assert look(engine) == {"ends: ann|text_token|g ends unused in 5 days, at or below 7"}
    call(engine, "ann", 800)
    assert look(engine) == {
        "ends: ann|text_token|g ends unused in 5 days, at or below 7",
        "dry: ann|text_token runs dry in 1.41 days, at or below 2",
    }
    clock.now = BEGIN + 29 * DAY + DAY / 2
    look(engine)
    assert engine.alerts.list(rule="ends")[0].severity == "critical"
    clock.now = BEGIN + 31 * DAY
    engine.read_balance("ann", TYPE)
    engine.issue_grant("ann", TYPE, 1_000_000)
    assert look(engine) == set()


def test_a_pool_that_is_low_is_told(engine: QuotaEngine) -> None:
    engine.pools.define("openai", currency="USD", warning="10%", starts_at=BEGIN)
    engine.alerts.define("pools", "pool", provider="openai")
    engine.alerts.define("others", "pool", currency="CNY")
    engine.pools.recharge("openai", "1000", recharge_id="one")
    call(engine, "ann", 1, "899")
    assert look(engine) == set()
    call(engine, "ann", 1, "1")
    assert look(engine) == {"pools: openai in USD has 100 left, at or below 100"}
    call(engine, "ann", 1, "100")
    look(engine)
    assert engine.alerts.list()[0].severity == "critical"
    engine.pools.recharge("openai", "1000", recharge_id="two")
    assert look(engine) == set()
    steps = engine.alerts.show(engine.alerts.list(state="all")[0].alert_id).steps
    assert [step.action for step in steps] == ["fired", "escalated", "resolved"]


def test_drift_and_lateness_are_told(engine: QuotaEngine) -> None:
    engine.alerts.define("drift", "drift")
    engine.alerts.define("drain", "drain_late", warning=60)
    engine.alerts.define("reconcile", "reconcile_late", warning=60)
    engine.issue_grant("ann", TYPE, 100)
    assert look(engine) == set()
    scheduler = Scheduler(engine.deployment)
    (reconcile,) = (duty for duty in DUTIES if duty.name == "reconcile")
    client = engine.deployment.client
    (key,) = client.keys("*quota:ann|text_token")
    was = client.hget(key, "remaining")
    client.hset(key, "remaining", 99)
    scheduler.run(reconcile)
    differ = "drift: the deployment has 1 quotas that differ between Redis and the ledger"
    assert look(engine) == {f"{differ}, at or above 1"}
    client.hset(key, "remaining", was)
    scheduler.run(reconcile)
    assert look(engine) == set()
    with engine.deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE duties SET finished_at = now() - interval '2 minutes'"))
    (late,) = look(engine)
    assert late.startswith("reconcile: the reconciliation was done 12")
    scheduler.run(reconcile)
    scheduler.close()
    call(engine, "ann", 1)  # at the engine's clock, months ago, and not persisted
    Alerting(engine.deployment).run(round(BEGIN.timestamp() * 1000))
    (alert,) = engine.alerts.list()
    assert (alert.rule, alert.subject) == ("drain", "the drain")
    assert alert.value > Decimal(1_000)
    assert look(engine) == set()


def test_what_nobody_knows_changes_no_alert(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.alerts.define("drain", "drain_late", warning=60)
    call(engine, "ann", 1)
    alerting, now_ms = Alerting(engine.deployment), round(BEGIN.timestamp() * 1000)
    assert alerting.run(now_ms).steps == 1
    with monkeypatch.context() as patch:
        pool = engine.deployment.client.connection_pool
        patch.setattr(pool, "connection_kwargs", {**pool.connection_kwargs, "path": "/none"})
        pool.disconnect()
        assert alerting.run(now_ms).steps == 0
    pool.disconnect()
    assert len(engine.alerts.list()) == 1
