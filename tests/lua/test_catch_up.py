"""catch_up: what is due happens in order, in portions, once."""

from __future__ import annotations

from quota_engine.commands import CatchUp
from tests.lua.scenes import NAME, Scene, meets
from tests.shards import NOON_MS

NEVER = str(2**53 - 1)


@meets("catch_up", "CAUGHT_UP")
def test_what_is_due_is_applied_in_portions(scene: Scene) -> None:
    scene.funded()
    for number in range(5):
        scene.place(f"h{number}", 1, ttl_ms=10 + number)
    scene.pass_time(20)
    portion = CatchUp(quota=NAME, due_max=2)
    assert scene.call(portion) == ["CAUGHT_UP", "2", "1", str(NOON_MS + 12)]
    assert scene.call(portion) == ["CAUGHT_UP", "2", "1", str(NOON_MS + 14)]
    assert scene.call(portion) == ["CAUGHT_UP", "1", "0", str(NOON_MS + 60_000)]
    assert scene.call(portion) == ["CAUGHT_UP", "0", "0", str(NOON_MS + 60_000)]
    assert [kind for kind, _, _ in scene.log[-5:]] == ["hold.expired"] * 5
    assert scene.client.zscore(scene.keys.due, str(NAME)) == NOON_MS + 60_000


def test_at_one_instant_holds_expire_before_grants_start_and_end(scene: Scene) -> None:
    scene.load()
    at = NOON_MS + 10
    scene.issue("ends", 10, expires_at_ms=at)
    scene.issue("starts", 10, starts_at_ms=at)
    scene.place("h", 10, ttl_ms=10)
    scene.pass_time(10)
    assert scene.run("catch_up") == ["CAUGHT_UP", "3", "0", NEVER]
    assert [kind for kind, _, _ in scene.log[-3:]] == [
        "hold.expired",
        "grant.started",
        "grant.expired",
    ]
    assert [entry.at_ms for entry in scene.entries()[-3:]] == [at] * 3
    assert scene.sums == (10, 0, 0)
    assert scene.client.zcard(scene.keys.due) == 0


def test_an_entry_keeps_its_instant_however_late_it_is_written(scene: Scene) -> None:
    scene.funded()
    scene.pass_time(10**9)
    scene.debit("d", 1)
    assert [entry.at_ms - NOON_MS for entry in scene.entries()[-2:]] == [60_000, 10**9]


def test_a_renewed_hold_does_not_expire_at_its_old_instant(scene: Scene) -> None:
    scene.funded()
    scene.extend("h", ttl_ms=100_000)
    scene.pass_time(60_000)
    assert scene.run("catch_up")[:3] == ["CAUGHT_UP", "0", "0"]
    scene.pass_time(40_000)
    assert scene.run("catch_up")[:3] == ["CAUGHT_UP", "1", "0"]


def test_hundreds_of_holds_expire_in_one_call(scene: Scene) -> None:
    scene.funded(2000)
    for number in range(600):
        scene.place(f"h{number}", 1, ttl_ms=10)
    scene.pass_time(10)
    assert scene.call(CatchUp(quota=NAME, due_max=1000))[:3] == ["CAUGHT_UP", "600", "0"]
    assert scene.sums == (2000, 10, 0)
