"""set_limit, read_limits: one limit changed at a time, and how all of them stand."""

from __future__ import annotations

from dataclasses import replace

from quota_engine.commands import Action, ReadLimits, SetLimit
from quota_engine.limits import Limit, parse_limits
from tests.lua.scenes import NAME, WRITING, Scene, meets
from tests.shards import EPOCH, NOON_MS

HOUR = 3_600_000


def texts(scene: Scene) -> list[str]:
    return [limit.key for limit in parse_limits(scene.stored.get("limits", ""))]


@meets("set_limit", "SET", "REPLAYED", "IDEMPOTENCY_CONFLICT")
@meets("read_limits", "LIMITS")
def test_a_limit_is_set_once_and_others_stay(scene: Scene) -> None:
    scene.funded()
    command = WRITING["set_limit"]
    assert isinstance(command, SetLimit)
    first = scene.call(command)
    assert first[0] == "SET"
    assert scene.call(command) == ["REPLAYED", *first[1:]]
    other = replace(command, limit=replace(command.limit, amount=7))
    assert scene.call(other) == ["IDEMPOTENCY_CONFLICT"]
    scene.set_limit(9, "day", of="calls")
    scene.set_limit(3, "minute")
    assert texts(scene) == ["units:minute:sliding", "calls:day:calendar"]
    assert scene.limits() == [("units/minute", 3, 0), ("calls/day", 9, 0)]
    assert scene.entries()[-1].terms == scene.stored["limits"]


def test_a_changed_amount_keeps_what_was_counted(scene: Scene) -> None:
    scene.funded()
    scene.set_limit(50, "minute")
    scene.debit("d", 20)
    scene.set_limit(10, "minute")
    assert scene.limits() == [("units/minute", 10, 20)]
    scene.set_limit(70, "minute", window="calendar")
    assert scene.limits() == [("units/minute", 10, 20), ("units/minute", 70, 0)]


def test_what_was_before_a_limit_does_not_count_and_is_not_corrected(scene: Scene) -> None:
    """Also at the very same instant, and for a limit that comes after another."""
    scene.funded()
    scene.set_limit(50, "hour")
    scene.place("i", 5)
    scene.set_limit(50, "day")
    scene.place("j", 7)
    scene.capture("h", 1)
    scene.capture("i", 2)
    assert scene.limits() == [("units/hour", 50, 9), ("units/day", 50, 7)]


def test_another_time_zone_begins_anew(scene: Scene) -> None:
    scene.funded()
    scene.set_limit(50, "day")
    scene.debit("d", 20)
    scene.set_limit(50, "day", time_zone="Asia/Tokyo")
    assert scene.limits() == [("units/day", 50, 0)]


@meets("set_limit", "LIMIT_NOT_FOUND")
def test_a_removed_limit_leaves_nothing(scene: Scene) -> None:
    scene.funded()
    assert scene.set_limit(1, "hour", action=Action.REMOVE) == ["LIMIT_NOT_FOUND"]
    assert scene.set_limit(1, "hour", action=Action.RAISE) == ["LIMIT_NOT_FOUND"]
    scene.set_limit(50, "hour")
    scene.debit("d", 1)
    scene.pass_time(HOUR // 2)
    scene.debit("e", 1)
    scene.set_limit(1, "hour", action=Action.REMOVE)
    left = {name for name in scene.stored if name.startswith("w:") or name == "limits"}
    assert left == {"w:at"}
    assert scene.debit("f", 60)[0] == "DEBITED"


@meets("set_limit", "TOO_MANY_LIMITS")
def test_a_quota_has_so_many_limits_at_most(scene: Scene) -> None:
    scene.funded()
    for of in ("units", "calls"):
        for per in ("second", "minute", "hour", "day"):
            for window in ("sliding", "calendar"):
                assert scene.set_limit(5, per, of=of, window=window)[0] == "SET"
    assert scene.set_limit(5, None, of="holds") == ["TOO_MANY_LIMITS"]
    assert scene.set_limit(6, "day")[0] == "SET"


@meets("set_limit", "PERIODS_OVER")
def test_periods_are_told_around_now_or_not_at_all(scene: Scene) -> None:
    scene.funded()
    limit = Limit(of="units", per="day", window="calendar", time_zone="UTC", amount=5)
    far = SetLimit(
        quota=NAME,
        operation_id="far",
        action=Action.SET,
        limit=limit,
        at_ms=NOON_MS - 1_000 * HOUR,
    )
    assert scene.call(far) == ["PERIODS_OVER"]
    near = replace(far, at_ms=NOON_MS + 10 * HOUR)
    assert scene.call(near)[0] == "SET"


@meets("read_limits", "FENCED", "QUOTA_NOT_LOADED", "CATCH_UP")
def test_limits_are_read_with_what_is_due(scene: Scene) -> None:
    assert scene.call(ReadLimits(quota=NAME)) == ["QUOTA_NOT_LOADED"]
    assert scene.call(ReadLimits(quota=NAME), epoch=EPOCH + 1) == ["FENCED"]
    scene.funded()
    scene.set_limit(50, "hour")
    for number in range(3):
        scene.place(f"i{number}", 5, ttl_ms=1_000)
    assert scene.limits() == [("units/hour", 50, 15)]
    scene.pass_time(1_000)
    assert scene.call(ReadLimits(quota=NAME, due_max=2)) == ["CATCH_UP"]
    assert scene.limits() == [("units/hour", 50, 0)]
