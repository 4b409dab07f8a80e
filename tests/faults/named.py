"""
What a fault has lost, as ``quota-engine recovery status`` names it, against what clients lost.
"""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from typing import Any

from typer.testing import CliRunner

from quota_engine.cli import app
from quota_engine.keys import shard_of
from tests.faults.history import Verdict
from tests.faults.world import SHARDS, World

#: As the gate says it: a shard, and the instant of the last entry that is known of it.
NAMED = re.compile(r"shard (\d+): .* of (\S+ \S+) UTC\. Anything written after that is lost")


def operator(world: World, *words: str, code: int = 0) -> str:
    """Run a command as an operator would, and return what it said."""
    urls = {"REDIS_URL": world.url, "DATABASE_URL": world.database_url}
    environment = {f"QUOTA_ENGINE_{name}": value for name, value in urls.items()}
    ended = CliRunner().invoke(app, list(words), env=environment)
    assert ended.exit_code == code, f"{words}: {ended.exit_code}, {ended.output}"
    return ended.output


def last_recovery(world: World) -> dict[str, Any]:
    """Return what is told of the last recovery."""
    recoveries = json.loads(operator(world, "recovery", "status", "--json"))["recoveries"]
    return dict(recoveries[0])


def check_named(world: World, verdict: Verdict) -> None:
    """
    Fail unless every lost call was answered after the instant that is named for its shard.

    The last recovery is the fault's. Both stores and the clients have one clock here.
    """
    losses = last_recovery(world)["losses"]
    assert losses, "a recovery from an older or empty server names what is missing"
    shown = operator(world, "recovery", "status")
    assert all(one in shown for one in losses)
    found = [NAMED.search(one) for one in losses]
    assert all(found), losses
    since = {int(one[1]): datetime.fromisoformat(f"{one[2]}+00:00") for one in found if one}
    to_wall = time.time() - time.monotonic()
    for call in verdict.lost:
        shard = shard_of(call.account, SHARDS)
        assert shard in since, f"{call} is lost, and shard {shard} was not named: {losses}"
        answered = call.ended + to_wall
        assert answered > since[shard].timestamp() - 0.01, f"{call} is lost, but {losses}"
