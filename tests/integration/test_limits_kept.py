"""What limits have let through survives Redis, agrees in both stores, and is found when edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine.commands import Action, CaptureHold, DebitUsed, PlaceHold, ReadLimits, SetLimit
from quota_engine.drift import Cause
from quota_engine.errors import LimitExceededError
from quota_engine.jobs.reconcile import reconcile
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.limits import checked_limit
from tests.deployments import Deployment

TOKENS = QuotaName("user:42", "text_token")


@pytest.fixture
def limited(deployment: Deployment) -> Deployment:
    """A quota that was called in two of its minutes, with a hold open and one settled."""
    deployment.open()
    deployment.issue(TOKENS, 10_000)
    for number, (of, per, window) in enumerate(
        [
            ("units", "minute", None),
            ("units", "hour", None),
            ("units", "day", None),
            ("calls", "month", "sliding"),
            ("holds", None, None),
        ]
    ):
        limit = checked_limit(1_000, of=of, per=per, window=window, time_zone="UTC")
        command = SetLimit(
            quota=TOKENS,
            operation_id=f"limit-{number}",
            action=Action.SET,
            limit=limit,
            at_ms=int(deployment.balance(TOKENS).at.timestamp() * 1000),  # type: ignore[union-attr]
        )
        deployment.run(command)
    deployment.place(TOKENS, 100, "h1")
    deployment.place(TOKENS, 50, "h2")
    deployment.capture(TOKENS, "h1", 30)
    deployment.debit(TOKENS, 7)
    deployment.drain()
    return deployment


def used(deployment: Deployment) -> dict[str, int]:
    found = deployment.run(ReadLimits(quota=TOKENS))
    return {f"{one.of}/{one.per}": one.used for one in found.standings}


def lose(deployment: Deployment) -> None:
    """Delete the quota's key: it is loaded from the ledger again."""
    deployment.redis.delete(deployment.keys(TOKENS).quota(str(TOKENS)))


def test_windows_of_an_hour_and_more_come_back_and_shorter_ones_start_anew(
    limited: Deployment,
) -> None:
    told = {"units/minute": 87, "units/hour": 87, "units/day": 87, "calls/month": 3}
    assert used(limited) == told | {"holds/None": 1}
    lose(limited)
    told["units/minute"] = 0
    assert used(limited) == told | {"holds/None": 1}
    # a hold that a window has forgotten takes nothing from it
    limited.capture(TOKENS, "h2", 10)
    told |= {"units/hour": 47, "units/day": 47}
    assert used(limited) == told | {"holds/None": 0}
    limited.run(DebitUsed(quota=TOKENS, operation_id="u", amount=960))
    assert used(limited)["units/minute"] == 960
    with pytest.raises(LimitExceededError) as refused:
        limited.debit(TOKENS, 1)
    assert refused.value.limit.per in {"hour", "day"}
    limited.drain()
    limited.redis.flushall()
    limited.open()
    assert used(limited)["units/hour"] == 1_007
    assert reconcile(limited.redis, limited.ledger, opened=limited.opened).drifts == ()
    assert list(verify(limited.ledger)) == []


def test_a_hold_from_before_a_loss_takes_nothing_from_a_short_window(limited: Deployment) -> None:
    """Even where the window has not changed since: what the hold counted in it is lost."""
    limit = checked_limit(1_000, of="units", per="minute", window="calendar", time_zone="UTC")
    command = SetLimit(quota=TOKENS, operation_id="anew", action=Action.SET, limit=limit, at_ms=0)
    limited.run(command)
    limited.place(TOKENS, 50, "h3")
    limited.drain()
    lose(limited)
    limited.debit(TOKENS, 100)
    limited.capture(TOKENS, "h3", 10)
    assert used(limited)["units/minute"] == 100


def test_a_quota_with_limits_agrees_while_entries_are_pending(limited: Deployment) -> None:
    limited.run(PlaceHold(quota=TOKENS, hold_id="h3", amount=5, ttl_ms=60_000))
    limited.run(
        CaptureHold(quota=TOKENS, hold_id="h3", operation_id="p", amount=3, is_final=False)
    )
    assert reconcile(limited.redis, limited.ledger, opened=limited.opened).drifts == ()
    limited.drain()
    assert reconcile(limited.redis, limited.ledger, opened=limited.opened).drifts == ()


def _hset(field: str, change: Callable[[str], str]) -> Callable[[Deployment], Any]:
    def edit(deployment: Deployment) -> None:
        key = deployment.keys(TOKENS).quota(str(TOKENS))
        stored = deployment.redis.hget(key, field)
        assert isinstance(stored, bytes)
        deployment.redis.hset(key, field, change(stored.decode()))

    return edit


def _other_hold(deployment: Deployment) -> None:
    key = deployment.keys(TOKENS).holds(str(TOKENS))
    stored = deployment.redis.hget(key, "h2")
    assert isinstance(stored, bytes)
    deployment.redis.hset(key, "h2", stored.decode().replace("@17", "@16"))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (
            _hset("limits", lambda old: old.replace("hour,sliding,,1000", "hour,sliding,,9000")),
            "limits_edited",
        ),
        (
            _hset("w:units:hour:sliding", lambda old: old.replace(" 87", " 7")),
            "limit_count_edited",
        ),
        (
            _hset("w:units:day:calendar", lambda old: old.replace(" 87", " 7")),
            "limit_count_edited",
        ),
        (_hset("w:at", lambda old: str(int(old) + 60_000)), "limit_count_edited"),
        (_other_hold, "hold_edited"),
    ],
)
def test_an_edit_is_found_and_mended(
    limited: Deployment, spoil: Callable[[Deployment], Any], cause: str
) -> None:
    before = used(limited)
    spoil(limited)
    report = reconcile(limited.redis, limited.ledger, opened=limited.opened, repair=True)
    assert [drift.cause for drift in report.drifts] == [Cause(cause)]
    assert report.repaired == 1
    assert used(limited) == before | {"units/minute": 0}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE window_counts SET counted = counted + 1 WHERE limit_key = 'units:hour:sliding'",
        "DELETE FROM window_counts WHERE limit_key = 'units:day:calendar'",
        "UPDATE quotas SET limits = ''",
        "UPDATE quotas SET last_count_ms = 0",
        "UPDATE holds SET counts_at_ms = 1 WHERE hold_id = 'h2'",
        "UPDATE holds SET is_counted = true WHERE hold_id = 'h1'",
    ],
)
def test_an_edit_of_the_ledger_is_found(limited: Deployment, statement: str) -> None:
    with limited.ledger.transaction() as connection:
        assert connection.execute(text(statement)).rowcount
    found = list(verify(limited.ledger))
    assert found
    assert {finding.quota for finding in found} == {TOKENS}


def test_the_ledger_keeps_of_a_limit_what_counts_still(limited: Deployment) -> None:
    def rows() -> int:
        with limited.ledger.transaction() as connection:
            query = "SELECT count(*) FROM window_counts"
            count: int = connection.execute(text(query)).scalar_one()
        return count

    assert rows() == 3
    remove = SetLimit(
        quota=TOKENS,
        operation_id="away",
        action=Action.REMOVE,
        limit=checked_limit(1, of="units", per="hour", window=None, time_zone="UTC"),
    )
    limited.run(remove)
    limited.drain()
    assert rows() == 2
    assert list(verify(limited.ledger)) == []
