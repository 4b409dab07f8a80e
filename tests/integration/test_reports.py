"""
Reports say what the records say: by whatever they are asked, details add up to the total.

Goal: each figure of a report equals SQL over the usage records, per currency and quota type, in
both engines and by command. Method: one mixed world of calls; the records are read and added here.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import InvalidArgumentError, QuotaEngine, RecordedCall
from quota_engine.reporting import DIMENSIONS, USED, UsageReport
from tests.called import ACCOUNTS, AFTER, ANN, BEN, EVE, FIRST, SECOND, THIRD, CalledWorld, at
from tests.commands import Cli
from tests.engines import Engines, TestClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def engine(redis_url: str, database_url: str, clock: TestClock) -> Iterator[QuotaEngine]:
    """An engine with the whole world behind it."""
    with QuotaEngine.open(redis_url, database_url, shards=2, clock=clock) as opened:
        for _ in CalledWorld(opened, clock).live():
            opened.drain()
        yield opened


@pytest.fixture(params=["sync", "async"])
async def call(
    request: pytest.FixtureRequest,
    engine: QuotaEngine,
    redis_url: str,
    database_url: str,
    clock: TestClock,
) -> AsyncIterator[Engines]:
    engines = Engines(request.param)
    await engines.open(redis_url, database_url, clock=clock)
    yield engines
    await engines.close()


async def reported(call: Engines, method: str, *args: Any, **asked: Any) -> Any:
    result = getattr(call.engine.reports, method)(*args, **asked)
    return await result if inspect.isawaitable(result) else result


def named(call: RecordedCall, name: str) -> Any:
    """Return what a report is asked by, of a record."""
    if name == "day":
        return call.occurred_at.date()
    if name == "month":
        return f"{call.occurred_at:%Y-%m}"
    if name == "team":
        return call.account.rpartition("/")[0] or None
    return getattr(call, name)


def added(calls: list[RecordedCall], by: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Add up records by hand."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for call in calls:
        place = tuple(named(call, name) for name in by)
        sums = groups.setdefault(
            place, {"costs": Counter(), "consumed": Counter(), "n": Counter()}
        )
        if call.currency or call.cost:
            sums["costs"][call.currency] += call.cost or 0
        sums["consumed"][call.quota_type] += call.amount
        sums["n"]["calls"] += call.corrects is None
        sums["n"]["failed"] += call.corrects is None and call.status == "failed"
        for name in USED:
            sums["n"][name] += Decimal(str(call.counted(name)))
    return groups


def test_every_report_is_the_sum_of_its_records(engine: QuotaEngine) -> None:
    records = [call for account in ACCOUNTS for call in engine.usage(account)]
    for by in (*((name,) for name in DIMENSIONS), ("day", "team", "model"), ()):
        check_sums(engine.reports.usage(by), records)
    check_against_sql(engine)


def check_sums(report: UsageReport, records: list[RecordedCall]) -> None:
    by = report.by
    by_hand = added(records, by)
    assert {tuple(getattr(row, name) for name in by) for row in report.rows} == set(by_hand)
    for row in report.rows:
        sums = by_hand[tuple(getattr(row, name) for name in by)]
        assert row.costs == sums["costs"]
        assert row.consumed == sums["consumed"]
        assert {name: getattr(row, name) for name in sums["n"]} == sums["n"]
    for name in ("calls", "failed", "held_calls", *USED):
        assert sum(getattr(row, name) for row in report.rows) == getattr(report.total, name)
    for name in ("costs", "consumed", "shortfall", "held", "captured"):
        parts: Counter[str] = Counter()
        for row in report.rows:
            parts.update(getattr(row, name))
        assert parts == getattr(report.total, name)
    assert set(report.total.costs) == {"USD", "CNY"}


def check_against_sql(engine: QuotaEngine) -> None:
    total = engine.reports.usage().total
    with engine.deployment.ledger.transaction() as sql:
        asked = "SELECT currency, sum(cost) FROM usage_records WHERE cost <> 0 GROUP BY 1"
        assert dict(tuple(row) for row in sql.execute(text(asked))) == total.costs
        asked = """
            SELECT quota_type, sum(CASE WHEN kind = 'quota.refunded' THEN -amount ELSE amount END)
            FROM ledger_entries WHERE kind IN ('hold.captured', 'quota.debited', 'quota.refunded')
            GROUP BY 1
        """
        assert dict(tuple(row) for row in sql.execute(text(asked))) == total.consumed
        shortfall = sql.execute(text("SELECT sum(shortfall) FROM ledger_entries")).scalar_one()
        assert shortfall == sum(total.shortfall.values()) > 0


async def test_filters_periods_teams_and_order(call: Engines) -> None:
    acme = await reported(call, "usage", "account", team="acme")
    assert [row.account for row in acme.rows] == [ANN, BEN]
    teams = await reported(call, "usage", "team", team_depth=1)
    assert [row.team for row in teams.rows] == ["acme", None]
    assert teams.rows[0].costs == acme.total.costs
    series = await reported(call, "usage_series", "team", measure="calls")
    assert series.total == sum(one.total for one in series.layers) == teams.total.calls
    paid = await reported(call, "cost_series", viewer=ANN)
    assert {one.name for one in paid.currencies} == set(acme.rows[0].costs)
    line = await reported(call, "balance_series", ANN, "text_token")
    assert line.points[-1].balance == (await call("read_balance", ANN, "text_token")).balance
    one_day = await reported(call, "usage", "day", since=SECOND, until=THIRD)
    assert [row.day for row in one_day.rows] == [SECOND]
    everything = await reported(call, "usage", "day")
    assert [row.day for row in everything.rows] == [FIRST, SECOND, THIRD]
    assert everything.rows[1] == one_day.rows[0]
    top = await reported(call, "top", unit="USD", limit=1)
    [first] = top.rows
    each = await reported(call, "usage", "account")
    assert first == max(each.rows, key=lambda row: row.costs["USD"])
    assert top.total == everything.total
    units = await reported(call, "top", order_by="consumed", unit="audio")
    assert units.rows[0].account == EVE
    named = {"provider": "OpenAI", "model": "gpt-x", "status": "failed", "account": ANN}
    failed = await reported(call, "usage", **named)
    assert (failed.total.calls, failed.total.failed, failed.total.error_rate) == (3, 3, 1)
    await check_refusals(call)


def test_rates_latencies_and_accuracy(engine: QuotaEngine) -> None:
    report = engine.reports.usage("model", usage_type="text_generation")
    by_model = {row.model: row for row in report.rows}
    model = by_model["gpt-x"]
    assert (model.calls, model.failed, model.succeeded) == (21, 9, 12)
    assert model.error_rate == Decimal("0.428571")
    assert by_model["local"].unbilled_calls == by_model["local"].estimated_calls == 3
    total = engine.reports.usage(model="gpt-x", quota_type="text_token", since=FIRST).total
    assert total.held_calls == 9
    assert total.held["text_token"] == 2 * (3 * (100 + 200 + 300) + 3 * 30)
    assert total.captured["text_token"] == 3 * 600 + 90 + 9 * 10
    assert total.accuracy["text_token"] == Decimal("1.909091")
    slowest = max(7 + 900 * number + 41 * hour for number in range(3) for hour in range(3))
    assert total.p99_ms == pytest.approx(slowest, rel=0.05)
    assert total.p50_ms == pytest.approx(7 + 900 + 41, rel=0.05)
    check_trend(engine)


def check_trend(engine: QuotaEngine) -> None:
    """A trend tells two periods, and their difference."""
    found = engine.reports.trend("model", since=THIRD, until=AFTER)
    each = {one.names.get("model", "all"): one for one in found}
    day = engine.reports.usage(since=THIRD, until=AFTER)
    before = engine.reports.usage(since=SECOND, until=THIRD)
    assert (each["all"].now, each["all"].before) == (day.total, before.total)
    assert each["gpt-x"].calls_change == 0
    assert each["qwen"].costs_change == {"CNY": 0}
    assert each["draw"].now.images == 6
    for wrong in ({"since": THIRD, "until": THIRD}, {"since": FIRST, "until": THIRD, "by": "day"}):
        with pytest.raises(InvalidArgumentError):
            engine.reports.trend(**{"by": "model", **wrong})


async def test_forecasts_and_statistics_of_accounts(call: Engines, clock: TestClock) -> None:
    await check_statistics(call)
    clock.now = at(THIRD, 23, 59)
    told = await reported(call, "forecast", EVE, "text_token")
    report = await reported(call, "usage", account=EVE, quota_type="text_token")
    days = Decimal(3) - Decimal(1) / 1440
    assert told.pace == (report.total.consumed["text_token"] / days).quantize(Decimal("0.01"))
    left = float(told.spendable / told.pace)
    assert told.runs_dry_at == pytest.approx(
        clock.now + timedelta(days=left), abs=timedelta(hours=1)
    )
    unused = await reported(call, "forecast", ANN, "video")
    assert (unused.spendable, unused.pace) == (0, 0)
    assert unused.runs_dry_at == clock.now


async def check_statistics(call: Engines) -> None:
    """They are what its statement, its balance and its records say."""
    found = {one.quota_type: one for one in await reported(call, "account", EVE, since=FIRST)}
    assert set(found) == {"text_token", "image", "credit", "audio"}
    stated = await call("statement", EVE, "text_token")
    balance = await call("read_balance", EVE, "text_token")
    one = found["text_token"]
    assert (one.granted, one.used, one.available) == (20_000, stated.used, balance.available)
    assert one.granted - one.used + one.refunded == one.available
    assert (one.period_used, one.period_refunded) == (one.used, one.refunded)
    image = found["image"]
    assert (image.used, image.period_used, image.period_shortfall) == (3, 3, 3)
    month = {one.quota_type: one for one in await reported(call, "account", EVE)}
    assert month["image"].period_shortfall == 2, "by default: this month"
    assert await reported(call, "account", "nobody") == []


async def check_refusals(call: Engines) -> None:
    """What cannot be meant is said."""
    for wrong in (
        {"by": "colour"},
        {"since": at(FIRST, 0)},
        {"since": THIRD, "until": FIRST},
        {"order_by": "cost"},
        {"order_by": "name"},
        {"colour": "red"},
        {"account": " "},
        {"team_depth": 0},
        {"model": ""},
    ):
        with pytest.raises(InvalidArgumentError):
            await reported(call, "usage", **wrong)


@pytest.fixture
def cli(
    engine: QuotaEngine,
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    made = Cli(monkeypatch, capsys)
    made.aim(redis_url, database_url)
    return made


def test_reports_by_command(cli: Cli, engine: QuotaEngine, tmp_path: Path) -> None:
    report = engine.reports.usage("model")
    told = cli.json("reports", "usage", "--by", "model")
    assert told["total"]["costs"] == {
        unit: f"{cost:f}" for unit, cost in report.total.costs.items()
    }
    file = tmp_path / "usage.csv"
    cli.done("reports", "usage", "--by", "model", "--csv", str(file))
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    assert [row["model"] for row in rows] == [row.model or "" for row in report.rows]
    assert sum(Decimal(row["cost_USD"] or 0) for row in rows) == report.total.costs["USD"]
    assert cli.done("reports", "usage", "--by", "model", "--csv", "-").startswith("model,calls,")
    table = cli.done("reports", "usage", "--by", "team,day", "--from", str(SECOND))
    assert "cost USD" in table
    assert "cost CNY" in table
    assert "all" in table
    assert "2026-01-30" not in table
    top = cli.done("reports", "top", "--in", "USD", "--limit", "1").splitlines()
    assert top[1].startswith(engine.reports.top(unit="USD").rows[0].account or "nobody")
    assert "0.428571" in cli.done("reports", "errors")
    assert "accuracy text token" in cli.done("reports", "accuracy")
    period = ("--from", str(THIRD), "--to", str(AFTER))
    assert "cost CNY change" in cli.done("reports", "trend", *period)
    assert cli.json("reports", "trend", *period)[-1]["names"] == {}
    assert "runs dry at" in cli.done("reports", "forecast", ANN, "text_token")
    check_files(cli, period)
    assert len(cli.json("reports", "account", ANN)) == 3
    assert cli.done("reports", "usage", "--account", "nobody").strip() == "no calls"
    assert cli.run("reports", "usage", "--from", "yesterday").code == 2
    assert cli.run("reports", "usage", "--csv", "/nonexistent/a.csv").code == 2


def check_files(cli: Cli, period: Sequence[str]) -> None:
    """Every report that has rows is written with all of its columns."""

    def rows(*words: str) -> list[dict[str, str]]:
        return list(csv.DictReader(cli.done("reports", *words, "--csv", "-").splitlines()))

    trends = rows("trend", *period)
    assert [row["model"] for row in trends] == [
        one["names"]["model"] or "" for one in cli.json("reports", "trend", *period)[:-1]
    ]
    refused = cli.json("reports", "refusals")
    assert [row["calls"] for row in rows("refusals")] == [str(x["calls"]) for x in refused["rows"]]
    (told,) = rows("forecast", ANN, "text_token")
    assert told["pace"] == cli.json("reports", "forecast", ANN, "text_token")["pace"]
    accounts = cli.json("reports", "account", ANN)
    for row, one in zip(rows("account", ANN), accounts, strict=True):
        assert row["used"] == str(one["used"])
        costs = {name: value for name, value in row.items() if "cost_" in name and value}
        assert costs == {f"period_cost_{name}": cost for name, cost in one["period_costs"].items()}
    assert cli.done("reports", "check", "--csv", "-") == "day,account\n"


def test_rebuild_and_check_by_command(cli: Cli, engine: QuotaEngine) -> None:
    engine.reports.usage()
    assert "every sum is right" in cli.done("reports", "check")
    with engine.deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE daily_costs SET calls = calls + 1 WHERE account = 'eve'"))
    found = cli.run("reports", "check", "--json")
    assert (found.code, len(json.loads(found.out))) == (3, 3)
    assert cli.json("reports", "rebuild", "--from", str(SECOND))["lines"] > 20
    assert cli.run("reports", "check", "--to", str(SECOND)).code == 3
    cli.done("reports", "rebuild", "--to", str(SECOND))
    assert cli.run("reports", "check").code == 0
