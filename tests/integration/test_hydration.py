"""A quota that Redis lacks comes back from the ledger whole, never with units already spent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis

from quota_engine import HoldNotFoundError, QuotaEngine
from quota_engine.commands import HydrateQuota, UnloadQuota
from quota_engine.commands.loading import WAIT_DRAIN
from quota_engine.instants import NEVER_MS
from quota_engine.jobs.running import run_command
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.ledger.idle import idle_versions

NAME = QuotaName("user:1", "text_token")
SHARD = ShardKeys(0)


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=1) as opened:
        opened.issue_grant(NAME.account, NAME.quota_type, 1_000, grant_id="g1")
        opened.issue_grant(NAME.account, NAME.quota_type, 500, grant_id="g2", priority=60)
        yield opened


def forget(engine: QuotaEngine) -> None:
    """Delete all that Redis has of the quota, as an administrator might."""
    name = str(NAME)
    engine.deployment.client.delete(
        SHARD.quota(name), SHARD.holds(name), SHARD.changes(name), SHARD.ops0(name)
    )
    engine.deployment.client.delete(SHARD.ops1(name))


def test_a_deleted_quota_comes_back_as_it_was(engine: QuotaEngine) -> None:
    hold = engine.place_hold(NAME.account, NAME.quota_type, 1_200, operation_id="h1")
    engine.debit(NAME.account, NAME.quota_type, 30, operation_id="d1")
    before = engine.read_balance(NAME.account, NAME.quota_type)
    engine.drain()
    forget(engine)
    assert engine.read_balance(NAME.account, NAME.quota_type) == before
    assert engine.debit(NAME.account, NAME.quota_type, 30, operation_id="d1").replayed
    captured = engine.capture_hold(hold, 1_100)
    assert [(a.grant_id, a.amount) for a in captured.allocations] == [("g1", 1_000), ("g2", 100)]
    assert engine.reconcile().is_clean


def test_a_quota_with_pending_entries_is_hydrated_only_after_they_are_persisted(
    engine: QuotaEngine,
) -> None:
    stale = engine.deployment.read_snapshot(NAME)
    engine.debit(NAME.account, NAME.quota_type, 400)
    forget(engine)
    opened = engine.deployment.opened
    command = HydrateQuota(snapshot=stale, may_create=True)
    assert run_command(engine.deployment.client, opened, command) == WAIT_DRAIN
    assert engine.read_balance(NAME.account, NAME.quota_type).balance == 1_100
    assert engine.reconcile().is_clean


def test_a_snapshot_read_before_an_unload_cannot_bring_spent_units_back(
    engine: QuotaEngine,
) -> None:
    engine.drain()
    stale = engine.deployment.read_snapshot(NAME)
    engine.debit(NAME.account, NAME.quota_type, 400)
    engine.drain()
    client, opened = engine.deployment.client, engine.deployment.opened
    unload = UnloadQuota(quota=NAME, version=3, change_after_ms=0)
    assert run_command(client, opened, unload) == ""
    assert run_command(client, opened, HydrateQuota(snapshot=stale)) == WAIT_DRAIN
    assert engine.read_balance(NAME.account, NAME.quota_type).balance == 1_100


def test_only_a_drained_idle_quota_is_unloaded(engine: QuotaEngine) -> None:
    client, opened = engine.deployment.client, engine.deployment.opened

    def unload(version: int) -> str:
        command = UnloadQuota(quota=NAME, version=version, change_after_ms=NEVER_MS - 1)
        return run_command(client, opened, command)

    assert unload(1) == "not drained"
    hold = engine.place_hold(NAME.account, NAME.quota_type, 10)
    assert unload(3) == "held"
    engine.release_hold(hold)
    engine.drain()
    engine.deployment.freeze(NAME, "a test")
    assert unload(4) == "frozen"


def test_a_quota_that_was_only_looked_at_leaves_when_it_is_idle(engine: QuotaEngine) -> None:
    """A call looks at the accounts above it; one that the ledger does not know is at version 0."""
    above, own = QuotaName("a", "text_token"), QuotaName("a/b", "text_token")
    engine.issue_grant(own.account, own.quota_type, 10)
    engine.debit(own.account, own.quota_type, 1)
    engine.drain()
    deployment = engine.deployment
    with deployment.ledger.transaction() as connection:
        versions = idle_versions(connection, [above, own], timedelta(hours=1))
    assert versions == {above: 0}
    command = UnloadQuota(quota=above, version=0, change_after_ms=0)
    assert run_command(deployment.client, deployment.opened, command) == ""
    assert engine.reconcile().drifts == ()


def test_an_unknown_hold_is_unknown_only_once_the_ledger_knows_all(engine: QuotaEngine) -> None:
    with pytest.raises(HoldNotFoundError):
        engine.capture_hold("never", 1, account=NAME.account, quota_type=NAME.quota_type)
    assert engine.deployment.ledger.find_hold(NAME, "never").version == 2


def test_a_hold_forgotten_by_redis_is_charged_late_and_once(
    engine: QuotaEngine, redis_url: str
) -> None:
    hold = engine.place_hold(NAME.account, NAME.quota_type, 100)
    engine.release_hold(hold)
    engine.drain()
    with redis.Redis.from_url(redis_url) as client:
        client.delete(SHARD.ops0(str(NAME)), SHARD.ops1(str(NAME)))
    first = engine.capture_hold(hold, 70)
    assert (first.late, first.amount, first.replayed) == (True, 70, False)
    assert engine.capture_hold(hold, 70).replayed
    engine.drain()
    with redis.Redis.from_url(redis_url) as client:
        client.delete(SHARD.ops0(str(NAME)), SHARD.ops1(str(NAME)))
    again = engine.capture_hold(hold, 70)
    assert (again.late, again.replayed) == (True, True)
    assert engine.read_balance(NAME.account, NAME.quota_type).balance == 1_430


def test_a_capture_that_waits_to_be_persisted_is_not_charged_again(
    engine: QuotaEngine, redis_url: str
) -> None:
    hold = engine.place_hold(NAME.account, NAME.quota_type, 100)
    engine.drain()
    first = engine.capture_hold(hold, 70)
    with redis.Redis.from_url(redis_url) as client:
        client.delete(SHARD.ops0(str(NAME)), SHARD.ops1(str(NAME)))
    again = engine.capture_hold(hold, 70)
    assert (again.replayed, again.version) == (True, first.version)


def test_who_slept_through_a_recovery_reconciles_at_once(
    engine: QuotaEngine, redis_url: str, database_url: str
) -> None:
    """It asks the gate first, as nothing else of this process may have."""
    engine.drain()
    with QuotaEngine.open(redis_url, database_url, shards=1) as other:
        other.deployment.client.flushall()
        other.debit(NAME.account, NAME.quota_type, 30)  # opens the next epoch
        other.drain()
    assert engine.reconcile().is_clean
