"""
A sliding window never lets through more than its limit in any time of its length.

Random calls with a clock of their own, sent in pipelines; what was answered is a log of what was
let through when, and that log is looked at by itself: it knows no steps.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from quota_engine.commands import (
    Action,
    CaptureHold,
    Command,
    Context,
    Debit,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    PlaceHold,
    ReleaseHold,
    SetLimit,
    Snapshot,
)
from quota_engine.keys import QuotaName
from quota_engine.limits import LENGTHS_MS, STEPS_MS, checked_limit
from tests.shards import EPOCH, NOON_MS, Shard

NAME = QuotaName("user:42", "text_token")
LIMIT = 100
#: How long a window is in the mean times between calls: so full windows and idle ones occur.
CALLS_A_WINDOW = 30
PIPELINE = 500


class Call(NamedTuple):
    """A call: what it asked for when, and what it used in the end; 0: nothing."""

    at_ms: int
    asked: int
    used: int


@pytest.fixture
def shard(redis_url: str) -> Iterator[Shard]:
    made = Shard(redis_url)
    empty = HydrateQuota(snapshot=Snapshot(quota=NAME, epoch=EPOCH), may_create=True)
    assert made.call(empty) == ["LOADED"]
    plenty = GrantTerms(amount=10**15, source="purchase")
    assert made.call(IssueGrant(quota=NAME, grant_id="g", terms=plenty))[0] == "ISSUED"
    yield made
    made.close()


def words(shard: Shard, command: Command[Any], now_ms: int) -> tuple[Any, ...]:
    keys = command.keys(shard.keys)
    context = Context(shard.keys, EPOCH, now_ms)
    sha = shard.scripts[command.script].sha
    return ("EVALSHA", sha, len(keys), *keys, *command.argv(context))


def let_through(shard: Shard, per: str, count: int, seed: int) -> tuple[list[Call], list[Call]]:
    """Make random calls on one limited quota; return those that were let through, and refused."""
    chance, length = random.Random(seed), LENGTHS_MS[per]
    limit = checked_limit(LIMIT, of="units", per=per, window="sliding", time_zone="UTC")
    made = SetLimit(quota=NAME, operation_id="w", action=Action.SET, limit=limit)
    assert shard.call(made)[0] == "SET"
    now_ms, sent = NOON_MS, 0
    admitted: list[Call] = []
    refused: list[Call] = []
    ends: deque[tuple[int, Command[Any]]] = deque()
    while sent < count:
        pipeline: Any = shard.client.pipeline(transaction=False)
        calls: list[Call | None] = []
        for _ in range(PIPELINE):
            now_ms += int(chance.expovariate(1) * length / CALLS_A_WINDOW)
            if chance.random() < 0.02:
                now_ms += chance.randint(0, 2 * length)
            while ends and ends[0][0] <= now_ms:
                pipeline.execute_command(*words(shard, ends.popleft()[1], now_ms))
                calls.append(None)
            sent += 1
            asked = chance.choice([1, 2, 5, 10, 20, 40])
            call, command, end = _call(chance, f"c{sent}", now_ms, asked)
            if end is not None:
                after = ends[-1][0] if ends else now_ms
                ends.append((max(now_ms + chance.randint(0, length), after), end))
            pipeline.execute_command(*words(shard, command, now_ms))
            calls.append(call)
        for call, reply in zip(calls, pipeline.execute(raise_on_error=False), strict=True):
            if call is not None:
                kind = admitted if reply[0] in {"PLACED", "DEBITED"} else refused
                assert kind is admitted or reply[0] == "EXCEEDED", reply
                kind.append(call)
        shard.client.xtrim(shard.keys.outbox, maxlen=1, approximate=False)
        shard.client.delete(shard.keys.ops0(str(NAME)), shard.keys.ops1(str(NAME)))
    return admitted, refused


def _call(
    chance: random.Random, name: str, now_ms: int, asked: int
) -> tuple[Call, Command[Any], Command[Any] | None]:
    """Return a debit; or a hold and how it ends, perhaps with less than was asked."""
    if chance.random() < 0.5:
        debit = Debit(quota=NAME, operation_id=name, amount=asked)
        return Call(now_ms, asked, asked), debit, None
    hold = PlaceHold(quota=NAME, hold_id=name, amount=asked, ttl_ms=10**11)
    if chance.random() < 0.2:
        return Call(now_ms, asked, 0), hold, ReleaseHold(quota=NAME, hold_id=name)
    used = chance.randint(0, asked)
    capture = CaptureHold(quota=NAME, hold_id=name, operation_id=f"{name}:capture", amount=used)
    return Call(now_ms, asked, used), hold, capture


def most_in(calls: list[Call], length_ms: int) -> int:
    """Return the most that was used in any time of a length, looking from each call back."""
    window: deque[Call] = deque()
    used = most = 0
    for call in calls:
        window.append(call)
        used += call.used
        while window[0].at_ms <= call.at_ms - length_ms:
            used -= window.popleft().used
        most = max(most, used)
    return most


def check_calls(shard: Shard, per: str, count: int) -> None:
    admitted, refused = let_through(shard, per, count, seed=7)
    assert most_in(admitted, LENGTHS_MS[per]) <= LIMIT
    assert most_in(admitted, LENGTHS_MS[per] * 2) > LIMIT, "it was worth looking"
    assert len(refused) > count / 20
    # nothing is refused that would have fitted had everything asked in a step more been used
    log = [*admitted]
    reach = LENGTHS_MS[per] + STEPS_MS[per]
    for call in refused[:: max(len(refused) // 500, 1)]:
        near = (one.asked for one in log if call.at_ms - reach <= one.at_ms <= call.at_ms)
        assert sum(near) + call.asked > LIMIT


@pytest.mark.parametrize("per", ["second", "minute", "month"])
def test_no_window_lets_through_more_than_its_limit(shard: Shard, per: str) -> None:
    check_calls(shard, per, 2_000)


@pytest.mark.deep
@pytest.mark.parametrize("per", ["second", "minute", "hour", "day", "week", "month"])
def test_a_hundred_thousand_calls(shard: Shard, per: str) -> None:
    check_calls(shard, per, 100_000)
