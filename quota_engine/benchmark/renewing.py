"""
How long several schedulers need for many subscriptions whose period ends at one instant.

    python -m quota_engine.benchmark.renewing 10000 5

Nobody has looked ahead, so all are due at once: what a scheduler that was down finds. Grants
that a busy scheduler has only promised are made by the duty ``intents``, and counted apart. It
is checked afterwards that each subscription has its new period's grant, once.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from quota_engine._sync.transport import Transport
from quota_engine.benchmark.servers import TYPE, Lab
from quota_engine.deployment import Deployment
from quota_engine.engine import QuotaEngine
from quota_engine.jobs.intents import apply_intents
from quota_engine.jobs.renewal import renew
from quota_engine.settings import Settings

BEGIN, EDGE = datetime(2026, 1, 31, tzinfo=UTC), datetime(2026, 2, 28, tzinfo=UTC)
AMOUNT = 100
COPIES = (
    text("""
INSERT INTO subscriptions (subscription_id, account, time_zone, state, phases, starts_at, revision,
    period, due_at, fingerprint)
SELECT 'sub-' || n, 'user:' || n, time_zone, state, phases, starts_at, revision, period, due_at,
    fingerprint FROM subscriptions, generate_series(1, :last) AS n
"""),
    text("""
INSERT INTO subscription_grants (subscription_id, grant_id, account, quota_type, kind, period,
    amount, priority, starts_at, ends_at, plan, version, state)
SELECT 'sub-' || n, replace(grant_id, 'sub-0', 'sub-' || n), 'user:' || n, quota_type, kind,
    period, amount, priority, starts_at, ends_at, plan, version, state
FROM subscription_grants, generate_series(1, :last) AS n
"""),
)
CHECK = text("""
SELECT count(DISTINCT operation_id) AS grants, count(*) AS entries,
    count(DISTINCT account) AS accounts, count(duplicate_of) AS duplicates
FROM ledger_entries WHERE kind = 'grant.issued' AND operation_id LIKE :ids
""")


def _at_the_edge() -> datetime:
    return EDGE


def _schedule(urls: dict[str, Any], pipe: Any) -> None:
    """Be one scheduler: say when ready, renew what is due, say how much that was."""
    deployment = Deployment(Settings(**urls))
    transport = Transport(deployment.redis_url, deployment, deployment.settings, _at_the_edge)
    _ = deployment.opened
    pipe.send(0)
    pipe.recv()
    count = 0
    while looked_at := renew(deployment, transport, EDGE).looked_at:
        count += looked_at
    pipe.send(count)
    transport.close()
    deployment.close()


def measure_renewal(subscriptions: int, schedulers: int) -> float:
    """Return the seconds that it took; raise ``AssertionError`` unless each was renewed once."""
    lab = Lab()
    try:
        with lab.deployment() as deployment:
            urls = {"redis_url": deployment.redis_url, "database_url": deployment.database_url}
            _subscribe(urls, subscriptions)
            seconds, counts = _renewed(urls, schedulers)
            left = _kept_later(deployment)
            while deployment.drain():
                pass
            with deployment.ledger.transaction() as connection:
                found = connection.execute(CHECK, {"ids": f"%:1:{TYPE}"}).one()
        assert tuple(found) == (subscriptions, subscriptions, subscriptions, 0), tuple(found)
        assert sum(counts) == subscriptions, counts
    finally:
        lab.close()
    shares = ", ".join(map(str, counts))
    print(
        f"{subscriptions} subscriptions, {schedulers} schedulers ({shares}): {seconds:.1f} s;"
        f" {left} grants were made by the duty intents"
    )
    return seconds


def _subscribe(urls: dict[str, Any], subscriptions: int) -> None:
    """Subscribe one account, and copy its rows for the others: idle ones, not loaded in Redis."""
    with QuotaEngine.open(**urls, clock=lambda: BEGIN) as engine:
        engine.plans.define("pro", period="month", amounts={TYPE: AMOUNT})
        engine.subscribe("user:0", "pro", subscription_id="sub-0")
        with engine.deployment.ledger.transaction() as connection:
            for copy in COPIES:
                connection.execute(copy, {"last": subscriptions - 1})


def _renewed(urls: dict[str, Any], schedulers: int) -> tuple[float, list[int]]:
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(schedulers):
        ours, theirs = context.Pipe()
        process = context.Process(target=_schedule, args=(urls, theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    started = time.perf_counter()
    for pipe in pipes:
        pipe.send(None)
    counts = [pipe.recv() for pipe in pipes]
    seconds = time.perf_counter() - started
    for process in processes:
        process.join()
    return seconds, counts


def _kept_later(deployment: Deployment) -> int:
    """Make what was promised and not made in time; return how many grants those were."""
    transport = Transport(deployment.redis_url, deployment, deployment.settings, _at_the_edge)
    while deployment.drain():  # a promise is open until the ledger knows that it was kept
        pass
    left = 0
    while kept := apply_intents(deployment, transport, timedelta(0)).kept:
        left += kept
    transport.close()
    return left


if __name__ == "__main__":
    measure_renewal(*map(int, sys.argv[1:3] or (10_000, 5)))
