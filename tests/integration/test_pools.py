"""
Provider pools: what was paid in less what records cost, whoever inserts, corrects and sums.

Goal: a balance is always SQL over the usage records, warns where it was told to, and an enforced
one stops calls and nothing else does. Method: both engines; costs told by the test, records that
commit late, and a mixed world that is corrected and priced again.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import (
    IdempotencyConflictError,
    InvalidArgumentError,
    PoolNotFoundError,
    QuotaEngine,
)
from quota_engine.jobs.reports import sum_pools
from quota_engine.jobs.schedule import DUTIES, Scheduler
from quota_engine.ledger import Ledger
from quota_engine.ledger.pooling import PoolTables
from quota_engine.pools import PoolName
from tests.called import FIRST, CalledWorld, at, record
from tests.commands import Cli
from tests.engines import Engines, TestClock
from tests.metered import ACCOUNT, fund
from tests.workers import wait_until

pytestmark = pytest.mark.anyio

OPENAI = PoolName("openai", "USD")
SUM = """
SELECT coalesce(sum(cost), 0) FROM usage_records
WHERE provider = :provider AND currency = :currency AND at_ms >= :starts_at_ms
"""


async def pools(call: Engines, method: str, *args: Any, **told: Any) -> Any:
    result = getattr(call.engine.pools, method)(*args, **told)
    return await result if inspect.isawaitable(result) else result


async def use(call: Engines, cost: str, **told: Any) -> None:
    """Make a call of openai that cost so much, and persist it."""
    used = record("gpt-x", 10, cost, "USD", **told)
    await call("debit", ACCOUNT, "text_token", 20, usage=used, already_used=True)
    await call("drain")


def days(ledger: Ledger) -> list[str]:
    """Return the pools' days, byte for byte."""
    with ledger.transaction() as sql:
        return list(sql.execute(text("SELECT d::text FROM pool_days d ORDER BY 1")).scalars())


def check_against_sql(ledger: Ledger) -> None:
    standings = ledger.pool_standings()
    assert standings
    for one in standings:
        starts_at_ms = round(one.starts_at.timestamp() * 1000)
        asked = {"provider": one.provider, "currency": one.currency, "starts_at_ms": starts_at_ms}
        with ledger.transaction() as sql:
            assert one.spent == sql.execute(text(SUM), asked).scalar_one()
        assert one.balance == one.recharged + one.corrected - one.spent
        assert PoolTables(ledger).wrong_days(PoolName(one.provider, one.currency)) == []


async def test_a_pool_from_its_first_recharge_to_the_next(
    timed: Engines, clock: TestClock
) -> None:
    await fund(timed)
    await use(timed, "7.5")
    clock.forward(hours=1)
    made = await pools(timed, "define", "OpenAI", currency="USD", warning="10%")
    assert (made.level, made.balance, made.starts_at) == ("empty", 0, clock.now)
    told = {"recharge_id": "invoice-7", "operator": "ann", "remark": "May"}
    entry = await pools(timed, "recharge", "openai", 1000, **told)
    assert (entry.balance_after, entry.operator, entry.replayed) == (1000, "ann", False)
    await use(timed, "899.999999999999")
    assert (await pools(timed, "standing", "openai")).level == "ok"
    await use(timed, "50.000000000001")
    low = await pools(timed, "standing", "openai")
    assert (low.level, low.balance, low.spent) == ("warning", 50, 950)
    assert (low.warning_at, low.critical_at, low.percent_of) == (100, 20, 1000)
    again = await pools(timed, "recharge", "openai", "1000.0", **{**told, "operator": "ben"})
    assert (again.replayed, again.operator, again.at) == (True, "ann", entry.at)
    with pytest.raises(IdempotencyConflictError, match="was recharged by 1000 as invoice-7"):
        await pools(timed, "recharge", "openai", 999, recharge_id="invoice-7")
    clock.forward(days=1)
    await pools(timed, "recharge", "openai", 10)
    small = await pools(timed, "standing", "openai")
    assert (small.level, small.balance) == ("warning", 60), "a small one does not talk it down"
    await pools(timed, "recharge", "openai", 500, currency="USD")
    await pools(timed, "correct", "openai", "-12.5", correction_id="fees", remark="fees")
    well = await pools(timed, "standing", "openai")
    assert (well.level, well.balance, well.corrected) == ("ok", Decimal("547.5"), Decimal("-12.5"))
    assert [well] == await pools(timed, "list")
    await pools(timed, "define", "openai", currency="USD", warning="600", operator="ben")
    assert (await pools(timed, "standing", "openai")).level == "warning"
    history = await pools(timed, "history", "openai")
    assert [(one.kind, one.amount, one.balance_after) for one in history] == [
        ("defined", 0, 0),
        ("recharged", 1000, 1000),
        ("used", -950, 50),
        ("recharged", 10, 60),
        ("recharged", 500, 560),
        ("corrected", Decimal("-12.5"), Decimal("547.5")),
        ("defined", 0, Decimal("547.5")),
    ]
    assert [one.day for one in history if one.day] == [entry.at.date()]
    assert (history[-1].operator, history[-1].remark) == (
        "ben",
        "warning 600, critical a fifth of it",
    )
    await check_refusals(timed)


async def check_refusals(call: Engines) -> None:
    with pytest.raises(PoolNotFoundError, match="no pool of mistral; there is openai in USD"):
        await pools(call, "standing", "mistral")
    with pytest.raises(PoolNotFoundError, match="no pool of openai in CNY"):
        await pools(call, "recharge", "openai", 5, currency="CNY")
    with pytest.raises(InvalidArgumentError, match=r"starts at .* which is not changed"):
        await pools(call, "define", "openai", currency="USD", starts_at=at(FIRST, 0))
    await pools(call, "define", "openai", currency="CNY")
    with pytest.raises(InvalidArgumentError, match="pools in CNY and USD: say which"):
        await pools(call, "recharge", "openai", 5)


@pytest.fixture
def engine(redis_url: str, database_url: str, clock: TestClock) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=2, clock=clock) as opened:
        yield opened


def test_one_recharge_of_an_id_however_many_say_it_at_once(engine: QuotaEngine) -> None:
    engine.pools.define("openai", currency="USD")

    def recharge(number: int) -> bool:
        told = {"recharge_id": "invoice-7", "operator": f"operator-{number}"}
        return engine.pools.recharge("openai", 1000, **told).replayed

    with ThreadPoolExecutor(8) as threads:
        replayed = list(threads.map(recharge, range(16)))
    assert replayed.count(False) == 1
    assert engine.pools.standing("openai").balance == 1000
    with (
        pytest.raises(Exception, match="append-only"),
        engine.deployment.ledger.transaction() as sql,
    ):
        sql.execute(text("UPDATE pool_entries SET amount = 2000"))


def test_a_balance_is_the_records_however_they_come(engine: QuotaEngine, clock: TestClock) -> None:
    """Corrected and priced again, summed bit by bit and again: the same, and never twice."""
    ledger = engine.deployment.ledger
    begin = at(FIRST, 2)
    for provider, currency in (("openai", "USD"), ("ali", "CNY"), ("openai", "CNY")):
        engine.pools.define(provider, currency=currency, starts_at=begin)
    spent = []
    for _ in CalledWorld(engine, clock).live():
        engine.drain()
        check_against_sql(ledger)
        assert sum_pools(ledger) > 0
        assert sum_pools(ledger) == 0
        check_against_sql(ledger)
        spent.append(engine.pools.standing("openai", currency="USD").spent)
    assert spent[2] > spent[1] > spent[0] > 0
    assert spent[3] != spent[2], "what was priced again costs something else"
    engine.drain()
    late = engine.pools.define("openai", currency="EUR", starts_at=begin)
    assert late.spent == 0
    summed = days(ledger)
    assert len(summed) == 6
    for one in ledger.pool_standings():
        engine.pools.rebuild(one.provider, currency=one.currency)
    assert days(ledger) == summed
    with ledger.transaction() as sql:
        sql.execute(text("UPDATE pool_days SET cost = cost + 1 WHERE currency = 'CNY'"))
    wrong = engine.pools.wrong_days("ali")
    assert len(wrong) == 3
    assert engine.pools.rebuild("ali") == 3
    check_against_sql(ledger)
    assert days(ledger) == summed


ROW = """
INSERT INTO usage_records (account, quota_type, version, operation_id, amount, shortfall, late,
    usage, at_ms, recorded_at, provider, currency, cost)
VALUES ('user:late', 'text_token', :version, 'op', 1, 0, false, '{}', :at_ms, now(), 'openai',
    'USD', 2.5)
"""


def test_records_that_commit_late_are_missed_by_no_pool(engine: QuotaEngine) -> None:
    """One inserts while a pool is defined, another while notes are taken up and summed again."""
    ledger = engine.deployment.ledger
    waits = "SELECT count(*) FROM pg_locks WHERE mode = 'ShareLock' AND NOT granted"

    def is_waiting() -> bool:
        with ledger.transaction() as sql:
            return bool(sql.execute(text(waits)).scalar_one())

    at_ms = round(at(FIRST, 5).timestamp() * 1000)
    define = threading.Thread(
        target=lambda: engine.pools.define("openai", currency="USD", starts_at=at(FIRST, 0))
    )
    with ledger.transaction() as early:
        early.execute(text(ROW), {"version": 1, "at_ms": at_ms})
        define.start()
        wait_until(is_waiting, "the definition waits for the insert")
    define.join(30)
    assert engine.pools.standing("openai").spent == Decimal("2.5")
    tables = PoolTables(ledger)
    with ledger.transaction() as late:
        late.execute(text(ROW), {"version": 2, "at_ms": at_ms})
        assert tables.take_up() == 0
        assert tables.rebuild(OPENAI) == 1
        assert engine.pools.standing("openai").spent == Decimal("2.5")
    assert engine.pools.standing("openai").spent == 5
    assert tables.rebuild(OPENAI) == 1
    assert tables.take_up() == 0, "what was summed again left no note"
    assert engine.pools.standing("openai").spent == 5
    with ledger.transaction() as before:
        before.execute(text(ROW), {"version": 3, "at_ms": at_ms - 86_400_000})
    assert engine.pools.standing("openai").spent == 5, "it was made before the pool began"
    check_against_sql(ledger)
    tables.take_up()
    with ledger.transaction() as sql:  # who defined it died before the records were summed
        sql.execute(text("UPDATE provider_pools SET summed_at = NULL"))
        sql.execute(text("DELETE FROM pool_days"))
    check_against_sql(ledger)
    assert len(days(ledger)) == 1
    scheduler = Scheduler(engine.deployment)
    try:
        [duty] = [one for one in DUTIES if one.name == "pools"]
        assert scheduler.run(duty).text == "0 notes of provider pools taken up"
    finally:
        scheduler.close()


def test_pools_by_command(cli: Cli) -> None:
    assert "there are no pools" in cli.done("pools", "list")
    missing = cli.run("pools", "show", "openai")
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    assert "quota-engine pools define" in missing.err
    made = cli.json("pools", "define", "openai", "--currency", "USD", "--warning", "10%")
    assert (made["level"], made["warning"]) == ("empty", "10%")
    recharge = ("pools", "recharge", "openai", "1000", "--id", "invoice-7")
    assert cli.json(*recharge, "--operator", "ann")["replayed"] is False
    assert cli.json(*recharge)["replayed"] is True
    cli.done("pools", "correct", "openai", "-12.5", "--id", "fees", "--remark", "monthly fee")
    assert cli.json("pools", "show", "openai")["balance"] == "987.5"
    assert "987.5" in cli.done("pools", "list")
    kinds = [one["kind"] for one in cli.json("pools", "history", "openai")]
    assert kinds == ["defined", "recharged", "corrected"]
    assert "monthly fee" in cli.done("pools", "history", "openai")
    with cli.engine() as engine:
        used = record("gpt-x", 10, "3", "USD")
        engine.debit("user:1", "text_token", 20, usage=used, already_used=True)
        engine.drain()
        sum_pools(engine.deployment.ledger)
        with engine.deployment.ledger.transaction() as sql:
            sql.execute(text("UPDATE pool_days SET cost = 4"))
    assert len(cli.json("pools", "rebuild", "openai", "--check", code=3)["wrong_days"]) == 1
    assert cli.json("pools", "rebuild", "openai")["days_summed"] == 1
    assert cli.json("pools", "rebuild", "openai", "--check")["wrong_days"] == []
    for wrong in (
        ("define", "openai", "--warning", "much"),
        ("recharge", "openai", "-5"),
        ("recharge", "openai", "5", "--id", "with space"),
        ("define", "openai", "--starts-at", "yesterday"),
    ):
        assert cli.run("pools", *wrong).code == 2
    assert cli.run("pools", "recharge", "openai", "5", "--id", "invoice-7").code == 1
