"""void_grant: what remains goes; what is used or held stays where it is."""

from __future__ import annotations

from tests.lua.scenes import NAME, Scene, meets
from tests.shards import NOON_MS


@meets("void_grant", "VOIDED", "REPLAYED", "GRANT_NOT_FOUND")
def test_a_grant_is_voided_once(scene: Scene) -> None:
    scene.funded()
    voided = scene.void("g")
    assert voided[2:] == ["3", "90", "0", "10", "10", "0", "", "", "g -90 0"]
    assert scene.void("g") == ["REPLAYED", *voided[1:]]
    assert scene.void("other") == ["GRANT_NOT_FOUND"]
    scene.release("h")
    assert scene.log[-2:] == [("grant.voided", "g:void:h", -10), ("hold.released", "h:release", 0)]
    assert scene.sums == (0, 0, 0)


def test_a_pending_grant_is_cancelled_whole(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 10, starts_at_ms=NOON_MS + 10, expires_at_ms=NOON_MS + 20)
    assert scene.void("g")[3:6] == ["10", "0", "0"]
    assert scene.client.zcard(scene.keys.changes(str(NAME))) == 0
    scene.pass_time(30)
    assert scene.run("catch_up")[:2] == ["CAUGHT_UP", "0"]


def test_a_grant_that_starts_as_it_is_voided_leaves_nothing_behind(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 10, starts_at_ms=NOON_MS + 10, expires_at_ms=NOON_MS + 20)
    scene.pass_time(10)
    assert scene.void("g")[-1] == "g -10 0"
    assert scene.client.zcard(scene.keys.changes(str(NAME))) == 0
    scene.pass_time(10)
    assert scene.run("catch_up")[1:3] == ["0", "0"]
    assert scene.client.zcard(scene.keys.due) == 0


def test_a_grant_used_up_in_the_same_instant_is_gone(scene: Scene) -> None:
    scene.load()
    scene.limit(50)
    scene.debit("d", 30)
    scene.issue("g", 10, starts_at_ms=NOON_MS + 10, expires_at_ms=NOON_MS + 20)
    scene.pass_time(10)
    assert scene.void("g") == ["GRANT_NOT_FOUND"]
    scene.pass_time(10)
    assert scene.run("catch_up")[:2] == ["CAUGHT_UP", "1"], "it starts, pays debt, and is gone"


def test_an_expired_grant_is_not_voided(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 10, expires_at_ms=NOON_MS + 20)
    scene.place("h", 5)
    scene.pass_time(20)
    assert scene.void("g") == ["GRANT_NOT_FOUND"]
