"""
The network is slow and lossy, calls are cancelled, releases are mixed, clocks jump.

Goal: each call has one effect, whatever happens on its way. Method: a proxy, cancelled tasks, a
copy of the engine with other scripts, clients with other clocks; clients under load meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quota_engine import AsyncQuotaEngine, EngineUnavailableError, QuotaInsufficientError
from quota_engine.jobs import clocks
from quota_engine.jobs.schedule import DUTIES, Scheduler
from quota_engine.scripts import load_scripts
from tests.faults.conftest import MakeWorld
from tests.faults.history import Call
from tests.faults.rare import RARE
from tests.faults.world import ENGINE_SETTINGS, HOT, World
from tests.faults.writers import QUOTA_TYPE, debit
from tests.proxy import Proxy
from tests.servers import CHECKOUT
from tests.workers import wait_until

LOSSES_MIN = 20
TASKS, CANCELLED_SHARE = 400, 0.3


@pytest.mark.row(
    56,
    injection="3 ms more a chunk, and of every twentieth call the reply is lost (a proxy)",
    outcome="asked for again under the same id, each call has one effect",
)
def test_a_slow_and_lossy_network_costs_only_time(make_world: MakeWorld) -> None:
    proxies: list[Proxy] = []

    def behind(server: object) -> str:
        proxies.append(Proxy(server.url))  # type: ignore[attr-defined]
        return proxies[0].url

    world = make_world(url_of=behind)
    (proxy,) = proxies
    try:
        with world.writing() as writers:
            writers.wait_for(30)
            with world.fault():
                proxy.delay = 0.003
                proxy.cut_replies_to("EVALSHA", share=0.05, seed=world.seed)
            wait_until(
                lambda: proxy.cuts >= LOSSES_MIN or bool(writers.faults), "replies are lost", 60
            )
            proxy.cut_replies_to("EVALSHA", share=0.0)
            proxy.delay = 0.0
            writers.wait_for(40)
        world.check(writers=[writers])
    finally:
        proxy.close()


async def ask_and_cancel(world: World, engine: AsyncQuotaEngine, calls: list[Call]) -> int:
    """Make many calls at once, cancel some under way, and ask for those again."""
    chance = random.Random(world.seed)
    cancelled = 0

    async def one(call: Call) -> None:
        nonlocal cancelled
        call.started = time.monotonic()
        while True:
            call.attempts += 1
            task = asyncio.create_task(
                engine.debit(call.account, QUOTA_TYPE, call.amount, operation_id=call.operation_id)
            )
            if call.attempts == 1 and chance.random() < CANCELLED_SHARE:
                await asyncio.sleep(chance.random() * 0.02)
                task.cancel()
            try:
                answer = await task
            except asyncio.CancelledError:
                cancelled += 1
                continue
            except EngineUnavailableError:
                continue
            except QuotaInsufficientError:
                call.outcome = "refused"
            else:
                assert answer.operation_id == call.operation_id, "somebody else's answer"
                assert answer.amount == call.amount, "somebody else's answer"
                call.outcome, call.version, call.balance = "done", answer.version, answer.balance
            call.ended = time.monotonic()
            return

    await asyncio.gather(*(one(call) for call in calls))
    return cancelled


@pytest.mark.row(
    57,
    injection="of 400 asynchronous calls at once 30 % are cancelled under way, then asked again",
    outcome="no call gets another's answer; each has one effect",
)
async def test_cancelled_calls_have_one_effect_and_mix_up_nothing(world: World) -> None:
    calls = [
        Call("debit", HOT[number % 3], f"storm-{number}", 1 + number % 7)
        for number in range(TASKS)
    ]
    world.calls += calls
    opened = AsyncQuotaEngine.open(world.url, world.database_url, **ENGINE_SETTINGS)
    with world.writing() as writers:
        await asyncio.to_thread(writers.wait_for, 30)
        async with opened as engine:
            with world.fault():
                cancelled = await ask_and_cancel(world, engine, calls)
        await asyncio.to_thread(writers.wait_for, 30)
    assert cancelled > TASKS / 20
    await asyncio.to_thread(world.check, writers=[writers])


#: A caller and drainer of another release; prints what it was told.
OTHER_RELEASE = """
import json, sys, time
from quota_engine import QuotaEngine
from quota_engine.scripts import load_scripts

redis_url, database_url, name, account, count = sys.argv[1:]
with QuotaEngine.open(redis_url, database_url, shards=2, call_timeout_seconds=20) as engine:
    print(load_scripts()["debit"].sha, flush=True)
    for number in range(int(count)):
        started = time.monotonic()
        answer = engine.debit(account, "text_token", 2, operation_id=f"{name}-{number}")
        told = [f"{name}-{number}", started, time.monotonic(), answer.version, answer.balance]
        print(json.dumps(told), flush=True)
        if number % 10 == 9:
            engine.drain()
"""


def another_release(folder: Path) -> Path:
    """Return a copy of the engine whose scripts have another text, and so other names in Redis."""
    for name in ("quota_engine", "lua", "workers", "migrations"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, folder / name, symlinks=True, ignore=skip)
    for script in (folder / "lua").glob("*.lua"):
        text = script.read_text(encoding="utf-8")
        script.write_text(text.replace("\n]]\n", "\n]]\nlocal _ = 2\n", 1), encoding="utf-8")
    return folder


@pytest.mark.fault_slow
@pytest.mark.row(
    58,
    injection="two processes of another release (other script texts) call and drain, under load",
    outcome="both releases' scripts stay loaded side by side: no epoch begins, nothing is lost",
)
def test_two_releases_side_by_side_do_not_fence_each_other(world: World, tmp_path: Path) -> None:
    release = another_release(tmp_path / "release")
    before = world.epochs()
    with world.writing() as writers:
        writers.wait_for(30)
        with world.fault():
            others = [
                subprocess.Popen(
                    [
                        *(sys.executable, "-c", OTHER_RELEASE, world.url, world.database_url),
                        *(f"other{number}", HOT[number], "60"),
                    ],
                    env={**os.environ, "PYTHONPATH": str(release)},
                    cwd=release,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for number in range(2)
            ]
        told = [other.communicate(timeout=90)[0].splitlines() for other in others]
        writers.wait_for(30)
    for number, lines in enumerate(told):
        assert lines[0] != load_scripts()["debit"].sha, "it is another text"
        assert len(lines) == 61
        for line in lines[1:]:
            operation_id, started, ended, version, balance = json.loads(line)
            call, _ = debit(HOT[number], operation_id, 2)
            call.started, call.ended, call.outcome = started, ended, "done"
            call.version, call.balance = version, balance
            world.calls.append(call)
    assert world.epochs() == before
    world.check(writers=[writers])


def sweep_by(clock: Callable[[], datetime], world: World) -> None:
    """Let a hold that is over by a clock be over in all of its quotas, not in those it met."""
    with closing(Scheduler(world.engine.deployment, clock=clock)) as scheduler:
        (sweep,) = (duty for duty in DUTIES if duty.name == "sweep")
        assert scheduler.run(sweep).is_ok


@pytest.mark.row(
    51,
    injection="clients whose `clock` is an hour ahead or behind call beside others; then the"
    " stores' clocks seem an hour apart to the workers",
    outcome="admission and ids stand; nothing is swept while the stores' clocks differ",
)
@pytest.mark.parametrize("hours", [1, RARE(-1)])
def test_a_clock_that_jumps_changes_no_admission(
    world: World, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    def odd_clock() -> datetime:
        return datetime.now(UTC) + timedelta(hours=hours)

    odd = [world.open_engine(clock=odd_clock) for _ in range(2)]
    with world.writing() as writers, world.writing(4, engines=odd) as others:
        writers.wait_for(40)
        others.wait_for(40)
        with world.fault(), monkeypatch.context() as patch:
            apart_ms = hours * 3_600_000
            patch.setattr(clocks, "difference_ms", lambda *_: apart_ms)
            with pytest.raises(EngineUnavailableError, match=r"clock|3600 s"):
                world.engine.run_schedule()
        others.wait_for(40)
        writers.wait_for(40)
    sweep_by(odd_clock, world)
    world.check(writers=[writers, others])
