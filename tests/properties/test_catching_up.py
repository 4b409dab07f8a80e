"""However time is cut into pieces, the same happens at the same instants."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quota_engine.commands import (
    CaptureHold,
    CatchUp,
    Debit,
    DebitUsed,
    ExtendHold,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    PlaceHold,
    SetOverdraftLimit,
    Snapshot,
    VoidGrant,
)
from quota_engine.events import NEVER_MS
from quota_engine.keys import QuotaName
from tests.properties.beside import PHASES
from tests.shards import EPOCH, NOON_MS, Shard

NAME = QuotaName("user:42", "credit")
END_MS = 40_000


@pytest.fixture
def shard(redis_url: str) -> Iterator[Shard]:
    made = Shard(redis_url)
    yield made
    made.close()


def prepare(shard: Shard, seed: int) -> None:
    """Fill a quota with what will begin and end, at instants that often coincide."""
    shard.open()
    shard.now_ms = NOON_MS
    chance = random.Random(seed)
    empty = Snapshot(quota=NAME, epoch=EPOCH)
    shard.call(HydrateQuota(snapshot=empty, may_create=True))
    shard.call(SetOverdraftLimit(quota=NAME, operation_id="limit", overdraft_limit=500))
    shard.call(Debit(quota=NAME, operation_id="early", amount=chance.choice([0, 450]) or 1))
    for number in range(12):
        starts, ends = sorted(chance.sample(range(0, END_MS // 1000), 2))
        terms = GrantTerms(
            amount=chance.randint(1, 200),
            source="purchase",
            priority=chance.randint(0, 2),
            starts_at_ms=NOON_MS + starts * 1000 if number % 6 else 0,
            expires_at_ms=NOON_MS + ends * 1000 if number % 4 else NEVER_MS,
        )
        shard.call(IssueGrant(quota=NAME, grant_id=f"g{number}", terms=terms))
        ttl_ms = chance.randint(1, END_MS // 1000) * 1000
        amount = chance.randint(1, 120)
        shard.call(PlaceHold(quota=NAME, hold_id=f"h{number}", amount=amount, ttl_ms=ttl_ms))
        extend = {"hold_id": f"h{number}", "operation_id": f"e{number}", "amount": amount + 40}
        shard.call(ExtendHold(quota=NAME, **extend))
    shard.call(VoidGrant(quota=NAME, grant_id="g0"))
    shard.call(Debit(quota=NAME, operation_id="d", amount=50))
    capture: dict[str, Any] = {"hold_id": "h1", "operation_id": "p", "is_final": False}
    shard.call(CaptureHold(quota=NAME, amount=5, **capture))


def outcome(shard: Shard, final: Any) -> tuple[Any, Any]:
    """Return all that is stored, and the log, after one last command at the end."""
    shard.now_ms = NOON_MS + END_MS
    while shard.call(final) == ["CATCH_UP"]:
        shard.call(CatchUp(quota=NAME, due_max=7))
    while shard.call(CatchUp(quota=NAME, due_max=7))[2] == "1":
        pass  # the last command may have been refused, and then nothing was applied
    stored = shard.dump()
    remembered = [shard.keys.ops0(str(NAME)), shard.keys.ops1(str(NAME))]
    kept = {key: value[2] for key, value in stored.items() if key not in remembered}
    kept.pop(shard.keys.outbox)  # its ids have another history of blocks; its entries count
    answers = shard.hash_of(remembered[0]) | shard.hash_of(remembered[1])
    return (kept, answers), shard.entries()


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=PHASES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.tuples(st.integers(0, END_MS), st.integers(1, 5)), max_size=12),
    final=st.sampled_from(["catch_up", "debit", "void", "issue"]),
)
def test_one_run_equals_any_split(
    shard: Shard, seed: int, cuts: list[tuple[int, int]], final: str
) -> None:
    last: Any = {
        "catch_up": CatchUp(quota=NAME, due_max=500),
        "debit": DebitUsed(quota=NAME, operation_id="last", amount=7),
        "void": VoidGrant(quota=NAME, grant_id="g8"),
        "issue": IssueGrant(
            quota=NAME, grant_id="g99", terms=GrantTerms(amount=5, source="purchase")
        ),
    }[final]
    prepare(shard, seed)
    whole = outcome(shard, last)
    prepare(shard, seed)
    for at_ms, due_max in sorted(cuts):
        shard.now_ms = NOON_MS + at_ms
        shard.call(CatchUp(quota=NAME, due_max=due_max))
    split = outcome(shard, last)
    assert split[1] == whole[1]
    assert split[0] == whole[0]
