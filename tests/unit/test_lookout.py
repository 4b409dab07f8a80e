"""A look says where too much waits."""

from __future__ import annotations

from quota_engine.events import EventId
from quota_engine.jobs.lookout import Look
from quota_engine.ledger.shards import ShardState


def row(shard: int, cursor: EventId) -> ShardState:
    return ShardState(
        shard=shard,
        epoch=2,
        cursor=cursor,
        incarnation="",
        opened_at=None,
        stopped=None,
        last_drain_at=None,
        trim_mark=EventId(0, 0),
        trim_mark_at=None,
    )


def test_only_shards_at_the_limit_are_pressed() -> None:
    rows = {shard: row(shard, EventId(2, 10)) for shard in range(4)}
    ends = {0: EventId(2, 110), 1: EventId(2, 109), 2: None, 3: EventId(3, 500)}
    look = Look(at=0.0, rows=rows, ends=ends, why_gate="")
    assert look.pressed(100) == {0: 100}
