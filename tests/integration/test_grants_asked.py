"""An account's grants with their states: at once, and whether or not anything was persisted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from quota_engine import InvalidArgumentError, ListedGrant
from tests.commands import Cli
from tests.engines import NOON, Engines, TestClock

pytestmark = pytest.mark.anyio

ACCOUNT, TYPE = "user:42", "text_token"
DAY = timedelta(days=1)


def shown(grants: list[ListedGrant]) -> dict[str, tuple[str, int, int]]:
    return {one.grant_id: (one.state, one.remaining, one.reserved) for one in grants}


async def lived(call: Engines, clock: TestClock) -> None:
    """Grants in every state."""
    issue: Any = ("issue_grant", ACCOUNT, TYPE)
    await call(*issue, 10, grant_id="used", priority=1)
    await call(*issue, 20, grant_id="held", priority=2)
    await call(*issue, 30, grant_id="ended", expires_at=NOON + DAY, priority=3)
    await call(*issue, 40, grant_id="void", priority=3)
    await call(*issue, 50, grant_id="week", expires_at=NOON + 7 * DAY, priority=3)
    await call(*issue, 60, grant_id="later", starts_at=NOON + 3 * DAY, expires_at=NOON + 6 * DAY)
    await call("debit", ACCOUNT, TYPE, 10)
    await call("place_hold", ACCOUNT, TYPE, 20, ttl=86_400)
    await call("void_grant", ACCOUNT, TYPE, "void")
    clock.now = NOON + DAY - timedelta(seconds=1)


STATES = {
    "used": ("exhausted", 0, 0),
    "held": ("active", 0, 20),
    "ended": ("active", 30, 0),
    "void": ("voided", 0, 0),
    "week": ("active", 50, 0),
    "later": ("pending", 60, 0),
}


async def test_grants_have_their_states_at_once(timed: Engines, clock: TestClock) -> None:
    await lived(timed, clock)
    assert shown(await timed("grants", ACCOUNT)) == STATES
    await timed("drain")
    assert shown(await timed("grants", ACCOUNT, TYPE)) == STATES
    clock.now = NOON + DAY
    found = shown(await timed("grants", ACCOUNT, TYPE))
    assert found["ended"] == ("expired", 0, 0), "to the instant, before anything wrote it down"
    clock.now = NOON + 3 * DAY
    assert shown(await timed("grants", ACCOUNT))["later"] == ("active", 60, 0)


async def test_a_state_or_what_expires_when_is_asked_for(timed: Engines, clock: TestClock) -> None:
    await lived(timed, clock)
    await timed("issue_grant", ACCOUNT, "image", 5, grant_id="pictures", expires_at=NOON + 4 * DAY)
    assert set(shown(await timed("grants", ACCOUNT, state="voided"))) == {"void"}
    assert set(shown(await timed("grants", ACCOUNT, TYPE, state="active"))) == {
        *("held", "ended", "week"),
    }
    soon = await timed("grants", ACCOUNT, expiring_within=6 * DAY)
    assert [one.grant_id for one in soon] == ["ended", "pictures", "later"]
    soon = await timed("grants", ACCOUNT, expiring_within=timedelta(seconds=1))
    assert [one.grant_id for one in soon] == ["ended"]
    assert await timed("grants", ACCOUNT, expiring_within=timedelta(0)) == []
    assert await timed("grants", "user:43") == []


async def test_what_a_refund_made_is_there_before_it_is_persisted(call: Engines) -> None:
    """The ledger knows such a grant by its entry alone: nobody promised it."""
    await call("set_overdraft_limit", ACCOUNT, TYPE, 50)
    charge = await call("debit", ACCOUNT, TYPE, 50)
    await call("issue_grant", ACCOUNT, TYPE, 50)
    refunded = await call("refund", ACCOUNT, TYPE, charge.operation_id)
    (made,) = await call("grants", ACCOUNT, state="active")
    assert (made.grant_id, made.remaining) == (f"{refunded.refund_id}:rest", 50)
    assert made.source == "refund"


async def test_what_no_grant_can_be_is_refused(call: Engines) -> None:
    for wrong in ({"state": "live"}, {"expiring_within": 7}, {"expiring_within": -DAY}):
        with pytest.raises(InvalidArgumentError):
            await call("grants", ACCOUNT, **wrong)
    with pytest.raises(InvalidArgumentError):
        await call("grants", ACCOUNT, "tokens")


def test_grants_by_command(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    for grant_id, end in (("a", "+10d"), ("b", "+2d"), ("c", "+5d")):
        cli.done(
            "grants", "issue", ACCOUNT, TYPE, "9", "--grant-id", grant_id, "--expires-at", end
        )
    cli.done("grants", "void", ACCOUNT, TYPE, "c")
    listed = ("grants", "list", ACCOUNT)
    assert [one["grant_id"] for one in cli.json(*listed)] == ["a", "b"]
    assert {one["grant_id"] for one in cli.json(*listed, "--all")} == {"a", "b", "c"}
    assert [one["state"] for one in cli.json(*listed, "--state", "voided")] == ["voided"]
    assert [one["grant_id"] for one in cli.json(*listed, "--expiring-within", "7d")] == ["b"]
    assert "active" in cli.done(*listed, TYPE)
    assert "has no grants" in cli.done(*listed, "--expiring-within", "1h")
    assert cli.run(*listed, "--expiring-within", "soon").code == 2
    assert cli.run(*listed, "--state", "gone").code == 2
