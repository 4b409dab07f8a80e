"""
Alerts without a store: thresholds, what becomes of an alert, who is watched, what is signed.

Goal: an alert fires once a crossing, whatever values come; nothing secret is shown. Method: values
by hand, and random walks beside a model.
"""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota_engine.alerts import AlertRule, check_webhook
from quota_engine.alerts.channels import (
    JITTER,
    ChannelTerms,
    checked_channel,
    new_secret,
    pause_seconds,
    shown_target,
)
from quota_engine.alerts.crossing import Changes, Crossing, Limits, Subject
from quota_engine.alerts.rules import KINDS, checked_rule, first_day
from quota_engine.alerts.signing import signed_headers
from quota_engine.alerts.told import text_of
from quota_engine.alerts.watching import RuleBook
from quota_engine.errors import InvalidAmountError, InvalidArgumentError
from quota_engine.keys import QuotaName
from quota_engine.settings import Settings

NOW = datetime(2026, 5, 14, 12, tzinfo=UTC)
SUBJECT = Subject("user:42|text_token", "user:42", "text_token")
SAID: dict[str, Any] = dict.fromkeys(
    ("warning", "critical", "account", "quota_type", "period", "currency", "provider", "channels")
) | {"subtree": False, "each": False}


def rule(kind: str = "balance", name: str = "low", **said: Any) -> AlertRule:
    terms = checked_rule(kind, Settings(), **{**SAID, **said})
    told = {field: getattr(terms, field) for field in terms.__slots__}
    return AlertRule(name=name, revision=1, changed_at=NOW, changed_by=None, **told)


@pytest.mark.parametrize(
    ("kind", "value", "severity"),
    [
        ("balance", 201, None),
        ("balance", 200, "warning"),
        ("balance", 51, "warning"),
        ("balance", 50, "critical"),
        ("balance", -7, "critical"),
        ("debt", 49, None),
        ("debt", 50, "warning"),
        ("debt", 200, "critical"),
    ],
)
def test_reaching_a_threshold_is_crossing_it(kind: str, value: int, severity: str | None) -> None:
    falling = kind == "balance"
    said = {"warning": 200, "critical": 50} if falling else {"warning": 50, "critical": 200}
    crossing = Limits.of(rule(kind, **said)).crossed(value)
    assert (None if crossing is None else crossing.severity) == severity


def test_per_cent_is_of_what_was_granted() -> None:
    limits = Limits.of(rule(warning="20%", critical="5%"))
    assert limits.crossed(201, 1_000) is None
    assert limits.crossed(200, 1_000) == Crossing("warning", 200, Decimal(200))
    assert limits.crossed(50, 1_000) == Crossing("critical", 50, Decimal(50))
    assert limits.crossed(0, 0) == Crossing("critical", 0, Decimal(0))
    usual = Limits.of(rule(warning="20%"))
    assert usual.crossed(0, 1_000) == Crossing("critical", 0, Decimal(0)), "nothing is left"


@pytest.mark.parametrize(
    ("kind", "said", "words"),
    [
        ("balances", {}, "kind must be one of"),
        ("usage", {"warning": 5}, "needs a quota_type"),
        ("run_dry", {}, "needs a threshold"),
        ("frozen", {"warning": 5}, "has no thresholds"),
        ("debt", {"warning": "20%"}, "number from 0"),
        ("balance", {"warning": "120%"}, "at most 100%"),
        ("balance", {"warning": -1}, "number from 0"),
        ("balance", {"warning": "1.5"}, "whole number"),
        ("balance", {"warning": True}, "number from 0"),
        ("balance", {"warning": "1e3"}, "number from 0"),
        ("balance", {"warning": 10, "critical": 20}, "critical must be below"),
        ("debt", {"warning": 20, "critical": 10}, "critical must be above"),
        ("balance", {"warning": 5, "subtree": True}, "subtree needs an account"),
        ("balance", {"warning": 5, "period": "day"}, "no period"),
        ("pool", {"account": "acme"}, "no account"),
        ("cost", {"warning": 5, "period": "hour"}, "period must be"),
        ("cost", {"warning": 5, "currency": "dollars"}, "currency"),
        ("debt", {"channels": "ops"}, "list of names"),
        ("debt", {"channels": ["a b"]}, "a name must be"),
        ("debt", {"quota_type": "tokens"}, "unknown quota type"),
        ("debt", {"account": "/"}, "account"),
    ],
)
def test_a_rule_that_can_mean_nothing_is_refused(
    kind: str, said: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        rule(kind, **said)


def test_a_rule_has_its_usual_thresholds() -> None:
    usual = {
        kind: (made.warning, made.critical)
        for kind in KINDS
        if kind not in {"usage", "cost", "run_dry", "expiring"}
        for made in [rule(kind)]
    }
    assert usual == {
        "balance": (None, "0"),
        "debt": ("1", None),
        "shortfall": ("1", None),
        "frozen": (None, None),
        "unpriced": ("1", None),
        "pool": (None, None),
        "drift": (None, "1"),
        "drain_late": ("15", None),
        "reconcile_late": ("1800", None),
    }
    assert rule("cost", warning="99.50").warning == "99.5"
    assert (rule("cost", warning=1).currency, rule("cost", warning=1).period) == ("USD", "day")


# -- what becomes of an alert


def meet(changes: Changes, severity: str | None, *, may_recover: bool = True) -> list[str]:
    """Tell of a value; return what that made happen."""
    before = len(changes.steps)
    crossing = None if severity is None else Crossing(severity, 1, 2)
    changes.meet(rule(), SUBJECT, crossing, NOW, ("ops",), may_recover=may_recover)
    return [f"{step.action} {step.severity}" for step in changes.steps[before:]]


def test_an_alert_fires_once_escalates_and_is_resolved_when_well() -> None:
    changes = Changes([])
    assert meet(changes, None) == []
    assert meet(changes, "warning") == ["fired warning"]
    assert meet(changes, "warning") == []
    assert meet(changes, "critical") == ["escalated critical"]
    assert meet(changes, "warning") == [], "it is not well yet"
    assert meet(changes, "critical") == []
    assert meet(changes, None, may_recover=False) == []
    assert meet(changes, None) == ["resolved critical"]
    assert meet(changes, None) == []
    assert meet(changes, "critical") == ["fired critical"]
    assert [step.sequence for step in changes.steps] == [1, 2, 3, 1]
    assert all(step.channels == ("ops",) for step in changes.steps)


def test_who_resolved_by_hand_hears_no_more_until_it_was_well_or_is_worse() -> None:
    changes = Changes([])
    meet(changes, "warning")
    (alert,) = changes.changed.values()
    alert.resolved_at = NOW
    assert meet(changes, "warning") == []
    assert meet(changes, None) == [], "it was told as resolved already"
    assert alert.recovered_at == NOW
    assert meet(changes, "warning") == ["fired warning"]
    again = next(one for one in changes.changed.values() if one is not alert)
    again.resolved_at = again.acknowledged_at = NOW
    assert meet(changes, "critical") == ["escalated critical"]
    assert (again.resolved_at, again.acknowledged_at) == (None, None)


@given(st.lists(st.sampled_from([None, "warning", "critical"]), max_size=40))
def test_each_crossing_is_told_once_whatever_values_come(levels: list[str | None]) -> None:
    changes, told, worst = Changes([]), [], 0
    places = {None: 0, "warning": 1, "critical": 2}
    for level in levels:
        place = places[level]
        if place > worst:
            told.append(("fired" if worst == 0 else "escalated", level))
            worst = place
        elif place == 0 and worst:
            told.append(("resolved", "critical" if worst == 2 else "warning"))
            worst = 0
        meet(changes, level)
    assert [(step.action, step.severity) for step in changes.steps] == told


# -- who is watched


def test_a_rule_is_about_its_account_those_below_or_all() -> None:
    book = RuleBook(
        1,
        [
            rule(name="all"),
            rule(name="images", quota_type="image"),
            rule(name="acme", account="acme"),
            rule(name="team", account="acme/team", subtree=True),
        ],
        ["log", "ops"],
    )
    found = {
        account: [one.rule.name for one in book.watches_of(QuotaName(account, "text_token"))]
        for account in ("acme", "acme/team", "acme/team/ann", "acme/team2", "acme2", "b")
    }
    assert found == {
        "acme": ["all", "acme"],
        "acme/team": ["all", "team"],
        "acme/team/ann": ["all", "team"],
        "acme/team2": ["all"],
        "acme2": ["all"],
        "b": ["all"],
    }
    assert len(book.watches_of(QuotaName("b", "image"))) == 2
    assert not RuleBook(1, [rule("drift"), rule("cost", warning=1)], []).watches_quotas


def test_a_rule_tells_the_channels_it_names_as_far_as_there_are_any() -> None:
    book = RuleBook(1, [], ["log", "ops"])
    assert book.channels_of(rule()) == ("log", "ops")
    assert book.channels_of(rule(channels=["ops", "gone"])) == ("ops",)
    assert book.channels_of(rule(channels=[])) == ()


@pytest.mark.parametrize(
    ("period", "first"),
    [
        ("day", date(2026, 5, 14)),
        ("week", date(2026, 5, 11)),
        ("month", date(2026, 5, 1)),
        ("quarter", date(2026, 4, 1)),
        ("year", date(2026, 1, 1)),
    ],
)
def test_a_period_begins_with_its_first_day(period: str, first: date) -> None:
    assert first_day(period, NOW.date()) == first
    assert first_day(period, first) == first


# -- channels


def test_a_signature_is_that_of_the_standard() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    at = datetime.fromtimestamp(1614265330, UTC)
    body = b'{"test": 2432232314}'
    assert check_webhook(secret, headers, body, now=at) == headers["webhook-id"]


def test_what_was_changed_or_comes_late_is_refused() -> None:
    secret, body = new_secret(), '{"text": "余额"}'.encode()
    headers = signed_headers(secret, "delivery_1", NOW, body)
    shouted = {name.upper(): value for name, value in headers.items()}
    assert check_webhook(secret, shouted, body, now=NOW + timedelta(seconds=300)) == "delivery_1"
    for wrong_headers, wrong_body, now, words in (
        (headers, body + b" ", NOW, "signature"),
        ({**headers, "webhook-id": "delivery_2"}, body, NOW, "signature"),
        ({**headers, "webhook-signature": "v1,"}, body, NOW, "signature"),
        (headers, body, NOW + timedelta(seconds=301), "replay"),
        (headers, body, NOW - timedelta(seconds=301), "replay"),
        ({**headers, "webhook-timestamp": "noon"}, body, NOW, "needs"),
        ({}, body, NOW, "needs"),
    ):
        with pytest.raises(InvalidArgumentError, match=words):
            check_webhook(secret, wrong_headers, wrong_body, now=now)
    with pytest.raises(InvalidArgumentError, match="signature"):
        check_webhook(new_secret(), headers, body, now=NOW)


def test_a_pause_doubles_up_to_an_hour_and_is_never_twice_the_same() -> None:
    dice = random.Random(7)
    pauses = [[pause_seconds(attempts, 5.0, dice) for _ in range(50)] for attempts in range(1, 40)]
    for attempts, found in enumerate(pauses, 1):
        middle = min(5.0 * 2 ** (attempts - 1), 3_600.0)
        assert all(abs(one - middle) <= JITTER * middle for one in found)
        assert len(set(found)) > 40
    assert pause_seconds(1, 0.0, dice) == 0


def test_what_is_shown_of_a_channel_is_no_secret() -> None:
    terms = ChannelTerms(
        kind="webhook",
        target="https://user:hunter2@hooks.example.com/T0/B0/xyz?token=abc",
        secret="whsec_abc",
        per_minute=60,
    )
    assert shown_target(terms) == "https://hooks.example.com:443/…"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"kind": "sms"}, "kind must be one of"),
        ({"target": None}, "needs a URL"),
        ({"target": "ftp://example.com/"}, "needs a URL"),
        ({"target": "https://"}, "needs a URL"),
        ({"secret": "short"}, "at least 16"),
        ({"secret": "whsec_no base64 at all!"}, "base64"),
        ({"name": "a/b"}, "a name must be"),
        ({"per_minute": 0}, "per_minute"),
        ({"per_minute": 60_000}, "per_minute"),
        ({"kind": "log"}, "has no target"),
        ({"kind": "log", "target": None, "secret": "x" * 20}, "only a webhook"),
        ({"kind": "email", "target": "nobody"}, "no e-mail address"),
        ({"kind": "email", "target": None}, "needs an address"),
        ({"kind": "email", "target": "a@b.c\r\nBcc: d@e.f"}, "no e-mail address"),
    ],
)
def test_a_channel_that_cannot_be_is_refused(said: dict[str, Any], words: str) -> None:
    usual = {"name": "ops", "kind": "webhook", "target": "https://example.com/hook"}
    asked = {"secret": None, "per_minute": None, **usual, **said}
    with pytest.raises((InvalidArgumentError, InvalidAmountError), match=words) as refused:
        checked_channel(asked.pop("name"), asked.pop("kind"), **asked)
    assert "ftp://example.com" not in str(refused.value), "a URL may hold a secret"


def test_an_alert_is_a_sentence() -> None:
    name = "acme|text_token"
    assert text_of("balance", name, 190, Decimal("200.0")) == (
        "acme|text_token has a balance of 190, at or below 200"
    )
    assert text_of("balance", name, 690) == "acme|text_token has a balance of 690"
    assert text_of("frozen", name, 1) == "acme|text_token is frozen"
    assert text_of("frozen", name, None) == "acme|text_token: frozen"
    assert text_of("pool", "openai in USD", Decimal("95.50"), Decimal(100)) == (
        "openai in USD has 95.5 left, at or below 100"
    )
    cost = text_of("cost", "acme", Decimal("12.3"), Decimal(10), period="day", currency="USD")
    assert cost == "acme cost 12.3 USD this day, at or above 10"
    for kind in KINDS:
        assert text_of(kind, "x", 1, 2, period="day", currency="USD").startswith("x ")
