"""When the gate lets a server pass, recovers it, or refuses it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import EventId
from quota_engine.jobs.gate_rules import (
    ServerState,
    ShardOnServer,
    check_admissible,
    check_unclaimed,
    next_epochs,
    what_is_missing,
    why_to_recover,
)
from quota_engine.jobs.server_check import findings_in
from quota_engine.ledger.epochs import Recorded
from quota_engine.ledger.shards import Deployment, ShardState

ROW = ShardState(
    shard=0,
    epoch=3,
    cursor=EventId(3, 20),
    incarnation="run:replication",
    opened_at=None,
    stopped=None,
    last_drain_at=None,
    trim_mark=EventId(0, 0),
    trim_mark_at=None,
)
RECORDED = Recorded(Deployment("deployment_1", 1, datetime.now(UTC)), (ROW,))
SHARD = ShardOnServer(epoch=3, top=EventId(3, 25), exists=True)
SERVER = ServerState("run:replication", "master", "deployment_1 1", (SHARD,), frozenset())
EMPTY = replace(SERVER, deployment=None, shards=(ShardOnServer(None, None, False),))


def test_a_fresh_server_passes() -> None:
    assert why_to_recover(RECORDED, SERVER) == ""
    drained = replace(SERVER, shards=(replace(SHARD, top=EventId(3, 20)),))
    assert why_to_recover(RECORDED, drained) == ""


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (replace(SERVER, incarnation="other"), "restarted or promoted"),
        (replace(SERVER, role="slave"), "slave"),
        (replace(SERVER, deployment=None), "id is gone"),
        (replace(SERVER, shards=(replace(SHARD, epoch=None),)), "no epoch"),
        (replace(SERVER, shards=(replace(SHARD, top=None),)), "no outbox"),
        (replace(SERVER, shards=(replace(SHARD, epoch=2),)), "the server at 2"),
        (replace(SERVER, shards=(replace(SHARD, top=EventId(4, 0)),)), "its outbox at 4"),
        (replace(SERVER, shards=(replace(SHARD, top=EventId(3, 19)),)), "before 3-20"),
    ],
)
def test_any_other_server_is_recovered_first(server: ServerState, reason: str) -> None:
    assert reason in why_to_recover(RECORDED, server)


def admit(
    server: ServerState,
    recorded: Recorded = RECORDED,
    *,
    is_superseded: bool = False,
    adopt: bool = False,
    allow_wiped: bool = False,
) -> None:
    """Check a server with the usual answers."""
    check_admissible(
        recorded, server, is_superseded=is_superseded, adopt=adopt, allow_wiped=allow_wiped
    )


def test_restarted_flushed_and_new_servers_are_admitted() -> None:
    admit(SERVER)
    admit(replace(SERVER, incarnation="restarted"))
    admit(EMPTY)
    admit(replace(EMPTY, incarnation="other"), replace(RECORDED, shards=(replace(ROW, epoch=0),)))


def test_an_empty_other_server_needs_a_word() -> None:
    other = replace(EMPTY, incarnation="other")
    with pytest.raises(EngineUnavailableError, match=r"is empty.*recovery run --adopt"):
        admit(other)
    admit(other, adopt=True)
    admit(other, allow_wiped=True)


def test_a_superseded_server_needs_to_be_adopted() -> None:
    old = replace(SERVER, incarnation="old")
    with pytest.raises(EngineUnavailableError, match="--adopt"):
        admit(old, is_superseded=True, allow_wiped=True)
    admit(old, is_superseded=True, adopt=True)


def test_a_foreign_server_is_never_admitted() -> None:
    foreign = replace(SERVER, deployment="deployment_2 1")
    with pytest.raises(EngineUnavailableError, match="deployment_2"):
        admit(foreign, adopt=True, allow_wiped=True)


def test_a_new_deployment_begins_on_an_unclaimed_server_alone() -> None:
    check_unclaimed(EMPTY)
    for claimed in (SERVER, replace(SERVER, deployment=None)):
        with pytest.raises(EngineUnavailableError, match="empty this Redis"):
            check_unclaimed(claimed)


@pytest.mark.parametrize(
    ("shard", "epoch"),
    [
        (ShardOnServer(None, None, False), 4),
        (ShardOnServer(8, EventId(5, 1), True), 9),
        (ShardOnServer(None, EventId(6, 1), True), 7),
    ],
)
def test_the_next_epoch_is_above_all_that_was_seen(shard: ShardOnServer, epoch: int) -> None:
    assert next_epochs(RECORDED, replace(SERVER, shards=(shard,))) == {0: epoch}


GOOD = {
    "role": "master",
    "redis_version": "7.2.4",
    "valkey_version": "9.1.2",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
}


@pytest.mark.parametrize(
    ("changes", "code", "is_fatal"),
    [
        ({"role": "slave"}, "not_master", True),
        ({"valkey_version": "7.1.9"}, "too_old", True),
        ({"maxmemory_policy": "allkeys-lru"}, "evicts", True),
        ({"aof_enabled": "0"}, "not_durable", True),
        ({"aof_last_write_status": "err"}, "aof_failing", False),
        ({"evicted_keys": "1"}, "has_evicted", False),
    ],
)
def test_a_server_is_judged_by_its_info(
    changes: dict[str, str], code: str, is_fatal: bool
) -> None:
    (found,) = findings_in(GOOD | changes, is_durable_elsewhere=False)
    assert (found.code, found.is_fatal) == (code, is_fatal)


def test_versions_are_judged_by_the_server_s_own_number() -> None:
    assert findings_in(GOOD, is_durable_elsewhere=False) == []
    redis7 = {**GOOD, "redis_version": "7.0.15"}
    del redis7["valkey_version"]
    assert findings_in(redis7, is_durable_elsewhere=False) == []
    (found,) = findings_in({**redis7, "redis_version": "6.2.14"}, is_durable_elsewhere=False)
    assert found.code == "too_old"
    (found,) = findings_in({**GOOD, "aof_enabled": "0"}, is_durable_elsewhere=True)
    assert not found.is_fatal


def missing(top: EventId | None, **recorded: Any) -> list[str]:
    """What is missing of a server whose outbox ends there."""
    row = replace(ROW, opened_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), **recorded)
    server = replace(SERVER, shards=(replace(SHARD, top=top),))
    return what_is_missing(replace(RECORDED, shards=(row,)), server)


def test_an_outbox_that_goes_on_where_the_ledger_is_misses_nothing_known() -> None:
    assert missing(EventId(3, 20)) == missing(EventId(3, 25)) == missing(EventId(4, 1)) == []
    assert missing(EventId(3, 25), seen=EventId(3, 25)) == []
    assert missing(None, epoch=0) == [], "a first start has nothing to miss"


def test_a_wiped_server_misses_what_came_after_the_ledger() -> None:
    [said] = missing(None, entry_at_ms=1_767_323_046_789, seen=EventId(3, 27))
    assert said == (
        "shard 0: the outbox was gone; the ledger has all up to 3-20, of"
        " 2026-01-02 03:04:06.789000 UTC. Anything written after that is lost, among it 7 entries"
        " up to 3-27"
    )


def test_an_older_copy_misses_what_came_after_the_ledger() -> None:
    [said] = missing(EventId(2, 500), entry_at_ms=1_767_323_046_789)
    assert "ended at 2-500: an older copy" in said
    assert said.endswith(
        "up to 3-20, of 2026-01-02 03:04:06.789000 UTC. Anything written after that is lost"
    )


def test_what_was_seen_and_is_not_there_is_counted() -> None:
    [said] = missing(EventId(3, 25), seen=EventId(3, 29))
    assert "ended at 3-25, and had been seen up to 3-29: the 4 entries in between are lost" in said


def test_where_nothing_was_persisted_of_an_epoch_its_opening_is_told() -> None:
    [said] = missing(None, cursor=EventId(3, 0), entry_at_ms=1)
    assert "up to 3-0, of 2026-01-02 03:04:05.000000 UTC" in said
