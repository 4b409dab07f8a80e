"""
A viewer sees its own account and those below it, and nothing of others in any figure.

Goal: each report for a viewer is that of a deployment which has only the viewer's subtree.
Method: a random tree of accounts whose names are prefixes, neighbours and patterns of each other;
for each viewer all sums outside its subtree are taken away, and what an operator then sees is
compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import NotSeenError, QuotaEngine
from quota_engine.ledger.refusals import add_refusals
from quota_engine.refusals import Refused
from quota_engine.viewing import bounds_below, sees
from tests.called import record
from tests.commands import Cli
from tests.engines import TestClock

PARTS = ("a", "a2", "a_", "ab", "a%", "%", "_", "A", "a-", "a.", "a0", "é", "微", "a\\", "'")
BEGIN = datetime(2026, 1, 30, 1, tzinfo=UTC)
SINCE, UNTIL = BEGIN.date(), BEGIN.date() + timedelta(days=4)


def tree(dice: random.Random, count: int) -> list[str]:
    """Return accounts: every part alone, and paths of up to four."""
    paths = {"/".join(dice.choices(PARTS[:8], k=dice.randint(2, 4))) for _ in range(count)}
    return sorted({*PARTS, *paths})


def parts_are_below(account: str, viewer: str) -> bool:
    """Say without any text comparison of the engine's whether an account is a viewer's."""
    path = viewer.split("/")
    return account.split("/")[: len(path)] == path


@pytest.fixture
def accounts() -> list[str]:
    return tree(random.Random(7), 25)


@pytest.fixture
def engine(redis_url: str, database_url: str, accounts: list[str]) -> Iterator[QuotaEngine]:
    """An engine whose accounts have all made calls, of different models, costs and days."""
    dice, clock = random.Random(8), TestClock(BEGIN)
    with QuotaEngine.open(redis_url, database_url, shards=2, clock=clock) as opened:
        for number, account in enumerate(accounts):
            clock.now = BEGIN + timedelta(days=number % 4)
            opened.issue_grant(account, "text_token", 1_000 + number)
            told = {"latency_ms": dice.randint(1, 9_000), "status": dice.choice(STATUSES)}
            told |= {"provider": dice.choice(("p", "q")), "held": 500}
            cost, unit = dice.choice((("0.5", "USD"), ("7", "CNY"), (None, None)))
            usage = record(f"m{dice.randint(1, 5)}", dice.randint(10, 900), cost, unit, **told)
            opened.debit(account, "text_token", 10 + number, usage=usage, already_used=True)
        clock.now = BEGIN + timedelta(days=3, hours=20)
        opened.drain()
        opened.reports.usage()
        add_refusals(
            opened.deployment.ledger, {refused(one): dice.randint(1, 9) for one in accounts}
        )
        yield opened


def refused(account: str) -> Refused:
    """Return what is counted of an account's refusals, each by a model of its own."""
    return Refused(20_485, account, "text_token", "p", f"m-{account}", "insufficient")


STATUSES = ("success", "failed", "timeout")
#: What reports are made of.
TABLES = ("daily_costs", "refusals")
Ask = Callable[..., Any]


def questions(reports: Any) -> dict[str, Ask]:
    """Every report that is made of daily sums."""
    asked: dict[str, Ask] = {
        f"usage by {name}": lambda name=name, **who: reports.usage(name, **who)
        for name in ("day", "account", "team", "status")
    }
    days = {"since": SINCE + timedelta(days=2), "until": UNTIL}
    top = {"order_by": "consumed", "unit": "text_token", "limit": 1}
    return asked | {
        "total": reports.usage,
        "filtered": lambda **who: reports.usage("account", model="m1", **days, **who),
        "top": lambda **who: reports.top("team", limit=2, unit="USD", team_depth=1, **who),
        "top units": lambda **who: reports.top(**top, **who),
        "trend": lambda **who: reports.trend("provider", **days, **who),
        "series": lambda **who: reports.usage_series("account", layers=1, **who),
        "costs": reports.cost_series,
        "refusals": reports.refusals,
        "refusals by team": lambda **who: reports.refusals(("team", "model"), **who),
    }


def unnamed(answer: Any) -> Any:
    """A series says who asked: that is the one difference."""
    return replace(answer, viewer=None) if hasattr(answer, "viewer") else answer


def test_a_report_is_that_of_the_subtree_alone(
    engine: QuotaEngine, accounts: list[str], cli: Cli
) -> None:
    asked = questions(engine.reports)
    viewers = [
        "a",
        "a_",
        "a%",
        "%",
        "_",
        "A",
        "a\\",
        *random.Random(9).sample(accounts, 4),
        "nobody",
    ]
    answers = {
        viewer: {name: unnamed(ask(viewer=viewer)) for name, ask in asked.items()}
        for viewer in viewers
    }
    assert answers["a"]["total"].total.calls > 3, "otherwise this proves nothing"
    everything = engine.reports.usage().total
    assert len({str(one["total"]) for one in answers.values()}) > 8
    check_names(engine, accounts)
    check_command(cli, engine)
    with engine.deployment.ledger.transaction() as sql:
        for table in TABLES:
            sql.execute(text(f"CREATE TABLE kept_{table} AS TABLE {table}"))
    for viewer, told in answers.items():
        mine = [account for account in accounts if parts_are_below(account, viewer)]
        with engine.deployment.ledger.transaction() as sql:
            for table in TABLES:
                sql.execute(text(f"TRUNCATE {table}"))
                kept = f"SELECT * FROM kept_{table} WHERE account = ANY(:mine)"
                sql.execute(text(f"INSERT INTO {table} {kept}"), {"mine": mine})
        assert {name: unnamed(ask()) for name, ask in asked.items()} == told, viewer
        assert told["total"].total != everything


def check_names(engine: QuotaEngine, accounts: list[str]) -> None:
    """Who names an account beyond is refused; who names one below gets an operator's answer."""
    reports = engine.reports
    one_account: tuple[Ask, ...] = (
        lambda account, **who: reports.usage(account=account, **who),
        lambda account, **who: reports.usage_series(team=account, layers=3, **who),
        lambda account, **who: reports.account(account, since=SINCE, **who),
        lambda account, **who: reports.forecast(account, "text_token", **who),
        lambda account, **who: reports.balance_series(account, "text_token", **who),
    )
    for viewer in ("a", "a_", "%"):
        below = [account for account in accounts if parts_are_below(account, viewer)]
        for ask in one_account:
            for beyond in ("a2", "nobody", f"{viewer}2", "b"):
                with pytest.raises(NotSeenError):
                    ask(beyond, viewer=viewer)
            for account in (below[0], below[-1], f"{viewer}/nobody"):
                assert unnamed(ask(account, viewer=viewer)) == unnamed(ask(account))
    with pytest.raises(NotSeenError):
        reports.usage(team="a", viewer="a/a")
    check_wrong_sums(engine, accounts)


def check_wrong_sums(engine: QuotaEngine, accounts: list[str]) -> None:
    with engine.deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE daily_costs SET calls = calls + 1"))
    found = engine.reports.check(viewer="a_")
    assert {account for _, wrong in found for account in wrong} == {
        account for account in accounts if parts_are_below(account, "a_")
    }
    engine.reports.rebuild()


def check_command(cli: Cli, engine: QuotaEngine) -> None:
    mine = engine.reports.usage("account", viewer="a%")
    told = cli.json("reports", "usage", "--by", "account", "--as", "a%")
    assert [row["account"] for row in told["rows"]] == [row.account for row in mine.rows]
    for words in (("top",), ("errors",), ("accuracy",), ("check",)):
        assert "a2" not in cli.done("reports", *words, "--as", "nobody")
    period = ("--from", str(SINCE), "--to", str(UNTIL))
    assert cli.json("reports", "trend", *period, "--as", "nobody")[-1]["now"]["calls"] == 0
    for words in (("forecast", "a2", "text_token"), ("account", "a2")):
        refused = cli.run("reports", *words, "--as", "a")
        assert (refused.code, refused.out) == (1, "")


def test_a_range_of_texts_is_what_is_below_a_path() -> None:
    dice = random.Random(10)
    names = tree(dice, 200)
    for path in names:
        first, after = bounds_below(path)
        for account in names:
            is_below = account == path or first.encode() <= account.encode() < after.encode()
            assert is_below == sees(path, account) == parts_are_below(account, path)
