"""
Alerts on quotas: they fire once a crossing, escalate, recover, and lose nothing between processes.

Goal: whoever crosses whenever, one alert and one message a channel. Method: an engine whose drain
persists, and real entries; where two race, threads.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quota_engine import QuotaEngine

ACCOUNT, TYPE = "user:42", "text_token"


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=2) as opened:
        yield opened


def spend(engine: QuotaEngine, amount: int, account: str = ACCOUNT) -> None:
    engine.debit(account, TYPE, amount)
    engine.drain()


def steps(engine: QuotaEngine) -> list[tuple[str, str]]:
    """Return what happened to all alerts, in order, as action and severity."""
    found = []
    for alert in reversed(engine.alerts.list(state="all")):
        found += [
            (step.action, step.severity) for step in engine.alerts.show(alert.alert_id).steps
        ]
    return found


def test_a_balance_fires_once_recovers_and_escalates(engine: QuotaEngine) -> None:
    engine.alerts.define("low", "balance", warning="20%", account=ACCOUNT)
    engine.issue_grant(ACCOUNT, TYPE, 1_000)
    spend(engine, 750)
    assert engine.alerts.list() == []
    spend(engine, 60)
    (alert,) = engine.alerts.list()
    assert (alert.severity, alert.value, alert.threshold) == ("warning", 190, 200)
    for _ in range(3):
        spend(engine, 10)
    assert steps(engine) == [("fired", "warning")]
    engine.issue_grant(ACCOUNT, TYPE, 1_000)
    engine.drain()
    assert engine.alerts.list() == []
    spend(engine, 960)
    assert len(engine.alerts.list()) == 1
    spend(engine, 200)
    assert steps(engine) == [
        *(("fired", "warning"), ("resolved", "warning")),
        *(("fired", "warning"), ("escalated", "critical")),
    ]
    assert len(engine.alerts.deliveries(channel="log")) == 4
