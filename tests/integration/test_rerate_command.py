"""``prices rerate``: shown before it is written, and written once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from quota_engine import Usage
from quota_engine.metering.record import UsageRecord
from tests.commands import Cli

ACCOUNT = "user:1"


def test_a_wrong_price_is_set_right_by_command(cli: Cli) -> None:
    begins = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    window = ("--from", begins, "--to", "+1d")
    usage = Usage(input_tokens=1000)
    cli.done("prices", "set", "openai", "gpt-x", "input_token", "3", "--effective-at", begins)
    with cli.engine() as engine:
        engine.issue_grant(ACCOUNT, "credit", 10**9)
        hold = engine.place_hold(ACCOUNT, "credit", 10_000_000)
        told = {"provider": "openai", "model": "gpt-x", "usage_type": "text_generation"}
        record = UsageRecord(usage=usage, cost="0.003", currency="USD", **told)  # type: ignore[arg-type]
        engine.capture_hold(hold, 3_000_000, usage=record)
    assert "1 calls of openai/gpt-x compared" in cli.done(
        "prices", "rerate", "--model", "gpt-x", *window, "--dry-run"
    )
    cli.done("prices", "set", "openai", "gpt-x", "input_token", "2", "--effective-at", begins)
    shown = cli.done("prices", "rerate", "--model", "openai/gpt-x", *window)
    assert "-0.001" in shown
    assert "nothing was written; --yes writes it" in shown
    assert cli.json("prices", "rerate", "--model", "gpt-x", *window)["is_dry_run"]
    why = ("--reason", "wrong list", "--actor", "ops")
    assert "1 calls settled anew" in cli.done(
        "prices", "rerate", "--model", "gpt-x", *window, "--yes", *why
    )
    with cli.engine() as engine:
        assert engine.read_balance(ACCOUNT, "credit").balance == 10**9 - 2_000_000
        entry = engine.history(ACCOUNT, "credit")[-1]
        assert (entry.kind, entry.details["actor"]) == ("quota.refunded", "ops")
        assert entry.details["why"] == "wrong list"
    assert cli.json("prices", "rerate", "--model", "gpt-x", *window, "--yes")["quotas"] == []
    [row] = cli.json("accounts", "usage", ACCOUNT, "--sum")["by_model"]
    assert (row["calls"], row["input_tokens"], row["cost"]) == (1, 1000, "0.002")
    assert "corrects" in cli.done("accounts", "usage", ACCOUNT)


def test_whose_model_it_is_must_be_clear(cli: Cli) -> None:
    window = ("--from", "2026-01-01T00:00Z", "--to", "2026-01-02T00:00Z")
    ended = cli.run("prices", "rerate", "--model", "gpt-x", *window)
    assert ended.code == 2
    assert "--provider" in ended.err
    for provider in ("a", "b"):
        cli.done("prices", "set", provider, "gpt-x", "input_token", "1")
    assert "a, b" in cli.run("prices", "rerate", "--model", "gpt-x", *window).err
    one = ("--provider", "a", "--from", "2026-01-02T00:00Z", "--to", "2026-01-01T00:00Z")
    assert "until must be after since" in cli.run("prices", "rerate", "--model", "gpt-x", *one).err
