"""record_repair: an entry that says what was mended, and moves nothing."""

from __future__ import annotations

from tests.lua.scenes import Scene, meets


@meets("record_repair", "RECORDED", "REPLAYED")
def test_a_repair_moves_nothing_and_is_written_down_once(scene: Scene) -> None:
    scene.funded()
    recorded = scene.run("record_repair")
    assert recorded[2:] == ["3", "0", "0", "100", "10", "0", "", "held", ""]
    assert scene.run("record_repair") == ["REPLAYED", *recorded[1:]]
    entry = scene.entries()[-1]
    assert (entry.kind, entry.terms, entry.details) == ("quota.repaired", "held", "{}")
    assert scene.sums == (100, 10, 0)


def test_a_frozen_quota_takes_it_too(scene: Scene) -> None:
    scene.funded()
    scene.freeze()
    assert scene.run("record_repair")[0] == "RECORDED"
