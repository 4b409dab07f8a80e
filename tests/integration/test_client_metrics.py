"""
Every call of an engine is counted once, by what its caller was told.

Goal: the counts of both engines are those of a caller who counts. Method: each outcome is brought
about on real servers, while Redis is away too; the async engine's renewing thread shares them.
"""

from __future__ import annotations

import os

import pytest

from quota_engine import QuotaEngine, errors
from quota_engine.metrics.collector import Metrics
from quota_engine.metrics.prometheus import EngineCollector, exposed
from tests.engines import Engines
from tests.spools import OPEN, Away
from tests.unit.test_metrics import key, read

ACCOUNT, TYPE = "user:42", "text_token"


async def test_each_outcome_is_counted_once(call: Engines) -> None:
    await call("issue_grant", ACCOUNT, TYPE, 100)
    hold = await call("place_hold", ACCOUNT, TYPE, 10)
    await call("capture_hold", hold, 4)
    await call("capture_hold", hold, 4)
    await call("debit", ACCOUNT, TYPE, 1, operation_id="op-1")
    await call("debit", ACCOUNT, TYPE, 1, operation_id="op-1")
    with pytest.raises(errors.IdempotencyConflictError):
        await call("debit", ACCOUNT, TYPE, 2, operation_id="op-1")
    with pytest.raises(errors.QuotaInsufficientError):
        await call("debit", ACCOUNT, TYPE, 1_000)
    await call("debit", ACCOUNT, TYPE, 100, already_used=True)
    assert not await call("has_quota", ACCOUNT, TYPE, 1)
    found = read(exposed(EngineCollector(call.engine)))
    name, _ = key("calls_total")
    counted = {
        tuple(dict(labels)[label] for label in ("operation", "outcome", "reason")): value
        for (metric, labels), value in found.items()
        if metric == name and value
    }
    assert counted == {
        ("issue_grant", "admitted", "new"): 1,
        ("place_hold", "admitted", "new"): 1,
        ("capture_hold", "admitted", "new"): 1,
        ("capture_hold", "admitted", "replayed"): 1,
        ("debit", "admitted", "new"): 1,
        ("debit", "admitted", "replayed"): 1,
        ("debit", "refused", "conflict"): 1,
        ("debit", "refused", "insufficient"): 1,
        ("debit_used", "admitted", "new"): 1,
        ("has_quota", "admitted", "new"): 1,
    }
    assert found[key("shortfall_units_total", quota_type=TYPE)] == 5
    assert found[key("call_seconds_count", operation="debit")] == 4
    assert found[key("resent_total", outcome="restored")] == 0


async def test_while_redis_is_away_a_call_counts_as_what_its_caller_was_told(away: Away) -> None:
    async with away.engine() as call:
        metrics: Metrics = call.engine.metrics
        await call("issue_grant", ACCOUNT, TYPE, 100)
        hold = await call("place_hold", ACCOUNT, TYPE, 10)
        away.server.kill()
        with pytest.raises(errors.EngineUnavailableError):
            await call("place_hold", ACCOUNT, TYPE, 10)
        captured = await call("capture_hold", hold, 4)
        assert captured.spooled
        assert metrics.calls("place_hold", "failed", "unavailable") == 1
        assert metrics.calls("capture_hold", "admitted", "spooled") == 1
        assert metrics.calls("capture_hold", "failed", "unavailable") == 0


async def test_what_is_admitted_while_redis_is_away_counts_as_such(away: Away) -> None:
    async with away.engine(**OPEN) as call:
        metrics: Metrics = call.engine.metrics
        away.server.kill()
        await call("place_hold", ACCOUNT, TYPE, 10)
        await call("debit", ACCOUNT, TYPE, 10)
        assert metrics.calls("place_hold", "admitted", "offline") == 1
        assert metrics.calls("debit", "admitted", "spooled") == 1


def test_a_forked_child_counts_its_own_calls(redis_url: str, database_url: str) -> None:
    with QuotaEngine.open(redis_url, database_url) as engine:
        engine.issue_grant(ACCOUNT, TYPE, 100)
        child = os.fork()
        if child == 0:
            is_new = engine.metrics.calls("issue_grant") == 0
            engine.debit(ACCOUNT, TYPE, 1)
            os._exit(0 if is_new and engine.metrics.calls("debit") == 1 else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert engine.metrics.calls("issue_grant") == 1
        assert engine.metrics.calls("debit") == 0
