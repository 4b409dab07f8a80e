"""
Holds and debits that are admitted while Redis is away keep the allowance, whatever comes of them.

Goal: never more is admitted than the allowance, and all of it comes back. Method: the file alone.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from quota_engine.commands import ExtendHold
from quota_engine.errors import (
    HoldClosedError,
    IdempotencyConflictError,
    InvalidAmountError,
    RedisAwayError,
)
from quota_engine.keys import QuotaName
from quota_engine.spool import Spool
from quota_engine.spool.spool import CLAIM_MS
from quota_engine.spooled import SpooledOperation
from tests.spools import (
    MINUTE,
    NOW,
    QUOTA,
    capture,
    debit,
    place,
)


def test_holds_and_debits_are_admitted_within_the_allowance(spool: Spool) -> None:
    hold = spool.place(place(1, 60), allowance=100, now_ms=NOW)
    assert (hold.offline, hold.balance, hold.amount, hold.replayed) == (True, None, 60, False)
    assert hold.expires_at == datetime.fromtimestamp((NOW + MINUTE) / 1000, UTC)
    assert spool.debit(debit(1, 40), allowance=100)
    with pytest.raises(RedisAwayError, match="0 are left, 1 required"):
        spool.debit(debit(2, 1), allowance=100)
    with pytest.raises(RedisAwayError):
        spool.place(place(2, 1), allowance=100, now_ms=NOW)
    assert spool.place(place(1, 60), allowance=100, now_ms=NOW).replayed
    assert not spool.debit(debit(1, 40), allowance=100)
    with pytest.raises(IdempotencyConflictError):
        spool.place(place(1, 61), allowance=1_000, now_ms=NOW)
    with pytest.raises(IdempotencyConflictError):
        spool.debit(debit(1, 41), allowance=1_000)
    other = replace(place(3, 100), quota=QuotaName("user:2", "text_token"))
    assert spool.place(other, allowance=100, now_ms=NOW).offline


def settle_all(spool: Spool) -> Sequence[SpooledOperation]:
    found = spool.claim(NOW + CLAIM_MS + 1)
    spool.settle(done=found, now_ms=NOW)
    return [one.operation for one in found]


def left(spool: Spool, allowance: int = 100, now_ms: int = NOW) -> int:
    with pytest.raises(RedisAwayError) as refused:
        spool.place(place(9_999, allowance + 1), allowance=allowance, now_ms=now_ms)
    return int(str(refused.value).split(" are left")[0].split()[-1])


def test_the_allowance_comes_back_when_the_charge_is_replayed(spool: Spool) -> None:
    spool.place(place(1, 60), allowance=100, now_ms=NOW)
    assert left(spool) == 40
    assert spool.note(capture(1, amount=25))
    assert left(spool) == 75
    [charge] = settle_all(spool)
    assert (charge.is_offline, charge.is_known, charge.amount) == (True, True, 25)
    assert left(spool) == 100


def test_a_capture_beyond_the_hold_counts_in_full(spool: Spool) -> None:
    spool.place(place(1, 60), allowance=100, now_ms=NOW)
    spool.note(capture(1, amount=130))
    assert left(spool) == 0
    settle_all(spool)
    assert left(spool) == 100


def test_a_release_gives_the_allowance_back_and_a_capture_after_it_counts(spool: Spool) -> None:
    spool.place(place(1, 60), allowance=100, now_ms=NOW)
    release = replace(capture(1, amount=0), kind="release_hold", operation_id="hold-1:release")
    assert spool.note(release)
    assert left(spool) == 100
    assert not spool.note(release)
    assert spool.note(capture(1, amount=10))
    assert left(spool) == 90


def test_parts_and_the_end_of_a_hold(spool: Spool) -> None:
    spool.place(place(1, 60), allowance=100, now_ms=NOW)
    part = replace(capture(1, amount=20), is_final=False, operation_id="part-1")
    assert spool.note(part)
    assert left(spool) == 40
    assert spool.note(capture(1, amount=5))
    assert left(spool) == 75
    settle_all(spool)
    assert not spool.note(capture(1, amount=5))  # asked again, long after
    with pytest.raises(IdempotencyConflictError):
        spool.note(capture(1, amount=6))
    assert spool.waiting() == 0


def test_a_hold_that_nobody_captures_expires_and_is_charged_late(spool: Spool) -> None:
    spool.place(place(1, 60), allowance=100, now_ms=NOW)
    assert left(spool, now_ms=NOW + MINUTE - 1) == 40
    assert left(spool, now_ms=NOW + MINUTE) == 100
    assert spool.note(capture(1, amount=30))
    assert left(spool, now_ms=NOW + MINUTE) == 70


def test_a_hold_grows_within_the_allowance_and_lives_longer(spool: Spool) -> None:
    spool.place(place(1, 60), allowance=100, now_ms=NOW)

    def extend(amount: int = 0, ttl_ms: int = 0, now_ms: int = NOW, hold: int = 1) -> Any:
        command = ExtendHold(
            quota=QUOTA, hold_id=f"hold-{hold}", operation_id="e", amount=amount, ttl_ms=ttl_ms
        )
        return spool.extend(command, allowance=100, now_ms=now_ms)

    assert extend(amount=90).amount == 90
    assert left(spool) == 10
    with pytest.raises(RedisAwayError):
        extend(amount=101)
    with pytest.raises(InvalidAmountError):
        extend(amount=50)
    assert extend(ttl_ms=2 * MINUTE).expires_at.timestamp() * 1000 == NOW + 2 * MINUTE
    assert left(spool, now_ms=NOW + MINUTE) == 10
    with pytest.raises(HoldClosedError):
        extend(ttl_ms=MINUTE, now_ms=NOW + 2 * MINUTE)
    assert extend(ttl_ms=MINUTE, hold=2) is None


def test_a_refused_charge_does_not_count(spool: Spool) -> None:
    spool.debit(debit(1, 40), allowance=100)
    [one] = spool.claim(NOW)
    assert left(spool) == 60
    spool.settle(refused={one.row_id: "conflict"}, now_ms=NOW)
    assert left(spool) == 100


def test_a_writer_waits_for_another_one(spool: Spool) -> None:
    spool.note(capture(1))
    blocker = sqlite3.connect(spool.path, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, blocker.rollback)
    timer.start()
    assert spool.note(capture(2))
    timer.join()
    blocker.close()
