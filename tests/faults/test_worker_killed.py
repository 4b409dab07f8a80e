"""
A worker that dies at any step of persisting and trimming loses nothing and does nothing twice.

Goal: each entry is in the ledger once. Method: the worker as an operator starts it, made to kill
itself with SIGKILL at a named step; then somebody drains the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from quota_engine import QuotaEngine
from quota_engine.jobs import crash_points
from quota_engine.jobs.trim import trim
from quota_engine.outbox import Outbox
from tests.faults.rare import RARE
from tests.workers import QUOTA_TYPE, Clients, Worker, persisted, wait_until

pytestmark = pytest.mark.fault

DEBITS = 60
#: These are reached by the keeper, which trims; the others by the RQ worker that it keeps.
KEEPERS = {"before_trim", "mid_trim"}


@pytest.fixture
def environment(redis_url: str, database_url: str) -> dict[str, str]:
    return {
        "QUOTA_ENGINE_REDIS_URL": redis_url,
        "QUOTA_ENGINE_DATABASE_URL": database_url,
        "QUOTA_ENGINE_SHARDS": "2",
        "QUOTA_ENGINE_TRIM_AFTER_SECONDS": "0",
        "QUOTA_ENGINE_PERSIST_BATCH_MAX": "10",
    }


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=2) as opened:
        yield opened


@pytest.mark.row(
    37,
    injection="a worker kills itself at a step; somebody drains the rest",
    outcome="each entry is in the ledger once",
)
@pytest.mark.parametrize(
    "crash_point", ["before_commit", *map(RARE, sorted(crash_points.NAMES - {"before_commit"}))]
)
def test_a_worker_killed_at_any_step_loses_and_doubles_nothing(
    engine: QuotaEngine, environment: dict[str, str], tmp_path: Path, crash_point: str
) -> None:
    clients = Clients(engine)
    for number in range(DEBITS):
        engine.debit(f"user:{number % 6}", QUOTA_TYPE, 1, operation_id=f"debit-{number}")
    clients.done = DEBITS

    crashing = {**environment, crash_points.VARIABLE: crash_point}
    with Worker(crashing, tmp_path / "crashing.log") as worker:
        wait_until(
            lambda: worker.process.poll() is not None or "ended with -9" in worker.said(),
            "a process has died",
        )
        if crash_point in KEEPERS:
            assert worker.process.wait(20) == -9
    if crash_point == "after_commit":
        assert persisted(engine) > 0

    clients.check()  # drains what is left
    for shard in range(2):
        trim(
            *(engine.deployment.client, engine.deployment.ledger, shard),
            trim_after=timedelta(0),
            keep_max=0,
        )
        assert Outbox(engine.deployment.client, shard).first_id() is None
