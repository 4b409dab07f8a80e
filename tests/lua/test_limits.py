"""What limits let through: counted when it is let through, corrected when it is settled."""

from __future__ import annotations

from typing import Any

import pytest

from quota_engine.commands import Action, CaptureHold
from quota_engine.limits import STEPS_MS
from tests.lua.scenes import NAME, Scene, meets
from tests.shards import NOON_MS

MINUTE = 60_000


@pytest.fixture
def rich(scene: Scene) -> Scene:
    """A quota with plenty, and no limit yet."""
    scene.load()
    scene.issue("g", 1_000_000)
    return scene


def windows(scene: Scene) -> dict[str, str]:
    return {name: value for name, value in scene.stored.items() if name.startswith("w:")}


@meets("place_hold", "EXCEEDED")
def test_what_a_capture_leaves_of_a_hold_is_let_through_again(rich: Scene) -> None:
    rich.set_limit(5, "day")
    assert rich.place("h", 4)[0] == "PLACED"
    refused = rich.place("i", 2)
    midnight = 12 * 60 * MINUTE
    told = ["units", "day", "calendar", "UTC", "5", "2", "1", str(midnight)]
    assert refused == ["EXCEEDED", str(NAME), *told, str(NAME), "2", "1"]
    assert rich.capture("h", 1)[0] == "CAPTURED"
    assert rich.limits() == [("units/day", 5, 1)]
    assert rich.place("i", 4)[0] == "PLACED"


def test_a_refusal_leaves_no_trace_in_any_window(rich: Scene) -> None:
    """That nothing is written the shard looks at every refusal; this one has steps to forget."""
    rich.set_limit(10, "minute")
    rich.debit("a", 5)
    rich.pass_time(MINUTE + 500)
    rich.debit("b", 5)
    rich.pass_time(MINUTE)
    before = windows(rich)
    assert rich.debit("c", 11)[0] == "EXCEEDED"
    assert windows(rich) == before


@meets("debit", "EXCEEDED")
def test_a_sliding_window_frees_units_when_their_step_has_left_it(rich: Scene) -> None:
    rich.set_limit(10, "minute")
    rich.debit("a", 6)
    rich.pass_time(10_000)
    rich.debit("b", 4)
    told = ["units", "minute", "sliding", "", "10", "1", "0"]
    wait_ms = 50_000 + STEPS_MS["minute"]
    answer = rich.debit("c", 1)
    assert answer == ["EXCEEDED", str(NAME), *told, str(wait_ms), str(NAME), "1", "0"]
    rich.pass_time(wait_ms - 1)
    assert rich.debit("c", 1)[0] == "EXCEEDED"
    rich.pass_time(1)
    assert rich.debit("c", 6)[0] == "DEBITED"
    assert rich.debit("d", 1)[0] == "EXCEEDED"
    assert rich.debit("e", 11)[9] == "", "more than the limit never fits"


def test_memory_of_a_sliding_window_is_bounded(rich: Scene) -> None:
    rich.set_limit(1_000, "second")
    for number in range(40):
        rich.debit(f"d{number}", 1)
        rich.pass_time(70)
    assert len(windows(rich)) <= 1 + 1 + 10
    rich.pass_time(3_600_000)
    rich.debit("late", 1)
    assert len(windows(rich)) == 2


@meets("extend_hold", "EXCEEDED")
def test_a_hold_that_grows_counts_from_then_on_whole(rich: Scene) -> None:
    rich.set_limit(10, "minute")
    rich.place("h", 4, ttl_ms=10 * MINUTE)
    rich.debit("d", 3)
    assert rich.extend("h", 8) == [
        *("EXCEEDED", str(NAME), "units", "minute", "sliding", "", "10", "8", "7"),
        *(str(MINUTE + 1000), str(NAME), "8", "7"),
    ]
    rich.pass_time(MINUTE + 1000)
    assert rich.limits() == [("units/minute", 10, 0)]
    assert rich.extend("h", 8)[0] == "EXTENDED"
    assert rich.limits() == [("units/minute", 10, 8)]
    rich.pass_time(30_000)
    assert rich.capture("h", 2)[0] == "CAPTURED"
    assert rich.limits() == [("units/minute", 10, 2)]


def test_what_a_hold_counted_is_corrected_where_it_counted(rich: Scene) -> None:
    rich.set_limit(15, "minute")
    rich.place("h", 6, ttl_ms=10 * MINUTE)
    rich.place("i", 4, ttl_ms=5_000)
    rich.pass_time(5_000)
    assert rich.limits() == [("units/minute", 15, 6)], "the hold that expired is given back"
    rich.debit("later", 3)
    rich.capture("h", 1, part="part")
    assert rich.limits() == [("units/minute", 15, 9)]
    rich.capture("h", 9)
    assert rich.limits() == [("units/minute", 15, 13)], "what was used beyond the hold counts"
    rich.pass_time(MINUTE - 4_001)
    assert rich.limits() == [("units/minute", 15, 13)]
    rich.pass_time(1)
    assert rich.limits() == [("units/minute", 15, 3)], "where the hold counted, not where it ended"


def test_a_correction_that_comes_after_its_window_changes_nothing(rich: Scene) -> None:
    rich.set_limit(10, "minute")
    rich.place("h", 6, ttl_ms=10 * MINUTE)
    rich.pass_time(2 * MINUTE)
    rich.debit("d", 3)
    rich.capture("h", 1)
    assert rich.limits() == [("units/minute", 10, 3)]


def test_what_is_charged_late_or_was_used_counts_when_it_is_told(rich: Scene) -> None:
    rich.set_limit(10, "minute")
    rich.set_limit(10, "minute", of="calls")
    rich.place("h", 6, ttl_ms=1_000)
    rich.pass_time(1_000)
    rich.capture("h", 8)
    assert rich.limits() == [("units/minute", 10, 8), ("calls/minute", 10, 1)]
    rich.debit("d", 30, used=True)
    assert rich.limits() == [("units/minute", 10, 38), ("calls/minute", 10, 2)]
    assert rich.debit("e", 1)[0] == "EXCEEDED"


def test_calls_count_once_whatever_becomes_of_them(rich: Scene) -> None:
    rich.set_limit(2, "hour", of="calls")
    rich.place("h", 10)
    rich.extend("h", 20)
    rich.release("h")
    rich.debit("d", 1)
    refused = rich.debit("e", 1)
    assert refused[2:9] == ["calls", "hour", "sliding", "", "2", "1", "0"]


def test_slots_of_holds_heal_when_the_hold_ends(rich: Scene) -> None:
    rich.set_limit(2, None, of="holds")
    rich.place("a", 1, ttl_ms=5_000)
    rich.place("b", 1, ttl_ms=60_000)
    refused = rich.place("c", 1)
    assert refused[2:10] == ["holds", "", "", "", "2", "1", "0", ""]
    assert rich.debit("d", 1)[0] == "DEBITED", "a debit holds nothing"
    rich.pass_time(5_000)
    assert rich.place("c", 1)[0] == "PLACED"
    assert rich.place("e", 1)[0] == "EXCEEDED"
    rich.release("b")
    assert rich.place("e", 1)[0] == "PLACED"


def test_of_several_limits_the_one_that_refuses_longest_is_told(rich: Scene) -> None:
    rich.set_limit(5, "minute")
    rich.set_limit(6, "day")
    rich.set_limit(1, None, of="holds")
    rich.place("h", 5)
    assert rich.place("i", 1)[3] == "minute"
    assert rich.place("i", 2)[3] == "day"


def test_a_call_that_is_not_paid_is_denied_before_any_limit_is_asked(scene: Scene) -> None:
    scene.load()
    scene.issue("g", 3)
    scene.set_limit(2, "minute")
    assert scene.place("h", 4) == ["DENIED", "3"]
    assert scene.place("h", 3)[0] == "EXCEEDED"


def test_a_raised_limit_ends_by_itself(rich: Scene) -> None:
    rich.set_limit(5, "minute")
    until = {"raised_to": 9, "raised_until_ms": NOON_MS + 10_000}
    assert rich.set_limit(1, "minute", action=Action.RAISE, **until)[0] == "SET"
    assert rich.debit("a", 7)[0] == "DEBITED"
    assert rich.limits() == [("units/minute", 9, 7)]
    rich.pass_time(10_000)
    assert rich.limits() == [("units/minute", 5, 7)]
    assert rich.debit("b", 1)[0] == "EXCEEDED"


def test_a_window_never_goes_back_with_a_clock(rich: Scene) -> None:
    rich.set_limit(5, "second")
    rich.place("h", 5)
    rich.pass_time(-30_000)
    assert rich.debit("a", 1)[0] == "EXCEEDED"
    rich.capture("h", 3)
    assert rich.debit("a", 2)[0] == "DEBITED"
    assert rich.debit("b", 1)[0] == "EXCEEDED"


def test_periods_go_on_when_their_time_has_come(rich: Scene) -> None:
    rich.set_limit(5, "day", time_zone="Asia/Shanghai")
    rich.debit("a", 5)
    rich.pass_time(4 * 3_600_000 - 1)  # noon in UTC is eight in the evening there
    assert rich.debit("b", 1)[0] == "EXCEEDED"
    rich.pass_time(1)
    assert rich.debit("b", 5)[0] == "DEBITED"


@meets("place_hold", "PERIODS_OVER")
@meets("debit", "PERIODS_OVER")
@meets("extend_hold", "PERIODS_OVER")
def test_periods_that_are_over_are_to_be_renewed_but_what_was_used_is_counted(rich: Scene) -> None:
    rich.set_limit(5, "day")
    rich.place("h", 1, ttl_ms=100 * 24 * 60 * MINUTE)
    rich.pass_time(20 * 24 * 60 * MINUTE)
    assert rich.place("i", 1) == ["PERIODS_OVER"]
    assert rich.debit("d", 1) == ["PERIODS_OVER"]
    assert rich.extend("h", 2) == ["PERIODS_OVER"]
    assert rich.debit("u", 3, used=True)[0] == "DEBITED"
    assert rich.set_limit(1, "day", action=Action.RENEW)[0] == "SET"
    assert rich.limits() == [("units/day", 5, 3)]
    assert rich.debit("e", 3)[0] == "EXCEEDED"
    rich.pass_time(12 * 60 * MINUTE)
    assert rich.debit("e", 5)[0] == "DEBITED"


def test_what_is_told_late_of_a_quota_that_has_limits_only_is_counted_and_owed_by_nobody(
    scene: Scene,
) -> None:
    scene.load()
    scene.set_limit(10, "minute")
    assert scene.debit("d", 3)[0] == "DENIED", "nobody pays"
    used = scene.debit("d", 3, used=True)
    assert (used[4:9], used[0]) == (["0", "0", "0", "0", "used counted"], "DEBITED")
    late = scene.call(
        CaptureHold(quota=NAME, hold_id="h", operation_id="h:capture", amount=4, is_known=True)
    )
    assert (late[4:9], late[0]) == (["0", "0", "0", "0", "late counted"], "CAPTURED")
    assert scene.limits() == [("units/minute", 10, 7)]


def test_many_limits_do_not_use_up_the_room_for_grants(scene: Scene) -> None:
    scene.load()
    scene.set_limit(1_000, "minute")
    for number in range(30):
        scene.issue(f"g{number}", 500, grants_max=32)
        scene.pass_time(1_000)
        scene.debit(f"d{number}", 1)
    assert len(scene.stored) > 50
    assert scene.issue("last", 5, grants_max=31)[0] == "ISSUED"
    assert scene.issue("more", 5, grants_max=31) == ["TOO_MANY_GRANTS"]


def head_of(scene: Scene, key: str) -> list[Any]:
    return scene.stored[f"w:{key}"].split(" ")


def test_a_quota_without_limits_keeps_nothing_of_them(rich: Scene) -> None:
    rich.place("h", 1)
    assert windows(rich) == {}
    assert "limits" not in rich.stored
    assert rich.hash_of(rich.keys.holds(str(NAME))) == {"h": f"1 1 {NOON_MS + 60_000} g 1"}
