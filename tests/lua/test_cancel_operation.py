"""cancel_operation: what has happened is told, what has not never happens."""

from __future__ import annotations

from tests.lua.scenes import Scene, meets


@meets("cancel_operation", "CANCELLED", "REPLAYED", "ABSENT")
def test_what_has_not_happened_is_cancelled_once(scene: Scene) -> None:
    scene.funded()
    assert scene.cancel("d", absent=False) == ["ABSENT", "2"]
    cancelled = scene.cancel("d")
    assert cancelled == ["CANCELLED", "cancelled", "3", "0", "0", "100", "10", "0", "", "", ""]
    assert scene.cancel("d", absent=False) == ["REPLAYED", *cancelled[1:]]
    assert scene.cancel("d") == ["REPLAYED", *cancelled[1:]]
    assert scene.debit("d", 30) == ["OPERATION_CANCELLED"]
    assert scene.debit("d", 30, used=True) == ["OPERATION_CANCELLED"]
    assert scene.log[2:] == [("operation.cancelled", "d", 0)]
    assert scene.sums == (100, 10, 0)


@meets("cancel_operation", "APPLIED")
def test_what_has_happened_is_told_and_stays(scene: Scene) -> None:
    scene.funded()
    debited = scene.debit("d", 30)
    before = scene.log
    for absent in (False, True):
        assert scene.cancel("d", absent=absent) == ["APPLIED", *debited[1:]]
    assert scene.cancel("h")[:4] == ["APPLIED", scene.cancel("h")[1], "2", "10"]
    assert scene.cancel("g")[3] == "100"
    assert scene.log == before
    assert scene.sums == (70, 10, 0)


def test_a_hold_whose_capture_was_cancelled_is_released(scene: Scene) -> None:
    scene.funded()
    scene.cancel("h:capture")
    assert scene.capture("h", 5) == ["OPERATION_CANCELLED"]
    assert scene.capture("h", 3, part="p")[0] == "CAPTURED"
    assert scene.release("h")[0] == "RELEASED"
    assert scene.sums == (97, 0, 0)


def test_a_hold_whose_release_was_cancelled_is_captured(scene: Scene) -> None:
    scene.funded()
    scene.cancel("h:release")
    assert scene.release("h") == ["OPERATION_CANCELLED"]
    assert scene.capture("h", 4)[0] == "CAPTURED"
    assert scene.sums == (96, 0, 0)


def test_a_tombstone_is_no_trace_of_a_hold(scene: Scene) -> None:
    scene.funded()
    for operation_id in ("x", "x:capture", "x:release"):
        scene.cancel(operation_id)
    scene.place("y", 5)
    scene.cancel("y2:capture")
    assert scene.place("x", 5) == ["OPERATION_CANCELLED"]
    assert scene.extend("x", ttl_ms=5) == ["HOLD_NOT_FOUND"]
    assert scene.capture("x", 5, part="part") == ["HOLD_NOT_FOUND"]
    assert scene.release("y2") == ["HOLD_NOT_FOUND"]


def test_what_is_due_is_applied_before(scene: Scene) -> None:
    scene.funded()
    scene.pass_time(60_000)
    assert scene.cancel("d")[0] == "CANCELLED"
    assert [kind for kind, _, _ in scene.log[2:]] == ["hold.expired", "operation.cancelled"]
    assert scene.capture("h", 4)[8] == "late"
