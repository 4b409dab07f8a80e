"""Limits that are set and removed by a table: what each line does, who did it and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quota_engine import BatchRefusedError
from tests.commands import Cli
from tests.engines import Engines

pytestmark = pytest.mark.anyio

TOKENS = "text_token"
HEADING = "account,quota_type,amount,per,of,action\n"
TABLE = (
    f"{HEADING}"
    f"acme/k1,{TOKENS},500,minute,,\n"
    f"acme/k2,{TOKENS},20,day,calls,set\n"
    f"acme/k3,{TOKENS},,day,,remove\n"
    f"acme/k4,{TOKENS},7,,holds,remove\n"
)
BY = {"operator": "ann", "reason": "keys of autumn"}


async def limits(call: Engines, method: str, *args: Any, **kwargs: Any) -> Any:
    result = getattr(call.engine.limits, method)(*args, **kwargs)
    return await result if hasattr(result, "__await__") else result


async def standing(call: Engines, number: int) -> list[tuple[str, str | None, int]]:
    found = await limits(call, "list", f"acme/k{number}", TOKENS)
    return [(one.of, one.per, one.amount) for one in found]


async def two_to_remove(call: Engines) -> None:
    await limits(call, "set", "acme/k3", TOKENS, 9, per="day")
    await limits(call, "set", "acme/k3", TOKENS, 3, per="minute")
    await limits(call, "set", "acme/k4", TOKENS, 8, per=None, of="holds")


async def test_a_table_sets_and_removes_limits_and_the_same_again_does_nothing(
    call: Engines,
) -> None:
    await two_to_remove(call)
    table = TABLE.encode()
    planned = await limits(call, "import_table", table, dry_run=True, **BY)
    assert planned.counts == {"planned": 4}
    assert (await standing(call, 1), len(await standing(call, 3))) == ([], 2)
    made = await limits(call, "import_table", table, **BY)
    assert made.is_done
    assert [(one.line, one.action, one.amount, one.outcome) for one in made.lines] == [
        (2, "set", 500, "set"),
        (3, "set", 20, "set"),
        (4, "remove", None, "removed"),
        (5, "remove", None, "removed"),
    ]
    assert await standing(call, 1) == [("units", "minute", 500)]
    assert await standing(call, 2) == [("calls", "day", 20)]
    assert await standing(call, 3) == [("units", "minute", 3)]  # the other one stays
    assert await standing(call, 4) == []
    for dry_run in (True, False):
        again = await limits(call, "import_table", table, dry_run=dry_run, **BY)
        assert (again.counts, again.is_done) == ({"there": 4}, True)


async def test_each_change_of_a_table_keeps_operator_and_reason(call: Engines) -> None:
    await two_to_remove(call)
    await limits(call, "import_table", TABLE.encode(), **BY)
    for number, action in ((1, "set"), (2, "set"), (3, "remove"), (4, "remove")):
        change = (await limits(call, "history", f"acme/k{number}", TOKENS))[-1]
        assert (change.action, change.operator, change.reason) == (action, *BY.values())


async def test_an_action_that_is_none_is_told_with_its_line(call: Engines) -> None:
    await two_to_remove(call)
    table = (
        f"{HEADING}acme/k3,{TOKENS},9,day,,delete\nacme/k3,{TOKENS},,minute,,set\n"
        f"acme/k3,{TOKENS},,minute,,Remove\nacme/k4,{TOKENS},x,,holds,remove\n"
        f"acme/k1,{TOKENS},5,day,,\nacme/k1,{TOKENS},,day,,remove\nacme/k4,{TOKENS},,,holds,remove\n"
    )
    with pytest.raises(BatchRefusedError) as refused:
        await limits(call, "import_table", table.encode())
    assert [line for line, _ in refused.value.problems] == [2, 3, 4, 5, 7]
    said = dict(refused.value.problems)
    assert "set or remove, not 'delete'" in said[2]
    assert "the same limit as line 6" in said[7]
    assert (await standing(call, 1), len(await standing(call, 3))) == ([], 2)
    assert len(await standing(call, 4)) == 1


def test_a_table_by_command_keeps_who_and_why(cli: Cli, tmp_path: Path) -> None:
    for words in (
        ("acme/k3", TOKENS, "9", "--per", "day"),
        ("acme/k4", TOKENS, "8", "--of", "holds"),
    ):
        cli.done("limits", "set", *words)
    table = tmp_path / "keys.csv"
    table.write_text(TABLE, encoding="utf-8")
    why = ("--operator", BY["operator"], "--reason", BY["reason"])
    told = cli.json("limits", "import", str(table), *why)
    assert (told["outcomes"], told["is_done"]) == ({"set": 2, "removed": 2}, True)
    assert "remove" in cli.done("limits", "import", str(table))
    for number in (1, 2, 3, 4):
        change = cli.json("limits", "history", f"acme/k{number}", TOKENS)[-1]
        assert {name: change[name] for name in BY} == BY
