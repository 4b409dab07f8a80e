"""unload_quota: only what is idle and known whole is forgotten."""

from __future__ import annotations

from typing import Any

from quota_engine.commands import UnloadQuota
from tests.lua.scenes import NAME, OTHER, Scene, meets
from tests.shards import EPOCH, NOON_MS


def unload(version: int, change_after_ms: int = NOON_MS) -> UnloadQuota:
    return UnloadQuota(quota=NAME, version=version, change_after_ms=change_after_ms)


@meets("unload_quota", "UNLOADED", "KEPT")
def test_an_idle_quota_is_forgotten_with_all_its_keys(scene: Scene) -> None:
    assert scene.call(unload(0)) == ["KEPT", "absent"]
    scene.funded()
    scene.issue("later", 5, starts_at_ms=NOON_MS + 500)
    assert scene.call(unload(3)) == ["KEPT", "held"]
    scene.release("h")
    assert scene.call(unload(3)) == ["KEPT", "not drained"]
    assert scene.call(unload(4, NOON_MS + 500)) == ["KEPT", "changes soon"]
    scene.freeze()
    assert scene.call(unload(4)) == ["KEPT", "frozen"]
    scene.freeze("")
    assert scene.call(unload(4)) == ["UNLOADED"]
    left: Any = scene.client.keys("*")
    shared = [scene.keys.outbox, scene.keys.versions]
    assert sorted(left) == sorted([*shared, scene.keys.quota(str(OTHER))])
    assert scene.client.hget(scene.keys.versions, str(NAME)) == "4"


def test_what_was_issued_since_is_not_forgotten(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 5)
    scene.client.hset(scene.keys.versions, str(NAME), "2")
    assert scene.call(unload(1)) == ["KEPT", "not drained"]


@meets("unload_quota", "FENCED")
def test_another_epoch_s_unloading_is_fenced(scene: Scene) -> None:
    scene.load()
    assert scene.call(unload(0), epoch=EPOCH - 1) == ["FENCED"]


def test_a_key_of_another_type_is_met_before_any_write(scene: Scene) -> None:
    scene.load()
    scene.client.set(scene.keys.due, "junk")
    assert scene.call(unload(0)) == ["WRONGTYPE"]
