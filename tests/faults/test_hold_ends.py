"""
The end of a hold: expiry and capture at once, captures that come late, callers that die.

Goal: a hold ends once, and what was used is charged once, always. Method: short lives, many
threads; and clients of the same quotas meanwhile.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import Counter

import pytest
from sqlalchemy import text

from quota_engine import QuotaEngine
from tests.faults.history import Window
from tests.faults.world import HOT, World
from tests.faults.writers import QUOTA_TYPE, Asked, Writers, capture, place_hold
from tests.programs import Program
from tests.workers import wait_until

ROUNDS = 1_000
RACERS = 8
TTL_SECONDS = 0.1


def place_short_hold(account: str, hold_id: str, amount: int, ttl: float) -> Asked:
    """Return the call that sets quota aside for a short time."""
    call, _ = place_hold(account, hold_id, amount)
    return call, lambda engine: engine.place_hold(
        account, QUOTA_TYPE, amount, operation_id=hold_id, ttl=ttl
    )


def race(world: World, engine: QuotaEngine, number: int, late: Counter[bool]) -> None:
    """Capture holds close to their expiry, again and again: later after one that was in time."""
    shift = -0.002
    for turn in range(ROUNDS // RACERS):
        account, hold_id = HOT[turn % len(HOT)], f"race-{number}-{turn}"
        asked = place_short_hold(account, hold_id, 3, TTL_SECONDS)
        hold = world.ask(asked, engine=engine)
        placed_until = asked[0].ended + TTL_SECONDS
        wait = placed_until - time.monotonic() + shift
        time.sleep(max(wait, 0))
        answer = world.ask(capture(account, hold_id, 2), engine=engine)
        assert hold is not None
        assert answer is not None
        late[answer.late] += 1
        shift += -0.002 if answer.late else 0.002


@pytest.mark.fault_slow
@pytest.mark.row(
    49,
    injection="1,000 holds are captured within milliseconds of their expiry, by 8 threads",
    outcome="each ends once, captured or expired; what was used is charged always, once",
)
def test_expiry_and_capture_at_once_end_a_hold_once(world: World) -> None:
    late: Counter[bool] = Counter()
    engines = [world.open_engine() for _ in range(4)]
    racers = [
        threading.Thread(target=race, args=(world, engines[number % 4], number, late))
        for number in range(RACERS)
    ]
    with world.writing() as writers:
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
    assert late.total() == ROUNDS, "every capture was answered"
    assert min(late[True], late[False]) > ROUNDS / 50, f"{late}: it was no race"
    world.check(writers=[writers])
    ends = ends_of(world, "race-%")
    assert len(ends) == ROUNDS
    for hold_id, kinds in ends.items():
        assert kinds in (["hold.captured"], ["hold.expired", "late"]), hold_id


def ends_of(world: World, pattern: str) -> dict[str, list[str]]:
    """Return of each hold how it ended in its own quota, in order; a late capture is "late"."""
    with world.engine.deployment.ledger.transaction() as sql:
        rows = sql.execute(
            text(
                "SELECT subject, kind, late FROM ledger_entries WHERE subject LIKE :pattern AND"
                " kind IN ('hold.captured', 'hold.released', 'hold.expired') AND"
                " account = ANY(:accounts) ORDER BY version"
            ),
            {"pattern": pattern, "accounts": list(HOT)},
        )
        ends: dict[str, list[str]] = {}
        for row in rows:
            ends.setdefault(row.subject, []).append("late" if row.late else row.kind)
        return ends


def let_expire(writers: Writers, seconds: float) -> None:
    """Return when holds of this life are over, clients still writing."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, "the holds' time is over")
    writers.wait_for(20)


@pytest.mark.fault_slow
@pytest.mark.row(
    50,
    injection="holds expire, some of them before a FLUSHALL; then each is captured, twice",
    outcome="charged late, flagged, once",
)
def test_a_late_capture_is_charged_once_also_after_a_rebuild(world: World) -> None:
    before = [(HOT[n % 3], f"late-{n}") for n in range(9)]
    after = [(HOT[n % 3], f"later-{n}") for n in range(9)]
    with world.writing() as writers:
        writers.wait_for(40)
        for account, hold_id in [*before, *after]:
            world.ask(place_short_hold(account, hold_id, 5, 0.5))
        let_expire(writers, 0.6)
        for account, hold_id in before:
            assert world.ask(capture(account, hold_id, 4)).late
        since = world.drain()
        writers.wait_for(30)
        with world.fault():
            world.admin.flushall()
        until = time.monotonic()
        writers.wait_for(40)
        for account, hold_id in after:
            assert world.ask(capture(account, hold_id, 4)).late
        for account, hold_id in [*before, *after]:
            call, method = capture(account, hold_id, 4)
            again = method(world.engine)
            assert again.replayed, call
            assert (again.amount, again.late) == (4, True), call
    world.check(writers=[writers], may_lose=Window(since, until))
    for pattern in ("late-%", "later-%"):
        assert list(ends_of(world, pattern).values()) == [["hold.expired", "late"]] * 9


#: A gateway between place and capture: it tells its hold, and waits for its provider.
GATEWAY = """
import sys, time
from quota_engine import QuotaEngine

redis_url, database_url, account, hold_id = sys.argv[1:]
with QuotaEngine.open(redis_url, database_url, shards=2) as engine:
    hold = engine.place_hold(account, "text_token", 7, operation_id=hold_id, ttl=3)
    print(hold.hold_id, flush=True)
    time.sleep(60)
"""


@pytest.mark.row(
    60,
    injection="SIGKILL of four gateways between placing and capturing",
    outcome="their holds expire by themselves; who knows the usage later charges it late, once",
)
def test_the_holds_of_a_killed_gateway_expire(world: World) -> None:
    holds = [(HOT[number % 3], f"dead-{number}") for number in range(4)]
    for account, hold_id in holds:
        world.calls.append(place_hold(account, hold_id, 7)[0])
    with world.writing() as writers:
        writers.wait_for(30)
        gateways = [
            Program(
                *(GATEWAY, world.url, world.database_url, *hold),
                stdout=subprocess.PIPE,
                text=True,
            )
            for hold in holds
        ]
        try:
            for gateway in gateways:
                assert gateway.stdout is not None
                assert gateway.stdout.readline().startswith("dead-")
        finally:
            with world.fault():
                for gateway in gateways:
                    gateway.send_signal(signal.SIGKILL)
            for gateway in gateways:
                gateway.communicate(timeout=30)
        let_expire(writers, 3.0)
        world.engine.run_schedule()  # the sweep, as workers do
        account, hold_id = holds[0]
        assert world.ask(capture(account, hold_id, 6)).late
    world.check(writers=[writers])
    ends = ends_of(world, "dead-%")
    assert ends == {"dead-0": ["hold.expired", "late"]} | {
        hold_id: ["hold.expired"] for _, hold_id in holds[1:]
    }
