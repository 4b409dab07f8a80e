"""
Daily sums are the sums of the records, however and whenever records came.

Goal: summed bit by bit, made again, and added up without the engine's SQL, they are the same, in
every currency. Method: a mixed world of calls, summed after each day; records that commit late,
two schedulers at once, one that is killed, sums that somebody has edited.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import QuotaEngine
from quota_engine.jobs import crash_points
from quota_engine.ledger import Ledger
from quota_engine.ledger.rollups import Rollups
from quota_engine.reporting import COUNTED, SUMMED, USED
from tests.called import ANN, BEN, FIRST, SECOND, THIRD, CalledWorld
from tests.engines import TestClock
from tests.programs import killed, run

DAY_MS = 86_400_000
SUMMER = """
import sys
from quota_engine.jobs.reports import sum_days
from quota_engine.ledger import Ledger

sum_days(Ledger.open(sys.argv[1]))
"""


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def engine(redis_url: str, database_url: str, clock: TestClock) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=2, clock=clock) as opened:
        yield opened


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with Ledger.open(database_url) as opened:
        yield opened


def stored(ledger: Ledger) -> list[str]:
    """Return every line, byte for byte."""
    with ledger.transaction() as sql:
        rows = sql.execute(text("SELECT d::text FROM daily_costs d ORDER BY day, account, line"))
        return list(rows.scalars())


def rebuilt(ledger: Ledger) -> list[str]:
    assert dict(Rollups(ledger).rebuild(None, None))
    return stored(ledger)


def insert(sql: Any, account: str, at_ms: int, version: int, **told: Any) -> None:
    names = {"amount": 1, "shortfall": 0, "late": False, "usage": "{}", "recorded_at": "now()"}
    values = {"account": account, "quota_type": "text_token", "version": version, "at_ms": at_ms}
    row = {**names, **values, "operation_id": f"op{version}", **told}
    places = ", ".join(f":{name}" for name in row)
    sql.execute(text(f"INSERT INTO usage_records ({', '.join(row)}) VALUES ({places})"), row)


def waiting(ledger: Ledger) -> int:
    with ledger.transaction() as sql:
        return int(sql.execute(text("SELECT count(*) FROM usage_changes")).scalar_one())


def told_by_entries(ledger: Ledger) -> Counter[tuple[str, ...]]:
    """Add up the ledger's entries by hand: cost by currency, units, tokens by day."""
    sums: Counter[tuple[str, ...]] = Counter()
    signs = {"hold.captured": 1, "quota.debited": 1, "quota.refunded": -1}
    with ledger.transaction() as sql:
        entries = sql.execute(text("SELECT * FROM ledger_entries WHERE details <> ''")).all()
    for entry in entries:
        usage = json.loads(entry.details).get("usage")
        if usage is None:
            continue
        day = str(
            FIRST if entry.at_ms < SECOND_MS else SECOND if entry.at_ms < THIRD_MS else THIRD
        )
        place = (day, entry.account, entry.quota_type, usage.get("model", ""))
        sums[("calls", *place)] += "corrects" not in usage
        sums[("consumed", *place)] += entry.amount * signs.get(entry.kind, 0)
        sums[("shortfall", *place)] += entry.shortfall
        sums[("cost", *place, usage.get("currency", ""))] += Decimal(usage.get("cost", 0))
        for name in USED:
            sums[(name, *place)] += Decimal(str(usage.get(name, 0)))
    return +sums + Counter({key: value for key, value in sums.items() if value < 0})


SECOND_MS = 1_769_817_600_000
THIRD_MS = SECOND_MS + DAY_MS


def told_by_lines(ledger: Ledger) -> Counter[tuple[str, ...]]:
    """Add up the daily sums to the same."""
    sums: Counter[tuple[str, ...]] = Counter()
    with ledger.transaction() as sql:
        lines = sql.execute(text("SELECT * FROM daily_costs")).all()
    for line in lines:
        place = (str(line.day), line.account, line.quota_type, line.model)
        for name in ("calls", "consumed", "shortfall", *USED):
            sums[(name, *place)] += getattr(line, name)
        sums[("cost", *place, line.currency)] += line.cost
    return sums


def nonzero(sums: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], Any]:
    return {key: value for key, value in sums.items() if value}


def test_sums_bit_by_bit_sums_made_again_and_sums_of_entries_agree(
    engine: QuotaEngine, ledger: Ledger, clock: TestClock
) -> None:
    rollups = Rollups(ledger)
    for _ in CalledWorld(engine, clock).live():
        engine.drain()
        assert rollups.roll_up(page=2) == 2, "a page sums as many as it is asked to"
        assert rollups.roll_up_all() > 0
        assert waiting(ledger) == 0
        assert rollups.roll_up_all() == 0, "what is summed is not summed again"
    lines = stored(ledger)
    assert len(lines) > 40
    assert rebuilt(ledger) == lines
    by_hand = nonzero(told_by_entries(ledger))
    assert nonzero(told_by_lines(ledger)) == by_hand
    costs = {key[-1] for key in by_hand if key[0] == "cost"}
    assert costs == {"USD", "CNY"}
    with ledger.transaction() as sql:
        corrected = text("SELECT DISTINCT day FROM daily_costs WHERE corrections > 0")
        assert list(sql.execute(corrected).scalars()) == [THIRD]
    assert [accounts for _, accounts in rollups.check(None, None)] == [[], [], []]


def test_plain_sql_over_the_records_says_the_same(
    engine: QuotaEngine, ledger: Ledger, clock: TestClock
) -> None:
    for _ in CalledWorld(engine, clock).live():
        engine.drain()
    Rollups(ledger).roll_up_all()
    with ledger.transaction() as sql:
        asked = (
            "SELECT coalesce(currency, ''), sum(coalesce(cost, 0)), sum(amount), sum(shortfall),"
            " sum(input_tokens), count(*) FROM usage_records GROUP BY 1 ORDER BY 1"
        )
        records = [tuple(row) for row in sql.execute(text(asked))]
        asked = (
            "SELECT currency, sum(cost), sum(consumed), sum(shortfall),"
            " nullif(sum(input_tokens), 0), sum(calls + corrections)"
            " FROM daily_costs GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(row) for row in sql.execute(text(asked))] == records
        assert len(records) == 3
        held = "SELECT sum(held_calls), sum(held), sum(captured) FROM daily_costs"
        asked = (
            "SELECT count(*), sum(held), sum(amount) FROM usage_records"
            " WHERE held > 0 AND corrects IS NULL AND status = 'success'"
        )
        assert tuple(sql.execute(text(held)).one()) == tuple(sql.execute(text(asked)).one())


def test_records_that_commit_late_are_not_missed(ledger: Ledger) -> None:
    rollups = Rollups(ledger)
    with ledger.engine.connect() as late, late.begin():
        insert(late, ANN, SECOND_MS, 1, input_tokens=5)
        with ledger.transaction() as sql:
            insert(sql, ANN, SECOND_MS + 1, 2, input_tokens=7)
        assert rollups.roll_up_all() == 1
        [line] = stored(ledger)
    assert rollups.roll_up_all() == 1
    assert stored(ledger) != [line]
    with ledger.transaction() as sql:
        found = sql.execute(text("SELECT day, calls, input_tokens FROM daily_costs")).one()
    assert tuple(found) == (SECOND, 2, 12)


def test_many_who_sum_at_once_while_records_come_leave_nothing_out(ledger: Ledger) -> None:
    def write(number: int) -> None:
        for turn in range(10):
            with ledger.transaction() as sql:
                for account in (ANN, BEN, f"user:{number}"):
                    at_ms = SECOND_MS + (turn % 3) * DAY_MS
                    insert(sql, account, at_ms, number * 100 + turn, input_tokens=1, cost="0.5")

    def sum_up(_: int) -> None:
        for _ in range(15):
            Rollups(ledger).roll_up(page=2)

    with ThreadPoolExecutor(5) as pool:
        writers = [pool.submit(write, number) for number in range(1, 3)]
        summers = [pool.submit(sum_up, number) for number in range(3)]
        for one in (*writers, *summers):
            one.result(60)
    Rollups(ledger).roll_up_all()
    lines = stored(ledger)
    assert rebuilt(ledger) == lines
    with ledger.transaction() as sql:
        assert sql.execute(text("SELECT sum(calls) FROM daily_costs")).scalar_one() == 60


def test_summing_ends_however_quickly_records_come(ledger: Ledger) -> None:
    """A record comes with every page; what waited at first is summed, and that is all."""
    rollups, pages = Rollups(ledger), 0
    roll_up = rollups.roll_up

    def busy() -> int:
        nonlocal pages
        pages += 1
        assert pages < 10
        with ledger.transaction() as sql:
            insert(sql, f"user:{pages}", SECOND_MS, 0)
        return roll_up(page=1)

    with ledger.transaction() as sql:
        insert(sql, ANN, SECOND_MS, 1)
        insert(sql, BEN, SECOND_MS, 1)
    rollups.roll_up = busy  # type: ignore[method-assign]
    assert rollups.roll_up_all() == 2
    assert waiting(ledger) == 2


def test_who_is_killed_while_summing_leaves_the_work_to_the_next(
    ledger: Ledger, database_url: str
) -> None:
    with ledger.transaction() as sql:
        insert(sql, ANN, SECOND_MS, 1, input_tokens=5)
    environment = {**os.environ, crash_points.VARIABLE: "before_sums_commit"}
    killed(SUMMER, database_url, env=environment)
    assert (stored(ledger), waiting(ledger)) == ([], 1)
    assert run(SUMMER, database_url).returncode == 0
    assert (len(stored(ledger)), waiting(ledger)) == (1, 0)


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE daily_costs SET cost = cost + 0.000000000001 WHERE account = :account",
        "UPDATE daily_costs SET latencies = '{\"3\": 9}' WHERE account = :account",
        "DELETE FROM daily_costs WHERE account = :account",
        "UPDATE daily_costs SET model = 'other' WHERE account = :account",
    ],
)
def test_edited_sums_are_found_and_made_right(ledger: Ledger, edit: str) -> None:
    rollups = Rollups(ledger)
    with ledger.transaction() as sql:
        for version, account in enumerate((ANN, BEN)):
            insert(sql, account, SECOND_MS, version, cost="1", currency="USD", model="gpt-x")
    rollups.roll_up_all()
    lines = stored(ledger)
    with ledger.transaction() as sql:
        sql.execute(text(edit), {"account": BEN})
    assert list(rollups.check(None, None)) == [(SECOND, [BEN])]
    assert list(rollups.check(THIRD, None)) == []
    assert rebuilt(ledger) == lines
    assert list(rollups.check(SECOND, THIRD)) == [(SECOND, [])]


def test_what_waits_to_be_summed_is_not_called_wrong(ledger: Ledger) -> None:
    with ledger.transaction() as sql:
        insert(sql, ANN, SECOND_MS, 1)
    assert list(Rollups(ledger).check(None, None)) == [(SECOND, [])]


def test_no_record_is_too_odd_to_be_summed(ledger: Ledger) -> None:
    """Names that no key could take, sums that no bigint could, and records that tell nothing."""
    names = ("provider", "model", "usage_type", "currency")
    with ledger.transaction() as sql:
        insert(sql, ANN, SECOND_MS, 0, **dict.fromkeys(names, "字" * 200), latency_ms=2**53)
        sql.execute(
            text(
                "INSERT INTO usage_records (account, quota_type, version, operation_id, amount,"
                " shortfall, late, usage, at_ms, recorded_at, input_tokens)"
                " SELECT 'a', 'credit', n, 'op' || n, 9007199254740991, 0, false, '{}', 0, now(),"
                " 9007199254740991 FROM generate_series(1, 1100) AS n"
            )
        )
    assert Rollups(ledger).roll_up_all() == 2
    with ledger.transaction() as sql:
        asked = text("SELECT sum(consumed) FROM daily_costs WHERE account = 'a'")
        assert sql.execute(asked).scalar_one() == 1100 * (2**53 - 1)
    lines = stored(ledger)
    Rollups(ledger).roll_up_all()
    assert list(Rollups(ledger).rebuild(SECOND, THIRD)) == [(SECOND, 1)]
    assert stored(ledger) == lines


def test_every_measure_is_a_column_of_the_sums(ledger: Ledger) -> None:
    with ledger.transaction() as sql:
        found = sql.execute(text("SELECT * FROM daily_costs")).keys()
    assert {*COUNTED, *SUMMED} <= set(found)
