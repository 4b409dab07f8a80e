"""
The clock of the Redis server jumps: the one fault of the matrix that is not answered as it asks.

Goal: what ends too early is no more than what is touched meanwhile, it is alarmed of, the runbook
finds it, and the books stay right. Method: a server by libfaketime, whose clock is set while it
runs (docs/decisions/0123-clock-jumps.md says why scripts go by that clock).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import EngineUnavailableError, PlacedHold, QuotaEngine
from quota_engine.jobs.schedule import DUTIES, Scheduler
from quota_engine.jobs.verify import verify
from quota_engine.ledger.ledger import Ledger
from tests.commands import Cli
from tests.faults.conftest import MakeWorld
from tests.faults.rare import RARE
from tests.server_clock import ServerClock, faketime_program
from tests.servers import CHECKOUT, TestServers

TYPE = "text_token"
HOUR = 3_600


@pytest.fixture
def server_clock(tmp_path: Path) -> ServerClock:
    faketime = faketime_program()
    if faketime is None:
        pytest.skip("no libfaketime: ./run python tools/debian_parts.py faketime")
    return ServerClock(tmp_path, faketime)


@pytest.fixture
def engine(
    servers: TestServers, database_url: str, server_clock: ServerClock
) -> Iterator[QuotaEngine]:
    server = servers.valkey(binary=server_clock.binary)
    try:
        with QuotaEngine.open(server.url, database_url, shards=2) as opened:
            yield opened
    finally:
        server.kill()


@pytest.fixture
def cli(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    made = Cli(monkeypatch, capsys)
    made.aim(engine.deployment.redis_url, engine.deployment.database_url)
    return made


@dataclass(frozen=True)
class Subject:
    """An account with a grant that ends in half an hour, a hold of two minutes, and a debit."""

    account: str
    hold: PlacedHold

    @classmethod
    def made(cls, engine: QuotaEngine, account: str) -> Subject:
        ends = datetime.now(UTC) + timedelta(minutes=30)
        engine.issue_grant(account, TYPE, 100, grant_id=f"{account}-stays")
        engine.issue_grant(
            account, TYPE, 50, grant_id=f"{account}-ends", priority=1, expires_at=ends
        )
        hold = engine.place_hold(account, TYPE, 80, ttl=120)
        assert engine.debit(account, TYPE, 1, operation_id=f"{account}-debit").balance == 149
        return cls(account, hold)

    def balance(self, engine: QuotaEngine) -> tuple[int, int]:
        found = engine.read_balance(self.account, TYPE)
        return found.balance, found.held


def duty_outcome(engine: QuotaEngine, name: str) -> tuple[bool, str]:
    scheduler = Scheduler(engine.deployment)
    try:
        found = scheduler.run(next(duty for duty in DUTIES if duty.name == name))
    finally:
        scheduler.close()
    return found.is_ok, found.text


def runbook_query() -> str:
    """Return the SQL of the runbook, as it stands there."""
    page = (CHECKOUT / "docs/operations.md").read_text(encoding="utf-8")
    section = page.split("## The clocks differ\n")[1].split("\n## ")[0]
    (query,) = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    return str(query)


def ended_early(ledger: Ledger, since: datetime) -> set[tuple[str, str]]:
    """Return what the runbook finds: account and kind of entry."""
    query = runbook_query().replace("'2026-11-23 22:57:38+00'", ":since")
    with ledger.transaction() as sql:
        rows: Any = sql.execute(text(query), {"since": since}).mappings()
        return {(row["account"], row["kind"]) for row in rows}


@pytest.mark.row(
    51,
    injection="the clock of the Redis server jumps an hour ahead, later back (libfaketime)",
    outcome="an exception: what is touched meanwhile ends early; what is not stays; workers pause,"
    " `doctor` alarms, the runbook's query names what was harmed, the books prove",
)
def test_what_is_touched_while_redis_is_an_hour_ahead_ends_early_and_is_named(
    engine: QuotaEngine, server_clock: ServerClock, cli: Cli
) -> None:
    began = datetime.now(UTC) - timedelta(seconds=5)
    touched, idle = (Subject.made(engine, name) for name in ("touched", "idle"))
    engine.limits.set("limited", TYPE, 10, per="minute")
    engine.issue_grant("limited", TYPE, 100)
    engine.debit("limited", TYPE, 10)
    engine.drain()
    assert duty_outcome(engine, "clocks")[0]

    server_clock.set(HOUR)
    assert touched.balance(engine) == (99, 0), "hold and grant are over by that clock"
    again = engine.debit("touched", TYPE, 1, operation_id="touched-debit")
    assert not again.replayed, "what Redis remembers for a while is over, too"
    late = engine.capture_hold(touched.hold, 70)
    assert (late.late, late.shortfall, late.balance) == (True, 0, 28)
    assert engine.capture_hold(touched.hold, 70).replayed, "charged once"
    assert engine.debit("limited", TYPE, 10).shortfall == 0, "another minute for its limit"

    # everybody is told, and nothing is ended for those that nobody touches
    found = json.loads(cli.run("doctor", "--json").out)
    assert "clocks" in {one["code"] for one in found["problems"] if one["is_fatal"]}
    assert cli.run("doctor").code == 1
    is_ok, said = duty_outcome(engine, "clocks")
    assert not is_ok
    assert "+3600 s from PostgreSQL's" in said
    for name in ("sweep", "intents", "renewals", "reminders"):
        assert not duty_outcome(engine, name)[0], name

    server_clock.set(0)
    assert idle.balance(engine) == (149, 80)
    assert not engine.capture_hold(idle.hold, 70).late
    assert touched.balance(engine) == (28, 0), "what has ended does not come back by itself"
    engine.limits.set("limited", TYPE, 11, per="minute")
    assert engine.debit("limited", TYPE, 1).shortfall == 0, "set anew, its limit counts anew"
    assert duty_outcome(engine, "clocks")[0]
    assert engine.run_schedule()

    engine.drain()
    ledger = engine.deployment.ledger
    assert ended_early(ledger, began) == {
        ("touched", "grant.expired"),
        ("touched", "hold.expired"),
        ("touched", "quota.debited"),
    }
    doubled = [row for row in engine.history("touched", TYPE) if row.duplicate_of is not None]
    assert [(row.operation_id, row.duplicate_of) for row in doubled] == [("touched-debit", 4)]
    report = engine.reconcile()
    assert (report.drifts, report.not_compared) == ((), 0)
    assert list(verify(ledger)) == []


@pytest.mark.row(
    51,
    injection="the same under load; and an hour back, and forth again",
    outcome="an exception, too; each call has one effect and every invariant holds",
)
@pytest.mark.parametrize("hours", [1, RARE(-1)])
def test_a_redis_whose_clock_jumps_under_load_keeps_the_books(
    make_world: MakeWorld, server_clock: ServerClock, hours: int
) -> None:
    world = make_world(binary=server_clock.binary)
    before = world.epochs()
    with world.writing() as writers:
        writers.wait_for(40)
        with world.fault():
            server_clock.set(hours * HOUR)
        writers.wait_for(40)
        with pytest.raises(EngineUnavailableError, match=re.escape(f"{hours * HOUR:+d} s")):
            world.engine.run_schedule()
        server_clock.set(0)
        writers.wait_for(40)
    world.check(writers=[writers])
    assert world.epochs() == before, "no recovery comes of it"
