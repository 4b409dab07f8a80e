"""
Power is lost, and clients that still run send again what they had been answered shortly before.

Goal: what the disk had not got comes back, once; without it, exactly that is lost. Method: the
server is killed and its file cut where it ended a while before; the calls of that time are
counted in what comes back.
"""

from __future__ import annotations

import time

import pytest

from tests.faults import aof
from tests.faults.conftest import MakeWorld
from tests.faults.history import Call, Verdict, Window
from tests.faults.world import COLD, HOT, POOR, World

CUT_SECONDS = 1.2


def lose_power(world: World, accounts: tuple[str, ...]) -> tuple[Verdict, list[Call]]:
    """Let writers lose more than a second; return what was found, and what was answered then."""
    with world.writing(accounts=accounts) as writers:
        writers.wait_for(100)
        world.drain()
        writers.wait_for(50)
        path = aof.last_file(world.data)
        since, synced = time.monotonic(), path.stat().st_size
        time.sleep(CUT_SECONDS)
        writers.wait_for(20)
        with world.fault():
            world.server.kill()
        until = time.monotonic()
        assert aof.cut(path, aof.boundary_before(path, synced)) > 0
        world.server.start()
        writers.wait_for(150)
    verdict = world.check(writers=[writers], may_lose=Window(since, until))
    answered = [
        call
        for call in world.calls
        if call.outcome == "done" and since <= call.started and call.ended <= until
    ]
    return verdict, answered


@pytest.mark.row(
    3,
    injection="kill -9, more than a second cut off the file; the clients go on",
    outcome="nothing that was answered is lost: they send it again, once",
)
def test_running_clients_bring_back_what_the_power_took(make_world: MakeWorld) -> None:
    world = make_world(resend_seconds=60)
    verdict, answered = lose_power(world, HOT + COLD)
    assert len(answered) > 20
    assert verdict.lost == []
    assert len(verdict.restored) > 0


@pytest.mark.fault_slow
@pytest.mark.row(
    3,
    injection="the same, on accounts that have little left",
    outcome="what was charged comes back; a hold that is denied now is dropped, and charged late",
)
def test_holds_that_are_denied_now_are_charged_late(make_world: MakeWorld) -> None:
    world = make_world(resend_seconds=60)
    verdict, _ = lose_power(world, (POOR, POOR, *COLD))
    assert verdict.lost == verdict.denied_and_after


@pytest.mark.fault_slow
@pytest.mark.row(
    3,
    injection="the same, and clients remember nothing (resend_seconds = 0)",
    outcome="what was cut off is lost, whole, and nothing else",
)
def test_without_it_the_power_takes_what_it_took(make_world: MakeWorld) -> None:
    world = make_world(resend_seconds=0)
    verdict, answered = lose_power(world, HOT + COLD)
    assert 0 < len(verdict.lost) <= len(answered) + 8
