"""
What was lost is what the operations page says, and a command names it.

Goal: after a wipe with open holds, the operator reads from where on entries are missing, and every
call that is missing was answered after that; the holds that the ledger has go on. Older copies and
lagging replicas: see ``check_named`` in their own tests.
"""

from __future__ import annotations

import json
import time

import pytest

from tests.faults.conftest import MakeWorld
from tests.faults.history import Window
from tests.faults.named import check_named, last_recovery, operator
from tests.faults.world import HOT, World
from tests.faults.writers import QUOTA_TYPE, capture, debit, place_hold


@pytest.mark.row(
    9,
    injection="the same, with open holds, and clients that remember nothing",
    outcome="persisted holds go on; `recovery status` and `doctor` name from where on all is lost",
)
def test_a_wipe_keeps_the_persisted_holds_and_names_what_is_missing(
    make_world: MakeWorld,
) -> None:
    world = make_world(resend_seconds=0)  # clients that remember nothing
    for account in HOT:
        world.ask(place_hold(account, f"kept-{account}", 50))
    world.drain()
    with world.writing() as writers:
        writers.wait_for(60)
        since = world.drain()
        writers.wait_for(60)
        world.ask(place_hold(HOT[0], "lost-hold", 7))
        with world.fault():
            world.admin.flushall()
        until = time.monotonic()
        writers.wait_for(60)
    for account in HOT:
        captured = world.ask(capture(account, f"kept-{account}", 20))
        assert captured.amount == 20
        assert not captured.late
    verdict = world.check(writers=[writers], may_lose=Window(since, until))
    assert "lost-hold" in {call.operation_id for call in verdict.lost}
    check_named(world, verdict)
    told = json.loads(operator(world, "doctor", "--json"))
    notes = [problem["message"] for problem in told["problems"] if problem["code"] == "lost"]
    assert len(notes) == 1
    assert "the outbox was gone" in notes[0]


def test_a_restart_that_loses_nothing_names_nothing(world: World) -> None:
    world.ask(debit(HOT[0], "drained", 1))
    world.drain()
    world.ask(debit(HOT[0], "waits", 1))
    with world.fault():
        world.restart()
    verdict = world.check()
    told = last_recovery(world)
    assert (verdict.lost, told["losses"], told["gaps"]) == ([], [], [])
    assert (told["appended"], told["quarantined"]) == (2, 0), "its own, and its organisation's"
    assert world.engine.read_balance(HOT[0], QUOTA_TYPE).version == 3
