"""
Who subscribes, changes a plan or renews is killed between two steps: it is done once all the same.

Goal: one effect for each promise, no unit more or less. Method: a process of its own is killed
before or after a transaction; two schedulers go on at once, and then somebody asks for the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from quota_engine import QuotaEngine
from quota_engine.jobs.verify import verify
from tests.engines import NOON, TestClock
from tests.programs import killed

#: Does something to a subscription, and dies before or after a transaction of its store.
MAKER = """
import os, signal, sys
from datetime import datetime
from quota_engine import QuotaEngine

when, method, what, name, now, redis_url, database_url = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

engine = QuotaEngine.open(redis_url, database_url, clock=lambda: datetime.fromisoformat(now))
store = engine.deployment.plan_store
kept = getattr(store, method)

def killing(*args, **kwargs):
    if when == "after":
        kept(*args, **kwargs)
    die()

setattr(store, method, killing)
if what == "subscribe":
    engine.subscribe(f"user:{name}", "pro", subscription_id=name)
elif what == "change":
    engine.change_subscription(name, "small", operation_id="change")
else:
    engine.run_schedule()
"""
PRO: dict[str, Any] = {
    "period": "month",
    "amounts": {"text_token": 100, "image": 10},
    "rollover": {"text_token": {"max": 50, "periods": 1}},
}
SMALL: dict[str, Any] = {"period": "month", "amounts": {"text_token": 60, "image": 4}}
STEPS = {
    "subscribe": ["before subscribe", "after subscribe"],
    "change": [
        *("before act", "after act", "before note_voided", "after note_voided"),
        *("before renew", "after renew"),
    ],
    "renew": ["before renew_due", "after renew_due", "before settle", "after settle"],
}


class Town:
    """Engines by one clock, and a process that dies."""

    def __init__(self, redis_url: str, database_url: str, clock: TestClock) -> None:
        self.urls, self.clock = (redis_url, database_url), clock
        self.engines = [QuotaEngine.open(*self.urls, clock=clock) for _ in range(2)]
        self.engine = self.engines[0]
        self.engine.plans.define("pro", **PRO)
        self.engine.plans.define("small", **SMALL)

    def kill(self, step: str, what: str, name: str = "") -> None:
        """Let a process die at a step."""
        told = (*step.split(), what, name, self.clock.now.isoformat(), *self.urls)
        killed(MAKER, *told)

    def go_on(self) -> None:
        """Let two schedulers at once do what is due."""
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda engine: engine.run_schedule(), self.engines))
        self.engine.run_schedule()  # what one of them had in hand

    def issued(self, account: str, quota_type: str = "text_token") -> list[str]:
        entries = self.engine.history(account, quota_type)
        return [one.operation_id for one in entries if one.kind == "grant.issued"]

    def balance(self, account: str, quota_type: str = "text_token") -> int:
        return self.engine.read_balance(account, quota_type).balance


@pytest.fixture
def town(redis_url: str, database_url: str) -> Iterator[Town]:
    made = Town(redis_url, database_url, TestClock(NOON))
    yield made
    made.engine.drain()
    assert list(verify(made.engine.deployment.ledger)) == []
    assert made.engine.reconcile().drifts == ()
    for engine in made.engines:
        engine.close()


@pytest.mark.fault_slow
@pytest.mark.row(
    52,
    injection="SIGKILL of who subscribes, before and after it is recorded",
    outcome="two schedulers at once make up for it, one effect; asked again, it is replayed",
)
def test_who_subscribes_dies(town: Town) -> None:
    for number, step in enumerate(STEPS["subscribe"]):
        name = f"sub-{number}"
        town.kill(step, "subscribe", name)
        if step.startswith("after"):
            assert town.balance(f"user:{name}") == 0
            town.go_on()
            assert town.balance(f"user:{name}") == 100
        again = town.engine.subscribe(f"user:{name}", "pro", subscription_id=name)
        assert again.replayed == step.startswith("after")
        town.go_on()
        assert town.issued(f"user:{name}") == [f"{name}:0:text_token"]
        assert town.issued(f"user:{name}", "image") == [f"{name}:0:image"]


@pytest.mark.row(
    52,
    injection="SIGKILL of who changes a plan, between any two of its steps",
    outcome="two schedulers at once make up for it, one effect; asked again, it is replayed",
)
def test_who_changes_a_plan_dies(town: Town) -> None:
    for number, step in enumerate(STEPS["change"]):
        name, account = f"sub-{number}", f"user:sub-{number}"
        town.engine.subscribe(account, "pro", subscription_id=name)
        town.engine.debit(account, "text_token", 30)
        town.kill(step, "change", name)
        town.go_on()
        if step != "before act":
            assert (town.balance(account), town.balance(account, "image")) == (30, 4), step
        again = town.engine.change_subscription(name, "small", operation_id="change")
        assert again.replayed == (step != "before act")
        assert (town.balance(account), town.balance(account, "image")) == (30, 4), step
        town.go_on()
        assert town.issued(account) == [f"{name}:0:text_token", f"{name}:0:text_token:1"]
        assert [one.verb for one in town.engine.subscription_history(name)] == [
            "subscribe",
            "change",
        ]


@pytest.mark.row(
    52,
    injection="SIGKILL of who renews or rolls over, before and after each transaction",
    outcome="two schedulers at once make up for it, one effect; asked again, it is replayed",
)
def test_a_scheduler_that_renews_dies(town: Town) -> None:
    town.engine.subscribe("user:1", "pro", subscription_id="sub-1")
    expected = ["sub-1:0:text_token"]
    for number, step in enumerate(STEPS["renew"], start=1):
        town.engine.debit("user:1", "text_token", 30)
        found = town.engine.find_subscription("sub-1")
        assert found.period_ends_at is not None
        edge: datetime = found.period_ends_at
        if "settle" in step:  # the next grant is there already, its rest is not
            town.clock.now = edge - timedelta(days=1)
            town.go_on()
        town.clock.now = edge
        town.kill(step, "renew")
        town.go_on()
        assert town.balance("user:1") == 150, step
        expected += [f"sub-1:{number}:text_token", f"sub-1:{number - 1}:text_token:rollover"]
    assert sorted(town.issued("user:1")) == sorted(expected)
