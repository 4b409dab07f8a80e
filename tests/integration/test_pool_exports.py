"""
A provider's own export beside the usage records: what differs is found, and nothing else.

Goal: planted differences are found exactly, each with what differs. Method: calls are made, the
export is written from their records as the provider would tell them, then edited.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from quota_engine import InvalidArgumentError, QuotaEngine, RecordedCall, Usage
from quota_engine.provider_exports import Difference, ExportReport
from tests.called import AFTER, FIRST, SECOND, at, record
from tests.commands import Cli
from tests.engines import Engines, TestClock

pytestmark = pytest.mark.anyio

HEADING = ("Time", "Request ID", "Model", "Prompt Tokens", "Completion Tokens", "Cost")
CALLS = 40
Row = dict[str, Any]


@pytest.fixture
def clock() -> TestClock:
    return TestClock(at(FIRST, 3))


@pytest.fixture
def engine(redis_url: str, database_url: str, clock: TestClock) -> Iterator[QuotaEngine]:
    """Calls of two days, corrected, failed, priced in another currency, and of others."""
    with QuotaEngine.open(redis_url, database_url, shards=2, clock=clock) as opened:
        for number in range(CALLS):
            clock.forward(minutes=40)
            told = record("gpt-x", 100 + number, "0.0125", "USD", request_id=f"chatcmpl-{number}")
            if number % 10 == 3:  # the model told no id
                told = replace(told, request_id=None)
            opened.debit(
                *("user:1", "text_token", 10),
                operation_id=f"op-{number}",
                reference=f"ref-{number}" if number == 3 else None,
                usage=told,
                already_used=True,
            )
        failed = record("gpt-x", 0, None, None, status="failed", error="500")
        opened.record_usage("user:1", "text_token", failed)
        for provider, currency in (("ali", "USD"), ("openai", "CNY")):
            other = record("qwen", 5, "0.1", currency, provider=provider, request_id="other")
            opened.debit("user:1", "text_token", 5, usage=other, already_used=True)
        opened.drain()
        fewer = Usage(input_tokens=90, output_tokens=10)
        opened.prices.set("openai", "gpt-x", "input_token", "100", currency="USD")
        opened.prices.set("openai", "gpt-x", "output_token", "100", currency="USD")
        clock.forward(days=1)
        opened.prices.forget()
        opened.correct_usage("op-7", fewer)
        opened.drain()
        yield opened


def told_by_provider(engine: QuotaEngine) -> list[Row]:
    """Return the export's rows: what the records of openai in USD tell, corrections included."""
    calls = [call for call in engine.usage("user:1") if call.provider == "openai"]
    rows = []
    for call in calls:
        if call.currency != "USD" or call.corrects or call.status != "success":
            continue
        all_records = [call, *(one for one in calls if one.corrects == call.operation_id)]
        rows.append(row(call, all_records))
    return rows


def row(call: RecordedCall, all_records: list[RecordedCall]) -> Row:
    number = call.operation_id.removeprefix("op-")
    told = (
        f"{call.occurred_at + timedelta(seconds=2):%Y-%m-%d %H:%M:%S}",
        call.request_id or ("ref-3" if number == "3" else call.operation_id),
        "gpt-x-2026-01-15",
        sum(one.counted("input_tokens") for one in all_records),
        sum(one.counted("output_tokens") for one in all_records),
        sum((one.cost or Decimal(0) for one in all_records), Decimal(0)),
    )
    return dict(zip(HEADING, told, strict=True))


def written(folder: Path, rows: list[Row]) -> Path:
    file = folder / "usage.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def planted(rows: list[Row]) -> list[Row]:
    """Take a call away, make one up, and change a cost: the last, a new one, and the sixth."""
    extra = {**rows[0], "Request ID": "chatcmpl-unknown"}
    changed = {**rows[5], "Cost": rows[5]["Cost"] + Decimal("0.0001")}
    return [*rows[:5], changed, *rows[6:-1], extra]


def told(report: ExportReport) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return sorted((one.what, one.id, one.fields) for one in report.differences)


THREE = [
    ("differing", "chatcmpl-5", ("cost",)),
    ("missing_at_them", f"chatcmpl-{CALLS - 1}", ()),
    ("missing_at_us", "chatcmpl-unknown", ()),
]


def test_planted_differences_are_found_and_nothing_else(
    engine: QuotaEngine, tmp_path: Path
) -> None:
    rows = told_by_provider(engine)
    assert len(rows) == CALLS
    assert rows[7]["Prompt Tokens"] == 90, "what was corrected counts as corrected"
    clean = engine.pools.reconcile("OpenAI", written(tmp_path, rows))
    assert (clean.is_clean, clean.matched, clean.lines) == (True, CALLS, CALLS)
    assert clean.cost_ours == clean.cost_theirs == sum(row["Cost"] for row in rows)
    assert clean.input_tokens_ours == sum(row["Prompt Tokens"] for row in rows)
    assert (clean.since, clean.until) == (at(FIRST, 0), at(SECOND, 0) + timedelta(days=1))
    report = engine.pools.reconcile("openai", written(tmp_path, planted(rows)))
    assert told(report) == THREE
    assert report.matched == CALLS - 2
    assert report.cost_difference == Decimal("0.0001")
    extra = next(one for one in report.differences if one.what == "missing_at_us")
    assert (extra.line, extra.account, extra.cost_ours) == (CALLS + 1, None, None)
    lost = next(one for one in report.differences if one.what == "missing_at_them")
    assert (lost.line, lost.account, lost.cost_ours) == (None, "user:1", Decimal("0.0125"))
    near = engine.pools.reconcile(
        "openai", tmp_path / "usage.csv", cost_tolerance="0.0001", limit=1
    )
    assert (near.differing, len(near.differences)) == (0, 1)


def test_parts_currencies_periods_and_fields(engine: QuotaEngine, tmp_path: Path) -> None:
    rows = told_by_provider(engine)
    parts = [
        {**rows[1], "Completion Tokens": 0, "Cost": rows[1]["Cost"] / 2},
        {**rows[1], "Prompt Tokens": 0, "Cost": rows[1]["Cost"] / 2},
    ]
    rows[1:2] = parts  # a call told on two lines
    rows[3] = {**rows[3], "Model": "gpt-x-mini", "Completion Tokens": 11}
    rows = [{**row, "Currency": "usd"} for row in rows]
    rows.append({**rows[0], "Request ID": "in CNY", "Currency": "CNY"})
    rows.append({**rows[0], "Request ID": ""})  # a fee: no call is told
    file = written(tmp_path, rows)
    report = engine.pools.reconcile("openai", file)
    assert told(report) == [
        ("differing", "chatcmpl-2", ("output_tokens", "model")),
        ("missing_at_us", None, ()),
    ]
    assert (report.other_currency, report.matched) == (1, CALLS - 1)
    assert engine.pools.reconcile("openai", file, token_tolerance=1).differing == 1
    period = {"since": at(SECOND, 0), "until": at(AFTER, 0)}
    second = engine.pools.reconcile("openai", file, **period)
    on_first = sum(row["Time"].startswith(str(FIRST)) for row in rows)
    assert (second.outside, second.is_clean) == (on_first - 1, True)
    assert second.matched == len(rows) - on_first
    shanghai = engine.pools.reconcile("openai", file, time_zone="Asia/Shanghai")
    assert told(shanghai)[0] == told(report)[0], "a call is the same at another time"


async def test_both_engines_tell_each_difference(
    engine: QuotaEngine, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    file = written(tmp_path, planted(told_by_provider(engine)))
    call = await Engines("async").open(redis_url, database_url)
    each: list[Difference] = []
    moved: list[tuple[int, int]] = []
    try:
        report = await call.engine.pools.reconcile(
            *("openai", file),
            limit=0,
            on_difference=each.append,
            progress=lambda done, of: moved.append((done, of)),
        )
        with pytest.raises(InvalidArgumentError, match="until must be after since"):
            await call.engine.pools.reconcile(
                "openai", file, since=at(SECOND, 0), until=at(FIRST, 0)
            )
    finally:
        await call.close()
    assert report.differences == ()
    assert told(replace(report, differences=tuple(each))) == THREE
    assert moved[-1] == (file.stat().st_size, file.stat().st_size)


def test_reconciling_by_command(engine: QuotaEngine, cli: Cli, tmp_path: Path) -> None:
    rows = told_by_provider(engine)
    file = str(written(tmp_path, rows))
    assert cli.json("pools", "reconcile", "openai", file)["matched"] == CALLS
    named = [{**row, "Total (USD)": row["Cost"]} for row in planted(rows)]
    for one in named:
        del one["Cost"]
    file = str(written(tmp_path, named))
    unnamed = cli.run("pools", "reconcile", "openai", file)
    assert unnamed.code == 2
    assert "usage.csv: line 1: no column is known to be the cost" in unnamed.err
    asked = ("pools", "reconcile", "openai", file, "--column", "cost=Total (USD)")
    found = cli.json(*asked, code=3)
    assert len(found["differences"]) == 3
    assert found["cost_difference"] == "0.0001"
    shown = cli.run(*asked, "--limit", "2")
    assert shown.code == 3
    assert re.search(r"cost difference +0\.0001\n", shown.out)
    assert "and 1 more" in shown.out
    out = tmp_path / "differences.csv"
    assert cli.run(*asked, "--csv", str(out)).code == 3
    screen = cli.run(*asked, "--csv", "-").out
    assert screen == out.read_text(encoding="utf-8")
    assert {line["what"] for line in csv.DictReader(io.StringIO(screen))} == {
        "differing",
        "missing_at_us",
        "missing_at_them",
    }
    bad = Path(file)
    bad.write_bytes(bad.read_bytes() + "2026-01-30 01:00:00,模型\n".encode("gbk"))
    for wrong, said in (
        (asked, f"usage.csv: line {CALLS + 2}: it is not UTF-8"),
        (("pools", "reconcile", "openai", "/nonexistent.csv"), "cannot be read: No such file"),
        ((*asked, "--csv", "/nonexistent/a.csv"), "can not be written"),
        ((*asked, "--column", "cost"), "--column must be like"),
        ((*asked, "--time-zone", "Mars"), "time_zone must be a name"),
        ((*asked, "--cost-tolerance", "-1"), "cost_tolerance must be"),
    ):
        refused = cli.run(*wrong)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert said in refused.err
    bad.write_text("time,id,cost\n", encoding="utf-8")
    assert "there are no calls" in cli.run("pools", "reconcile", "openai", file).err
    assert json.loads(cli.run("pools", "list", "--json").out) == [], "it needs no pool"
