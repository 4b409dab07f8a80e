"""Packages are sold: each order is paid once, whoever calls back, and may be given back."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from quota_engine import (
    IdempotencyConflictError,
    InvalidAmountError,
    InvalidArgumentError,
    PackageNotFoundError,
    PurchaseNotFoundError,
    PurchaseRefusedError,
    QuotaEngine,
)
from quota_engine.jobs.verify import verify
from tests.at_once import call_at_once
from tests.commands import Cli
from tests.engines import Engines, TestClock

pytestmark = pytest.mark.anyio

ACCOUNT = "user:42"
STARTER: dict[str, Any] = {
    "quota_type": "text_token",
    "amount": 1_000_000,
    "bonus": 100_000,
    "price": "9.90",
    "currency": "CNY",
}


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url) as opened:
        yield opened


async def packages(call: Engines, method: str, *args: Any, **kwargs: Any) -> Any:
    result = getattr(call.engine.packages, method)(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def balance(call: Engines) -> int:
    found = await call("read_balance", ACCOUNT, "text_token")
    return int(found.balance)


async def test_a_package_is_versioned_and_what_was_ordered_keeps_its_terms(call: Engines) -> None:
    first = await packages(call, "define", "starter", **STARTER)
    assert (first.version, first.terms.price, first.terms.units) == (1, Decimal("9.90"), 1_100_000)
    assert await packages(call, "define", "starter", **STARTER) == first
    await call("order", ACCOUNT, "starter", "order-1")
    second = await packages(call, "define", "starter", **{**STARTER, "amount": 5, "bonus": 0})
    assert second.version == 2
    assert [one.version for one in await packages(call, "history", "starter")] == [1, 2]
    assert await packages(call, "list") == [second]
    paid = await call("pay_order", "order-1")
    assert (paid.state, paid.lines[0].version, paid.lines[0].units) == ("paid", 1, 1_100_000)
    assert await balance(call) == 1_100_000
    await call("purchase", ACCOUNT, "starter", order_id="order-2")
    assert await balance(call) == 1_100_005


async def test_a_purchase_grants_once_with_its_validity(timed: Engines, clock: TestClock) -> None:
    await packages(timed, "define", "starter", **STARTER, valid_for=timedelta(days=30))
    bought = await timed("purchase", ACCOUNT, "starter", "order-1")
    (line,) = bought.lines
    assert (line.paid_at, line.expires_at) == (clock(), clock() + timedelta(days=30))
    again = await timed("purchase", ACCOUNT, "starter", "order-1")
    assert (again.replayed, again.lines) == (True, bought.lines)
    assert await balance(timed) == 1_100_000
    [entry] = await timed("history", ACCOUNT, "text_token")
    assert (entry.source, entry.reference) == ("purchase", "order-1")
    clock.forward(days=30)
    assert await balance(timed) == 0
    assert (await timed("purchase", ACCOUNT, "starter", "order-1")).replayed


async def test_several_packages_in_one_order(call: Engines) -> None:
    await packages(call, "define", "small", **{**STARTER, "amount": 10, "bonus": 0})
    await packages(call, "define", "image", **{**STARTER, "quota_type": "image", "amount": 3})
    order = await call("purchase", ACCOUNT, ["small", "image", "small"], "order-1")
    assert [line.package for line in order.lines] == ["small", "image", "small"]
    assert await balance(call) == 20
    assert len(await call("purchases", ACCOUNT)) == 3


async def test_an_order_is_one_thing_only(call: Engines) -> None:
    await packages(call, "define", "a", **STARTER)
    await packages(call, "define", "b", **STARTER)
    await call("purchase", ACCOUNT, "a", "order-1")
    for account, names in ((ACCOUNT, "b"), ("user:7", "a"), (ACCOUNT, ["a", "a"])):
        with pytest.raises(IdempotencyConflictError, match="order-1"):
            await call("purchase", account, names, "order-1")
    await call("order", ACCOUNT, "b", "order-2")
    await call("cancel_order", "order-2")
    for refused in ("pay_order", "refund_purchase"):
        with pytest.raises(PurchaseRefusedError, match="cancelled"):
            await call(refused, "order-2")
    with pytest.raises(PurchaseRefusedError, match="is paid, not pending"):
        await call("cancel_order", "order-1")
    with pytest.raises(PurchaseNotFoundError):
        await call("pay_order", "order-3")
    assert await balance(call) == 1_100_000


async def test_what_is_not_sold_is_refused_and_nothing_is_recorded(call: Engines) -> None:
    with pytest.raises(PackageNotFoundError):
        await call("purchase", ACCOUNT, "nothing", "order-1")
    await packages(call, "define", "once", **STARTER, per_user_limit=1)
    await packages(call, "activate", "once", False)
    with pytest.raises(PurchaseRefusedError, match="not sold"):
        await call("purchase", ACCOUNT, "once", "order-1")
    await packages(call, "activate", "once")
    with pytest.raises(PurchaseRefusedError, match="may have it 1 times"):
        await call("purchase", ACCOUNT, ["once", "once"], "order-1")
    await call("purchase", ACCOUNT, "once", "order-1")
    with pytest.raises(PurchaseRefusedError):
        await call("purchase", ACCOUNT, "once", "order-2")
    await call("purchase", "user:7", "once", "order-3")
    assert [line.order_id for line in await call("purchases", ACCOUNT)] == ["order-1"]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"amount": 0}, InvalidAmountError),
        ({"amount": -5}, InvalidAmountError),
        ({"bonus": -1}, InvalidAmountError),
        ({"amount": 2**53 - 1}, InvalidAmountError),
        ({"quota_type": "nonsense"}, InvalidArgumentError),
        ({"price": "-1"}, InvalidArgumentError),
        ({"price": "a lot"}, InvalidArgumentError),
        ({"currency": "Taler"}, InvalidArgumentError),
        ({"valid_for": timedelta(0)}, InvalidArgumentError),
        ({"valid_for": 30}, InvalidArgumentError),
        ({"per_user_limit": 0}, InvalidAmountError),
        ({"sort_order": "first"}, InvalidArgumentError),
    ],
)
async def test_bad_terms_are_refused(
    call: Engines, wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await packages(call, "define", "starter", **{**STARTER, **wrong})
    assert await packages(call, "find", "starter") is None


async def test_what_had_expired_is_not_reported_as_used(timed: Engines, clock: TestClock) -> None:
    await packages(timed, "define", "starter", **{**STARTER, "valid_for": timedelta(days=1)})
    await timed("purchase", ACCOUNT, "starter", "order-1")
    await timed("debit", ACCOUNT, "text_token", 300_000)
    clock.now += timedelta(days=2)
    (line,) = (await timed("refund_purchase", "order-1")).lines
    assert (line.voided, line.expired, line.used) == (0, 800_000, 300_000)


async def test_a_refund_voids_what_is_left_and_says_what_was_used(call: Engines) -> None:
    await packages(call, "define", "starter", **STARTER)
    await call("purchase", ACCOUNT, "starter", "order-1")
    await call("debit", ACCOUNT, "text_token", 300_000)
    by = {"actor": "support:ann", "reason": "never used"}
    refunded = await call("refund_purchase", "order-1", **by)
    (line,) = refunded.lines
    assert (line.voided, line.used, refunded.replayed) == (800_000, 300_000, False)
    assert await balance(call) == 0
    again = await call("refund_purchase", "order-1", actor="bob", reason="another")
    assert (again.replayed, again.lines) == (True, refunded.lines)
    await call("drain")
    (voided,) = [
        one for one in await call("history", ACCOUNT, "text_token") if one.kind == "grant.voided"
    ]
    assert voided.details == {"reference": "order-1", **by}
    client = call.engine.deployment.client
    for key in client.scan_iter("*:ops?:*"):
        client.delete(key)  # long after Redis has forgotten
    assert (await call("refund_purchase", "order-1")).lines == refunded.lines
    with pytest.raises(PurchaseRefusedError, match="refunded"):
        await call("purchase", ACCOUNT, "starter", "order-1")
    assert list(verify(call.engine.deployment.ledger)) == []


PAY = """
def call(number):
    if number % 2:
        return engine.purchase("user:42", "starter", "order-1").replayed
    return engine.pay_order("order-1").replayed
"""


def test_callbacks_that_come_at_once_to_several_processes_grant_once(
    engine: QuotaEngine, redis_url: str, database_url: str
) -> None:
    engine.packages.define("starter", **STARTER)
    engine.order(ACCOUNT, "starter", "order-1")
    replayed = call_at_once(PAY, redis_url, database_url)
    assert sum(not one for one in replayed) == 1
    assert engine.read_balance(ACCOUNT, "text_token").balance == 1_100_000
    engine.drain()
    issued = [one for one in engine.history(ACCOUNT, "text_token") if one.kind == "grant.issued"]
    assert len(issued) == 1


def test_orders_at_once_stay_within_the_limit(engine: QuotaEngine) -> None:
    engine.packages.define("starter", **STARTER, per_user_limit=3)

    def buy(number: int) -> bool:
        try:
            engine.purchase(ACCOUNT, "starter", f"order-{number}")
        except PurchaseRefusedError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(buy, range(12))) == 3
    assert engine.read_balance(ACCOUNT, "text_token").balance == 3_300_000


def test_a_payment_whose_taker_died_is_granted_by_the_schedule(engine: QuotaEngine) -> None:
    engine.packages.define("starter", **STARTER)
    engine.deployment.sale_store.pay("order-1", None, of=(ACCOUNT, ["starter"]))
    assert engine.read_balance(ACCOUNT, "text_token").balance == 0
    assert engine.run_schedule()["intents"].startswith("1 promises kept")
    assert engine.purchase(ACCOUNT, "starter", "order-1").replayed
    assert engine.refund_purchase("order-1").lines[0].voided == 1_100_000


def test_a_payment_not_granted_yet_is_given_back_whole(engine: QuotaEngine) -> None:
    engine.packages.define("starter", **STARTER)
    engine.deployment.sale_store.pay("order-1", None, of=(ACCOUNT, ["starter"]))
    assert engine.refund_purchase("order-1").lines[0].voided == 1_100_000
    engine.run_schedule()
    assert engine.read_balance(ACCOUNT, "text_token").balance == 0


async def test_packages_are_listed_by_their_sort_order_then_name(call: Engines) -> None:
    places = {"b": 2, "a": 2, "z": -1, "c": 10, "d": 0}
    for name, place in places.items():
        await packages(call, "define", name, **{**STARTER, "sort_order": place})
    await packages(call, "define", "c", **{**STARTER, "sort_order": 1})  # the newest counts
    await packages(call, "activate", "a", False)
    listed = await packages(call, "list")
    assert [(one.name, one.terms.sort_order) for one in listed] == [
        *(("z", -1), ("d", 0), ("c", 1), ("a", 2), ("b", 2)),
    ]
    sold = await packages(call, "list", only_active=True)
    assert [one.name for one in sold] == ["z", "d", "c", "b"]


def test_a_catalog_is_shown_by_sort_order(cli: Cli) -> None:
    terms = ("--type", "text_token", "--amount", "100", "--price", "9.90")
    for name, place in (("second", "2"), ("third", "2"), ("first", "1")):
        cli.done("packages", "define", name, *terms, "--sort-order", place)
    assert [one["name"] for one in cli.json("packages", "list")] == ["first", "second", "third"]


def test_packages_and_purchases_by_command(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    assert "no package is sold" in cli.done("packages", "list")
    terms = ("--type", "text_token", "--amount", "100", "--price", "9.90", "--valid-days", "30")
    assert cli.json("packages", "define", "starter", *terms)["version"] == 1
    assert "starter" in cli.done("packages", "list")
    buy = ("--account", ACCOUNT, "--package", "starter")
    assert "paid" in cli.done("purchases", "pay", "order-1", *buy)
    assert cli.json("purchases", "list", ACCOUNT)[0]["units"] == 100
    why = ("--actor", "support:ann", "--reason", "never used")
    assert cli.json("purchases", "refund", "order-1", *why)["lines"][0]["voided"] == 100
    voided = cli.json("accounts", "history", ACCOUNT, "text_token")[-1]
    assert voided["details"] == {
        "reference": "order-1",
        "actor": "support:ann",
        "reason": "never used",
    }
    assert "reason never used" in cli.done("accounts", "history", ACCOUNT, "text_token")
    assert cli.run("purchases", "pay", "order-1").code == 1
    assert cli.run("purchases", "pay", "order-9", "--account", "x").code == 2
    assert cli.run("purchases", "cancel", "order-9").code == 1
    for order_id in ("order-2", "order-3"):
        assert "pending" in cli.done("purchases", "order", order_id, *buy)
    assert cli.json("purchases", "pay", "order-2")[0]["state"] == "paid"
    assert cli.json("purchases", "cancel", "order-3")[0]["state"] == "cancelled"
    assert cli.run("purchases", "order", "order-2", "--account", "x", *buy[2:]).code == 1
    cli.done("packages", "activate", "starter", "--off")
    assert "no package is sold" in cli.done("packages", "list")
    assert "starter" in cli.done("packages", "list", "--all")
    assert "1" in cli.done("packages", "history", "starter")
    assert cli.run("packages", "history", "bad").code == 1
    assert cli.run("packages", "define", "bad", *terms[:-4], "--price", "-1").code == 2
    dearer = cli.run("packages", "define", "bad", *terms, "--original-price", "9.89")
    assert (dearer.code, "original_price 9.89 is below price 9.9" in dearer.err) == (2, True)
    for days in ("0", "-2", "nan", "1e300"):
        refused = cli.run("packages", "define", "bad", *terms[:-1], days)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "at most 36500" in refused.err
    assert cli.run("packages", "history", "bad").code == 1
