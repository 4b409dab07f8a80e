"""
A disk that is too slow for the append-only file is alarmed of while it is, and not for ever.

Goal: doctor's exit code, the workers and the metrics say it. Method: a server that seems to count
late syncs; its note is made older by hand.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from quota_engine import QuotaEngine
from quota_engine.embedded import ValkeyServer
from quota_engine.jobs import server_check
from quota_engine.jobs.health import examine
from quota_engine.jobs.late_syncs import TOLD_FOR_MS
from quota_engine.jobs.looking import DeploymentLook
from quota_engine.jobs.pinned import PinnedConnection
from quota_engine.jobs.schedule import DUTIES, Scheduler
from quota_engine.keys import LATE_SYNCS_KEY
from quota_engine.ledger import Ledger
from quota_engine.metrics.described import DEPLOYMENT
from tests.commands import Cli


class Disk:
    """How many syncs the server seems to have had late."""

    late = 0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk, read_info = Disk(), server_check.read_info

    def read(connection: PinnedConnection) -> dict[str, str]:
        return read_info(connection) | {"aof_delayed_fsync": str(disk.late)}

    monkeypatch.setattr(server_check, "read_info", read)
    monkeypatch.setattr("quota_engine.jobs.health.read_info", read)
    return disk


@pytest.fixture
def engine(server: ValkeyServer, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(server.url, database_url, shards=2) as opened:
        opened.issue_grant("user:42", "text_token", 5)
        yield opened


def is_alarmed(engine: QuotaEngine, database_url: str) -> bool:
    """Whether doctor is not well, for this and nothing else; its number is told anyway."""
    found = examine(engine.deployment.client, "here", database_url)
    fatal = [problem.code for problem in found.problems if problem.is_fatal]
    assert set(fatal) <= {"slow_disk"}
    return bool(fatal)


def grow_older(engine: QuotaEngine, by_ms: int) -> None:
    client: redis.Redis = engine.deployment.client
    told = client.get(LATE_SYNCS_KEY)
    text = told.decode() if isinstance(told, bytes) else str(told)
    run_id, count, at_ms = text.split()
    client.set(LATE_SYNCS_KEY, f"{run_id} {count} {int(at_ms) - by_ms}")


def test_late_syncs_are_an_alarm_while_they_come_and_clear_afterwards(
    engine: QuotaEngine, database_url: str, disk: Disk
) -> None:
    scheduler = Scheduler(engine.deployment)
    (server,) = (duty for duty in DUTIES if duty.name == "server")
    try:
        assert scheduler.run(server).is_ok
        assert not is_alarmed(engine, database_url)
        disk.late = 3
        assert is_alarmed(engine, database_url), "also before a worker has noted it"
        found = scheduler.run(server)
        assert not found.is_ok
        assert "was late 3 times" in found.text
        grow_older(engine, TOLD_FOR_MS - 60_000)
        assert not scheduler.run(server).is_ok
        grow_older(engine, 120_000)
        assert scheduler.run(server).is_ok
        assert "duty" not in {
            p.code for p in examine(engine.deployment.client, "", database_url).problems
        }
        assert not is_alarmed(engine, database_url)
        disk.late = 4
        assert is_alarmed(engine, database_url)
        assert not scheduler.run(server).is_ok
    finally:
        scheduler.close()


@pytest.fixture
def cli(
    server: ValkeyServer,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    made = Cli(monkeypatch, capsys)
    made.aim(server.url, database_url)
    return made


def test_doctor_exits_with_1_for_late_syncs(engine: QuotaEngine, disk: Disk, cli: Cli) -> None:
    assert cli.run("doctor").code == 0
    disk.late = 2
    said = cli.run("doctor")
    assert said.code == 1
    assert "PROBLEM: Redis: syncing the append-only file was late 2 times" in said.out


def test_a_monitor_is_told_how_many_syncs_were_late(
    engine: QuotaEngine, database_url: str, disk: Disk
) -> None:
    assert "redis_late_syncs_total" in {metric.name for metric in DEPLOYMENT}
    with redis.Redis.from_url(engine.deployment.redis_url) as client:
        look = DeploymentLook(engine.deployment, client, Ledger.open(database_url))
        samples = {one.name: one.value for one in look.samples()}
        look.close()
    assert samples["redis_late_syncs_total"] == 0, "this server does not sync at all"
    disk.late = 2
    measures = {one.name: one.value for one in examine(client, "", database_url).measures()}
    assert measures["redis_late_syncs_total"] == 2
