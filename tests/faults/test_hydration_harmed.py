"""
Quotas are loaded while others change them, and by everybody at once; promises are kept meanwhile.

Goal: no stale snapshot is ever loaded, no promise is kept twice, and PostgreSQL is asked by a few
at once. Method: readers that are held up between the ledger and Redis, under load.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import QuotaEngine
from quota_engine.jobs.intents import Kept, apply_intents
from quota_engine.jobs.schedule import Scheduler
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from tests.faults.history import Window
from tests.faults.rare import RARE
from tests.faults.world import HOT, SHARDS, World
from tests.faults.writers import QUOTA_TYPE, debit, issue_grant

HYDRATIONS_MAX = 4
ACCOUNTS, CALLERS = 400, 64


class SlowReader:
    """Holds up what one engine reads of the ledger on its way to Redis."""

    def __init__(self, engine: QuotaEngine) -> None:
        self.has_read, self.may_go_on = threading.Event(), threading.Event()
        self._read = engine.deployment.read_snapshot
        engine.deployment.read_snapshot = self._slowly  # type: ignore[method-assign]

    def _slowly(self, quota: QuotaName) -> Any:
        snapshot = self._read(quota)
        self.has_read.set()
        assert self.may_go_on.wait(60)
        return snapshot


@pytest.mark.row(
    54,
    injection="hydrators are held up after reading the ledger; the quota is loaded by others,"
    " changed, persisted or not, deleted, and so on",
    outcome="what they have read is refused: no version twice, nothing comes back",
)
@pytest.mark.parametrize(
    "is_drained", [RARE(True, id="persisted"), pytest.param(False, id="not persisted")]
)
def test_an_overtaken_hydration_brings_nothing_back(world: World, is_drained: bool) -> None:
    met = 0
    with world.writing() as writers:
        writers.wait_for(60)
        for turn in range(6):
            account = HOT[turn % 3]
            keys = ShardKeys(shard_of(account, SHARDS))
            key = keys.quota(str(QuotaName(account, QUOTA_TYPE)))
            engine = world.open_engine(call_timeout_seconds=60.0)
            slow = SlowReader(engine)
            with ThreadPoolExecutor(1) as pool:
                with world.fault():
                    world.admin.delete(key)
                answer = pool.submit(world.ask, debit(account, f"slow-{turn}", 3), engine=engine)
                while not slow.has_read.wait(0.005):  # others load it, too: it is busy
                    if answer.done():
                        break
                    world.admin.delete(key)
                writers.wait_for(30)
                if is_drained:
                    world.drain()
                world.admin.delete(key)
                slow.may_go_on.set()
                assert answer.result(60) is not None
            met += slow.has_read.is_set()
        writers.wait_for(40)
    assert met >= 3
    world.check(writers=[writers])


@pytest.mark.fault_slow
@pytest.mark.row(
    55,
    injection="FLUSHALL, then 64 callers ask for 400 quotas at once, three times",
    outcome="PostgreSQL is asked by `hydrations_max` of a process at once; every call is answered",
)
def test_when_everybody_hydrates_at_once_few_ask_postgresql(world: World) -> None:
    engine = world.open_engine(hydrations_max=HYDRATIONS_MAX, call_timeout_seconds=20.0)
    names = [f"many:{number}" for number in range(ACCOUNTS)]
    for name in names:
        world.ask(issue_grant(name, f"{name}-first", 1_000))
    windows: list[Window] = []
    at_once = most = 0
    lock = threading.Lock()
    read = engine.deployment.ledger.read_snapshot

    def counted(*given: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return read(*given)
        finally:
            with lock:
                at_once -= 1

    engine.deployment.ledger.read_snapshot = counted  # type: ignore[method-assign]
    with world.writing() as writers:
        for turn in range(3):
            writers.wait_for(30)
            since = world.drain()
            writers.wait_for(20)
            with world.fault():
                world.admin.flushall()
            until = time.monotonic()
            with ThreadPoolExecutor(CALLERS) as pool:
                calls = [debit(name, f"storm-{turn}", 1) for name in names]
                answers = list(pool.map(lambda one: world.ask(one, engine=engine), calls))
            assert all(answer is not None for answer in answers)
            windows.append(Window(since, until))
        writers.wait_for(30)
    assert 1 < most <= HYDRATIONS_MAX
    world.check(writers=[writers], may_lose=Window(windows[0].since, windows[-1].until))


@pytest.mark.fault_slow
@pytest.mark.row(
    53,
    injection="grants' entries wait, the shards' rows are locked: two schedulers keep promises",
    outcome="they wait for the drain, and then find them kept; each grant is there once",
)
def test_a_promise_whose_entry_waits_is_not_kept_again(world: World) -> None:
    schedulers = [world.open_engine(call_timeout_seconds=2.0) for _ in range(2)]
    promised = [(account, f"promise-{account}") for account in HOT]
    ledger = world.engine.deployment.ledger
    with world.writing() as writers:
        writers.wait_for(40)
        with ledger.transaction() as sql:
            sql.execute(text("SELECT FROM shards FOR UPDATE"))
            for account, grant_id in promised:
                world.ask(issue_grant(account, grant_id, 50))
            with world.fault(), ThreadPoolExecutor(2) as pool:
                for kept in pool.map(keep_promises, schedulers):
                    assert kept.wait >= len(promised)
                    assert kept.kept == 0
            writers.wait_for(30)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(keep_promises, schedulers))
        writers.wait_for(30)
    world.check(writers=[writers])
    with ledger.transaction() as sql:
        found = sql.execute(
            text(
                "SELECT operation_id, count(*) AS times FROM ledger_entries"
                " WHERE operation_id LIKE 'promise-%' GROUP BY 1"
            )
        )
        times = {row.operation_id: row.times for row in found}
    assert times == {grant_id: 1 for _, grant_id in promised}


def keep_promises(engine: QuotaEngine) -> Kept:
    """Keep all promises that are open now, however young."""
    transport = Scheduler(engine.deployment).transport
    return apply_intents(engine.deployment, transport, timedelta(0))
