"""release_hold: everything flows back, or ends with its grant."""

from __future__ import annotations

from tests.lua.scenes import Scene, meets
from tests.shards import NOON_MS


@meets("release_hold", "RELEASED", "REPLAYED", "CLOSED", "HOLD_NOT_FOUND")
def test_a_hold_is_released_once(scene: Scene) -> None:
    scene.funded()
    released = scene.release("h")
    assert released[0] == "RELEASED"
    assert released[2:] == ["3", "10", "0", "100", "0", "0", "", "", "g 10 -10"]
    assert scene.release("h") == ["REPLAYED", *released[1:]]
    assert scene.release("never") == ["HOLD_NOT_FOUND"]
    scene.place("i", 5)
    scene.capture("i", 5)
    assert scene.release("i") == ["CLOSED"]
    scene.place("j", 5, ttl_ms=10)
    scene.pass_time(10)
    assert scene.run("catch_up")[:2] == ["CAUGHT_UP", "1"]
    assert scene.release("j") == ["CLOSED"]
    assert scene.sums == (95, 0, 0)


def test_units_return_to_the_grants_they_came_from(scene: Scene) -> None:
    scene.load()
    scene.issue("short", 10, expires_at_ms=NOON_MS + 1000)
    scene.issue("long", 10)
    scene.place("h", 15)
    scene.issue("first", 10, priority=1)
    assert scene.release("h")[-1] == "long 5 -5 short 10 -10"
    assert scene.debit("d", 25)[-1] == "first -10 0 short -10 0 long -5 0"


def test_what_an_ended_grant_gave_ends_with_the_release(scene: Scene) -> None:
    scene.load()
    scene.issue("short", 10, expires_at_ms=NOON_MS + 1000)
    scene.place("h", 6)
    scene.extend("h", 9)
    scene.pass_time(1000)
    scene.release("h")
    assert scene.log[-3:] == [
        ("grant.expired", "short:expire", -1),
        ("grant.expired", "short:expire:h", -9),
        ("hold.released", "h:release", 0),
    ]
    assert scene.sums == (0, 0, 0)


def test_what_is_released_pays_debt_first(scene: Scene) -> None:
    scene.funded(10)
    scene.limit(20)
    scene.debit("d", 15)
    scene.release("h")
    assert scene.sums == (-5, 0, 5)
    assert "g:g" not in scene.stored, "nothing of the grant is left"
