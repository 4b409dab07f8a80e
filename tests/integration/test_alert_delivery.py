"""
Messages about alerts arrive at least once, by every channel, or end where somebody sees them.

Goal: signed, tried again, given up, told together where there are too many; nothing secret shown.
Method: real servers on this machine, pauses of no time; what has to have passed is moved in SQL.
"""

from __future__ import annotations

import email
import email.policy
import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any, cast

import pytest
from sqlalchemy import text

from quota_engine import EngineUnavailableError, InvalidArgumentError, QuotaEngine
from quota_engine.alerts import AlertMessage, check_webhook
from quota_engine.alerts.channels import Claimed
from quota_engine.delivering import COUNTERS, Deliverer
from tests.commands import Cli
from tests.engines import Engines
from tests.integration.test_alerts import ACCOUNT, TYPE, Asked, grant, spend
from tests.receivers import Hook, mail_server, serving
from tests.workers import wait_until

ATTEMPTS = 4
BASIC = "Basic dXNlcjpodW50ZXIy"  # user:hunter2


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    """An engine without a log channel, whose failed attempts are due again at once."""
    options = {"shards": 1, "alert_retry_seconds": 0, "alert_attempts_max": ATTEMPTS}
    with QuotaEngine.open(redis_url, database_url, **options) as opened:
        opened.alerts.remove_channel("log")
        yield opened


@pytest.fixture
def hook() -> Iterator[Hook]:
    with serving(Hook()) as server:
        yield server


def fire(engine: QuotaEngine, count: int = 1, **said: Any) -> None:
    """Let so many accounts have nothing left."""
    engine.alerts.define("low", "balance", **{"warning": 50, **said})
    for number in range(count):
        engine.issue_grant(f"user:{number}", TYPE, 40)
    engine.drain()


def deliver_all(engine: QuotaEngine) -> tuple[int, int]:
    """Deliver until nothing is due; return how many messages arrived, and how many did not."""
    arrived = failed = 0
    while (done := engine.alerts.deliver()) != (0, 0):
        arrived, failed = arrived + done[0], failed + done[1]
    return arrived, failed


def let_a_minute_pass(engine: QuotaEngine) -> None:
    with engine.deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE alert_channels SET window_at = window_at - interval '60 s'"))


def states(engine: QuotaEngine) -> Counter[str]:
    return Counter(one.state for one in engine.alerts.deliveries())


def test_a_webhook_that_fails_twice_is_told_at_the_third_attempt_and_signed(
    engine: QuotaEngine, hook: Hook
) -> None:
    made = engine.alerts.add_channel("ops", "webhook", target=hook.url)
    assert made.secret is not None
    hook.answers = [500, 302]
    before = COUNTERS.snapshot()
    fire(engine)
    assert deliver_all(engine) == (1, 2)
    assert [post.path for post in hook.posted] == ["/hook/s3cr3t-path"] * 3, (
        "no redirect is followed"
    )
    (sent,) = engine.alerts.deliveries()
    for post in hook.posted:
        name = check_webhook(made.secret, post.headers, post.body, now=datetime.now(UTC))
        assert name == sent.delivery_id, "by which a receiver takes it once"
    assert len({post.body for post in hook.posted}) == 1
    told = json.loads(hook.posted[-1].body)
    assert (told["id"], told["type"]) == (sent.delivery_id, "alert.fired")
    assert told["text"] == "warning: user:0|text_token has a balance of 40, at or below 50"
    assert told["alert"] == {
        "alert_id": sent.alert_id,
        "sequence": 1,
        "rule": "low",
        "kind": "balance",
        "subject": "user:0|text_token",
        "account": "user:0",
        "quota_type": TYPE,
        "severity": "warning",
        "value": "40",
        "threshold": "50",
        "opened_at": told["at"],
    }
    assert (sent.state, sent.attempts, sent.error) == ("delivered", 3, None)
    after = COUNTERS.snapshot()
    assert (after["delivered"] - before["delivered"], after["failed"] - before["failed"]) == (1, 2)
    grant(engine, 500, "user:0")
    deliver_all(engine)
    well = json.loads(hook.posted[-1].body)
    assert (well["type"], well["alert"]["sequence"]) == ("alert.resolved", 2)
    assert well["text"] == "resolved: user:0|text_token has a balance of 540"


def test_a_dead_webhook_ends_in_the_dead_letters_and_is_tried_anew(
    engine: QuotaEngine, hook: Hook, cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "a secret of the operator's"
    target = hook.url.replace("://", "://user:hunter2@")
    engine.alerts.add_channel("ops", "webhook", target=target, secret=secret)
    hook.answers = [503] * ATTEMPTS
    fire(engine)
    with caplog.at_level(logging.INFO, "quota_engine.alerts"):
        assert deliver_all(engine) == (0, ATTEMPTS)
    assert {post.headers["authorization"] for post in hook.posted} == {BASIC}
    (dead,) = engine.alerts.deliveries(state="dead")
    assert (dead.attempts, dead.error) == (ATTEMPTS, "answered 503")
    assert engine.alerts.channels()[0].dead == 1
    assert cli.json("alerts", "dead")[0]["delivery_id"] == dead.delivery_id
    told = caplog.text + cli.done("alerts", "channels", "list") + cli.done("alerts", "dead")
    told += cli.done("alerts", "channels", "history", "ops", "--json")
    told += cli.done("alerts", "channels", "list", "--json")
    for hidden in (secret, "hunter2", "s3cr3t-path"):
        assert hidden not in told
    assert cli.json("alerts", "retry", dead.delivery_id) == {"pending_again": 1}
    assert cli.run("alerts", "retry", dead.delivery_id).code == 1
    assert deliver_all(engine) == (1, 0)
    assert engine.alerts.retry() == 0


def test_a_server_that_is_not_there_or_says_nothing_is_a_failure(engine: QuotaEngine) -> None:
    class Silent(Hook):
        def finish_request(self, *_: Any) -> None:
            threading.Event().wait(0.3)

    engine.deployment.settings.__dict__["alert_timeout_seconds"] = 0.1
    engine.alerts.add_channel("gone", "webhook", target="http://127.0.0.1:9/")
    with serving(Silent()) as silent:
        engine.alerts.add_channel("silent", "webhook", target=silent.url)
        fire(engine)
        engine.alerts.deliver()
    errors = {one.channel: one.error for one in engine.alerts.deliveries()}
    assert errors["gone"] is not None
    assert "cannot be reached" in errors["gone"]
    assert errors["silent"] is not None
    assert "time" in errors["silent"]


def test_more_than_a_channel_may_be_told_is_told_together(engine: QuotaEngine, hook: Hook) -> None:
    engine.alerts.add_channel("ops", "webhook", target=hook.url, per_minute=3)
    fire(engine, 10, critical=20)
    spend(engine, 30, "user:9")
    assert deliver_all(engine) == (3, 0)
    told = [json.loads(post.body) for post in hook.posted]
    assert [one["type"] for one in told] == ["alert.fired", "alert.fired", "alerts.more"]
    many = told[-1]
    assert (many["count"], many["by_severity"]) == (9, {"warning": 8, "critical": 1})
    assert many["text"].startswith("9 more messages (1 critical, 8 warning)")
    assert many["alerts"][0]["severity"] == "critical"
    named = {one["alert"]["subject"] for one in told[:2]}
    named |= {one["subject"] for one in many["alerts"]}
    assert len(named) == 10
    assert states(engine) == {"delivered": 3, "joined": 9}
    assert len(engine.alerts.list()) == 10
    grant(engine, 100, "user:0")
    assert deliver_all(engine) == (0, 0)
    let_a_minute_pass(engine)
    assert deliver_all(engine) == (1, 0)


def test_what_was_joined_is_joined_again_when_it_could_not_be_told(
    engine: QuotaEngine, hook: Hook
) -> None:
    engine.alerts.add_channel("ops", "webhook", target=hook.url, per_minute=1)
    hook.answers = [500]
    fire(engine, 3)
    assert deliver_all(engine) == (0, 1)
    fire(engine, 4)  # three of whom have enough for now
    let_a_minute_pass(engine)
    assert deliver_all(engine) == (1, 0)
    told = json.loads(hook.posted[-1].body)
    assert (told["type"], told["count"]) == ("alerts.more", 7)
    assert states(engine) == {"delivered": 1, "joined": 8}


def test_deliverers_at_once_attempt_each_message_one_at_a_time(engine: QuotaEngine) -> None:
    engine.alerts.add_channel("a", "log", per_minute=1_000)
    engine.alerts.add_channel("b", "log", per_minute=1_000)
    fire(engine, 25)
    sent: Counter[str] = Counter()
    lock = threading.Lock()

    def send(claimed: Claimed) -> None:
        with lock:
            sent[claimed.delivery_id] += 1

    messages = engine.deployment.statement_store.alerts.deliveries
    settings = engine.deployment.settings
    deliverers = [Deliverer(messages, settings, senders={"log": send}) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        while states(engine)["pending"]:
            list(threads.map(Deliverer.run_once, deliverers))
    for deliverer in deliverers:
        deliverer.close()
    assert len(sent) == 50
    assert set(sent.values()) == {1}


def test_a_slow_channel_keeps_no_other_from_being_told(engine: QuotaEngine) -> None:
    engine.alerts.add_channel("slow", "email", target="ops@example.com")
    engine.alerts.add_channel("quick", "log")
    fire(engine)
    going_on, told = threading.Event(), threading.Event()
    senders = {"email": lambda _: going_on.wait(20), "log": lambda _: told.set()}
    messages = engine.deployment.statement_store.alerts.deliveries
    deliverer = Deliverer(messages, engine.deployment.settings, senders=senders)
    deliverer.begin()
    assert told.wait(20)
    going_on.set()
    deliverer.close()


def test_a_mail_is_sent(redis_url: str, database_url: str, cli: Cli) -> None:
    with mail_server() as mails:
        url = f"smtp://127.0.0.1:{mails.port}"
        options: dict[str, Any] = {"smtp_url": url, "smtp_sender": "quota@example.com"}
        with QuotaEngine.open(redis_url, database_url, alert_retry_seconds=0, **options) as engine:
            engine.alerts.remove_channel("log")
            to = ["ops@example.com", "ann@example.com"]
            engine.alerts.add_channel("mail", "email", target=to)
            mails.refusing = True
            fire(engine, warning=50)
            engine.alerts.deliver()
            (sent,) = engine.alerts.deliveries()
            assert sent.error is not None
            assert "nobody by this name" in sent.error
            mails.refusing = False
            with engine.deployment.ledger.transaction() as sql:
                sql.execute(text("UPDATE alert_deliveries SET due_at = now()"))
            assert deliver_all(engine)[0] == 1
    policy = email.policy.default
    mail = cast(EmailMessage, email.message_from_string(mails.taken[-1], policy=policy))
    assert mail["To"] == "ops@example.com, ann@example.com"
    assert mail["From"] == "quota@example.com"
    assert "user:0|text_token has a balance of 40" in mail["Subject"]
    assert sent.delivery_id in mail["Message-ID"]
    assert '"rule": "low"' in mail.get_content()


def test_a_password_goes_over_no_wire_in_clear(redis_url: str, database_url: str) -> None:
    with mail_server() as mails:
        url = f"smtp://user:hunter2@{'0x7f.1'}:{mails.port}"
        options: dict[str, Any] = {"smtp_url": url, "smtp_sender": "quota@example.com"}
        with QuotaEngine.open(redis_url, database_url, **options) as engine:
            assert "hunter2" not in repr(engine.deployment.settings)
            engine.alerts.add_channel("mail", "email", target="ops@example.com")
            with pytest.raises(EngineUnavailableError, match="offers no TLS") as refused:
                engine.alerts.test("mail")
    assert "hunter2" not in str(refused.value)
    assert mails.taken == []
    with pytest.raises(InvalidArgumentError, match="smtp://") as misspelt:
        QuotaEngine.open(redis_url, database_url, smtp_url="user:hunter2@mail")
    assert "hunter2" not in str(misspelt.value)


def test_the_log_has_what_the_channel_log_is_told(
    engine: QuotaEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.alerts.add_channel("log", "log")
    with caplog.at_level(logging.INFO, "quota_engine.alerts"):
        fire(engine, critical=45)
        grant(engine, 100, "user:0")
        deliver_all(engine)
    lines = [(record.levelno, json.loads(record.getMessage())) for record in caplog.records]
    assert [(level, line["type"]) for level, line in lines] == [
        (logging.ERROR, "alert.fired"),
        (logging.WARNING, "alert.resolved"),
    ]


@pytest.mark.anyio
async def test_a_callback_is_told_and_told_again_when_it_raised(call: Engines) -> None:
    alerts, got = Asked(call, call.engine.alerts), list[AlertMessage]()
    call.engine.deployment.settings.__dict__["alert_retry_seconds"] = 0

    def take(message: AlertMessage) -> None:
        got.append(message)
        if len(got) == 1:
            raise ConnectionError("the pager is away")

    await alerts("remove_channel", "log")
    stop = await alerts("on", take)
    await alerts("define", "low", "balance", warning=100, account=ACCOUNT)
    await call("issue_grant", ACCOUNT, TYPE, 100)
    await call("drain")
    wait_until(lambda: len(got) == 2, "the callback has been told twice")
    assert got[0] == got[1]
    assert (got[1].action, got[1].alert and got[1].alert["severity"]) == ("fired", "warning")
    stop()
    with pytest.raises(InvalidArgumentError, match="only a process that listens"):
        await alerts("test", "callback")
    with pytest.raises(InvalidArgumentError, match="callable"):
        await alerts("on", "print")
    await alerts("add_channel", "log", "log")
    with pytest.raises(InvalidArgumentError, match="of kind log"):
        await alerts("on", take, channel="log")
    assert await alerts("deliver") == (0, 0)


def test_channels_by_command(
    engine: QuotaEngine, hook: Hook, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    assert "no channels" in cli.done("alerts", "channels", "list")
    made = cli.json("alerts", "channels", "add", "ops", "webhook", hook.url, "--operator", "ann")
    assert made["secret"].startswith("whsec_")
    again = cli.json("alerts", "channels", "add", "ops", "webhook", hook.url)
    assert again["secret"] is None, "it keeps the one it has"
    cli.done("alerts", "test", "ops")
    post = hook.posted[-1]
    assert check_webhook(made["secret"], post.headers, post.body, now=datetime.now(UTC))
    assert json.loads(post.body)["type"] == "alert.test"
    (tmp_path / "secret").write_text("another secret of ours\n")
    with_secret = ("--secret-file", str(tmp_path / "secret"), "--per-minute", "5")
    cli.done("alerts", "channels", "add", "ops", "webhook", hook.url, *with_secret)
    cli.done("alerts", "test", "ops")
    post = hook.posted[-1]
    now = datetime.now(UTC) + timedelta(seconds=1)
    assert check_webhook("another secret of ours", post.headers, post.body, now=now)
    hook.answers = [410]
    failed = cli.run("alerts", "test", "ops")
    assert (failed.code, failed.err) == (1, "quota-engine: channel ops: answered 410\n")
    fire(engine)
    assert cli.json("alerts", "channels", "list")[0]["pending"] == 1
    cli.done("alerts", "channels", "remove", "ops", "--remark", "it is gone")
    assert engine.alerts.deliveries()[0].error == "the channel was removed"
    history = cli.json("alerts", "channels", "history", "ops")
    assert [change["action"] for change in history] == ["added", "changed", "removed"]
    missing = str(tmp_path / "none")
    wrong = ("alerts", "channels", "add", "ops", "webhook", hook.url, "--secret-file", missing)
    assert cli.run(*wrong).code == 2
    assert cli.run("alerts", "test", "ops").code == 1
    assert engine.alerts.retry() == 0, "its channel is gone"
