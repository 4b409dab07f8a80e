"""place_hold: units set aside, covered by grants or only by the overdraft limit."""

from __future__ import annotations

from tests.lua.scenes import WRITING, Scene, meets
from tests.shards import NOON_MS


@meets("place_hold", "PLACED", "REPLAYED", "DENIED")
def test_a_hold_is_placed_once_and_denied_above_spendable(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 100)
    placed = scene.place("h", 60, ttl_ms=5000)
    assert placed[0] == "PLACED"
    assert placed[2:] == ["2", "60", "0", "100", "60", "0", "", str(NOON_MS + 5000), "g -60 60"]
    assert scene.place("h", 60, ttl_ms=5000) == ["REPLAYED", *placed[1:]]
    assert scene.place("i", 41) == ["DENIED", "40"]
    assert scene.place("i", 40)[0] == "PLACED"
    assert scene.place("j", 1) == ["DENIED", "0"]
    assert scene.sums == (100, 100, 0)


@meets("place_hold", "IDEMPOTENCY_CONFLICT")
def test_an_open_hold_s_id_is_taken_even_when_its_placing_is_forgotten(scene: Scene) -> None:
    scene.funded()
    for key in (scene.keys.ops0, scene.keys.ops1):
        scene.client.delete(key(WRITING["debit"].quota.__str__()))
    assert scene.place("h", 10) == ["IDEMPOTENCY_CONFLICT"]


def test_what_only_the_limit_admits_stays_uncovered(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 30)
    scene.limit(50)
    assert scene.place("h", 81) == ["DENIED", "80"]
    assert scene.place("h", 80)[-1] == "g -30 30"
    assert scene.sums == (30, 80, 0)
    scene.issue("later", 100)  # pays no hold: only debt is paid by what flows in
    assert scene.sums == (130, 80, 0)
    assert scene.place("i", 101) == ["DENIED", "100"]


def test_an_unlimited_quota_refuses_only_what_it_could_not_count(scene: Scene) -> None:
    scene.load()
    scene.limit(None)
    most = 2**53 - 1
    assert scene.place("h", most)[0] == "PLACED"
    assert scene.place("i", 1) == ["DENIED", "0"]


def test_a_hold_that_is_denied_spends_what_came_due_meanwhile(scene: Scene) -> None:
    """At the very instant that a grant starts or a hold expires, it counts."""
    scene.load()
    scene.issue("g", 10)
    scene.place("h", 10, ttl_ms=1000)
    scene.issue("later", 5, starts_at_ms=NOON_MS + 2000)
    scene.pass_time(999)
    assert scene.place("i", 1) == ["DENIED", "0"]
    scene.pass_time(1)
    assert scene.place("i", 11) == ["DENIED", "10"]
    scene.pass_time(999)
    assert scene.place("i", 11) == ["DENIED", "10"]
    scene.pass_time(1)
    assert scene.place("i", 15)[0] == "PLACED"


def test_an_expired_grant_pays_nothing(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 10, expires_at_ms=NOON_MS + 1000)
    scene.pass_time(999)
    assert scene.place("h", 4)[0] == "PLACED"
    scene.pass_time(1)
    assert scene.place("i", 1) == ["DENIED", "0"]
    assert scene.capture("h", 4)[0] == "CAPTURED"  # what a call holds stays with the call


def test_a_thousand_grants_are_burned_in_order(scene: Scene) -> None:
    scene.load()
    for number in range(1000):
        scene.issue(f"g{number:04}", 2, priority=number % 10)
    assert scene.sums == (2000, 0, 0)
    moved = scene.place("h", 250)[-1].split(" ")
    assert moved[:6] == ["g0000", "-2", "2", "g0010", "-2", "2"]
    assert len(moved) == 3 * 125
    assert {grant_id[-1] for grant_id in moved[::3]} == {"0", "1"}
    assert scene.place("i", 1751) == ["DENIED", "1750"]
