"""Units that move between accounts: on the terms they have, once, and all of them or none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import redis
from sqlalchemy import text

from quota_engine import (
    IdempotencyConflictError,
    InvalidAmountError,
    InvalidArgumentError,
    OperationCancelledError,
    QuotaEngine,
    QuotaFrozenError,
    QuotaInsufficientError,
    TransferRefusedError,
)
from quota_engine.embedded import ValkeyServer
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName, shard_of
from tests.engines import NOON, TestClock
from tests.programs import killed

pytestmark = pytest.mark.anyio

TOKENS = "text_token"
SHARDS = 4
FROM = "user:42"


def account(*, is_near: bool, shards: int) -> str:
    """Return another account, of the same shard or of another."""
    home = shard_of(FROM, shards)
    names = (f"user:{number}" for number in count(100))
    return next(name for name in names if (shard_of(name, shards) == home) == is_near)


@pytest.fixture(params=[True, False], ids=["one shard", "two shards"])
def to(request: pytest.FixtureRequest) -> str:
    """The account that units go to."""
    return account(is_near=request.param, shards=SHARDS)


@pytest.fixture
async def call(call: Any, redis_url: str, database_url: str) -> Any:
    """An engine on few shards."""
    await call.close()
    return await call.open(redis_url, database_url, shards=SHARDS)


@pytest.fixture
def engine(server: ValkeyServer, database_url: str) -> Iterator[QuotaEngine]:
    """An engine whose Redis may be wiped."""
    with QuotaEngine.open(server.url, database_url, shards=SHARDS, resend_seconds=0) as opened:
        yield opened


async def balance(call: Any, account: str) -> int:
    return int((await call("read_balance", account, TOKENS)).balance)


async def is_sound(call: Any) -> None:
    """Everything verifies, nothing is on its way, and the books sum to zero."""
    await call("drain")
    check(call.engine.deployment.ledger)
    assert (await call("reconcile")).drifts == ()


def check(ledger: Any) -> None:
    assert list(verify(ledger)) == []
    with ledger.transaction() as sql:
        assert sql.execute(text("SELECT count(*) FROM quarantine")).scalar() == 0
        on_its_way = text("SELECT coalesce(sum(amount), 0) FROM books WHERE book = 'transferred'")
        assert sql.execute(on_its_way).scalar() == 0
        assert sql.execute(text("SELECT coalesce(sum(amount), 0) FROM books")).scalar() == 0


async def test_units_arrive_once_and_keep_their_terms(timed: Any, clock: TestClock) -> None:
    ends = NOON + timedelta(hours=1)
    for to in [account(is_near=near, shards=16) for near in (True, False)]:
        await timed("issue_grant", FROM, TOKENS, 30, priority=-1, expires_at=ends)
        await timed("issue_grant", FROM, TOKENS, 70)
        moved = await timed("transfer", FROM, to, TOKENS, 40, f"t-{to}", actor="ann")
        assert [(part.amount, part.priority, part.expires_at) for part in moved.parts] == [
            (30, -1, ends),
            (10, 50, None),
        ]
        assert (moved.amount, moved.balance, moved.replayed) == (40, moved.balance, False)
        again = await timed("transfer", FROM, to, TOKENS, 40, f"t-{to}", actor="ann")
        assert (again.replayed, again.parts, again.balance) == (True, moved.parts, moved.balance)
        there = await timed("read_balance", to, TOKENS)
        assert [(grant.remaining, grant.expires_at) for grant in there.grants] == [
            (30, ends),
            (10, None),
        ]
        (entry,) = await timed("history", to, TOKENS)
        assert (entry.kind, entry.details["from"], entry.details["actor"]) == (
            "quota.transferred_in",
            FROM,
            "ann",
        )
    await is_sound(timed)
    clock.forward(hours=1)
    assert await balance(timed, to) == 10
    assert (await timed("statement", to, TOKENS)).transferred_in == 40
    await is_sound(timed)


async def test_more_than_is_left_over_stays(call: Any, to: str) -> None:
    await call("issue_grant", FROM, TOKENS, 100)
    await call("set_overdraft_limit", FROM, TOKENS, 50)
    await call("place_hold", FROM, TOKENS, 30, operation_id="h")
    with pytest.raises(QuotaInsufficientError) as refused:
        await call("transfer", FROM, to, TOKENS, 71, "t")
    assert (refused.value.required, refused.value.available) == (71, 70)
    with pytest.raises(QuotaInsufficientError):
        await call("transfer", "nobody", to, TOKENS, 1)
    assert (await balance(call, FROM), await balance(call, to)) == (100, 0)
    assert (await call("transfer", FROM, to, TOKENS, 70, "t")).amount == 70
    await call("capture_hold", "h", 30, account=FROM, quota_type=TOKENS)
    assert (await balance(call, FROM), await balance(call, to)) == (0, 70)
    await is_sound(call)


async def test_what_cannot_be_meant_changes_nothing(call: Any, to: str) -> None:
    await call("issue_grant", FROM, TOKENS, 100)
    for amount in (0, -1, 2**53, 1.5, "7"):
        with pytest.raises(InvalidAmountError):
            await call("transfer", FROM, to, TOKENS, amount)
    for wrong in ((FROM, FROM, TOKENS), (FROM, to, "nothing"), ("", to, TOKENS)):
        with pytest.raises(InvalidArgumentError):
            await call("transfer", *wrong, 5)
    with pytest.raises(InvalidArgumentError, match="96"):
        await call("transfer", FROM, to, TOKENS, 5, "x" * 97)
    await call("transfer", FROM, to, TOKENS, 5, "t")
    for other in ((to, 6), ("user:7", 5)):
        with pytest.raises(IdempotencyConflictError):
            await call("transfer", FROM, other[0], TOKENS, other[1], "t")
    await call("drain")
    client = call.engine.deployment.client
    for key in client.scan_iter("*:ops?:*"):
        client.delete(key)  # long after: Redis has forgotten, the ledger has not
    with pytest.raises(IdempotencyConflictError):
        await call("transfer", FROM, to, TOKENS, 6, "t")
    assert (await call("transfer", FROM, to, TOKENS, 5, "t")).replayed
    assert (await balance(call, FROM), await balance(call, to)) == (95, 5)
    await is_sound(call)


async def test_debt_is_paid_by_what_arrives(call: Any, to: str) -> None:
    await call("issue_grant", FROM, TOKENS, 100)
    await call("set_overdraft_limit", to, TOKENS, 50)
    await call("debit", to, TOKENS, 30)
    await call("transfer", FROM, to, TOKENS, 20)
    there = await call("read_balance", to, TOKENS)
    assert (there.balance, there.debt, there.grants) == (-10, 10, ())
    await call("transfer", FROM, to, TOKENS, 20)
    assert await balance(call, to) == 10
    await is_sound(call)


async def test_a_frozen_account_neither_sends_nor_takes(call: Any, to: str) -> None:
    await call("issue_grant", FROM, TOKENS, 100)
    await call("issue_grant", to, TOKENS, 1)
    deployment = call.engine.deployment
    for frozen in (FROM, to):
        deployment.freeze(QuotaName(frozen, TOKENS), "in doubt")
        with pytest.raises(QuotaFrozenError):
            await call("transfer", FROM, to, TOKENS, 5)
        deployment.freeze(QuotaName(frozen, TOKENS), "")
    assert (await balance(call, FROM), await balance(call, to)) == (100, 1)
    await is_sound(call)


async def test_what_the_other_account_can_never_take_is_back(call: Any, to: str) -> None:
    """In one shard it never leaves; from another, it comes back on its terms, once."""
    await call("issue_grant", FROM, TOKENS, 100, priority=7)
    await call("issue_grant", to, TOKENS, 2**53 - 2)
    is_near = shard_of(to, SHARDS) == shard_of(FROM, SHARDS)
    kind = InvalidAmountError if is_near else TransferRefusedError
    for _ in range(2):
        with pytest.raises(kind):
            await call("transfer", FROM, to, TOKENS, 5, "t")
    here = await call("read_balance", FROM, TOKENS)
    assert (here.balance, {grant.priority for grant in here.grants}) == (100, {7})
    await call("debit", to, TOKENS, 1000)  # now it could: but it is back, and stays
    if not is_near:
        with pytest.raises(TransferRefusedError):
            await call("transfer", FROM, to, TOKENS, 5, "t")
        assert call.engine.deployment.run_schedule(None)["intents"].startswith("0 promises kept")
    assert await balance(call, FROM) == 100
    await is_sound(call)


def test_many_transfers_at_once_move_what_there_is(engine: QuotaEngine, to: str) -> None:
    engine.issue_grant(FROM, TOKENS, 100)

    def move(number: int) -> int:
        try:
            return engine.transfer(FROM, to, TOKENS, 15, f"t{number // 2}").amount
        except QuotaInsufficientError:
            return 0

    with ThreadPoolExecutor(8) as threads:
        moved = list(threads.map(move, range(24)))
    assert moved.count(15) == 12, "six transfers, each asked for twice"
    assert engine.read_balance(FROM, TOKENS).balance == 10
    assert engine.read_balance(to, TOKENS).balance == 90
    engine.drain()
    check(engine.deployment.ledger)


def test_a_cancelled_transfer_never_leaves(engine: QuotaEngine, to: str) -> None:
    engine.issue_grant(FROM, TOKENS, 100)
    engine.cancel(FROM, TOKENS, "t")
    for _ in range(2):
        with pytest.raises(OperationCancelledError):
            engine.transfer(FROM, to, TOKENS, 5, "t")
        engine.drain()
    assert engine.read_balance(FROM, TOKENS).balance == 100


#: Transfers, and dies: before anything, with its units on their way, or when done.
SENDER = """
import os, signal, sys
from quota_engine import QuotaEngine

step, to, redis_url, database_url = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

engine = QuotaEngine.open(redis_url, database_url, shards=4)
deployment = engine.deployment
persist = deployment.persist_tail
calls = []

def persist_tail(quota):
    calls.append(quota)
    if step == "left" or step == "persisted" and len(calls) == 2:
        die()
    return persist(quota)

if step == "before":
    deployment.find_operation = die
deployment.persist_tail = persist_tail
engine.transfer("user:42", to, "text_token", 40, step)
die()
"""
STEPS = ("before", "left", "persisted", "done")


@pytest.mark.parametrize("is_wiped", [False, True])
def test_whoever_dies_on_the_way_it_is_done_once(
    engine: QuotaEngine, server: ValkeyServer, database_url: str, to: str, is_wiped: bool
) -> None:
    """SIGKILL between the steps, and then perhaps all of Redis is lost as well."""
    engine.issue_grant(FROM, TOKENS, 400, expires_at=None)
    engine.drain()
    for step in STEPS:
        killed(SENDER, step, to, server.url, database_url)
        if is_wiped:
            with redis.Redis.from_url(server.url) as client:
                client.flushall()
            engine.read_balance(FROM, TOKENS)  # whoever calls next opens it again
    engine.run_schedule()
    engine.drain()
    engine.run_schedule()
    here, there = (engine.read_balance(name, TOKENS).balance for name in (FROM, to))
    assert here + there == 400, "no unit is lost or doubled"
    assert there % 40 == 0
    if not is_wiped:  # who died before anything left has moved nothing
        assert there == 120
    for step in STEPS:
        engine.transfer(FROM, to, TOKENS, 40, step)
    assert engine.read_balance(to, TOKENS).balance == 160
    assert engine.read_balance(FROM, TOKENS).balance == 240
    engine.drain()
    check(engine.deployment.ledger)
    with engine.deployment.ledger.transaction() as sql:
        engine.run_schedule()
        states = sql.execute(text("SELECT DISTINCT state FROM transfers")).scalars().all()
    assert states == ["arrived"]


def test_an_arrival_that_was_lost_with_redis_follows_what_left(
    engine: QuotaEngine, server: ValkeyServer
) -> None:
    """What left is persisted, what arrived in another shard is not; then Redis is wiped."""
    to = account(is_near=False, shards=SHARDS)
    engine.issue_grant(FROM, TOKENS, 100)
    engine.drain()
    engine.transfer(FROM, to, TOKENS, 40, "t")
    deployment = engine.deployment
    deployment.client.flushall()
    assert engine.read_balance(FROM, TOKENS).balance == 60
    assert engine.read_balance(to, TOKENS).balance == 0
    for _ in range(2):
        engine.run_schedule()
    assert engine.read_balance(to, TOKENS).balance == 40
    assert engine.transfer(FROM, to, TOKENS, 40, "t").replayed
    assert engine.read_balance(to, TOKENS).balance == 40
    engine.drain()
    check(engine.deployment.ledger)
