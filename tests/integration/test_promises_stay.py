"""
What was promised stays promised: neither a repeat in a bad moment nor a clock that goes back
takes it away, or gives it twice.

Worth: a repeat of a payment while its account was frozen took the promise of its grant away.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from quota_engine import QuotaFrozenError
from quota_engine.keys import QuotaName
from tests.engines import Engines, TestClock
from tests.subscribers import ACCOUNT, TOKENS, Subscriber

pytestmark = pytest.mark.anyio

QUOTA = QuotaName(ACCOUNT, TOKENS)


@pytest.fixture
async def user(timed: Engines, clock: TestClock) -> Subscriber:
    return Subscriber(timed, clock)


async def freeze(user: Subscriber, reason: str = "in doubt") -> None:
    """Freeze the account, or with an empty reason mend it."""
    await user.call("issue_grant", ACCOUNT, TOKENS, 1, grant_id="first")
    user.call.engine.deployment.freeze(QUOTA, reason)


async def mend(user: Subscriber) -> None:
    user.call.engine.deployment.freeze(QUOTA, "")
    await user.schedule()


async def test_a_payment_repeated_while_frozen_is_granted_later(user: Subscriber) -> None:
    terms: dict[str, Any] = {"quota_type": TOKENS, "amount": 100, "price": 1}
    made = user.call.engine.packages.define("starter", **terms)
    if inspect.isawaitable(made):
        await made
    await freeze(user)
    for _ in range(3):
        with pytest.raises(QuotaFrozenError):
            await user.call("purchase", ACCOUNT, "starter", "order-1")
    await mend(user)
    assert await user.balance() == 101
    user.call.engine.deployment.freeze(QUOTA, "in doubt")
    with pytest.raises(QuotaFrozenError):
        await user.call("refund_purchase", "order-1")
    await mend(user)
    assert await user.balance() == 1, "it was begun, and the schedule finishes it"


async def test_a_subscription_repeated_while_frozen_is_granted_later(user: Subscriber) -> None:
    await user.define()
    await freeze(user)
    for _ in range(3):
        with pytest.raises(QuotaFrozenError):
            await user.subscribe()
    await mend(user)
    assert await user.balance() == 101


async def test_a_change_while_frozen_takes_nothing_from_the_next_plan(user: Subscriber) -> None:
    await user.define()
    await user.define("small", amounts={TOKENS: 50})
    await freeze(user)
    with pytest.raises(QuotaFrozenError):
        await user.subscribe()
    for _ in range(3):
        with pytest.raises(QuotaFrozenError):
            await user.do("change", "small", operation_id="change-1")
    await mend(user)
    assert await user.balance() == 51


async def test_what_waits_does_not_hold_up_what_comes_behind_it(
    user: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quota_engine.jobs.refunded_orders.PAGE", 1)
    monkeypatch.setattr("quota_engine.jobs.renewal.PAGE", 1)
    terms: dict[str, Any] = {"quota_type": TOKENS, "amount": 100, "price": 1}
    made = user.call.engine.packages.define("starter", **terms)
    if inspect.isawaitable(made):
        await made
    await user.define()
    await user.define("small", amounts={TOKENS: 50})
    accounts = ["user-1", "user-2", "user-3"]
    for account in accounts:
        await user.call("purchase", account, "starter", f"order-of-{account}")
        await user.call("subscribe", account, "pro", subscription_id=f"plan-of-{account}")
        user.call.engine.deployment.freeze(QuotaName(account, TOKENS), "in doubt")
        with pytest.raises(QuotaFrozenError):
            await user.call("refund_purchase", f"order-of-{account}")
        with pytest.raises(QuotaFrozenError):
            await user.call("change_subscription", f"plan-of-{account}", "small")
    user.call.engine.deployment.freeze(QuotaName("user-3", TOKENS), "")
    await user.schedule()
    balances = [(await user.call("read_balance", one, TOKENS)).balance for one in accounts]
    assert balances == [200, 200, 50]


async def test_a_refused_grant_leaves_no_promise(user: Subscriber) -> None:
    await freeze(user)
    with pytest.raises(QuotaFrozenError):
        await user.call("issue_grant", ACCOUNT, TOKENS, 5, grant_id="second")
    await mend(user)
    assert await user.balance() == 1


async def test_a_clock_that_goes_back_over_the_edge_gives_no_period_twice(
    user: Subscriber,
) -> None:
    """What the period before has used is known there still."""
    await user.define()
    await user.define("large", amounts={TOKENS: 200})
    await user.subscribe()
    await user.use(100)
    await user.schedule(days=30)
    user.clock.forward(days=1, seconds=1)
    await user.do("cancel")  # notes that the next period runs, and touches no grant
    await user.do("resume")
    user.clock.forward(seconds=-2)
    await user.do("change", "large")
    assert await user.balance() == 100
    await user.schedule(seconds=2)
    assert await user.balance() == 200
