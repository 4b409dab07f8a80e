"""The commands ``prices`` and ``models``: for people, for programs, and their exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Cli

GPT = ("openai", "gpt-4o")
LITELLM_FILE = os.environ.get("QUOTA_ENGINE_TEST_LITELLM_PRICES")


def entry(provider: str, price: float, **others: Any) -> dict[str, Any]:
    return {
        "litellm_provider": provider,
        "mode": "chat",
        "max_output_tokens": 16_384,
        "input_cost_per_token": price,
        "output_cost_per_token": 1e-05,
        **others,
    }


def write(path: Path, entries: object) -> str:
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)


def test_prices_are_set_listed_and_tried(cli: Cli) -> None:
    assert "no price in force" in cli.done("prices", "list")
    assert "2.5" in cli.done("prices", "set", *GPT, "input_token", "2.50")
    made = cli.json("prices", "set", *GPT, "output_token", "0.0000001", "--unit", "per_1k_tokens")
    assert (made["price"], made["currency"], made["origin"]) == ("0.0000001", "USD", "own")
    later = ("--effective-at", "+30d", "--above-tokens", "200000", "--service-tier", "batch")
    cli.done("prices", "set", *GPT, "input_token", "1.25", *later)
    assert [row["price"] for row in cli.json("prices", "list", *GPT)] == ["2.5", "0.0000001"]
    assert len(cli.json("prices", "list", "--at", "+31d")) == 3
    assert len(cli.json("prices", "history", *GPT, "input_token")) == 2
    assert "200000" in cli.done("prices", "history", *GPT)
    used = ("--input-tokens", "1000", "--output-tokens", "200")
    assert "0.00250002 USD" in cli.done("prices", "cost", *GPT, *used)
    found = cli.json("prices", "cost", *GPT, *used)
    assert (found["amount"], found["nano_units"]) == ("0.00250002", 2_500_020)
    assert [line["amount"] for line in found["lines"]] == ["0.0025", "0.00000002"]
    assert found["price_ids"][1] == made["price_id"]


def test_commands_end_with_1_when_refused_and_with_2_when_misused(
    cli: Cli, tmp_path: Path
) -> None:
    refused = cli.run("prices", "cost", *GPT, "--input-tokens", "1")
    assert (refused.code, refused.out) == (1, "")
    assert "openai/gpt-4o has no price in force" in refused.err
    assert cli.run("models", "show", *GPT).code == 1
    for words in (
        ("set", *GPT, "input_token", "much"),
        ("set", *GPT, "thought", "1"),
        ("set", *GPT, "input_token", "1", "--unit", "per_image"),
        ("set", *GPT, "input_token", "1", "--effective-at", "tomorrow"),
        ("cost", *GPT, "--input-tokens", "-1"),
        ("cost", *GPT, "--audio-seconds", "long"),
        ("import", str(tmp_path / "nothing.json")),
        ("import", write(tmp_path / "list.json", [1])),
        ("import", str(tmp_path)),
    ):
        ended = cli.run("prices", *words)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), words
    (tmp_path / "no.json").write_text("{")
    assert "is no JSON" in cli.run("prices", "import", str(tmp_path / "no.json")).err


def test_an_import_shows_first_what_it_would_change(cli: Cli, tmp_path: Path) -> None:
    entries = {
        "gpt-4o": entry("openai", 2.5e-06, cache_read_input_token_cost=1.25e-06),
        "deepseek/deepseek-chat": entry("deepseek", 2.8e-07, search_context_cost_per_query=0.01),
        "free": entry("openai", 0.0, output_cost_per_token=0.0),
    }
    path = write(tmp_path / "prices.json", entries)
    dry = cli.json("prices", "import", path, "--dry-run")
    counts = {name: dry[name] for name in ("entries", "priced", "added", "changed", "dry_run")}
    assert counts == {"entries": 3, "priced": 2, "added": 5, "changed": 0, "dry_run": True}
    assert [(row["entry"], row["reason"][:21]) for row in dry["unread"]] == [
        ("free", "every price is 0, whi")
    ]
    assert [row["entry"] for row in dry["partly"]] == ["deepseek/deepseek-chat"]
    assert cli.json("prices", "list") == []
    assert cli.json("models", "list") == []

    assert "read in part" in cli.done("prices", "import", path)
    assert len(cli.json("prices", "list")) == 5
    shown = cli.json("models", "show", *GPT)
    assert (shown["model"]["output_tokens_max"], shown["model"]["usage_type"]) == (
        16_384,
        "text_generation",
    )
    again = cli.json("prices", "import", path)
    assert (again["added"], again["changed"], again["unchanged"]) == (0, 0, 5)

    del entries["gpt-4o"]["cache_read_input_token_cost"]
    entries["gpt-4o"]["input_cost_per_token"] = 2e-06
    entries["deepseek/deepseek-chat"]["input_cost_per_token"] = 1e-07
    write(tmp_path / "prices.json", entries)
    cli.done("prices", "set", *GPT, "input_token", "9")
    changed = cli.json("prices", "import", path, "--provider", "openai", "--model", "gpt-4o")
    assert (changed["added"], changed["changed"], changed["unchanged"]) == (0, 1, 1)
    assert [(row["old_price"], row["new_price"]) for row in changed["changes"]] == [("2.5", "2")]
    assert changed["changes"][0]["is_shadowed"]
    assert [row["pricing_type"] for row in changed["gone"]] == ["cached_input_token"]
    # the own price wins, what is gone stays in force, and what was not asked for is as it was
    found = cli.json("prices", "cost", *GPT, "--input-tokens", "1000000")
    assert found["amount"] == "9"
    half = ("--input-tokens", "1000000", "--cached-input-tokens", "1000000")
    assert cli.json("prices", "cost", *GPT, *half)["amount"] == "1.25"
    other = cli.json("prices", "cost", "deepseek", "deepseek-chat", "--input-tokens", "1000000")
    assert other["amount"] == "0.28"


def test_the_installed_genai_prices_are_imported(cli: Cli) -> None:
    said = cli.done("prices", "import", "genai-prices", "--provider", "openai", "--dry-run")
    assert "genai-prices 0." in said
    assert "more: --all or --json shows them" in said
    done = cli.json("prices", "import", "genai-prices", "--model", "gpt-4o")
    assert done["priced"] >= 1
    asked = ("--input-tokens", "1000", "--output-tokens", "200")
    assert cli.json("prices", "cost", *GPT, *asked)["amount"] == "0.0045"
    again = cli.json("prices", "import", "genai-prices", "--model", "gpt-4o")
    assert again["changes"] == []


@pytest.mark.slow
@pytest.mark.skipif(LITELLM_FILE is None, reason="QUOTA_ENGINE_TEST_LITELLM_PRICES is not set")
def test_the_whole_litellm_file_is_imported_once(cli: Cli) -> None:
    first = cli.json("prices", "import", str(LITELLM_FILE))
    assert first["added"] > 10_000
    second = cli.json("prices", "import", str(LITELLM_FILE))
    assert (second["changes"], second["gone"]) == ([], [])
    assert second["unchanged"] == first["added"]
    assert len(cli.json("models", "list")) == first["priced"]


def test_models_are_listed_shown_and_changed(cli: Cli) -> None:
    assert "no models" in cli.done("models", "list")
    made = cli.json("models", "set", *GPT, "--usage-type", "text_generation")
    assert (made["name"], made["is_enabled"]) == ("gpt-4o", True)
    cli.done("models", "set", *GPT, "--disabled", "--output-tokens-max", "16384")
    assert "16384" in cli.done("models", "list", "openai")
    assert "no price in force" in cli.done("models", "show", *GPT)
    cli.done("prices", "set", *GPT, "input_token", "2.50")
    assert "input_token" in cli.done("models", "show", *GPT)
    shown = cli.json("models", "show", *GPT)
    assert (shown["model"]["is_enabled"], shown["prices"][0]["price"]) == (False, "2.5")
    assert cli.json("models", "list", "anthropic") == []


def test_a_budget_is_dealt_out_by_the_prices_in_force(cli: Cli) -> None:
    cli.done("prices", "set", *GPT, "input_token", "2.50")
    cli.done("prices", "set", *GPT, "output_token", "10")
    cli.done("prices", "set", "openai", "dall-e", "image", "0.04")
    asked = ("prices", "calculate", "100", "--give", "openai/gpt-4o=100000")
    found = cli.json(*asked, "--give", "openai/dall-e:image=20")
    assert (found["users"], found["cost_per_user"], found["left"]) == (80, "1.2375", "1")
    said = cli.done(*asked, "--input-share", "1")
    assert "400" in said
    for wrong, code in (
        (("--give", "gpt-4o"), 2),
        (("--give", "openai/none=5"), 1),
        (("--give", "openai/gpt-4o=5", "--currency", "CNY"), 1),
        (("--give", "openai/gpt-4o=5", "--input-share", "2"), 2),
    ):
        assert cli.run("prices", "calculate", "100", *wrong).code == code
