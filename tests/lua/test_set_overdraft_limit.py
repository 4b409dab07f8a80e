"""set_overdraft_limit: more is admitted, or less; nothing is collected."""

from __future__ import annotations

from tests.lua.scenes import Scene, meets


@meets("set_overdraft_limit", "LIMITED", "REPLAYED", "IDEMPOTENCY_CONFLICT")
def test_a_limit_is_set_once(scene: Scene) -> None:
    scene.load()
    limited = scene.limit(50)
    assert limited[2:] == ["1", "0", "0", "0", "0", "0", "", "50", ""]
    assert scene.limit(None, "other")[9] == "unlimited"
    assert scene.limit(50) == ["REPLAYED", *limited[1:]]
    assert scene.stored["overdraft"] == "unlimited"
    assert scene.limit(51) == ["IDEMPOTENCY_CONFLICT"]


def test_a_lower_limit_only_refuses_more(scene: Scene) -> None:
    scene.load()
    scene.limit(50)
    scene.debit("d", 40)
    scene.limit(10, "lower")
    assert scene.sums == (-40, 0, 40)
    assert scene.debit("e", 1) == ["DENIED", "0"]
    assert scene.debit("e", 5, used=True)[4] == "5"
    scene.limit(41, "higher")
    assert scene.debit("f", 1)[0] == "DEBITED"
