"""
The main job, as a new user runs it: real processes, real servers, and proofs that can fail.

Goal: ``replay`` and ``demo`` end with 0 when every proof holds, and only then. Method: a small
trace that the test writes, two client processes, and once a balance changed behind the engine.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import InvalidArgumentError, QuotaEngine
from quota_engine.cli import demo
from quota_engine.keys import ShardKeys
from quota_engine.replay import costs, days, proofs, running
from quota_engine.replay.synthetic import synthetic_calls
from quota_engine.replay.tree import running as tree_running
from tests.commands import Cli

CALLS = 120
SMALL = ("--users", "6", "--processes", "2", "--promotions-last", "3")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return written(tmp_path, 1)


@pytest.fixture
def slow_trace(tmp_path: Path) -> Path:
    """The same calls, over minutes."""
    return written(tmp_path, 80)


def written(folder: Path, slower: int) -> Path:
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    began = datetime(2023, 11, 16, 18, 15, 16)
    for call in synthetic_calls(CALLS, seed=3):
        at = began + timedelta(seconds=slower * call.offset_seconds)
        lines.append(f"{at},{call.context_tokens},{call.generated_tokens}")
    path = folder / "trace.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_replayed_trace_is_proved(cli: Cli, trace: Path) -> None:
    found = cli.json("replay", str(trace), *SMALL, "--speed", "1")
    report = found["report"]
    assert found["holds"] is True
    assert report["calls"] == CALLS == report["admitted"] + sum(report["refused"].values())
    assert report["refused"]["insufficient"] > 0
    tokens = report["tokens"]
    assert tokens["granted"] == tokens["used"] + tokens["expired"] + tokens["left"]
    assert tokens["expired"] > 0
    assert len(report["proofs"]) == 8
    by_model = {row["model"]: row for row in report["costs"]}
    assert sorted(by_model) == ["large", "small"]
    assert sum(row["calls"] for row in by_model.values()) == report["admitted"]
    for model, (price_in, price_out) in {"large": ("2.5", "10"), "small": ("0.15", "0.6")}.items():
        row = by_model[model]
        tokens = row["input_tokens"] * Decimal(price_in) + row["output_tokens"] * Decimal(
            price_out
        )
        assert (Decimal(row["cost"]), row["currency"]) == (tokens / 10**6, "USD")
    assert {row["operation"] for row in report["latencies"]} == {
        *("place_hold", "capture_hold", "ping")
    }
    assert report["lag"]["entries"] == 2 * report["admitted"]
    with cli.engine() as engine:
        entries = engine.history(report["example_account"], "text_token")
        assert [entry.version for entry in entries] == list(range(1, len(entries) + 1))
        assert not any(entry.is_pending for entry in entries)


@pytest.mark.fault
@pytest.mark.fault_slow  # its kills depend on how fast a loaded machine replays
@pytest.mark.row(
    1,
    injection="kill -9 three times during a replay by client processes, started again",
    outcome="drift 0, every call there once; the time without service is told",
)
def test_redis_is_killed_in_the_middle_and_every_call_is_there_once(
    home: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (*SMALL, "--speed", "2", "--restart-redis", "3")
    report = Cli(monkeypatch, capsys).json("replay", str(trace), *asked)["report"]
    restarts = report["restarts"]
    assert restarts["count"] == restarts["planned"] == len(restarts["seconds"]) == 3
    assert 0 < restarts["median_seconds"] <= restarts["max_seconds"] == max(restarts["seconds"])
    assert len(report["proofs"]) == 9
    assert all(proof["holds"] for proof in report["proofs"])
    with QuotaEngine.open() as engine:
        epochs = {row.epoch for row in engine.deployment.ledger.read_shards()}
    assert min(epochs) >= 4, "each restart opens an epoch"


def test_a_server_that_is_not_our_own_is_never_killed(cli: Cli, trace: Path) -> None:
    ended = cli.run("replay", str(trace), *SMALL, "--restart-redis", "1")
    assert (ended.code, "only a server of one's own" in ended.err) == (2, True)
    with cli.engine() as engine:
        assert engine.deployment.client.ping()


def test_a_proof_that_fails_is_named_and_ends_with_3(
    cli: Cli, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, read = proofs.count, costs.read_costs

    def edit_a_balance(deployment: Any, workload: Any, told: Any, prefix: str) -> proofs.Counted:
        account = workload.users[0].account
        with QuotaEngine.open() as engine:
            shard = engine.deployment.ledger.shard_of(proofs.QuotaName(account, "text_token"))
            key = ShardKeys(shard).quota(f"{account}|text_token")
            engine.deployment.client.hincrby(key, "remaining", 7)
        return count(deployment, workload, told, prefix)

    def edit_a_record(deployment: Any, prefix: str) -> costs.Costs:
        with deployment.ledger.transaction() as sql:
            edit = (
                "UPDATE usage_records SET cost = cost + 0.000000000001, amount = amount - 1 WHERE"
                " id = (SELECT min(id) FROM usage_records WHERE model = 'dear')"
            )
            assert sql.execute(text(edit)).rowcount == 1
        return read(deployment, prefix)

    monkeypatch.setattr(proofs, "count", edit_a_balance)
    monkeypatch.setattr(running, "read_costs", edit_a_record)
    asked = ("--limit", "10", "--speed", "100", "--prices", "dear=3/15,free=0/0")
    ended = cli.run("replay", str(trace), *SMALL, *asked)
    assert ended.code == 3
    assert "10 calls of 6 users by 2 processes" in ended.out
    failed = [line for line in ended.out.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 5  # the balance, the drift; amounts, costs, and the verified log
    assert "dear: recorded " in ended.out


DAYS = ("--users", "8", "--processes", "2", "--days", "40")


def test_plans_are_renewed_over_simulated_days_and_statements_add_up(
    cli: Cli, trace: Path
) -> None:
    found = cli.json("replay", str(trace), *DAYS)
    report = found["report"]
    assert found["holds"] is True
    assert len(report["proofs"]) == 7
    assert (report["days"], report["renewals"]) == (40, 8)
    assert report["admitted"] + sum(report["refused"].values()) == CALLS
    assert report["refused"]["insufficient"] > 0
    assert report["rolled_over"] > 0
    tokens = report["tokens"]
    assert tokens["granted"] == tokens["used"] + tokens["expired"] + tokens["left"]
    with cli.engine() as engine:
        engine.issue_grant("user:42", "text_token", 5)
        engine.drain()
    refused = cli.run("replay", str(trace), *DAYS)
    assert (refused.code, "such as user:42" in refused.err) == (2, True)


@pytest.mark.fault_slow  # what it shows of the proofs, the tests above show of theirs each time
def test_what_nobody_planned_is_found_in_the_statements(
    cli: Cli, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    define = days._define_plans

    def meddle(engine: QuotaEngine, workload: Any) -> None:
        define(engine, workload)
        account = workload.users[0].account
        engine.issue_grant(account, "text_token", 9)
        engine.debit(account, "text_token", 4)

    monkeypatch.setattr(days, "_define_plans", meddle)
    ended = cli.run("replay", str(trace), *DAYS, "--limit", "20")
    assert ended.code == 3
    assert "in 40 simulated days" in ended.out
    assert "granted" in ended.out
    failed = [line for line in ended.out.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 2  # what was granted, and what was used


TREE = ("--tree", "--users", "30", "--processes", "2", "--output-limit", "400")


def test_no_level_of_a_tree_exceeds_a_limit_and_each_is_the_sum_of_what_is_below(
    cli: Cli, slow_trace: Path
) -> None:
    found = cli.json("replay", str(slow_trace), *TREE)
    report = found["report"]
    assert found["holds"] is True, report["proofs"]
    assert len(report["proofs"]) == 11
    refusals = report["refusals"]
    assert report["admitted"] + sum(row["calls"] for row in refusals) == CALLS
    # which of them refuses first depends on who of the two processes is quicker
    assert {row["level"] for row in refusals} <= {"organisation", "team", "user"}
    assert len({row["why"] for row in refusals}) >= 3
    assert max(row["share"] for row in report["limits"]) == 1
    used = {row["level"]: row["used"] for row in report["levels"]}
    assert used["organisation"] == used["user"] > used["team"] > 0, "some teams do not pay"


def test_no_call_of_a_tree_comes_before_its_price(
    cli: Cli, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[datetime, datetime]] = []

    def look(engine: QuotaEngine, planned: Any, *_: Any) -> Any:
        priced = max(price.effective_at for price in engine.prices.list())
        begun.append((priced, planned.pace.starts_at))
        raise InvalidArgumentError("seen enough")

    monkeypatch.setattr(tree_running, "_live", look)
    assert cli.run("replay", str(trace), *TREE, "--days", "3").code == 2
    ((priced, starts_at),) = begun
    assert priced <= starts_at


@pytest.mark.fault_slow  # as above
def test_what_one_level_lacks_is_found(
    cli: Cli, slow_trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tree_running._live

    def meddle(engine: QuotaEngine, planned: Any, *more: Any) -> Any:
        told = live(engine, planned, *more)
        account = next(node.account for node in planned.nodes if node.level == "organisation")
        hold = engine.place_hold(account, "text_token", 7, operation_id="call-1")
        engine.capture_hold(hold, 7)
        engine.drain()
        return told

    monkeypatch.setattr(tree_running, "_live", meddle)
    ended = cli.run("replay", str(slow_trace), *TREE, "--limit", "40", "--days", "3")
    assert ended.code == 3
    assert "in simulated time over 3 days" in ended.out
    failed = [line for line in ended.out.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 3, "a call that no client made, an organisation's sum, its statement"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-file.csv"], "does not exist"),
        (["."], "is a directory"),
        ([], "Missing argument"),
        (["TRACE", "--users", "0"], "--users"),
        (["TRACE", "--processes", "0"], "--processes"),
        (["TRACE", "--speed", "quick"], "--speed must be max or a number"),
        (["TRACE", "--speed", "nan"], "--speed must be max or a number"),
        (["TRACE", "--days", "0"], "--days"),
        (["TRACE", "--days", "40", "--speed", "10"], "--days goes with neither"),
        (["TRACE", "--tree", "--restart-redis", "2"], "--tree goes with neither"),
        (["TRACE", "--restart-redis", "20"], "needs at least 126 calls, not 120"),
        (["TRACE", "--prices", "large=1"], "must be MODEL=INPUT/OUTPUT"),
        (["TRACE", "--prices", "a=1/2,a=3/4"], "names a model twice"),
        (["TRACE", "--prices", "a=1/-2"], "must be a number from 0"),
        (["TRACE", "--prices", "a=1/0.0000001"], "more than 6 places"),
        (["BAD"], "line 2: ContextTokens must be a whole number"),
    ],
)
def test_misuse_ends_with_2_before_any_server_is_asked(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trace: Path,
    words: list[str],
    said: str,
) -> None:
    bad = trace.with_name("bad.csv")
    bad.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,x,1\n")
    named = {"TRACE": str(trace), "BAD": str(bad)}
    ended = Cli(monkeypatch, capsys).run("replay", *(named.get(word, word) for word in words))
    assert ended.code == 2
    assert said in ended.err


@pytest.mark.slow
def test_the_demo_runs_from_nothing_and_says_where_to_go_next(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "CALLS", 300)
    cli = Cli(monkeypatch, capsys)
    done = cli.run("demo")
    assert done.code == 0, done.err
    assert "synthetic" in done.out
    assert "FAILED" not in done.out
    assert len([line for line in done.out.splitlines() if line.startswith("  ")]) > 3
    words = next(line for line in done.out.splitlines() if "accounts show" in line).split()
    shown = cli.json(*words[1:])
    assert shown["quotas"][0]["quota_type"] == "text_token"
    assert (home / "postgresql").is_dir()
