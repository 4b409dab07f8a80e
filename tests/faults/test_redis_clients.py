"""
What clients meet and do: lost replies, a wrong URL, another release.

Goal: one effect for each operation, and no client can harm another. Method: the faulty client is
one of many, and the others must not notice it.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from quota_engine import EngineFault, EngineUnavailableError, QuotaEngine
from quota_engine.scripts import load_scripts
from tests.faults.client import Client
from tests.faults.conftest import MakeWorld
from tests.faults.history import Call
from tests.faults.world import COLD, HOT, World
from tests.faults.writers import QUOTA_TYPE, debit
from tests.proxy import Proxy
from tests.servers import CHECKOUT, TestServers
from tests.workers import Worker


@pytest.mark.row(
    16,
    injection="a proxy hangs up instead of the reply to every eighth script, under load",
    outcome="the retry gets the first answer; one entry each",
)
def test_a_lost_reply_is_asked_for_again(world: World) -> None:
    proxy = Proxy(world.server.url)
    cut = [world.open_engine(proxy.url) for _ in range(3)]
    with world.writing(engines=cut) as writers:
        writers.wait_for(50)
        with world.fault():
            proxy.cut_replies_to("EVALSHA", 1 / 8, world.seed)
        writers.wait_for(300)
        proxy.cut_replies_to("EVALSHA", 0)
    proxy.close()
    assert proxy.cuts > 20
    world.check(writers=[writers])


@pytest.mark.row(
    18,
    injection="a proxy hangs up instead of the reply, and the caller's time is over",
    outcome="the driver has sent it once: retries are the engine's, never redis-py's own",
)
def test_the_driver_sends_nothing_twice(world: World) -> None:
    proxy = Proxy(world.server.url)
    hasty = world.open_engine(proxy.url, call_timeout_seconds=0.01)
    world.admin.config_resetstat()
    proxy.cut_reply_to("sent-once")
    with pytest.raises(EngineUnavailableError, match="unknown"):
        hasty.debit(HOT[0], QUOTA_TYPE, 5, operation_id="sent-once")
    assert world.admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
    world.ask(debit(HOT[0], "sent-once", 5))
    proxy.close()
    world.check()


def sabotaged(world: World, account: str) -> QuotaEngine:
    """Return a client whose debits of one account fail after their entry is written."""
    before = "local stored, version = state.stored"
    condition = f'if state.name == "{account}|{QUOTA_TYPE}" then error("sabotage") end\n'
    script = load_scripts()["debit"]
    assert script.source.count(before) == 1
    source = script.source.replace(before, condition + before)
    broken = replace(script, source=source, sha="")
    world.admin.script_load(broken.source)
    engine = world.open_engine()
    engine._transport._scripts = {**load_scripts(), "debit": broken}
    return engine


@pytest.mark.row(
    30,
    injection="a script that fails after its entry, and nobody comes to that quota again",
    outcome="reconciling finds it without traffic, and mends it from the ledger",
)
def test_half_a_write_is_found_and_mended_without_traffic(world: World) -> None:
    engine = sabotaged(world, COLD[0])
    with world.writing(accounts=HOT) as writers:
        writers.wait_for(30)
        with world.fault(), pytest.raises(EngineFault, match="sabotage"):
            engine.debit(COLD[0], QUOTA_TYPE, 5, operation_id="half")
        world.calls.append(Call("debit", COLD[0], "half", 5))
        report = world.engine.reconcile(repair=True)
        assert [drift.account for drift in report.drifts] == [COLD[0]]
        assert report.repaired == 1
    world.ask(debit(COLD[0], "after", 1))
    world.check(writers=[writers])


@pytest.mark.row(
    65,
    injection="one client is given an empty server's URL; another's URL leads there meanwhile",
    outcome="both are refused, the empty server stays empty, nobody else notices",
)
def test_a_wrong_url_is_refused_and_nobody_else_notices(
    world: World, servers: TestServers
) -> None:
    other = servers.valkey()
    proxy = Proxy(world.server.url)
    led_away = world.open_engine(proxy.url, call_timeout_seconds=1)
    world.ask(debit(HOT[0], "before", 1), engine=led_away)
    with world.writing() as writers:
        before = world.epochs()
        writers.wait_for(50)
        with world.fault():
            proxy.retarget(other.url)
            proxy.cut()
        for _ in range(3):
            with pytest.raises(EngineUnavailableError, match="recovery run --adopt"):
                world.open_engine(other.url)
            with pytest.raises(EngineUnavailableError, match="recovery run --adopt"):
                led_away.debit(HOT[0], QUOTA_TYPE, 1, operation_id="never")
            writers.wait_for(30)
        proxy.retarget(world.server.url)
        proxy.cut()
        world.ask(debit(HOT[0], "after", 1), engine=led_away)
    assert World.is_empty(other)
    other.kill()
    proxy.close()
    assert world.epochs() == before
    assert [call.error for call in writers.calls if call.failed] == []
    world.check(writers=[writers])


@pytest.fixture
def newer_release(tmp_path: Path) -> Path:
    """A copy of the engine, of which every script has another text."""
    for name in ("quota_engine", "lua", "workers", "migrations"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, tmp_path / name, symlinks=True, ignore=ignored)
    for path in (tmp_path / "lua").glob("*.lua"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("\n]]\n", "\n]]\nlocal release = 2 assert(release)\n", 1))
    return tmp_path


@pytest.mark.fault_slow
@pytest.mark.row(
    64,
    injection="a release with other scripts: first its worker takes over, then its clients",
    outcome="its scripts are loaded in the same epoch; no call fails on either side",
)
def test_a_rolling_deploy_fences_nobody(
    make_world: MakeWorld, newer_release: Path, tmp_path: Path
) -> None:
    world = make_world()
    environment = {
        "QUOTA_ENGINE_REDIS_URL": world.url,
        "QUOTA_ENGINE_DATABASE_URL": world.database_url,
    }
    newer = {**environment, "PYTHONPATH": str(newer_release)}
    before = world.epochs()
    with (
        world.writing(pause_seconds=0.1) as writers,
        Worker(environment, tmp_path / "old.log") as old_worker,
        Worker(newer, tmp_path / "new.log") as new_worker,
    ):
        old_worker.wait_until_it_runs()
        new_worker.wait_until_it_runs()
        writers.wait_for(50)
        old_worker.terminate()
        writers.wait_for(50)
        client = Client(world, "newer", release=newer_release)
        try:
            assert client.engine_file.is_relative_to(newer_release)
            writers.wait_for(200)
        finally:
            later = client.stop()
    assert len(later) > 50
    assert [call.error for call in [*writers.calls, *later] if call.failed] == []
    assert world.epochs() == before
    world.check(writers=[writers])
