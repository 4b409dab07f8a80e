"""record_usage: an entry that moves nothing."""

from __future__ import annotations

from tests.lua.scenes import Scene, meets


@meets("record_usage", "RECORDED", "REPLAYED")
def test_a_record_moves_nothing_and_is_kept_once(scene: Scene) -> None:
    scene.funded()
    recorded = scene.run("record_usage")
    assert recorded[2:] == ["3", "0", "0", "100", "10", "0", "", "", ""]
    assert scene.run("record_usage") == ["REPLAYED", *recorded[1:]]
    assert scene.entries()[-1].details == '{"usage":{}}'
    assert scene.sums == (100, 10, 0)
