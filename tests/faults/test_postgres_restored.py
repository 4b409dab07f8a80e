"""
PostgreSQL comes back older than it was.

Goal: what it lost is fed to it again from what the outboxes keep, once; spent quota stays spent.
Method: a copy of a stopped server's files, put back under load.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from quota_engine import EngineUnavailableError
from quota_engine.embedded import PostgresServer
from quota_engine.jobs.trim import trim
from tests.faults.conftest import MakeWorld
from tests.faults.postgres import copy_data, restore_data
from tests.faults.world import HOT, SHARDS, World
from tests.faults.writers import Writers
from tests.workers import persisted, wait_until


def back_up(world: World, postgres: PostgresServer, copy: Path) -> None:
    """Keep a copy of the ledger as it is now, clients still running."""
    postgres.stop()
    copy_data(postgres, copy)
    postgres.start()


def restore(world: World, postgres: PostgresServer, copy: Path, writers: Writers) -> None:
    """Put the copy back while entries wait and clients go on."""
    before = persisted(world.engine)
    writers.wait_for(20)
    with world.fault():
        postgres.stop()
        restore_data(postgres, copy)
        postgres.start()
    assert persisted(world.engine) < before, "the ledger has lost commits"


def forget_what_is_persisted(world: World) -> None:
    """Cut the outboxes at once, as after ``trim_after``."""
    deployment = world.engine.deployment
    for shard in range(SHARDS):
        trim(*(deployment.client, deployment.ledger, shard), trim_after=timedelta(0), keep_max=0)


@pytest.mark.fault_slow
@pytest.mark.row(
    34,
    injection="PostgreSQL's files from before the last commits are put back",
    outcome="what it lost is fed again from the outboxes; the ledger is complete",
)
def test_lost_commits_are_fed_again(
    make_world: MakeWorld, postgres: PostgresServer, tmp_path: Path
) -> None:
    world = make_world(database=postgres.url)
    tmp_path.chmod(0o755)
    with world.writing() as writers:
        writers.wait_for(100)
        world.drain()
        back_up(world, postgres, tmp_path / "copy")
        writers.wait_for(150)
        world.drain()
        world.engine.run_schedule()  # as workers do: trims, which must keep what may be needed
        restore(world, postgres, tmp_path / "copy", writers)
        writers.wait_for(80)
    world.check(writers=[writers])


@pytest.mark.fault_slow
@pytest.mark.row(
    34,
    injection="the same, and the outboxes have let go of what the ledger lost",
    outcome="seen as a gap; the shard stops, nothing is skipped or guessed",
)
def test_lost_commits_that_nobody_keeps_stop_the_shard(
    make_world: MakeWorld, postgres: PostgresServer, tmp_path: Path
) -> None:
    world = make_world(database=postgres.url)
    with world.writing(accounts=HOT) as writers:
        writers.wait_for(60)
        world.drain()
        back_up(world, postgres, tmp_path / "copy")
        writers.wait_for(60)
        world.drain()
        forget_what_is_persisted(world)
        restore(world, postgres, tmp_path / "copy", writers)
        kept = persisted(world.engine)
        with pytest.raises(EngineUnavailableError, match="gap"):
            world.engine.drain()
        assert persisted(world.engine) == kept
    rows = world.engine.deployment.ledger.read_shards()
    assert any("gap" in (row.stopped or "") for row in rows)


@pytest.mark.fault_slow
@pytest.mark.row(
    67,
    injection="a ledger from before the last recovery is restored: its epoch is lower",
    outcome="the gate opens above both epochs; what the ledger lost is fed again",
)
def test_a_restored_ledger_of_a_lower_epoch_is_opened_above_both(
    make_world: MakeWorld, postgres: PostgresServer, tmp_path: Path
) -> None:
    world = make_world(database=postgres.url)
    with world.writing() as writers:
        writers.wait_for(80)
        world.drain()
        back_up(world, postgres, tmp_path / "copy")
        old = world.epochs()
        writers.wait_for(60)
        world.restart()
        world.heal()
        writers.wait_for(60)
        newer = world.epochs()
        assert all(new > epoch for new, epoch in zip(newer, old, strict=True))
        world.drain()
        restore(world, postgres, tmp_path / "copy", writers)
        assert world.epochs() == old
        world.open_engine().close()  # whoever opens asks the gate

        def is_above_both() -> bool:
            return all(now > new for now, new in zip(world.epochs(), newer, strict=True))

        wait_until(is_above_both, "the gate has opened above both")
        writers.wait_for(80)
    world.check(writers=[writers])
