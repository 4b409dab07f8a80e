"""What came and went in a period, per quota type, to the unit, for both engines and by command."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import InvalidArgumentError, Statement
from quota_engine.jobs.verify import verify
from tests.commands import Cli
from tests.engines import NOON, Engines, TestClock

pytestmark = pytest.mark.anyio

ACCOUNT, TYPE = "user:42", "text_token"


def figures(made: Statement, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(made, name) for name in names)


async def lived(call: Engines, clock: TestClock) -> list[datetime]:
    """A life in three days, with everything that a statement tells; return its midnights."""
    days = [NOON - timedelta(hours=12) + timedelta(days=number) for number in range(4)]
    issue = ("issue_grant", ACCOUNT, TYPE)
    await call(*issue, 1_000, expires_at=days[2], grant_id="short")
    await call(*issue, 500, grant_id="long", priority=60)
    await call(*issue, 300, grant_id="later", starts_at=days[1] + timedelta(hours=1))
    charge = await call("debit", ACCOUNT, TYPE, 100)
    clock.now = days[1]
    await call("debit", ACCOUNT, TYPE, 50, reference="at midnight, so of the second day")
    await call("refund", ACCOUNT, TYPE, charge.operation_id, 30)
    hold = await call("place_hold", ACCOUNT, TYPE, 200, ttl=86_400)
    clock.now = days[1] + timedelta(hours=23, minutes=59)
    await call("capture_hold", hold, 150)
    clock.now = days[2] + timedelta(hours=5)
    await call("void_grant", ACCOUNT, TYPE, "long")
    await call("set_overdraft_limit", ACCOUNT, TYPE, 40)
    await call("debit", ACCOUNT, TYPE, 400, already_used=True)
    return days


COLUMNS = ("opening", "granted", "used", "expired", "voided", "refunded", "closing")


async def test_a_statement_tells_each_day_to_the_unit(timed: Engines, clock: TestClock) -> None:
    days = await lived(timed, clock)
    first, second, third = [
        await timed("statement", ACCOUNT, TYPE, *pair) for pair in pairwise(days)
    ]
    assert figures(first, *COLUMNS) == (0, 1_500, 100, 0, 0, 0, 1_400)
    assert (first.pending, first.closing_held, first.closing_debt) == (300, 0, 0)
    assert figures(second, *COLUMNS) == (1_400, 300, 200, 0, 0, 30, 1_530)
    assert (second.pending, second.shortfall) == (0, 0)
    assert figures(third, *COLUMNS) == (1_530, 0, 340, 730, 500, 0, -40)
    assert (third.closing_debt, third.shortfall, third.difference) == (40, 60, 0)
    whole = await timed("statement", ACCOUNT, TYPE)
    assert (whole.since, whole.opening, whole.closing) == (None, 0, -40)
    assert whole.entries == first.entries + second.entries + third.entries
    assert whole.until > days[2]
    assert list(verify(timed.engine.deployment.ledger)) == []


async def test_what_ended_while_nobody_called_is_in_the_statement(
    timed: Engines, clock: TestClock
) -> None:
    await timed("issue_grant", ACCOUNT, TYPE, 70, expires_at=NOON + timedelta(hours=1))
    clock.forward(days=1)
    made = await timed("statement", ACCOUNT, TYPE, NOON, NOON + timedelta(hours=2))
    assert figures(made, *COLUMNS) == (0, 70, 0, 70, 0, 0, 0)


async def test_what_is_held_is_part_of_the_balance_and_shown(call: Engines) -> None:
    await call("issue_grant", ACCOUNT, TYPE, 100)
    await call("place_hold", ACCOUNT, TYPE, 30)
    made = await call("statement", ACCOUNT, TYPE)
    assert (made.closing, made.closing_held, made.used) == (100, 30, 0)


async def test_each_quota_type_has_its_own_statement(call: Engines) -> None:
    await call("issue_grant", ACCOUNT, TYPE, 100)
    await call("issue_grant", ACCOUNT, "image", 3)
    made = await call("statements", ACCOUNT)
    assert [(one.quota_type, one.closing) for one in made] == [("image", 3), ("text_token", 100)]
    assert await call("statements", "user:43") == []
    assert (await call("statement", "user:43", TYPE)).entries == 0


async def test_a_period_that_cannot_be_meant_is_refused(call: Engines) -> None:
    for arguments in (
        (ACCOUNT, TYPE, NOON, NOON - timedelta(days=1)),
        (ACCOUNT, "tokens", NOON),
        (ACCOUNT, TYPE, NOON.replace(tzinfo=None)),
        ("", TYPE),
    ):
        with pytest.raises(InvalidArgumentError):
            await call("statement", *arguments)


def test_statements_by_command(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    assert "has nothing" in cli.done("accounts", "statement", ACCOUNT)
    cli.done("grants", "issue", ACCOUNT, TYPE, "100")
    cli.done("grants", "issue", ACCOUNT, "image", "3")
    told = cli.json("accounts", "statement", ACCOUNT, TYPE, "--from", "2026-01-01T00Z")
    assert (told[0]["granted"], told[0]["closing"], told[0]["voided"]) == (100, 100, 0)
    assert [one["quota_type"] for one in cli.json("accounts", "statement", ACCOUNT)] == [
        "image",
        "text_token",
    ]
    table = cli.done("accounts", "statement", ACCOUNT)
    assert "closing held" in table
    assert "text_token" in table
    with cli.engine() as engine, engine.deployment.ledger.transaction() as sql:
        sql.execute(text("SET LOCAL session_replication_role = replica"))
        sql.execute(text("UPDATE ledger_entries SET balance_after = 7 WHERE quota_type = 'image'"))
    edited = cli.run("accounts", "statement", ACCOUNT)
    assert (edited.code, "image does not add up, by 4" in edited.err) == (3, True)
    period = ("--from", "2026-02-01T00Z", "--to", "2026-01-01T00Z")
    assert cli.run("accounts", "statement", ACCOUNT, *period).code == 2
    assert cli.run("accounts", "statement", ACCOUNT, "tokens").code == 2
    assert cli.run("accounts", "statement", ACCOUNT, "--from", "yesterday").code == 2
