"""Who has something left is reminded before it ends: once a threshold, whoever schedules."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from quota_engine import InvalidArgumentError, QuotaEngine, Reminder
from quota_engine.instants import to_ms
from quota_engine.jobs.reminders import Reminding, remind
from quota_engine.jobs.schedule import REMINDERS, Scheduler
from tests.commands import Cli
from tests.engines import NOON, Engines, TestClock

ACCOUNT, TYPE = "user:42", "text_token"
DAY, MINUTE, INSTANT = timedelta(days=1), timedelta(minutes=1), timedelta(milliseconds=1)
END = NOON + 30 * DAY


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def engine(redis_url: str, database_url: str, clock: TestClock) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, clock=clock) as opened:
        yield opened


def issue(
    engine: QuotaEngine, grant_id: str = "g", account: str = ACCOUNT, **terms: object
) -> None:
    terms = {"expires_at": END, **terms}
    engine.issue_grant(account, TYPE, 100, grant_id=grant_id, **terms)  # type: ignore[arg-type]
    engine.drain()


def made_at(engine: QuotaEngine, now: datetime) -> int:
    return remind(engine.deployment, to_ms(now, name="now"))


def days(engine: QuotaEngine) -> list[int]:
    return [one.days for one in engine.reminders()]


def test_each_threshold_is_met_once_and_to_the_instant(engine: QuotaEngine) -> None:
    issue(engine)
    met = []
    for number in (7, 3, 1):
        assert made_at(engine, END - number * DAY - INSTANT) == 0
        assert made_at(engine, END - number * DAY) == 1
        assert made_at(engine, END - number * DAY + INSTANT) == 0
        met.append(number)
        assert days(engine) == met
    first = engine.reminders()[0]
    assert (first.account, first.quota_type, first.grant_id) == (ACCOUNT, TYPE, "g")
    assert (first.remaining, first.expires_at) == (100, END)
    assert (first.reminded_at, first.delivered_at) == (END - 7 * DAY, None)
    assert made_at(engine, END) == 0


def test_after_a_pause_only_the_nearest_threshold_is_told(engine: QuotaEngine) -> None:
    issue(engine)
    assert made_at(engine, END - 2 * DAY) == 1
    assert days(engine) == [3], "and not 7 beside it"
    assert made_at(engine, END - 5 * DAY) == 0, "nor when a clock goes back"


def test_what_needs_no_reminder_gets_none(engine: QuotaEngine, clock: TestClock) -> None:
    issue(engine, "forever", expires_at=None)
    issue(engine, "used")
    engine.debit(ACCOUNT, TYPE, 100)
    issue(engine, "voided")
    engine.void_grant(ACCOUNT, TYPE, "voided")
    issue(engine, "pending", starts_at=END - DAY / 2)
    engine.drain()
    assert made_at(engine, END - DAY) == 0
    assert made_at(engine, END + DAY) == 0
    clock.now = END - 2 * DAY
    issue(engine, "short", source="promotion")
    assert made_at(engine, END - 2 * DAY) == 0, "it lives no longer than three days"
    assert made_at(engine, END - DAY) == 1
    assert [(one.grant_id, one.days, one.source) for one in engine.reminders()] == [
        ("short", 1, "promotion")
    ]


def test_what_a_refund_brought_back_is_told(engine: QuotaEngine) -> None:
    issue(engine)
    charge = engine.debit(ACCOUNT, TYPE, 100)
    engine.drain()
    assert made_at(engine, END - 7 * DAY) == 0
    engine.refund(ACCOUNT, TYPE, charge.operation_id, 40)
    engine.drain()
    assert made_at(engine, END - 6 * DAY) == 1
    assert engine.reminders()[0].remaining == 40


def test_a_frozen_quota_is_told_of_when_it_is_well(engine: QuotaEngine) -> None:
    issue(engine)

    def mark(reason: str) -> None:
        with engine.deployment.ledger.transaction() as sql:
            sql.execute(text("UPDATE quotas SET frozen = :reason"), {"reason": reason})

    mark("in doubt")
    assert made_at(engine, END - DAY) == 0
    mark("")
    assert made_at(engine, END - DAY) == 1


def test_two_schedulers_at_once_tell_once(
    engine: QuotaEngine, clock: TestClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "quota_engine.reminders")
    for number in range(40):
        issue(engine, account=f"user:{number}")
    clock.now = END - 3 * DAY
    schedulers = [Scheduler(engine.deployment, clock=clock) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda one: one.run(REMINDERS).text, schedulers))
    for scheduler in schedulers:
        scheduler.close()
    assert sum(int(one.split()[0]) for one in told) == 40
    assert days(engine) == [3] * 40
    lines = [
        json.loads(line.removeprefix("reminder "))
        for line in caplog.messages
        if line.startswith("reminder ")
    ]
    assert len({line["account"] for line in lines}) == len(lines) == 40
    assert {line["remaining"] for line in lines} == {100}


def test_many_reminders_are_made_page_by_page(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        issue(engine, account=f"user:{number}")
    for module in ("quota_engine.ledger.reminders", "quota_engine.jobs.reminders"):
        monkeypatch.setattr(f"{module}.PAGE", 2)
    assert made_at(engine, END - DAY) == 7


def test_a_scheduler_looks_at_all_each_hour_and_else_at_what_is_new(engine: QuotaEngine) -> None:
    issue(engine)
    charge = engine.debit(ACCOUNT, TYPE, 100)
    issue(engine, "next", account="user:43", expires_at=END + 10 * MINUTE)
    reminding, crossed = Reminding(engine.deployment), END - 7 * DAY

    def run(after: timedelta) -> int:
        return reminding.run(to_ms(crossed + after, name="after"))

    assert run(timedelta(0)) == 0, "nothing is left of the one, the other is not due"
    assert run(10 * MINUTE) == 1
    engine.refund(ACCOUNT, TYPE, charge.operation_id, 40)
    engine.drain()
    assert run(30 * MINUTE) == 1, "it crossed its threshold not long ago"
    issue(engine, "late", account="user:44", expires_at=END - DAY)
    assert run(59 * MINUTE) == 0
    assert run(60 * MINUTE) == 1, "long ago, but each hour all are looked at"
    assert run(60 * MINUTE) == 0


def test_the_schedule_reminds_and_the_days_are_a_setting(
    redis_url: str, database_url: str, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUOTA_ENGINE_REMINDER_DAYS", " 14,2,14 ")
    with QuotaEngine.open(redis_url, database_url, clock=clock) as engine:
        assert engine.deployment.settings.reminder_days == (14, 2)
        issue(engine)
        clock.now = END - 10 * DAY
        assert engine.run_schedule()["reminders"] == "1 ends of grants told"
        assert engine.run_schedule()["reminders"] == "0 ends of grants told"
    with QuotaEngine.open(redis_url, database_url, clock=clock, reminder_days=()) as engine:
        clock.now = END - DAY
        assert engine.run_schedule()["reminders"] == "0 ends of grants told"
        assert days(engine) == [14]
    for wrong in ("0", "week", "-1", "9999"):
        monkeypatch.setenv("QUOTA_ENGINE_REMINDER_DAYS", wrong)
        with pytest.raises(InvalidArgumentError, match="reminder_days"):
            QuotaEngine.open(redis_url, database_url)


@pytest.mark.anyio
async def test_a_reminder_is_delivered_until_somebody_takes_it(
    timed: Engines, clock: TestClock
) -> None:
    for number in range(3):
        await timed("issue_grant", ACCOUNT, TYPE, 100, grant_id=f"g{number}", expires_at=END)
    await timed("drain")
    clock.now = END - DAY
    await timed("run_schedule")
    got: list[str] = []

    def take(reminder: Reminder) -> None:
        got.append(reminder.grant_id)
        if reminder.grant_id == "g1" and got.count("g1") == 1:
            raise ConnectionError("the mail server is away")

    assert await timed("deliver_reminders", take) == 2
    assert got == ["g0", "g1", "g2"]
    assert await timed("deliver_reminders", take) == 0, "it is claimed for a while"
    with timed.engine.deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE reminders SET claimed_at = claimed_at - interval '5 minutes'"))
    assert await timed("deliver_reminders", take, limit=5) == 1
    assert got == ["g0", "g1", "g2", "g1"]
    assert await timed("deliver_reminders", take) == 0
    told = await timed("reminders", ACCOUNT)
    assert all(one.delivered_at is not None for one in told)
    assert await timed("reminders", "user:43") == []
    assert len(await timed("reminders", since=END - DAY, limit=2)) == 2
    assert await timed("reminders", since=END) == []
    for wrong in ({"limit": 0}, {"since": "yesterday"}, {"account": ""}):
        with pytest.raises(InvalidArgumentError):
            await timed("reminders", **wrong)


def test_deliverers_at_once_share_the_reminders(engine: QuotaEngine) -> None:
    for number in range(30):
        issue(engine, account=f"user:{number}")
    made_at(engine, END - DAY)
    got: list[str] = []
    with ThreadPoolExecutor(3) as threads:
        taken = list(
            threads.map(
                lambda _: engine.deliver_reminders(lambda one: got.append(one.account)), range(3)
            )
        )
    assert (sum(taken), len(set(got)), len(got)) == (30, 30, 30)


def test_reminders_by_command(
    engine: QuotaEngine,
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    assert "no reminders" in cli.done("grants", "reminders")
    issue(engine)
    made_at(engine, END - DAY)
    (told,) = cli.json("grants", "reminders", ACCOUNT)
    assert (told["days"], told["remaining"], told["delivered_at"]) == (1, 100, None)
    assert ACCOUNT in cli.done("grants", "reminders", "--since", "2026-01-01T00Z")
    assert "no reminders" in cli.done("grants", "reminders", "--since", "2027-01-01T00Z")
    assert cli.run("grants", "reminders", "--since", "soon").code == 2
