"""
The machine of Redis loses power: the end of its append-only file is gone, or torn.

Goal: with ``always`` nothing that was answered is lost; with ``everysec`` only what was answered
after the last sync; half a script is never seen. Method: the server is killed and its file is cut,
for what a killed process wrote stays in the page cache.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quota_engine import EngineUnavailableError
from quota_engine.cli import app
from quota_engine.embedded.binaries import find_valkey
from tests.conftest import REDIS7_MISSING
from tests.faults import aof
from tests.faults.conftest import MakeWorld
from tests.faults.history import Window
from tests.faults.rare import RARE
from tests.faults.world import HOT, World
from tests.faults.writers import debit
from tests.proxy import Proxy
from tests.servers import redis7_program


@pytest.fixture(params=["valkey", RARE("redis7")])
def any_program(request: pytest.FixtureRequest) -> Path | None:
    """The newest server and the oldest; None: the one that the engine comes with."""
    if request.param == "valkey":
        return None
    program = redis7_program()
    if program is None:
        pytest.skip(REDIS7_MISSING)
    return program


@pytest.mark.fault_slow
@pytest.mark.row(
    3,
    injection="kill -9, the file cut where it ended some time before",
    outcome="lost is at most what was answered since then",
)
def test_a_power_loss_takes_what_was_not_synced(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(100)
        world.drain()
        writers.wait_for(100)
        path = aof.last_file(world.data)
        since, synced = time.monotonic(), path.stat().st_size
        writers.wait_for(100)
        with world.fault():
            world.server.kill()
        until = time.monotonic()
        assert aof.cut(path, aof.boundary_before(path, synced)) > 0
        world.server.start()
        writers.wait_for(100)
    world.check(writers=[writers], may_lose=Window(since, until))


@pytest.mark.fault_slow
@pytest.mark.row(
    3,
    injection="the same, while the ledger already has what the file lost",
    outcome="only what neither has is lost",
)
def test_the_ledger_may_be_ahead_of_the_file(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(100)
        path = aof.last_file(world.data)
        synced = path.stat().st_size
        writers.wait_for(100)
        since = world.drain()
        writers.wait_for(50)
        with world.fault():
            world.server.kill()
        until = time.monotonic()
        assert aof.cut(path, aof.boundary_before(path, synced)) > 0
        world.server.start()
        writers.wait_for(100)
    world.check(writers=[writers], may_lose=Window(since, until))


@pytest.mark.row(
    4,
    injection="appendfsync always; kill -9, all bytes cut after the last answered call's",
    outcome="nothing that was answered is lost",
)
def test_always_synced_loses_nothing_that_was_answered(make_world: MakeWorld) -> None:
    world = make_world(appendfsync="always")
    proxy = Proxy(world.server.url)
    deaf = [world.open_engine(proxy.url) for _ in range(2)]
    with (
        world.writing() as writers,
        world.writing(4, engines=deaf) as unanswered,
    ):
        writers.wait_for(100)
        world.drain()
        writers.wait_for(100)
        proxy.drops_replies = True  # these calls are executed, and nobody is told
        writers.wait_for(50)
        with world.fault():
            world.server.kill()
        writers.wait_until_stuck()
        unanswered.wait_until_stuck()
        cut_after_the_last_answer(world)
        proxy.drops_replies = False
        proxy.cut()
        world.server.start()
        writers.wait_for(100)
    proxy.close()
    world.check(writers=[writers, unanswered])


def cut_after_the_last_answer(world: World) -> None:
    """Leave of the file only what the server had synced when it last answered anybody."""
    answered = {call.operation_id for call in world.calls if call.outcome == "done"}
    path = aof.last_file(world.data)
    aof.cut(
        path,
        max(
            transaction[-1].ends
            for transaction in aof.transactions(path)
            if operation_of(transaction) in answered
        ),
    )


def operation_of(transaction: list[aof.Command]) -> str:
    """Return the id of the operation that a script's first entry tells of."""
    for command in transaction:
        if command.name == b"XADD" and b"entry" in command.words:
            entry = command.words[command.words.index(b"entry") + 1]
            return entry.split(b"\n")[5].decode()
    return ""


@pytest.mark.row(
    5,
    injection="the file cut after a script's XADD, between two commands; two restarts, and writes",
    outcome="half a script is never seen",
)
@pytest.mark.row(
    6,
    injection="the file cut inside EXEC",
    outcome="as a torn script",
)
@pytest.mark.parametrize("place", ["after_xadd", "in_exec"])
def test_half_a_script_is_never_seen(
    make_world: MakeWorld, any_program: Path | None, place: str
) -> None:
    world = make_world(binary=any_program)
    with world.writing() as writers:
        writers.wait_for(60)
        world.drain()
        writers.wait_for(60)
        path = aof.last_file(world.data)
        since = time.monotonic()
        synced = path.stat().st_size
        writers.wait_for(40)
        with world.fault():
            world.server.kill()
        until = time.monotonic()
        torn = next(
            one
            for one in aof.transactions(path)
            if one[0].begins >= synced and one[1].name == b"XADD" and len(one) > 3
        )
        aof.cut(path, torn[1].ends if place == "after_xadd" else torn[-1].ends - 4)
        world.server.start()
        writers.wait_for(60)
        with world.fault():
            world.restart()  # a dangling MULTI of the first start would be executed now
        writers.wait_for(60)
    world.check(writers=[writers], may_lose=Window(since, until))


@pytest.mark.row(
    7,
    injection="aof-load-truncated no, and a torn file",
    outcome="Redis does not start and says why; calls stay closed until check-aof has mended it",
)
def test_a_torn_file_is_mended_as_the_runbook_says(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(settings={"aof-load-truncated": "no"})
    with world.writing() as writers:
        writers.wait_for(60)
        world.drain()
        writers.wait_for(60)
        path = aof.last_file(world.data)
        since = time.monotonic()
        synced = path.stat().st_size
        writers.wait_for(30)
        with world.fault():
            world.server.kill()
        until = time.monotonic()
        torn = next(one for one in aof.transactions(path) if one[0].begins >= synced)
        aof.cut(path, torn[1].ends - 5)
        with pytest.raises(EngineUnavailableError, match="check-aof"):
            world.server.start()
        writers.wait_for_trouble()
        monkeypatch.setenv("QUOTA_ENGINE_REDIS_URL", world.url)
        monkeypatch.setenv("QUOTA_ENGINE_DATABASE_URL", world.database_url)
        assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
        program = tmp_path / "valkey-check-aof"  # the server's program under another name
        program.symlink_to(find_valkey())
        done = subprocess.run([program, "--fix", path], input="y\n", text=True, check=False)
        assert done.returncode == 0
        world.server.start()
        writers.wait_for(60)
    world.check(writers=[writers], may_lose=Window(since, until))


@pytest.mark.fault_slow
@pytest.mark.row(
    23,
    injection="always synced; a reply is lost, its retry answered, and at once the power fails",
    outcome="what the retry was told is there",
)
def test_an_answered_retry_survives_a_power_loss(make_world: MakeWorld) -> None:
    world = make_world(appendfsync="always")
    proxy = Proxy(world.server.url)
    engine = world.open_engine(proxy.url)
    with world.writing() as writers:
        writers.wait_for(100)
        proxy.cut_reply_to("lost-reply")
        answer = world.ask(debit(HOT[0], "lost-reply", 7), engine=engine)
        with world.fault():
            world.server.kill()
        writers.wait_until_stuck()
        cut_after_the_last_answer(world)
        world.server.start()
        writers.wait_for(50)
    proxy.close()
    assert answer.replayed
    assert proxy.cuts == 1
    world.check(writers=[writers])
