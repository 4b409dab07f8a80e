"""Grants by the table: each line once, whoever dies on the way, or none of them at all."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quota_engine import BatchRefusedError, IdempotencyConflictError, QuotaEngine
from quota_engine.errors import EngineUnavailableError
from quota_engine.jobs.verify import verify
from tests.commands import Cli
from tests.programs import killed

pytestmark = pytest.mark.anyio

HEADING = "account,quota_type,amount\n"
MANY = HEADING + "".join(f"user:{number},text_token,{number}\n" for number in range(1, 41))
OPENING = (
    "account,quota_type,monthly_total,monthly_used,permanent_total,permanent_used\n"
    "user:1,text_token,100,30,50,50\nuser:2,image,0,0,5,0\n"
)
ENDS = datetime(2040, 6, 1, tzinfo=UTC)


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url) as opened:
        yield opened


def fails(cli: Cli, *arguments: str, code: int) -> str:
    """Run a command that must not succeed; return what it says."""
    ended = cli.run(*arguments)
    assert ended.code == code, ended
    return ended.err


async def test_each_line_is_granted_once_and_told(call: Any) -> None:
    table = (HEADING + "user:1,text_token,100\nuser:2,image,5\n").encode()
    dry = await call("batch_grants", table, "may", dry_run=True)
    assert (dry.counts, dry.is_done) == ({"planned": 2}, False)
    assert (await call("read_balance", "user:1", "text_token")).balance == 0
    done: list[tuple[int, int]] = []
    report = await call(
        "batch_grants", table, "may", actor="ann", progress=lambda *told: done.append(told)
    )
    assert (report.counts, report.is_done, done) == ({"issued": 2}, True, [(1, 2), (2, 2)])
    assert report.units == {"text_token": 100, "image": 5}
    again = await call("batch_grants", table, "may", actor="bob")
    assert (again.counts, again.is_done) == ({"there": 2}, True)
    (entry,) = await call("history", "user:2", "image")
    assert (entry.operation_id, entry.details["actor"], entry.details["source"]) == (
        *("batch:may:3", "ann"),
        "batch_admin_grant",
    )
    with pytest.raises(IdempotencyConflictError, match="with another table"):
        await call("batch_grants", table + b"user:3,image,5\n", "may")
    await call("batch_grants", table, "june")
    assert (await call("read_balance", "user:1", "text_token")).balance == 200
    await call("drain")
    assert list(verify(call.engine.deployment.ledger)) == []


async def test_nothing_is_changed_unless_all_of_it_can_be_meant(call: Any) -> None:
    table = (HEADING + "user:1,text_token,100\nuser:2,text_token,-1\n").encode()
    with pytest.raises(BatchRefusedError, match="line 3: amount"):
        await call("batch_grants", table, "may")
    ended = (
        "account,quota_type,amount,expires_at\nuser:1,text_token,1,\n"
        "user:2,text_token,1,2020-01-01T00:00Z\n"
    )
    with pytest.raises(BatchRefusedError, match="line 3: the grant would have ended"):
        await call("batch_grants", ended.encode(), "may")
    assert (await call("read_balance", "user:1", "text_token")).balance == 0
    good = table.replace(b"-1", b"1")
    assert (await call("batch_grants", good, "may")).is_done, "its id was not used up"


async def test_a_line_that_is_refused_does_not_stop_the_others(call: Any) -> None:
    await call("issue_grant", "user:2", "text_token", 2**53 - 1)
    lines = "".join(f"user:{number},text_token,7\n" for number in (1, 2, 3))
    report = await call("batch_grants", (HEADING + lines).encode(), "may")
    assert [one.outcome for one in report.grants] == ["issued", "refused", "issued"]
    assert "2^53" in report.grants[1].reason
    assert not report.is_done
    await call("debit", "user:2", "text_token", 100)
    again = await call("batch_grants", (HEADING + lines).encode(), "may")
    assert [one.outcome for one in again.grants] == ["there", "issued", "there"]


def test_what_a_store_that_is_away_leaves_waits_for_another_run(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, promises = engine.deployment, engine.deployment.record_intent
    count = iter(range(1000))

    def away(command: Any) -> Any:
        if next(count) >= 10:
            raise EngineUnavailableError("PostgreSQL is away")
        return promises(command)

    monkeypatch.setattr(deployment, "record_intent", away)
    report = engine.batch_grants(MANY.encode(), "may")
    assert report.counts == {"issued": 10, "waits": 30}
    assert {one.reason for one in report.grants[10:]} == {"PostgreSQL is away"}
    monkeypatch.undo()
    assert engine.batch_grants(MANY.encode(), "may").counts == {"there": 10, "issued": 30}


#: Runs a batch, and dies when so many grants are done: promised, issued, or both.
RUNNER = """
import os, signal, sys
from quota_engine import QuotaEngine

place, table, redis_url, database_url = sys.argv[1:]
engine = QuotaEngine.open(redis_url, database_url)
promise, calls = engine.deployment.record_intent, []

def record_intent(command):
    fate = promise(command)
    calls.append(command)
    if place == "promised" and len(calls) == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return fate

def progress(done, total):
    if place == "issued" and done == 15:
        os.kill(os.getpid(), signal.SIGKILL)

engine.deployment.record_intent = record_intent
engine.batch_grants(table.encode(), place, progress=progress)
"""


@pytest.mark.parametrize("place", ["promised", "issued"])
def test_a_run_after_a_crash_does_the_rest(
    engine: QuotaEngine, redis_url: str, database_url: str, place: str
) -> None:
    killed(RUNNER, place, MANY, redis_url, database_url)
    report = engine.batch_grants(MANY.encode(), place)
    assert report.is_done
    assert report.counts["there"] in {14, 15}
    for number in (1, 14, 15, 16, 40):
        assert engine.read_balance(f"user:{number}", "text_token").balance == number
    engine.run_schedule()
    assert engine.batch_grants(MANY.encode(), place).counts == {"there": 40}
    engine.drain()
    assert list(verify(engine.deployment.ledger)) == []


async def test_opening_balances_are_taken_over_once(call: Any) -> None:
    report, opening = await call("import_opening", OPENING.encode(), "move", ENDS)
    assert (report.units, report.lines) == ({"text_token": 70, "image": 5}, 2)
    assert {name: sums.left for name, sums in opening.sums.items()} == report.units
    again, _ = await call("import_opening", OPENING.encode(), "move", ENDS)
    assert again.counts == {"there": 2}
    balance = await call("read_balance", "user:1", "text_token")
    assert [(one.remaining, one.expires_at) for one in balance.grants] == [(70, ENDS)]
    permanent = await call("read_balance", "user:2", "image")
    assert [(one.remaining, one.expires_at) for one in permanent.grants] == [(5, None)]
    with pytest.raises(IdempotencyConflictError, match="other options"):
        await call("import_opening", OPENING.encode(), "move", ENDS.replace(year=2041))
    with pytest.raises(BatchRefusedError, match="ended already"):
        await call("import_opening", OPENING.encode(), "old", ENDS.replace(year=2020))


def test_the_commands_tell_what_became_of_each_line(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "may.csv"
    file.write_text("\ufeff" + HEADING + "user:1,text_token,100\n用户,image,5\n", encoding="utf-8")
    assert "2 planned" in cli.done("grants", "batch", str(file), "--dry-run")
    assert list(tmp_path.iterdir()) == [file]
    told = cli.json("grants", "batch", str(file), "--actor", "ann")
    assert (told["batch_id"], told["outcomes"], told["is_done"]) == ("may", {"issued": 2}, True)
    with (tmp_path / "may.result.csv").open(encoding="utf-8", newline="") as result:
        rows = list(csv.DictReader(result))
    assert [(row["line"], row["account"], row["amount"], row["outcome"]) for row in rows] == [
        ("2", "user:1", "100", "issued"),
        ("3", "用户", "5", "issued"),
    ]
    assert "2 there" in cli.done("grants", "batch", str(file))
    file.write_text(HEADING + "user:1,text_token,101\n", encoding="utf-8")
    assert "another table" in fails(cli, "grants", "batch", str(file), code=1)
    file.write_bytes((HEADING + "用户,image,5\n").encode("gbk"))
    assert "line 2: it is not UTF-8" in fails(cli, "grants", "batch", str(file), code=2)
    assert "cannot be read" in fails(cli, "grants", "batch", str(tmp_path / "none.csv"), code=2)


def test_opening_balances_are_reported_with_sums(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "users.csv"
    file.write_text(OPENING, encoding="utf-8")
    ends = ("--period-end", "2040-06-01T00:00+08:00")
    told = cli.json("grants", "import-opening", str(file), *ends, "--dry-run")
    assert [row["granted"] for row in told["sums"]] == [5, 70]
    said = cli.done("grants", "import-opening", str(file), *ends)
    assert "monthly left" in said
    assert "2 issued" in said
    assert "instant" in fails(
        cli, "grants", "import-opening", str(file), "--period-end", "+7d", code=2
    )


@pytest.mark.parametrize("command", ["batch", "import-opening"])
def test_a_bar_is_drawn_on_a_terminal_and_none_for_a_program(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    file = tmp_path / "may.csv"
    file.write_text(MANY if command == "batch" else OPENING, encoding="utf-8")
    more = () if command == "batch" else ("--period-end", ENDS.isoformat())
    words = ("grants", command, str(file), *more)
    assert cli.run(*words, "--dry-run").err == ""  # no terminal, and soon done
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    silent = cli.run(*words, "--json")
    assert (silent.code, silent.err) == (0, "")
    shown = cli.run(*words)
    assert shown.code == 0
    assert "grants" in shown.err
    assert "100%" in shown.err
    assert "100%" not in shown.out
    assert "\x1b[" not in shown.out
