"""snapshot_quota and drop_quota: what they show, and when they refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quota_engine.commands.reconcile import DropQuota, SnapshotQuota, Snapshotted
from quota_engine.commands.replies import FencedError
from quota_engine.events import EventId
from quota_engine.jobs.running import run_command
from quota_engine.keys import QuotaName
from tests.deployments import Deployment

TOKENS = QuotaName("user:42", "text_token")
UNKNOWN = QuotaName("user:43", "text_token")


@pytest.fixture
def deployment(any_redis_url: str, database_url: str) -> Iterator[Deployment]:
    """A deployment with one quota, a grant and a hold."""
    with Deployment(any_redis_url, database_url) as made:
        made.open()
        made.issue(TOKENS, 100, "grant-a")
        made.place(TOKENS, 30, "hold-1")
        yield made


def snapshot(deployment: Deployment, quota: QuotaName = TOKENS) -> Snapshotted:
    """See a quota."""
    return run_command(deployment.redis, deployment.opened, SnapshotQuota(quota=quota))


def drop(deployment: Deployment, seen: Snapshotted, quota: QuotaName = TOKENS) -> bool:
    """Drop a quota that was seen."""
    command = DropQuota(quota=quota, version=2, snapshotted=seen)
    return run_command(deployment.redis, deployment.opened, command)


def test_a_snapshot_shows_all_that_is_kept(deployment: Deployment) -> None:
    found = snapshot(deployment)
    assert (found.seen.last_id, found.seen.issued, found.issued) == (EventId(1, 2), 2, "2")
    loaded = found.seen.loaded
    assert loaded is not None
    assert (loaded.version, loaded.balance, loaded.held) == (2, 100, 30)
    assert loaded.grants["grant-a"].remaining == 70
    assert loaded.holds["hold-1"].allocations == (("grant-a", 30),)
    assert list(loaded.changes) == ["a:hold-1"]


def test_a_snapshot_of_an_unknown_quota_shows_the_end_of_the_outbox(
    deployment: Deployment,
) -> None:
    found = snapshot(deployment, UNKNOWN)
    assert (found.seen.issued, found.seen.loaded, found.seen.unreadable) == (None, None, "")


@pytest.mark.parametrize("which", ["quota", "holds", "changes"])
def test_a_key_of_another_type_is_named(deployment: Deployment, which: str) -> None:
    key = getattr(deployment.keys(TOKENS), which)(str(TOKENS))
    deployment.redis.set(key, "junk")
    assert which in snapshot(deployment).seen.unreadable


def test_a_hash_that_is_no_quota_is_unreadable(deployment: Deployment) -> None:
    deployment.redis.hset(deployment.keys(TOKENS).quota(str(TOKENS)), "held", "a lot")
    assert "a lot" in snapshot(deployment).seen.unreadable


def test_a_quota_is_dropped_with_all_its_keys(deployment: Deployment) -> None:
    assert drop(deployment, snapshot(deployment))
    keys = deployment.keys(TOKENS)
    assert list(deployment.redis.scan_iter(f"*{TOKENS}")) == []
    assert deployment.redis.zcard(keys.due) == 0
    assert deployment.redis.hget(keys.versions, str(TOKENS)) == b"2"


def test_a_quota_that_has_changed_is_not_dropped(deployment: Deployment) -> None:
    seen = snapshot(deployment)
    deployment.debit(TOKENS, 1)
    assert not drop(deployment, seen)
    assert snapshot(deployment).seen.loaded is not None


def test_dropping_what_was_never_issued_notes_no_version(deployment: Deployment) -> None:
    assert drop(deployment, snapshot(deployment, UNKNOWN), UNKNOWN)
    assert deployment.redis.hget(deployment.keys(UNKNOWN).versions, str(UNKNOWN)) is None


def test_another_epoch_is_fenced(deployment: Deployment) -> None:
    seen = snapshot(deployment)
    deployment.redis.hset(deployment.keys(TOKENS).versions, "@epoch", "2")
    with pytest.raises(FencedError):
        snapshot(deployment)
    with pytest.raises(FencedError):
        drop(deployment, seen)


def test_a_lost_outbox_is_fenced(deployment: Deployment) -> None:
    deployment.redis.delete(deployment.keys(TOKENS).outbox)
    with pytest.raises(FencedError, match="outbox"):
        snapshot(deployment)
