"""
Who takes a payment or gives a purchase back dies on the way: each happens once in the end.

Method: a process of its own kills itself at a step; then the schedule runs in two engines at once,
and the shop's callback comes again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quota_engine import QuotaEngine
from quota_engine.jobs.verify import verify
from tests.faults.rare import RARE
from tests.programs import killed

pytestmark = pytest.mark.fault

ACCOUNT, TYPE, ORDER = "user:42", "text_token", "order-1"
PACK: dict[str, Any] = {"quota_type": TYPE, "amount": 100, "price": "9.90"}

SHOP = """
import os, signal, sys
from quota_engine import QuotaEngine

what, step, redis_url, database_url = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def die_after(method):
    def call(*args, **kwargs):
        method(*args, **kwargs)
        die()
    return call

engine = QuotaEngine.open(redis_url, database_url)
store, transport = engine.deployment.sale_store, engine._transport
if step == "before":
    store.pay = store.begin_refund = die
elif step == "recorded":
    store.pay, store.begin_refund = die_after(store.pay), die_after(store.begin_refund)
elif step == "one of two":
    transport.drive = die_after(transport.drive)
elif step == "before the end":
    store.close_order = die
if what == "purchase":
    engine.purchase("user:42", ["small", "large"], "order-1")
else:
    engine.refund_purchase("order-1", actor="shop", reason="never used")
die()
"""


def run_schedules(*engines: QuotaEngine) -> None:
    """Let the schedule run in several engines at once, as two workers would."""
    with ThreadPoolExecutor(len(engines)) as threads:
        list(threads.map(lambda one: one.run_schedule(), engines))


@pytest.mark.parametrize("step", [RARE("before"), "recorded", "one of two", RARE("done")])
def test_a_payment_is_granted_once_whoever_dies(
    redis_url: str, database_url: str, step: str
) -> None:
    with (
        QuotaEngine.open(redis_url, database_url) as engine,
        QuotaEngine.open(redis_url, database_url) as other,
    ):
        engine.packages.define("small", **PACK)
        engine.packages.define("large", **{**PACK, "amount": 900})
        killed(SHOP, "purchase", step, redis_url, database_url)
        run_schedules(engine, other)
        paid = 0 if step == "before" else 1_000
        assert engine.read_balance(ACCOUNT, TYPE).balance == paid
        again = engine.purchase(ACCOUNT, ["small", "large"], ORDER)
        assert again.replayed == (step != "before")
        assert engine.read_balance(ACCOUNT, TYPE).balance == 1_000
        engine.drain()
        assert list(verify(engine.deployment.ledger)) == []


@pytest.mark.parametrize(
    "step", [RARE("before"), "recorded", "one of two", RARE("before the end"), RARE("done")]
)
def test_a_purchase_is_given_back_once_whoever_dies(
    redis_url: str, database_url: str, step: str
) -> None:
    with (
        QuotaEngine.open(redis_url, database_url) as engine,
        QuotaEngine.open(redis_url, database_url) as other,
    ):
        engine.packages.define("small", **PACK)
        engine.packages.define("large", **{**PACK, "amount": 900})
        engine.purchase(ACCOUNT, ["small", "large"], ORDER)
        engine.debit(ACCOUNT, TYPE, 30)
        killed(SHOP, "refund", step, redis_url, database_url)
        run_schedules(engine, other)
        is_done = step != "before"
        assert engine.find_order(ORDER).state == ("refunded" if is_done else "paid")
        assert engine.read_balance(ACCOUNT, TYPE).balance == (0 if is_done else 970)
        refunded = engine.refund_purchase(ORDER, actor="ann", reason="asked later")
        assert refunded.replayed == is_done
        assert [(line.voided, line.used) for line in refunded.lines] == [(70, 30), (900, 0)]
        assert engine.read_balance(ACCOUNT, TYPE).balance == 0
        assert engine.find_order(ORDER).state == "refunded"
        engine.drain()
        voided = [one for one in engine.history(ACCOUNT, TYPE) if one.kind == "grant.voided"]
        by = ("shop", "never used") if is_done else ("ann", "asked later")
        assert [(one.details["actor"], one.details["reason"]) for one in voided] == [by, by]
        assert list(verify(engine.deployment.ledger)) == []
