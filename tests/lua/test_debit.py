"""debit: at once or not at all; what was used already is always charged."""

from __future__ import annotations

from tests.lua.scenes import Scene, meets
from tests.shards import NOON_MS


@meets("debit", "DEBITED", "REPLAYED", "DENIED")
def test_a_debit_is_taken_once_or_denied(scene: Scene) -> None:
    scene.funded()
    debited = scene.debit("d", 30)
    assert debited[0] == "DEBITED"
    assert debited[2:] == ["3", "30", "0", "70", "10", "0", "", "", "g -30 0"]
    assert scene.debit("d", 30) == ["REPLAYED", *debited[1:]]
    assert scene.debit("e", 61) == ["DENIED", "60"]
    assert scene.sums == (70, 10, 0)


def test_a_debit_goes_into_debt_up_to_the_limit(scene: Scene) -> None:
    scene.funded()
    scene.limit(50)
    assert scene.debit("d", 141) == ["DENIED", "140"]
    assert scene.debit("d", 140)[5:8] == ["-40", "10", "50"]
    assert scene.debit("e", 1) == ["DENIED", "0"]
    assert scene.capture("h", 10)[3:8] == ["10", "0", "-50", "0", "50"]


@meets("debit_used", "DEBITED", "REPLAYED")
def test_what_was_used_already_is_charged_as_far_as_it_can_be(scene: Scene) -> None:
    scene.funded()
    debited = scene.debit("d", 150, used=True)
    assert debited[3:9] == ["150", "60", "10", "10", "0", "used"]
    assert scene.debit("d", 150, used=True) == ["REPLAYED", *debited[1:]]
    scene.freeze()
    assert scene.debit("e", 5, used=True)[3:6] == ["5", "5", "10"]


def test_a_debit_touches_only_the_grants_that_pay(scene: Scene) -> None:
    scene.load()
    for number in range(300):
        scene.issue(f"g{number:04}", 10)
    before = scene.stored
    assert scene.debit("d", 15)[-1] == "g0000 -10 0 g0001 -5 0"
    changed = {name for name, value in scene.stored.items() if before[name] != value}
    assert changed == {"version", "chain", "remaining", "head", "g:g0001"}
    assert "g:g0000" not in scene.stored


def test_order_is_priority_then_end_then_age_then_id(scene: Scene) -> None:
    scene.load()
    scene.issue("z", 1, priority=0)
    scene.issue("é", 1)
    scene.issue("b", 1)
    scene.issue("a", 1)
    scene.issue("ends", 1, expires_at_ms=NOON_MS + 10**9)
    scene.pass_time(1)
    scene.issue("0", 1)
    paid = scene.debit("d", 6)[-1].split(" ")[::3]
    assert paid == ["z", "ends", "a", "b", "é", "0"]
