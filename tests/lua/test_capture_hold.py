"""capture_hold: below, equal, above, in parts, late; what ended grants lose; never denied."""

from __future__ import annotations

import pytest

from quota_engine.commands import GrantState, HydrateQuota, Snapshot
from quota_engine.events import NEVER_MS
from tests.lua.scenes import NAME, Scene, meets
from tests.shards import EPOCH, NOON_MS


@meets("capture_hold", "CAPTURED", "REPLAYED", "HOLD_NOT_FOUND")
def test_a_capture_charges_once_what_was_used(scene: Scene) -> None:
    scene.funded()
    captured = scene.capture("h", 4)
    assert captured[0] == "CAPTURED"
    assert captured[2:] == ["3", "4", "0", "96", "0", "0", "", "", "g 6 -10"]
    assert scene.capture("h", 4) == ["REPLAYED", *captured[1:]]
    assert scene.capture("never", 1) == ["HOLD_NOT_FOUND"]
    assert scene.sums == (96, 0, 0)


def test_a_capture_gives_back_what_was_taken_last(scene: Scene) -> None:
    scene.load()
    for grant_id in "abc":
        scene.issue(grant_id, 10)
    assert scene.place("h", 25)[-1] == "a -10 10 b -10 10 c -5 5"
    assert scene.capture("h", 12)[-1] == "a 0 -10 b 8 -10 c 5 -5"
    assert scene.stored["head"] == "b"
    assert scene.debit("d", 18)[-1] == "b -8 0 c -10 0"


def test_a_capture_above_the_hold_takes_grants_then_debt_then_is_shortfall(scene: Scene) -> None:
    scene.funded(30)
    scene.limit(5)
    captured = scene.capture("h", 50)
    assert captured[3:8] == ["50", "15", "-5", "0", "5"]
    assert captured[-1] == "g -20 -10"
    assert scene.log[-1] == ("hold.captured", "h:capture", -35)


def test_a_capture_never_takes_what_other_holds_have(scene: Scene) -> None:
    scene.funded(30)
    scene.place("i", 15)
    assert scene.capture("h", 50)[3:6] == ["50", "35", "15"]
    assert scene.sums == (15, 15, 0)


def test_a_hold_is_captured_in_parts(scene: Scene) -> None:
    scene.funded()
    part = scene.capture("h", 3, part="p1")
    assert part[-3:] == ["part", "", "g 0 -3"]
    assert scene.sums == (97, 7, 0)
    assert scene.capture("h", 3, part="p1")[0] == "REPLAYED"
    scene.capture("h", 20, part="p2")
    assert scene.sums == (77, 0, 0)
    assert scene.capture("h", 1)[0] == "CAPTURED"
    assert scene.sums == (76, 0, 0)


@pytest.mark.parametrize("how", ["released", "expired", "known"])
def test_a_hold_that_is_no_longer_open_is_charged_late_once(scene: Scene, how: str) -> None:
    scene.funded()
    hold_id = "h"
    if how == "released":
        scene.release("h")
    elif how == "expired":
        scene.pass_time(60_000)
    else:
        hold_id = "of the ledger"
    late = scene.capture(hold_id, 7, known=how == "known")
    assert (late[0], late[8]) == ("CAPTURED", "late")
    assert scene.capture(hold_id, 7, known=how == "known")[0] == "REPLAYED"
    assert scene.sums == (93, 10 if how == "known" else 0, 0)


def test_a_late_capture_is_charged_even_when_nothing_is_left(scene: Scene) -> None:
    scene.funded(10)
    scene.release("h")
    scene.debit("d", 10)
    assert scene.capture("h", 7)[3:6] == ["7", "7", "0"]


def test_units_of_an_ended_grant_end_with_it(scene: Scene) -> None:
    scene.load()
    scene.issue("short", 10, expires_at_ms=NOON_MS + 1000)
    scene.issue("void", 10, priority=60)
    scene.issue("long", 10, priority=70)
    scene.place("h", 25)
    scene.void("void")
    scene.pass_time(1000)
    assert scene.capture("h", 4)[-1] == "short 0 -4 long 5 -5"
    assert scene.log[-4:] == [
        ("grant.expired", "short:expire", 0),
        ("grant.expired", "short:expire:h", -6),
        ("grant.voided", "void:void:h", -10),
        ("hold.captured", "h:capture", -4),
    ]
    assert scene.sums == (10, 0, 0)


def test_what_an_ended_grant_gave_in_two_portions_ends_as_one_entry(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 50, expires_at_ms=NOON_MS + 1000)
    scene.place("h", 10)
    scene.extend("h", 30)
    scene.pass_time(1000)
    scene.capture("h", 4)
    ids = [operation_id for _, operation_id, _ in scene.log]
    assert len(ids) == len(set(ids)), "an operation id comes once"
    assert ("grant.expired", "g:expire:h", -26) in scene.log


def test_what_comes_back_pays_debt_first(scene: Scene) -> None:
    scene.funded(10)
    scene.limit(20)
    scene.debit("d", 15)
    assert scene.sums == (-5, 10, 15)
    assert scene.capture("h", 4)[-1] == "g 0 -10"
    assert scene.sums == (-9, 0, 9)


def test_a_capture_touches_three_thousand_grants(scene: Scene) -> None:
    """More than Lua's unpack() takes at once."""
    grants = tuple(
        GrantState(f"g{number:04}", 2, 0, 50, 1, NEVER_MS, 1, "live") for number in range(3000)
    )
    scene.call(HydrateQuota(snapshot=Snapshot(quota=NAME, epoch=EPOCH, version=1, grants=grants)))
    assert scene.place("h", 6000)[0] == "PLACED"
    captured = scene.capture("h", 3001)
    assert captured[3:7] == ["3001", "0", "2999", "0"]
    assert scene.stored["head"] == "g1500"
    assert sum(name.startswith("g:") for name in scene.stored) == 1500
