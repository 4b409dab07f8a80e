"""Charges given back: to the grants that paid, once, never more than was taken."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from quota_engine import (
    IdempotencyConflictError,
    InvalidAmountError,
    InvalidArgumentError,
    OperationNotFoundError,
    QuotaEngine,
    QuotaFrozenError,
)
from quota_engine.commands import Refund, RefundRequest
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from tests.commands import Cli
from tests.engines import NOON, TestClock

pytestmark = pytest.mark.anyio

TOKENS = ("user:42", "text_token")
QUOTA = QuotaName(*TOKENS)


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url) as opened:
        yield opened


async def is_sound(call: Any) -> None:
    await call("drain")
    assert list(verify(call.engine.deployment.ledger)) == []
    assert (await call("reconcile")).drifts == ()


async def grants(call: Any) -> dict[str, int]:
    balance = await call("read_balance", *TOKENS)
    return {grant.grant_id: grant.remaining for grant in balance.grants}


async def test_a_refund_goes_back_to_the_grants_that_paid_last_taken_first(call: Any) -> None:
    await call("issue_grant", *TOKENS, 10, grant_id="first", priority=1)
    await call("issue_grant", *TOKENS, 10, grant_id="second", priority=2)
    await call("debit", *TOKENS, 15, operation_id="d")
    refunded = await call("refund", *TOKENS, "d", 7, "r1")
    assert (refunded.amount, refunded.forfeited, refunded.regranted) == (7, 0, 0)
    assert [(part.grant_id, part.amount) for part in refunded.allocations] == [
        ("second", 5),
        ("first", 2),
    ]
    assert (refunded.balance, refunded.operation_id, refunded.replayed) == (12, "d", False)
    again = await call("refund", *TOKENS, "d", 7, "r1")
    assert (again.replayed, again.amount, again.balance) == (True, 7, 12)
    rest = await call("refund", *TOKENS, "d")
    assert (rest.amount, rest.balance) == (8, 20)
    assert await grants(call) == {"first": 10, "second": 10}
    await is_sound(call)


async def test_never_more_than_was_taken_all_refunds_together(call: Any) -> None:
    await call("issue_grant", *TOKENS, 10)
    await call("debit", *TOKENS, 15, operation_id="d", already_used=True)
    with pytest.raises(InvalidAmountError, match="10 of the 10 units"):
        await call("refund", *TOKENS, "d", 11)
    await call("refund", *TOKENS, "d", 6)
    with pytest.raises(InvalidAmountError, match="4 of the 10 units"):
        await call("refund", *TOKENS, "d", 5)
    await call("refund", *TOKENS, "d")
    with pytest.raises(InvalidAmountError, match="0 of the 10 units"):
        await call("refund", *TOKENS, "d")
    assert (await call("read_balance", *TOKENS)).balance == 10
    await is_sound(call)


async def test_a_hold_s_id_means_its_capture(call: Any) -> None:
    await call("issue_grant", *TOKENS, 100)
    hold = await call("place_hold", *TOKENS, 50)
    with pytest.raises(OperationNotFoundError):
        await call("refund", *TOKENS, hold.hold_id)
    captured = await call("capture_hold", hold, 30)
    refunded = await call("refund", *TOKENS, hold.hold_id, 10)
    assert refunded.operation_id == captured.operation_id
    assert (await call("read_balance", *TOKENS)).balance == 80


async def test_a_grace_is_a_length_of_time(call: Any) -> None:
    await call("issue_grant", *TOKENS, 100)
    await call("debit", *TOKENS, 10, operation_id="d")
    for grace in (60, timedelta(0), timedelta(days=36_501)):
        with pytest.raises(InvalidArgumentError, match="grace must be a timedelta"):
            await call("refund", *TOKENS, "d", 1, grace=grace)
    await call("refund", *TOKENS, "d", 1, grace=timedelta(days=30))
    await is_sound(call)


async def test_what_is_no_charge_is_not_given_back(call: Any) -> None:
    await call("issue_grant", *TOKENS, 100, grant_id="g")
    for operation_id in ("g", "nothing"):
        with pytest.raises(OperationNotFoundError):
            await call("refund", *TOKENS, operation_id)
    with pytest.raises(OperationNotFoundError):
        await call("refund", "nobody", "text_token", "d")
    await call("debit", *TOKENS, 10, operation_id="d")
    for amount in (0, -1, 2**53):
        with pytest.raises(InvalidAmountError):
            await call("refund", *TOKENS, "d", amount)
    await call("refund", *TOKENS, "d", 1, "r")
    with pytest.raises(IdempotencyConflictError):
        await call("refund", *TOKENS, "d", 2, "r")
    with pytest.raises(IdempotencyConflictError):
        await call("refund", *TOKENS, "d", 1, "r", grace=timedelta(seconds=5))


async def test_what_an_expired_grant_paid_is_forfeited_or_lives_for_a_grace(
    timed: Any, clock: TestClock
) -> None:
    await timed("issue_grant", *TOKENS, 20, expires_at=NOON + timedelta(seconds=10))
    await timed("debit", *TOKENS, 20, operation_id="d")
    clock.forward(seconds=10)
    lost = await timed("refund", *TOKENS, "d", 5)
    assert (lost.forfeited, lost.regranted, lost.balance) == (5, 0, 0)
    kept = await timed("refund", *TOKENS, "d", 5, "r", grace=timedelta(seconds=60))
    assert (kept.forfeited, kept.regranted, kept.balance) == (0, 5, 5)
    assert await grants(timed) == {"r:grace": 5}
    clock.forward(seconds=60)
    assert (await timed("read_balance", *TOKENS)).balance == 0
    await is_sound(timed)


async def test_a_grant_used_up_long_ago_is_live_again(timed: Any, clock: TestClock) -> None:
    """Also when Redis has forgotten the quota in between."""
    await timed("issue_grant", *TOKENS, 5, grant_id="g", expires_at=NOON + timedelta(hours=2))
    await timed("debit", *TOKENS, 5, operation_id="d")
    await timed("drain")
    client = timed.engine.deployment.client
    client.delete(next(client.scan_iter("*:quota:*")))
    clock.forward(hours=1)
    assert (await timed("refund", *TOKENS, "d", 3)).balance == 3
    await is_sound(timed)
    clock.forward(hours=1)
    assert (await timed("read_balance", *TOKENS)).balance == 0
    await is_sound(timed)


async def test_a_frozen_quota_takes_no_refund_and_keeps_no_promise(call: Any) -> None:
    await call("issue_grant", *TOKENS, 10)
    await call("debit", *TOKENS, 10, operation_id="d")
    deployment = call.engine.deployment
    deployment.freeze(QUOTA, "in doubt")
    with pytest.raises(QuotaFrozenError):
        await call("refund", *TOKENS, "d", 4)
    assert deployment.ledger.open_refunds() == []
    deployment.freeze(QUOTA, "")
    assert (await call("refund", *TOKENS, "d")).amount == 10


async def test_a_refund_by_the_id_of_something_else_keeps_no_promise(call: Any) -> None:
    await call("issue_grant", *TOKENS, 10)
    await call("debit", *TOKENS, 6, operation_id="d")
    await call("debit", *TOKENS, 2, operation_id="other")
    with pytest.raises(IdempotencyConflictError):
        await call("refund", *TOKENS, "d", 4, refund_id="other")
    assert call.engine.deployment.ledger.open_refunds() == []
    assert (await call("refund", *TOKENS, "d", 6)).amount == 6, "nothing else was given back"
    await is_sound(call)


def test_many_refunds_at_once_give_back_what_was_taken(engine: QuotaEngine) -> None:
    engine.issue_grant(*TOKENS, 100)
    engine.debit(*TOKENS, 100, operation_id="d")

    def refund(number: int) -> int:
        try:
            return engine.refund(*TOKENS, "d", 15, f"r{number // 2}").amount
        except InvalidAmountError:
            return 0

    with ThreadPoolExecutor(8) as threads:
        given = list(threads.map(refund, range(24)))
    assert given.count(15) == 12, "six refunds, each asked for twice"
    assert engine.read_balance(*TOKENS).balance == 90


def test_a_refund_whose_maker_died_is_made_by_the_schedule_once(engine: QuotaEngine) -> None:
    engine.issue_grant(*TOKENS, 10)
    engine.debit(*TOKENS, 10, operation_id="d")
    engine.drain()
    request = RefundRequest(quota=QUOTA, refund_id="r", operation_id="d", amount=4)
    assert engine.deployment.record_refunds([request])[0].is_new
    assert engine.run_schedule()["intents"].startswith("1 promises kept")
    assert engine.run_schedule()["intents"].startswith("0 promises kept")
    assert engine.refund(*TOKENS, "d", 4, "r").replayed
    assert engine.read_balance(*TOKENS).balance == 4


def test_a_refund_kept_long_ago_is_not_kept_again(engine: QuotaEngine) -> None:
    engine.issue_grant(*TOKENS, 10)
    engine.debit(*TOKENS, 10, operation_id="d")
    engine.refund(*TOKENS, "d", 4, "r")
    client = engine.deployment.client
    for key in client.scan_iter("*:ops?:*"):
        client.delete(key)  # Redis has forgotten; the entry is still pending
    engine.run_schedule()
    assert engine.refund(*TOKENS, "d", 4, "r").replayed
    assert engine.read_balance(*TOKENS).balance == 4


def test_a_promise_that_was_lost_is_known_again_from_its_entry(engine: QuotaEngine) -> None:
    """As after the ledger was restored from an older copy."""
    engine.issue_grant(*TOKENS, 10)
    engine.debit(*TOKENS, 10, operation_id="d")
    engine.drain()
    engine.refund(*TOKENS, "d", 6, "r")
    with engine.deployment.ledger.transaction() as sql:
        sql.exec_driver_sql("DELETE FROM refunds")
    engine.drain()
    with pytest.raises(InvalidAmountError, match="4 of the 10"):
        engine.refund(*TOKENS, "d", 5)
    (promised,) = engine.deployment.record_refunds(
        [RefundRequest(quota=QUOTA, refund_id="r", operation_id="d", amount=6)]
    )
    assert isinstance(promised.command, Refund)
    assert promised.applied is not None


def test_a_charge_is_given_back_by_command(
    redis_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = Cli(monkeypatch, capsys)
    cli.aim(redis_url, database_url)
    cli.done("grants", "issue", *TOKENS, "10")
    with cli.engine() as engine:
        engine.debit(*TOKENS, 8, operation_id="call-1")
    some = ("accounts", "refund", *TOKENS, "call-1", "3", "--refund-id", "r", "--actor", "ann")
    half = cli.json(*some)
    assert (half["amount"], half["balance"], half["replayed"]) == (3, 5, False)
    again = cli.json(*some)
    assert (again["amount"], again["replayed"]) == (3, True)
    assert "5" in cli.done("accounts", "refund", *TOKENS, "call-1", "--grace", "7d")
    with cli.engine() as engine:
        assert engine.read_balance(*TOKENS).balance == 10
        for account in ("acme", "acme/ann"):
            engine.issue_grant(account, "text_token", 10)
        engine.debit("acme/ann", "text_token", 8, operation_id="call-3")
    told = cli.done("accounts", "refund", "acme/ann", "text_token", "call-3").splitlines()
    assert [line.split()[0] for line in told if "acme" in line] == ["acme/ann", "acme"]
    refused = cli.run("accounts", "refund", *TOKENS, "call-1", "1")
    assert "0 of the 8 units" in refused.err
    assert cli.run("accounts", "refund", *TOKENS, "call-2").code == 1
    assert cli.run("accounts", "refund", *TOKENS, "call-1", "0").code == 2


def test_a_grant_that_would_have_ended_is_refused_by_its_instant(engine: QuotaEngine) -> None:
    past = NOON.replace(year=2020)
    with pytest.raises(InvalidArgumentError, match="2020-01-0"):
        engine.issue_grant(*TOKENS, 5, expires_at=past)
