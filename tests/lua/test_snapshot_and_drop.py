"""snapshot_quota and drop_quota, raw: each row of their headers."""

from __future__ import annotations

from dataclasses import replace

from quota_engine.commands.reconcile import DropQuota, SnapshotQuota
from tests.lua.scenes import NAME, Scene, meets
from tests.shards import EPOCH

LOOK = SnapshotQuota(quota=NAME)


@meets("snapshot_quota", "SNAPSHOT", "UNREADABLE", "FENCED")
def test_a_snapshot_shows_what_is_stored_or_what_cannot_be_read(scene: Scene) -> None:
    scene.funded()
    shown = scene.call(LOOK)
    assert shown[:3] == ["SNAPSHOT", "2", f"{EPOCH}-2"]
    assert dict(zip(shown[3][::2], shown[3][1::2], strict=True)) == scene.stored
    assert scene.call(LOOK, epoch=EPOCH + 1) == ["FENCED"]
    scene.client.set(scene.keys.changes(str(NAME)), "junk")
    assert scene.call(LOOK) == ["UNREADABLE", "2", f"{EPOCH}-2", "changes"]


@meets("drop_quota", "DROPPED", "CHANGED", "FENCED")
def test_a_quota_is_dropped_only_as_it_was_seen(scene: Scene) -> None:
    scene.funded()
    drop = DropQuota(quota=NAME, version=2, snapshotted=LOOK.parse(scene.call(LOOK)))
    assert scene.call(drop, epoch=EPOCH + 1) == ["FENCED"]
    scene.debit("d", 1)
    assert scene.call(drop) == ["CHANGED"]
    drop = DropQuota(quota=NAME, version=3, snapshotted=LOOK.parse(scene.call(LOOK)))
    assert scene.call(drop) == ["DROPPED"]
    assert scene.stored == {}


def test_what_cannot_be_read_is_dropped_unless_something_was_issued_since(scene: Scene) -> None:
    scene.funded()
    key = scene.keys.quota(str(NAME))
    scene.client.set(key, "junk")
    seen = LOOK.parse(scene.call(LOOK))
    drop = DropQuota(quota=NAME, version=2, snapshotted=seen)
    scene.client.hset(scene.keys.versions, str(NAME), 3)
    assert scene.call(drop) == ["CHANGED"]
    scene.client.hset(scene.keys.versions, str(NAME), 2)
    known = DropQuota(quota=NAME, version=2, snapshotted=replace(seen, state="2 x"))
    assert scene.call(known) == ["CHANGED"]
    assert scene.call(drop) == ["DROPPED"]
    assert scene.stored == {}


def test_a_due_key_of_another_type_is_met_before_any_write(scene: Scene) -> None:
    scene.funded()
    drop = DropQuota(quota=NAME, version=2, snapshotted=LOOK.parse(scene.call(LOOK)))
    scene.client.delete(scene.keys.due)
    scene.client.set(scene.keys.due, "junk")
    assert scene.call(drop) == ["WRONGTYPE"]
