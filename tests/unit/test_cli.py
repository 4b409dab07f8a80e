"""
The command line answers at once, says what is wrong in one sentence, and knows its exit codes.

Goal: a person who mistypes, or whose server is gone, reads a sentence and no trace. Method: call
``main`` in this process, and in one of its own where imports are what is asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

from quota_engine import cli
from quota_engine.cli.output import print_facts, print_rows, to_plain
from quota_engine.embedded import home
from quota_engine.errors import EngineUnavailableError, InvalidAmountError

HEAVY = {"alembic", "redis", "rq", "sqlalchemy"}
HELP = """
import sys
from quota_engine.cli import main
sys.argv = ["quota-engine", "--help"]
try:
    main()
finally:
    print("loaded:", *sorted({name.split(".")[0] for name in sys.modules}))
"""


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["quota-engine", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    return code if isinstance(code, int) else 0


def test_help_loads_no_driver() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    listed, _, loaded = done.stdout.partition("loaded:")
    assert not HEAVY & set(loaded.split())
    for name, entry in cli.Commands.entries.items():
        assert name in listed
        assert entry.help.endswith(".")


@pytest.mark.parametrize("name", cli.Commands.entries)
def test_every_listed_command_exists_and_explains_itself(name: str) -> None:
    module, _, attribute = cli.Commands.entries[name].target.partition(":")
    command = get_command(getattr(import_module(module), attribute))
    assert command.help
    for verb in getattr(command, "commands", {}).values():
        assert "Example" in verb.help, verb.name
        for inner in getattr(verb, "commands", {}).values():
            assert "Example" in inner.help, inner.name


@pytest.mark.parametrize(
    "words", [["nonsense"], ["servers", "nonsense"], ["servers", "start", "-x"]]
)
def test_misuse_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert run(monkeypatch, *words) == 2
    assert "Usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineUnavailableError("no server"), 1),
        (InvalidAmountError("no such amount"), 2),
        (RuntimeError("a bug"), 1),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_an_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    debug: bool,
) -> None:
    def refuse(_: Path) -> None:
        raise error

    if debug:
        monkeypatch.setenv("QUOTA_ENGINE_DEBUG", "1")
    monkeypatch.setattr("quota_engine.cli.servers.server_status", refuse)
    assert run(monkeypatch, "servers", "status") == code
    said = capsys.readouterr().err
    assert str(error) in said
    assert ("Traceback" in said) is debug
    assert debug or said.count("\n") == 1


def test_a_setting_that_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUOTA_ENGINE_SHARDS", "many")
    assert run(monkeypatch, "servers", "status") == 2
    assert "the setting shards" in capsys.readouterr().err


def test_status_of_nothing_is_json_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("QUOTA_ENGINE_HOME", str(tmp_path / "home"))
    assert run(monkeypatch, "servers", "status", "--json") == 0
    assert [server["running"] for server in json.loads(capsys.readouterr().out)] == [False, False]
    assert {server.name for server in home.server_status(tmp_path)} == {"valkey", "postgresql"}


@dataclass(frozen=True)
class Row:
    account: str
    amount: int
    at: datetime | None = None


def test_tables_keep_every_digit_and_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("用户:42", 9_007_199_254_740_991), Row("long " * 20, 1)]
    print_rows(rows, ["account", "amount", "at"], as_json=False)
    said = capsys.readouterr().out
    assert "9007199254740991" in said
    assert " ".join(["long"] * 20) in said
    print_facts(rows[0], as_json=False)
    assert "用户:42" in capsys.readouterr().out
    print_rows([], ["account"], as_json=False, empty="no accounts")
    assert capsys.readouterr().out == "no accounts\n"


def test_json_keeps_money_and_times() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    assert to_plain(Row("a", 1, at))["at"] == "2026-01-02T00:00:00+00:00"
    assert to_plain({"cost": Decimal("0.10"), "for": timedelta(minutes=1)}) == {
        "cost": "0.10",
        "for": 60.0,
    }
