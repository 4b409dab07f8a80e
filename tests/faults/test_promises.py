"""
Who issues or gives back quota dies on the way: it is done once, by whoever comes next.

Goal: one effect for each promise. Method: a process of its own is killed at a step; two schedulers
keep its promise at once, beside clients under load, and then somebody asks for the same again.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.rare import RARE
from tests.faults.world import HOT, World
from tests.faults.writers import debit, issue_grant, refund
from tests.programs import killed

#: Issues a grant or gives back a charge, and dies: before its promise, after it, or when done.
MAKER = """
import os, signal, sys
from quota_engine import QuotaEngine

step, what, account, name, redis_url, database_url = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def after(method):
    def promise(*args):
        method(*args)
        die()
    return promise

engine = QuotaEngine.open(redis_url, database_url, shards=2)
deployment = engine.deployment
if step == "before_promise":
    deployment.record_intent = deployment.record_refunds = die
elif step == "after_promise":
    deployment.record_intent = after(deployment.record_intent)
    deployment.record_refunds = after(deployment.record_refunds)
if what == "grant":
    engine.issue_grant(account, "text_token", 70, grant_id=name, source="purchase")
else:
    engine.refund(account, "text_token", f"{name}-charge", 70, name)
die()
"""


@pytest.mark.row(
    52,
    injection="SIGKILL of who issues a grant or refunds: before the promise, after it, when done",
    outcome="two schedulers at once make up for it, one effect; asked again, it is replayed",
)
@pytest.mark.parametrize("what", ["grant", RARE("refund")])
def test_a_maker_who_dies_is_made_up_for_once(world: World, what: str) -> None:
    steps = ("before_promise", "after_promise", "done")
    for step in steps:
        world.ask(debit(HOT[0], f"{step}-charge", 100))
    began = time.monotonic()
    with world.writing(count=4) as writers:
        writers.wait_for(40)
        with world.fault():
            for step in steps:
                killed(MAKER, step, what, HOT[0], step, world.url, world.database_url)
        schedulers = [world.open_engine() for _ in range(2)]
        with ThreadPoolExecutor(2) as threads:
            told = list(threads.map(lambda engine: engine.run_schedule(), schedulers))
        writers.wait_for(40)
    assert any(not one["intents"].startswith("0 promises kept") for one in told)
    for step in steps:
        asked = (
            issue_grant(HOT[0], step, 70)
            if what == "grant"
            else refund(HOT[0], f"{step}-charge", step, 70)
        )
        answer = world.ask(asked)
        asked[0].started = began  # who died had asked for it first
        assert answer.replayed == (step != "before_promise")
    kinds = {"grant": "grant.issued", "refund": "quota.refunded"}
    entries = world.engine.history(HOT[0], "text_token")
    made = [one.operation_id for one in entries if one.kind == kinds[what]]
    assert [made.count(step) for step in steps] == [1, 1, 1]
    world.check(writers=[writers])
