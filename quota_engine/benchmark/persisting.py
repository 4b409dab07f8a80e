"""
Persisting: how fast entries reach the ledger, and how long each takes to, while calls run.

One shard and one persister, which goes from batch to batch as a worker's drain does. The lag of an
entry is the time from its decision in Redis to the commit that holds it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from statistics import quantiles

import sqlalchemy

from quota_engine.benchmark.callers import DEBIT, ENGINE, SPREAD, Processes, Work
from quota_engine.benchmark.figures import Figure, Section, figure_of
from quota_engine.benchmark.plan import Plan
from quota_engine.benchmark.rates import place_of
from quota_engine.benchmark.row_lock import make_tables
from quota_engine.benchmark.server_time import DETAILS, Tick
from quota_engine.benchmark.servers import TYPE, Lab, account_names, fill_accounts, send_all
from quota_engine.commands import Debit
from quota_engine.deployment import Deployment
from quota_engine.events import EventId
from quota_engine.ids import new_id
from quota_engine.jobs.persist import persist_batch
from quota_engine.keys import QuotaName

SHARD = 0
DRAINS = 3
#: The pause of a persister that found nothing.
PAUSE_SECONDS = 0.005
PERSISTED = sqlalchemy.text("SELECT event_id, at_ms FROM ledger_entries WHERE at_ms >= :since")


def measure_persisting(lab: Lab, plan: Plan, tick: Tick) -> Section:
    """Return the rate of a drain without calls, and rate and lag with calls beside it."""
    with lab.deployment(shards=1) as deployment:
        fill_accounts(deployment, account_names(plan.accounts))
        make_tables(place_of(deployment, plan).conninfo, (), 0)
        deployment.drain()
        rates = []
        for _ in range(DRAINS):
            tick("a drain")
            send_all(deployment, _debits(plan))
            started = time.perf_counter()
            rates.append(deployment.drain() / (time.perf_counter() - started))
        figures = [figure_of("a drain, no calls beside it", "entries/s", rates)]
        tick("persisting while calls run")
        figures += _beside_calls(deployment, plan)
    note = f"one persister of one shard; {plan.accounts:,} accounts; lag: from decision to commit"
    return Section(title="Persisting", note=note, base=None, figures=tuple(figures))


def _debits(plan: Plan) -> Iterator[Debit]:
    names = [QuotaName(account, TYPE) for account in account_names(plan.accounts)]
    for number in range(plan.persist_entries // DRAINS):
        quota = names[number % len(names)]
        yield Debit(quota=quota, operation_id=new_id("op"), amount=3, details=DETAILS)


def _beside_calls(deployment: Deployment, plan: Plan) -> list[Figure]:
    """Debit from another process as fast as it can, and persist here."""
    callers = Processes(place_of(deployment, plan), 1)
    cursors: list[EventId] = []
    instants: list[float] = []
    since_ms = time.time() * 1000
    started = time.perf_counter()
    until = started + plan.persist_seconds
    callers.start(Work(ENGINE, DEBIT, SPREAD), plan.persist_seconds)
    persisted = 0
    while True:
        outcome = persist_batch(
            deployment.client,
            deployment.ledger,
            SHARD,
            batch_max=deployment.settings.persist_batch_max,
        )
        if outcome.events:
            cursors.append(outcome.cursor)
            instants.append(time.time() * 1000)
            persisted += outcome.events
        elif time.perf_counter() >= until:
            break
        else:
            time.sleep(PAUSE_SECONDS)
    seconds = time.perf_counter() - started
    called = sum(callers.rates())
    callers.close()
    lags = _lags(deployment, since_ms, cursors, instants)
    places = quantiles(lags, n=100)
    return [
        figure_of("persisted while one process debits", "entries/s", [persisted / seconds]),
        figure_of("debits of that process meanwhile", "calls/s", [called]),
        figure_of("lag, median", "ms", [places[49]]),
        figure_of("lag, 99 of 100 are below", "ms", [places[98]]),
        figure_of("lag, the longest", "ms", [max(lags)]),
    ]


def _lags(
    deployment: Deployment, since_ms: float, cursors: list[EventId], instants: list[float]
) -> list[float]:
    """Return how long each entry took, by when the batch that moved the cursor over it ended."""
    with deployment.ledger.transaction() as connection:
        rows = connection.execute(PERSISTED, {"since": since_ms}).all()
    lags = []
    for event_id, at_ms in rows:
        batch = bisect_left(cursors, EventId.parse(event_id))
        lags.append(instants[batch] - at_ms)
    return lags
