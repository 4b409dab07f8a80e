"""
Alerts on quotas fire once a crossing, escalate and recover; none is missed between processes.

Goal: whoever crosses whenever, one alert and one message a channel. Method: an engine whose drain
persists, and real entries; where two race, threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import AlertNotFoundError, InvalidArgumentError, NotSeenError, QuotaEngine
from quota_engine.alerts.crossing import Changes, Crossing, Subject
from quota_engine.jobs import crash_points
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.ledger import alert_scanning, appending
from quota_engine.ledger.alert_writing import write_changes
from tests.commands import Cli
from tests.engines import Engines, TestClock

ACCOUNT, TYPE = "user:42", "text_token"


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=2) as opened:
        yield opened


def grant(engine: QuotaEngine, amount: int, account: str = ACCOUNT) -> None:
    engine.issue_grant(account, TYPE, amount)
    engine.drain()


def spend(engine: QuotaEngine, amount: int, account: str = ACCOUNT) -> None:
    engine.debit(account, TYPE, amount)
    engine.drain()


def told(engine: QuotaEngine, **asked: Any) -> list[str]:
    """Return what happened to all alerts, the oldest first, in words."""
    found = []
    for alert in reversed(engine.alerts.list(state="all", **asked)):
        steps = engine.alerts.show(alert.alert_id).steps
        assert [step.sequence for step in steps] == list(range(1, len(steps) + 1))
        found += [f"{step.action} {step.severity}" for step in steps]
    return found


def messages(engine: QuotaEngine) -> list[str]:
    return sorted(f"{one.channel} {one.action}" for one in engine.alerts.deliveries())


def open_subjects(engine: QuotaEngine) -> set[str]:
    return {alert.subject for alert in engine.alerts.list()}


def test_a_balance_fires_once_recovers_and_escalates(engine: QuotaEngine) -> None:
    engine.alerts.define("low", "balance", warning="20%", account=ACCOUNT)
    grant(engine, 1_000)
    spend(engine, 750)
    assert engine.alerts.list() == []
    spend(engine, 60)
    (alert,) = engine.alerts.list()
    assert (alert.severity, alert.value, alert.threshold) == ("warning", 190, 200)
    assert alert.text == "user:42|text_token has a balance of 190, at or below 200"
    for _ in range(3):
        spend(engine, 10)
    assert told(engine) == ["fired warning"]
    grant(engine, 1_000)
    assert engine.alerts.list() == []
    spend(engine, 960)
    spend(engine, 200)
    again = ["fired warning", "escalated critical"]
    assert told(engine) == ["fired warning", "resolved warning", *again]
    assert messages(engine) == [
        *("log escalated", "log fired", "log fired", "log resolved"),
    ]


def test_what_dips_and_recovers_within_a_batch_is_seen_once_each_time(engine: QuotaEngine) -> None:
    engine.alerts.define("low", "balance", warning=100, critical=10)
    engine.issue_grant(ACCOUNT, TYPE, 1_000)
    engine.debit(ACCOUNT, TYPE, 950)
    engine.issue_grant(ACCOUNT, TYPE, 500)
    engine.debit(ACCOUNT, TYPE, 545)
    hold = engine.place_hold(ACCOUNT, TYPE, 5)
    engine.release_hold(hold)
    engine.drain()
    assert told(engine) == ["fired warning", "resolved warning", "fired critical"]
    assert open_subjects(engine) == {"user:42|text_token"}


def test_a_used_up_grant_that_counts_no_more_makes_nobody_well(engine: QuotaEngine) -> None:
    engine.alerts.define("low", "balance", warning="20%", account=ACCOUNT)
    engine.issue_grant(ACCOUNT, TYPE, 1_000, priority=1)
    engine.issue_grant(ACCOUNT, TYPE, 100, priority=2)
    spend(engine, 990)
    assert told(engine) == ["fired warning"], "110 of 1,100"
    spend(engine, 10)
    assert told(engine) == ["fired warning"], "100 of 100 now, but it has fallen"
    grant(engine, 1)
    assert told(engine) == ["fired warning", "resolved warning"]


@pytest.mark.anyio
async def test_per_cent_are_of_what_counted_then(timed: Engines, clock: TestClock) -> None:
    await Asked(timed, timed.engine.alerts)("define", "low", "balance", warning="20%")
    ends = clock.now + timedelta(hours=1)
    await timed("issue_grant", ACCOUNT, TYPE, 1_000, priority=1, expires_at=ends)
    await timed("issue_grant", ACCOUNT, TYPE, 100, priority=2)
    await timed("drain")
    await timed("debit", ACCOUNT, TYPE, 890)
    await timed("place_hold", ACCOUNT, TYPE, 110, ttl=7_200)
    clock.now = ends
    await timed("record_usage", ACCOUNT, TYPE, {"input_tokens": 1})
    await timed("drain")
    (alert,) = await Asked(timed, timed.engine.alerts)("list")
    assert (alert.value, alert.threshold) == (210, 220), "then both grants had something left"


def test_debt_shortfall_and_freezing_are_told(engine: QuotaEngine) -> None:
    for kind in ("debt", "shortfall", "frozen"):
        engine.alerts.define(kind, kind)
    engine.alerts.define("paid", "balance", warning=10)
    engine.set_overdraft_limit(ACCOUNT, TYPE, 50)
    engine.drain()
    spend(engine, 30)
    assert told(engine, rule="paid") == [], "nothing was ever granted: no balance falls"
    engine.debit(ACCOUNT, TYPE, 100, already_used=True)
    engine.drain()
    (short,) = engine.alerts.list(rule="shortfall")
    assert short.text == "user:42|text_token could not pay 80 of a charge, at or above 1"
    (debt,) = engine.alerts.list(rule="debt")
    assert debt.value == 30
    grant(engine, 500)
    assert told(engine, rule="debt") == ["fired warning", "resolved warning"]
    assert told(engine, rule="shortfall") == ["fired warning", "resolved warning"]
    name = QuotaName(ACCOUNT, TYPE)
    engine.deployment.freeze_by_hand(name, actor="ann", reason="a test")
    engine.run_schedule()
    assert told(engine, rule="frozen") == ["fired critical"]
    engine.run_schedule()
    with engine.deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE quotas SET frozen = ''"))
    engine.run_schedule()
    assert told(engine, rule="frozen") == ["fired critical", "resolved critical"]


def test_what_does_not_fit_the_ledger_is_told_with_its_freezing(engine: QuotaEngine) -> None:
    engine.alerts.define("frozen", "frozen", account=ACCOUNT)
    grant(engine, 100)
    engine.debit(ACCOUNT, TYPE, 1)
    with engine.deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE quotas SET chain = 'another'"))
    engine.drain()
    assert told(engine) == ["fired critical"]


def test_a_rule_fires_for_what_is_there_already_and_follows_its_changes(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_scanning, "PAGE", 2)
    for number in range(5):
        grant(engine, 100 + number, f"acme/user-{number}")
    grant(engine, 1, "acme2")
    made = engine.alerts.define("low", "balance", warning=102, account="acme", subtree=True)
    few = {f"acme/user-{number}|{TYPE}" for number in range(3)}
    assert open_subjects(engine) == few
    again = engine.alerts.define("low", "balance", warning=102, account="acme", subtree=True)
    assert again == made
    engine.alerts.define("low", "balance", warning=103, account="acme", subtree=True)
    assert len(open_subjects(engine)) == 4
    engine.alerts.define("low", "balance", warning=103, account="acme/user-1", remark="only one")
    assert open_subjects(engine) == {f"acme/user-1|{TYPE}"}
    engine.alerts.define("low", "balance", warning="100%", operator="ann")
    assert len(open_subjects(engine)) == 6, "everybody has all of what was granted, and no more"
    engine.alerts.remove("low", operator="ben", remark="too loud")
    assert open_subjects(engine) == set()
    last = engine.alerts.list(state="resolved", account="acme2")[0]
    assert engine.alerts.show(last.alert_id).steps[-1].remark == "too loud"
    assert last.resolved_by == "ben"
    with pytest.raises(AlertNotFoundError):
        engine.alerts.remove("low")
    history = engine.alerts.rule_history("low")
    assert [change.action for change in history] == ["defined", *["changed"] * 3, "removed"]
    assert [change.operator for change in history][-2:] == ["ann", "ben"]
    assert (history[1].terms["warning"], history[2].remark) == ("103", "only one")


def test_of_two_who_see_a_crossing_at_once_one_makes_the_alert(engine: QuotaEngine) -> None:
    rule = engine.alerts.define("low", "balance", warning=5)
    ledger, subject = engine.deployment.ledger, Subject("user:42|text_token")

    def see() -> None:
        changes = Changes([])
        changes.meet(rule, subject, Crossing("warning", 1, 5), datetime.now(UTC), ("log",))
        with ledger.transaction() as sql:
            driver: Any = sql.connection.driver_connection
            write_changes(driver.cursor(), changes)
            if threading.current_thread() is threading.main_thread():
                other.start()
                other.join(0.3)
                assert other.is_alive(), "it waits for who was first"

    other = threading.Thread(target=see)
    see()
    other.join(30)
    assert told(engine) == ["fired warning"]
    assert messages(engine) == ["log fired"]


def test_processes_that_cross_at_once_make_one_alert(
    engine: QuotaEngine, redis_url: str, database_url: str
) -> None:
    engine.alerts.define("low", "balance", warning="20%")
    grant(engine, 1_000)
    with QuotaEngine.open(redis_url, database_url, shards=2) as other:
        engines = [engine, other] * 4

        def take(one: QuotaEngine) -> None:
            for _ in range(12):
                one.debit(ACCOUNT, TYPE, 10)
                one.drain()

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(take, engines))
    assert told(engine) == ["fired warning"], "960 of 1,000 were taken"
    assert messages(engine) == ["log fired"]
    with (
        pytest.raises(Exception, match="alerts_once"),
        engine.deployment.ledger.transaction() as sql,
    ):
        sql.execute(
            text(
                "INSERT INTO alerts SELECT 'other', rule, kind, subject, account, quota_type,"
                " period, currency, severity, value, threshold, 1, opened_at FROM alerts"
            )
        )


def test_a_rule_that_comes_while_entries_are_persisted_misses_none(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(engine, 1_000)
    spend(engine, 100)
    reach, defining = crash_points.reach, threading.Event()
    maker = threading.Thread(
        target=lambda: engine.alerts.define("low", "balance", warning=500, account=ACCOUNT)
    )

    def define_meanwhile(step: str) -> None:
        if step == "before_commit" and not defining.is_set():
            defining.set()
            maker.start()  # it waits for this very transaction
            maker.join(0.3)
            assert maker.is_alive()
        reach(step)

    monkeypatch.setattr(crash_points, "reach", define_meanwhile)
    spend(engine, 600)
    maker.join(30)
    assert told(engine) == ["fired warning"], "whoever persisted did not know the rule"


def test_an_alert_that_cannot_be_recorded_keeps_no_entry_from_the_ledger(
    engine: QuotaEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine.alerts.define("low", "balance", warning=500)
    monkeypatch.setattr(
        appending, "write_watched", lambda cursor, _: cursor.execute("SELECT 1 / 0")
    )
    with caplog.at_level(logging.ERROR, "quota_engine.alerts"):
        grant(engine, 100)
        spend(engine, 60)
    assert "cannot be told" in caplog.text
    assert engine.read_balance(ACCOUNT, TYPE).balance == 40
    assert list(verify(engine.deployment.ledger)) == []
    assert [head.balance for head in engine.deployment.ledger.known_quotas()] == [40]


@pytest.mark.anyio
async def test_an_alert_is_acknowledged_and_resolved_by_hand(call: Engines) -> None:
    alerts = Asked(call, call.engine.alerts)
    await alerts("define", "low", "balance", warning=100, critical=10)
    await call("issue_grant", ACCOUNT, TYPE, 100)
    await call("drain")
    (alert,) = await alerts("list")
    done = await alerts("acknowledge", alert.alert_id, operator="ann", remark="asked sales")
    assert (done.state, done.acknowledged_by) == ("open", "ann")
    again = await alerts("acknowledge", alert.alert_id, operator="ben")
    assert again.acknowledged_by == "ann"
    done = await alerts("resolve", alert.alert_id, operator="ben")
    assert (done.state, done.resolved_by, done.recovered_at) == ("resolved", "ben", None)
    assert (await alerts("resolve", alert.alert_id, operator="eve")).resolved_by == "ben"
    with pytest.raises(InvalidArgumentError, match="resolved already"):
        await alerts("acknowledge", alert.alert_id)
    await call("debit", ACCOUNT, TYPE, 10)
    await call("drain")
    assert await alerts("list") == [], "it is silent until it was well"
    await call("debit", ACCOUNT, TYPE, 85)
    await call("drain")
    (worse,) = await alerts("list")
    assert (worse.alert_id, worse.severity) == (alert.alert_id, "critical")
    assert (worse.acknowledged_by, worse.resolved_by) == (None, None)
    story = await alerts("show", alert.alert_id)
    assert [step.action for step in story.steps] == [
        *("fired", "acknowledged", "resolved", "escalated"),
    ]
    assert [step.operator for step in story.steps] == [None, "ann", "ben", None]
    assert [one.action for one in story.deliveries] == ["fired", "resolved", "escalated"]
    for wrong in ("alert_none", "a b"):
        with pytest.raises((AlertNotFoundError, InvalidArgumentError)):
            await alerts("resolve", wrong)


class Asked:
    """The alerts of an engine of either flavour, whose methods are called by name."""

    def __init__(self, engines: Engines, alerts: Any) -> None:
        self._asked = Engines(engines.flavour)
        self._asked.engine = alerts

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return await self._asked(method, *args, **kwargs)


def test_a_viewer_sees_alerts_of_its_own_accounts_alone(engine: QuotaEngine, cli: Cli) -> None:
    engine.alerts.define("all", "balance", warning=100)
    engine.alerts.define("team", "balance", warning=100, account="acme/team", subtree=True)
    engine.alerts.define("drift", "drift")
    for account in ("acme", "acme/team", "acme/team/ann", "acme/team2", "acme2"):
        grant(engine, 50, account)
    seen = {alert.account for alert in engine.alerts.list(viewer="acme/team")}
    assert seen == {"acme/team", "acme/team/ann"}
    assert [rule.name for rule in engine.alerts.rules(viewer="acme")] == ["team"]
    assert engine.alerts.rules(viewer="acme/team2") == []
    with pytest.raises(NotSeenError):
        engine.alerts.list(account="acme2", viewer="acme")
    (beyond, *_) = engine.alerts.list(account="acme2")
    for act in (engine.alerts.show, engine.alerts.acknowledge, engine.alerts.resolve):
        with pytest.raises(AlertNotFoundError):
            act(beyond.alert_id, viewer="acme")
    own = engine.alerts.list(account="acme/team/ann", viewer="acme")[0]
    assert engine.alerts.show(own.alert_id, viewer="acme").deliveries == ()
    assert engine.alerts.resolve(own.alert_id, viewer="acme").state == "resolved"
    listed = cli.json("alerts", "list", "--as", "acme/team2")
    assert {row["account"] for row in listed} == {"acme/team2"}
    assert cli.run("alerts", "show", beyond.alert_id, "--as", "acme").code == 1


def test_alerts_by_command(engine: QuotaEngine, cli: Cli) -> None:
    low = ("alerts", "define", "low", "balance")
    assert cli.run(*low, "--warning", "lots").code == 2
    assert "no channel pager" in cli.run(*low, "--channel", "pager").err
    made = cli.json(*low, "--warning", "20%", "--account", "acme", "--subtree", "--type", TYPE)
    assert (made["warning"], made["critical"], made["subtree"]) == ("20%", "0", True)
    assert "low" in cli.done("alerts", "rules")
    assert cli.done("alerts", "list") == "there are no such alerts\n"
    grant(engine, 1_000, "acme/ann")
    spend(engine, 900, "acme/ann")
    (alert,) = cli.json("alerts", "list", "--severity", "warning", "--account", "acme")
    assert (alert["value"], alert["subject"]) == ("100", f"acme/ann|{TYPE}")
    assert "at or below 200" in cli.done("alerts", "show", alert["alert_id"])
    done = cli.json("alerts", "acknowledge", alert["alert_id"], "--operator", "ann")
    assert done["acknowledged_by"] == "ann"
    cli.done("alerts", "resolve", alert["alert_id"], "--remark", "pays by invoice")
    told_of = cli.json("alerts", "show", alert["alert_id"])
    assert told_of["steps"][-1]["remark"] == "pays by invoice"
    assert cli.json("alerts", "list", "--state", "all")[0]["state"] == "resolved"
    assert len(cli.json("alerts", "deliveries", "--state", "pending", "--channel", "log")) == 2
    assert cli.json("alerts", "history", "low")[0]["action"] == "defined"
    assert cli.json("alerts", "remove", "low") == {"removed": "low"}
    assert cli.run("alerts", "remove", "low").code == 1
    assert cli.run("alerts", "list", "--state", "odd").code == 2
