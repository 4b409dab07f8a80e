"""
Both stores are backed up while clients write, and restored, each alone and both, in either order.

Goal: the procedure of docs/operations.md, "Backups", ends with whole logs and no drift; lost is
exactly what the page says, and `recovery status` names from where on. Method: copies of running
servers at different moments, clients stopped for the restore as the page asks, then new ones.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from quota_engine.embedded import PostgresServer
from tests.faults.conftest import MakeWorld
from tests.faults.copies import copy_redis, dump_ledger, restore_ledger, restore_redis
from tests.faults.history import Verdict, Window
from tests.faults.named import check_named, last_recovery, operator
from tests.faults.world import World
from tests.faults.writers import Writers


@dataclass
class Backups:
    """A world, and the copies of its stores."""

    world: World
    postgres: PostgresServer
    folder: Path
    writers: list[Writers] = field(default_factory=list)

    def run(self, *copies: str) -> dict[str, float]:
        """
        Let clients write, with a copy of these stores every now and then; stop them at last.

        Returns for each copy, and for the end of all ("end"), an instant: "redis": before the
        copy; "ledger" and "drained": all that was answered before it is in the copy, or in the
        ledger.
        """
        instants = {}
        with self.world.writing() as writers:
            writers.wait_for(60)
            for store in copies:
                if store == "redis":
                    writers.wait_for(20)  # which wait in its outboxes
                    instants[store] = time.monotonic()
                    copy_redis(self.world.server, self.folder / "redis")
                else:
                    instants[store] = self.world.drain()
                    dump_ledger(self.postgres, self.folder / "ledger")
                writers.wait_for(60)
            instants["drained"] = self.world.drain()
            writers.wait_for(40)
        instants["end"] = time.monotonic()
        self.writers.append(writers)
        return instants

    def restore(self, *stores: str) -> None:
        """Put copies back and open the deployment again, as the page says."""
        with self.world.fault():
            if "ledger" in stores:
                restore_ledger(self.postgres, self.folder / "ledger")
            if "redis" in stores:
                restore_redis(self.world.server, self.folder / "redis")
        operator(self.world, "ledger", "migrate")
        operator(self.world, "recovery", "run")
        operator(self.world, "ledger", "drain")
        operator(self.world, "reconcile")
        operator(self.world, "ledger", "verify")

    def go_on(self) -> None:
        """Let new clients write."""
        with self.world.writing() as writers:
            writers.wait_for(60)
        self.writers.append(writers)

    def check(self, may_lose: Window | None, *, may_lose_promises: bool = False) -> Verdict:
        return self.world.check(
            writers=self.writers, may_lose=may_lose, may_lose_promises=may_lose_promises
        )


@pytest.fixture
def backups(make_world: MakeWorld, postgres: PostgresServer, tmp_path: Path) -> Backups:
    world = make_world(database=postgres.url, resend_seconds=0)  # its clients end before a restore
    return Backups(world, postgres, tmp_path)


@pytest.mark.fault_slow
@pytest.mark.row(
    11,
    injection="a copy of the running server's append-only files is put back by the runbook",
    outcome="lost is what the ledger had not, and named; nothing spent comes back",
)
def test_only_redis_is_restored(backups: Backups) -> None:
    instants = backups.run("redis")
    backups.restore("redis")
    backups.go_on()
    verdict = backups.check(Window(instants["drained"], instants["end"]))
    assert verdict.lost
    check_named(backups.world, verdict)


@pytest.mark.fault_slow
@pytest.mark.row(
    34,
    injection="a dump of the running ledger is put back by the runbook",
    outcome="the outboxes feed it again; nothing is lost",
)
def test_only_the_ledger_is_restored(backups: Backups) -> None:
    backups.run("ledger")
    backups.restore("ledger")
    backups.go_on()
    verdict = backups.check(None)
    assert verdict.lost == []


@pytest.mark.fault_slow
@pytest.mark.row(
    11,
    injection="both stores are restored by the runbook, Redis' copy older than the ledger's",
    outcome="lost is what the ledger's copy has not, and named",
)
def test_both_are_restored_and_the_copy_of_redis_is_older(backups: Backups) -> None:
    instants = backups.run("redis", "ledger")
    backups.restore("redis", "ledger")
    backups.go_on()
    window = Window(instants["ledger"], instants["end"])
    verdict = backups.check(window, may_lose_promises=True)
    assert verdict.lost
    check_named(backups.world, verdict)


@pytest.mark.row(
    34,
    injection="both stores are restored by the runbook, the ledger's copy older than Redis'",
    outcome="the copy of Redis feeds the ledger; lost is what came after it",
)
def test_both_are_restored_and_the_copy_of_the_ledger_is_older(backups: Backups) -> None:
    instants = backups.run("ledger", "redis")
    backups.restore("redis", "ledger")
    told = last_recovery(backups.world)
    backups.go_on()
    window = Window(instants["redis"], instants["end"])
    verdict = backups.check(window, may_lose_promises=True)
    assert verdict.lost
    assert told["appended"] > 20, "the ledger's copy was fed from that of Redis"
    newest = datetime.fromisoformat(told["last_entry_at"]).timestamp()
    to_wall = time.time() - time.monotonic()
    early = [call for call in verdict.lost if call.ended + to_wall < newest - 0.01]
    assert early == [], "what was lost was answered after the newest entry that is told"
