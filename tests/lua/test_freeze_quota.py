"""freeze_quota: one mark on a loaded quota."""

from __future__ import annotations

from tests.lua.scenes import Scene, meets
from tests.shards import EPOCH


@meets("freeze_quota", "MARKED", "ABSENT")
def test_a_loaded_quota_is_marked_and_unmarked(scene: Scene) -> None:
    assert scene.freeze() == ["ABSENT"]
    scene.load()
    assert scene.freeze("its log is in doubt") == ["MARKED"]
    assert scene.stored["frozen"] == "its log is in doubt"
    assert scene.freeze("") == ["MARKED"]
    assert scene.stored["frozen"] == ""


@meets("freeze_quota", "FENCED")
def test_another_epoch_s_mark_is_fenced(scene: Scene) -> None:
    scene.load()
    scene.epoch = EPOCH - 1
    assert scene.freeze() == ["FENCED"]
