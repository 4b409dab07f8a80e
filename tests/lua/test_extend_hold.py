"""extend_hold: growth is admitted like a new hold; a renewal is no entry."""

from __future__ import annotations

from tests.lua.scenes import Scene, meets
from tests.shards import NOON_MS


@meets("extend_hold", "EXTENDED", "DENIED", "HOLD_SHRINKS")
def test_a_hold_grows_to_a_new_total(scene: Scene) -> None:
    scene.funded()
    assert scene.extend("h", 30) == ["EXTENDED", "30", str(NOON_MS + 60_000)]
    assert scene.extend("h", 101) == ["DENIED", "100"]
    assert scene.extend("h", 29) == ["HOLD_SHRINKS"]
    assert scene.extend("h", 100)[0] == "EXTENDED"
    assert scene.sums == (100, 100, 0)
    assert scene.capture("h", 100)[-1] == "g 0 -100"


def test_a_renewal_moves_the_expiry_and_writes_no_entry(scene: Scene) -> None:
    scene.funded()
    before = scene.log
    scene.pass_time(59_999)
    assert scene.extend("h", ttl_ms=1000) == ["EXTENDED", "10", str(NOON_MS + 60_999)]
    assert scene.log == before
    scene.pass_time(999)
    assert scene.place("i", 91) == ["DENIED", "90"]
    scene.pass_time(1)
    assert scene.place("i", 91)[0] == "PLACED"


@meets("extend_hold", "HOLD_CLOSED", "HOLD_NOT_FOUND")
def test_only_an_open_hold_is_extended(scene: Scene) -> None:
    scene.funded()
    assert scene.extend("never", 5) == ["HOLD_NOT_FOUND"]
    scene.release("h")
    assert scene.extend("h", 50) == ["HOLD_CLOSED"]
    scene.place("i", 5, ttl_ms=10)
    scene.pass_time(10)
    assert scene.extend("i", 50) == ["HOLD_CLOSED"]


@meets("extend_hold", "QUOTA_FROZEN")
def test_a_frozen_quota_renews_and_does_not_grow(scene: Scene) -> None:
    scene.funded()
    scene.freeze()
    assert scene.extend("h", 11) == ["QUOTA_FROZEN"]
    assert scene.extend("h", ttl_ms=100)[0] == "EXTENDED"


def test_a_repeat_grows_once_and_renews_again(scene: Scene) -> None:
    scene.funded()
    scene.extend("h", 30, ttl_ms=1000, again="e")
    before = scene.log
    scene.pass_time(500)
    assert scene.extend("h", 30, ttl_ms=1000, again="e") == ["EXTENDED", "30", str(NOON_MS + 1500)]
    assert scene.log == before
    assert scene.extend("h", 31, ttl_ms=1000, again="e") == ["IDEMPOTENCY_CONFLICT"]


def test_a_repeat_after_its_hold_has_closed_is_told_what_happened(scene: Scene) -> None:
    scene.funded()
    grown = scene.extend("h", 30, again="e")
    scene.pass_time(60_000)
    assert scene.extend("h", 30, again="e") == grown
    assert scene.extend("h", 31, again="f") == ["HOLD_CLOSED"]


def test_growth_above_the_grants_is_uncovered(scene: Scene) -> None:
    scene.funded(20)
    scene.limit(100)
    assert scene.extend("h", 70)[0] == "EXTENDED"
    assert scene.sums == (20, 70, 0)
    assert scene.capture("h", 70)[3:8] == ["70", "0", "-50", "0", "50"]
