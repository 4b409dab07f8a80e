"""Calls that charge nothing leave a record: failed with their release, unbilled alone."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from quota_engine import IdempotencyConflictError, QuotaEngine, Usage

USAGE = Usage(input_tokens=10, output_tokens=2)


@pytest.fixture
def engine(redis_url: str, database_url: str) -> QuotaEngine:
    with QuotaEngine.open(redis_url, database_url, shards=2) as opened:
        yield opened


def recorded(engine: QuotaEngine) -> list[tuple[str, int]]:
    with engine.deployment.ledger.transaction() as sql:
        rows = sql.execute(text("SELECT operation_id, amount FROM usage_records ORDER BY id"))
        return [tuple(row) for row in rows]


def test_a_failed_call_leaves_its_usage_and_charges_nothing(engine: QuotaEngine) -> None:
    engine.issue_grant("user:1", "text_token", 100)
    hold = engine.place_hold("user:1", "text_token", 60, operation_id="h1")
    assert engine.release_hold(hold, usage=USAGE).amount == 60
    assert engine.release_hold(hold).replayed
    engine.drain()
    assert recorded(engine) == [("h1:release", 0)]
    assert engine.read_balance("user:1", "text_token").spendable == 100
    assert engine.reconcile().is_clean


def test_an_unbilled_call_is_recorded_once_even_for_an_unknown_account(
    engine: QuotaEngine,
) -> None:
    first = engine.record_usage("nobody", "text_token", USAGE, operation_id="op1")
    again = engine.record_usage("nobody", "text_token", USAGE, operation_id="op1")
    assert (first.version, again.version, again.replayed) == (1, 1, True)
    with pytest.raises(IdempotencyConflictError):
        engine.record_usage("nobody", "text_token", Usage(), operation_id="op1")
    engine.drain()
    assert recorded(engine) == [("op1", 0)]
    assert [entry.kind for entry in engine.history("nobody", "text_token")] == ["usage.recorded"]
