"""
What is drawn is what SQL says: the bars and lines of figures, read back, per model and currency.

Goal: no picture shows a sum that the records do not have. Method: one mixed world of calls; series
are asked of the engine, drawn, and their artists added up beside SQL over the records.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import QuotaEngine
from quota_engine.pictures.balance import draw_balance
from quota_engine.pictures.drawing import draw_costs, draw_usage
from tests.called import AFTER, ANN, FIRST, SECOND, CalledWorld
from tests.commands import Cli
from tests.engines import TestClock

TOKENS = "sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0))"
DAY = "DATE '1970-01-01' + (at_ms / 86400000)::integer"


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    """An engine with the whole world behind it, and a promotion that ended unused."""
    clock = TestClock()
    with QuotaEngine.open(redis_url, database_url, shards=2, clock=clock) as opened:
        for day in CalledWorld(opened, clock).live():
            if day == FIRST:
                ends = {"expires_at": clock.now + timedelta(hours=9), "priority": 90}
                opened.issue_grant(ANN, "text_token", 555, source="promotion", **ends)
        opened.issue_grant(ANN, "text_token", 70, expires_at=clock.now + timedelta(hours=7))
        opened.drain()
        yield opened


def asked(engine: QuotaEngine, sql: str) -> Any:
    with engine.deployment.ledger.transaction() as connection:
        return {row[0]: row[1:] for row in connection.execute(text(sql))}


def test_pictures_are_what_sql_says(engine: QuotaEngine) -> None:
    check_usage(engine)
    check_costs(engine)
    check_balance(engine)


def check_usage(engine: QuotaEngine) -> None:
    records = asked(
        engine,
        f"SELECT model, {TOKENS} FROM usage_records GROUP BY 1 HAVING {TOKENS} <> 0",
    )
    series = engine.reports.usage_series()
    [axes] = draw_usage(series).axes
    drawn = [sum(bar.get_height() for bar in bars.patches) for bars in axes.containers]
    assert {one.name: total for one, total in zip(series.layers, drawn, strict=True)} == {
        model: total for model, (total,) in records.items()
    }
    folded = engine.reports.usage_series(layers=1, measure="consumed", quota_type="text_token")
    [axes] = draw_usage(folded).axes
    assert len(axes.containers) == 2
    amounts = asked(engine, "SELECT quota_type, sum(amount) FROM usage_records GROUP BY 1")
    assert sum(bar.get_height() for bar in axes.patches) == amounts["text_token"][0]


def check_costs(engine: QuotaEngine) -> None:
    by_day = asked(
        engine,
        f"SELECT {DAY} || currency, sum(cost) FROM usage_records WHERE cost <> 0 GROUP BY 1",
    )
    series = engine.reports.cost_series(since=FIRST, until=AFTER)
    panels = draw_costs(series).axes
    assert [axes.get_ylabel() for axes in panels] == ["CNY", "USD"]
    for axes in panels:
        drawn = [bar.get_height() for bar in axes.patches]
        days = [f"{FIRST + timedelta(days=number)}{axes.get_ylabel()}" for number in range(3)]
        assert drawn == [pytest.approx(float(by_day.get(day, (0,))[0]), abs=1e-12) for day in days]


def check_balance(engine: QuotaEngine) -> None:
    [axes] = draw_balance(engine.reports.balance_series(ANN, "text_token")).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    of_ann = f"account = '{ANN}' AND quota_type = 'text_token'"
    head = asked(engine, f"SELECT account, balance FROM quotas WHERE {of_ann}")
    assert lines["balance"][-1] == head[ANN][0] == engine.read_balance(ANN, "text_token").balance
    marked = asked(
        engine,
        "SELECT kind, array_agg(balance_after ORDER BY version) FROM ledger_entries"
        f" WHERE {of_ann} AND kind LIKE 'grant.%' GROUP BY 1",
    )
    assert lines["granted"] == marked["grant.issued"][0]
    assert lines["expired"] == marked["grant.expired"][0]
    assert len(lines["expired"]) == len([name for name in lines if name == "ending"]) == 1
    until = engine.reports.balance_series(ANN, "text_token", since=SECOND, until=AFTER)
    before = engine.reports.balance_series(ANN, "text_token", until=SECOND)
    assert until.points[0].balance == before.points[-1].balance
    assert engine.reports.balance_series("nobody", "video").marks == ()


def test_pictures_by_command(
    engine: QuotaEngine, cli: Cli, tmp_path: Path, redis_url: str, database_url: str
) -> None:
    for words in (("usage", "--by", "team"), ("cost", "--as", "acme"), ("balance", ANN, "video")):
        out = tmp_path / f"{words[0]}.png"
        told = cli.json("reports", "plot", *words, "--out", str(out))
        assert out.read_bytes().startswith(b"\x89PNG")
        assert told["out"] == str(out)
    sums = engine.reports.usage(team="acme").total.costs
    shown = cli.json("reports", "plot", "cost", "--as", "acme", "--out", str(tmp_path / "a.svg"))
    assert [one["name"] for one in shown["series"]["currencies"]] == sorted(sums)
    assert cli.run("reports", "plot", "usage", "--out", "usage.gif").code == 2
    assert (
        cli.run("reports", "plot", "cost", "--as", "eve", "--team", "acme", "--out", "x.png").code
        == 1
    )
