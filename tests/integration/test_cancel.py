"""An unknown outcome becomes a known one: the operation's answer, or that it never happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quota_engine import (
    CancelledOperation,
    EngineUnavailableError,
    HoldNotFoundError,
    InvalidArgumentError,
    OperationCancelledError,
    QuotaEngine,
)
from quota_engine.commands import GrantTerms, RefundRequest
from quota_engine.commands.refunds import requests_of
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from tests.proxy import Proxy

TOKENS = ("user:1", "text_token")
NAME = QuotaName(*TOKENS)


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=2) as opened:
        opened.issue_grant(*TOKENS, 1_000, grant_id="g1")
        yield opened


def kinds(engine: QuotaEngine) -> list[str]:
    return [entry.kind for entry in engine.history(*TOKENS)]


def forget(engine: QuotaEngine) -> None:
    """Make Redis forget what it was asked, as it does after the horizon."""
    keys = ShardKeys(shard_of(NAME.account, 2))
    engine.deployment.client.delete(keys.ops0(str(NAME)), keys.ops1(str(NAME)))


def check_sound(engine: QuotaEngine) -> None:
    engine.drain()
    assert list(verify(engine.deployment.ledger)) == []
    assert engine.reconcile().drifts == ()


async def test_what_has_happened_is_told_and_what_has_not_never_does(call: Any) -> None:
    await call("issue_grant", *TOKENS, 1_000)
    debited = await call("debit", *TOKENS, 30, operation_id="d1")
    told = await call("cancel", *TOKENS, "d1")
    assert told == CancelledOperation(
        operation_id="d1",
        account=TOKENS[0],
        quota_type=TOKENS[1],
        was_applied=True,
        amount=30,
        shortfall=0,
        balance=970,
        version=debited.version,
    )
    cancelled = await call("cancel", *TOKENS, "d2")
    assert (cancelled.was_applied, cancelled.replayed, cancelled.amount) == (False, False, 0)
    again = await call("cancel", *TOKENS, "d2", reference="again")
    assert (again.was_applied, again.replayed, again.version) == (False, True, cancelled.version)
    with pytest.raises(OperationCancelledError, match="d2"):
        await call("debit", *TOKENS, 5, operation_id="d2", already_used=True)
    assert (await call("read_balance", *TOKENS)).balance == 970


async def test_a_hold_is_told_and_stays_and_its_ends_can_be_cancelled(call: Any) -> None:
    await call("issue_grant", *TOKENS, 1_000)
    hold = await call("place_hold", *TOKENS, 100)
    assert (await call("cancel", *TOKENS, hold.hold_id)).amount == 100
    assert (await call("read_balance", *TOKENS)).held == 100
    assert not (await call("cancel", *TOKENS, f"{hold.hold_id}:capture")).was_applied
    with pytest.raises(OperationCancelledError):
        await call("capture_hold", hold, 40)
    assert (await call("release_hold", hold)).amount == 100
    with pytest.raises(InvalidArgumentError, match="clock"):
        await call("cancel", *TOKENS, f"{hold.hold_id}:expire")


def test_what_redis_has_forgotten_the_ledger_tells(engine: QuotaEngine) -> None:
    engine.debit(*TOKENS, 30, operation_id="persisted")
    engine.drain()
    engine.debit(*TOKENS, 20, operation_id="pending")
    engine.cancel(*TOKENS, "never")
    hold = engine.place_hold(*TOKENS, 10)
    engine.cancel(*TOKENS, f"{hold.hold_id}:capture")
    engine.release_hold(hold)
    forget(engine)
    assert engine.cancel(*TOKENS, "persisted").amount == 30
    pending = engine.cancel(*TOKENS, "pending")
    assert (pending.was_applied, pending.amount) == (True, 20)
    never = engine.cancel(*TOKENS, "never")
    assert (never.was_applied, never.replayed) == (False, True)
    with pytest.raises(OperationCancelledError):
        engine.capture_hold(hold, 5)
    assert kinds(engine).count("operation.cancelled") == 2
    check_sound(engine)


def test_a_tombstone_outlives_the_loss_of_redis(engine: QuotaEngine) -> None:
    engine.cancel(*TOKENS, "d1")
    engine.cancel("nobody:yet", "image", "d1")
    engine.drain()
    engine.deployment.client.flushall()
    with pytest.raises(OperationCancelledError):
        engine.debit(*TOKENS, 5, operation_id="d1")
    with pytest.raises(OperationCancelledError):
        engine.debit("nobody:yet", "image", 5, operation_id="d1", already_used=True)
    assert engine.cancel(*TOKENS, "d1").replayed
    check_sound(engine)


def test_a_cancelled_hold_was_never_placed(engine: QuotaEngine) -> None:
    engine.cancel(*TOKENS, "h1")
    with pytest.raises(OperationCancelledError):
        engine.place_hold(*TOKENS, 10, operation_id="h1")
    for end in (engine.capture_hold, lambda *args, **named: engine.release_hold(args[0], **named)):
        with pytest.raises(HoldNotFoundError):
            end("h1", 5, account=TOKENS[0], quota_type=TOKENS[1])


def test_a_promised_grant_that_was_cancelled_is_not_issued(engine: QuotaEngine) -> None:
    ledger = engine.deployment.ledger
    terms = GrantTerms(amount=50, source="purchase")
    ledger.record_intent(NAME, "g2", terms, "")  # its issuer died here
    assert not engine.cancel(*TOKENS, "g2").was_applied
    assert ledger.open_intents() == []
    ledger.record_intent(NAME, "g3", terms, "")
    engine.cancel(*TOKENS, "g3")
    ledger.record_intent(NAME, "g3", terms, "")  # by one who knew nothing of it
    engine.run_schedule()
    assert ledger.open_intents() == []
    with pytest.raises(OperationCancelledError):
        engine.issue_grant(*TOKENS, 50, grant_id="g2", source="purchase")
    assert ledger.open_intents() == []
    assert engine.cancel(*TOKENS, "g1").amount == 1_000
    assert engine.read_balance(*TOKENS).balance == 1_000
    check_sound(engine)


@pytest.mark.parametrize("payer", [None, "acme/pool"])
def test_a_promised_refund_that_was_cancelled_gives_nothing_back_above_either(
    engine: QuotaEngine, payer: str | None
) -> None:
    user, kind = "acme/user", TOKENS[1]
    for account in (payer or user, "acme"):
        engine.issue_grant(account, kind, 100)
    if payer:
        engine.accounts.set_pays_after(user, payer)
    assert engine.debit(user, kind, 30, operation_id="d").paid_by == payer
    engine.drain()
    ledger, fate = engine.deployment.ledger, engine.deployment.find_charge
    request = RefundRequest(quota=QuotaName(user, kind), refund_id="r", operation_id="d")
    requests = requests_of(request, fate(request.quota, "d").charge, ["acme"])
    ledger.record_refunds(requests)  # its maker died here
    assert len(ledger.open_refunds()) == 2
    assert not engine.cancel(payer or user, kind, "r").was_applied
    assert ledger.open_refunds() == []
    with pytest.raises(OperationCancelledError):
        engine.refund(user, kind, "d", refund_id="r")
    assert ledger.open_refunds() == []
    engine.run_schedule()
    ledger.record_refunds(requests)  # by one who knew nothing of it, and died
    engine.run_schedule()
    assert ledger.open_refunds() == []
    assert engine.read_balance("acme", kind).balance == 70
    assert engine.refund(user, kind, "d", refund_id="again").amount == 30
    assert engine.read_balance("acme", kind).balance == 100


def test_a_frozen_quota_is_told_too(engine: QuotaEngine) -> None:
    engine.drain()
    engine.deployment.freeze(NAME, "a test")
    assert not engine.cancel(*TOKENS, "d1").was_applied
    assert engine.cancel(*TOKENS, "g1").was_applied


def test_a_lost_reply_is_told(redis_url: str, database_url: str, engine: QuotaEngine) -> None:
    proxy = Proxy(redis_url)
    with QuotaEngine.open(proxy.url, database_url, call_timeout_seconds=0.01) as cut:
        proxy.cut_reply_to("d-lost")
        with pytest.raises(EngineUnavailableError, match="outcome is unknown"):
            cut.debit(*TOKENS, 30, operation_id="d-lost")
        proxy.cut_reply_to("c-lost")
        with pytest.raises(EngineUnavailableError):
            cut.cancel(*TOKENS, "c-lost")
    proxy.close()
    assert proxy.cuts == 2
    told = engine.cancel(*TOKENS, "d-lost")
    assert (told.was_applied, told.amount) == (True, 30)
    engine.cancel(*TOKENS, "c-lost")
    with pytest.raises(OperationCancelledError):
        engine.debit(*TOKENS, 30, operation_id="c-lost")
    assert kinds(engine) == ["grant.issued", "quota.debited", "operation.cancelled"]


def test_of_threads_that_debit_and_cancel_one_id_all_are_told_the_same(
    engine: QuotaEngine,
) -> None:
    for number in range(12):
        operation_id = f"raced-{number}"
        ready = threading.Barrier(16)

        def race(place: int, ready: Any = ready, operation_id: str = operation_id) -> str:
            ready.wait(30)
            if place % 2:
                told = engine.cancel(*TOKENS, operation_id)
                return "applied" if told.was_applied else "cancelled"
            try:
                engine.debit(*TOKENS, 1, operation_id=operation_id)
            except OperationCancelledError:
                return "cancelled"
            return "applied"

        with ThreadPoolExecutor(16) as pool:
            assert len(set(pool.map(race, range(16)))) == 1
    entries = engine.history(*TOKENS)
    assert len({entry.operation_id for entry in entries}) == len(entries) == 13
    debited = sum(entry.kind == "quota.debited" for entry in entries)
    assert engine.read_balance(*TOKENS).balance == 1_000 - debited
    check_sound(engine)
