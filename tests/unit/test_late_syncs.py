"""Late syncs are told from the first one until an hour after the last."""

from __future__ import annotations

import pytest

from quota_engine.jobs.late_syncs import TOLD_FOR_MS, late_at_ms, next_note

NOW = 1_800_000_000_000
LONG_AGO = NOW - TOLD_FOR_MS - 1


def info(count: int, run_id: str = "a1") -> dict[str, str]:
    return {"run_id": run_id, "aof_delayed_fsync": str(count)}


@pytest.mark.parametrize(
    ("count", "note", "late_at", "noted"),
    [
        (0, "", None, None),
        (0, f"a1 3 {NOW - 5}", None, None),
        # nobody has noted it yet, or not so many
        (3, "", NOW, f"a1 3 {NOW}"),
        (4, f"a1 3 {LONG_AGO}", NOW, f"a1 4 {NOW}"),
        # nothing since it was noted
        (3, f"a1 3 {NOW - 5}", NOW - 5, None),
        (3, f"a1 3 {NOW - TOLD_FOR_MS}", NOW - TOLD_FOR_MS, None),
        (3, f"a1 3 {LONG_AGO}", None, None),
        # started again, or counted anew
        (1, f"b2 3 {LONG_AGO}", NOW, f"a1 1 {NOW}"),
        (1, f"a1 3 {LONG_AGO}", NOW, f"a1 1 {NOW}"),
        # a clock that was set back, and a note that somebody has edited
        (3, f"a1 3 {NOW + 9_000_000}", NOW + 9_000_000, None),
        (3, "nonsense", NOW, f"a1 3 {NOW}"),
        (3, "a1 3 x", NOW, f"a1 3 {NOW}"),
    ],
)
def test_late_syncs_are_told_for_an_hour(
    count: int, note: str, late_at: int | None, noted: str | None
) -> None:
    assert late_at_ms(info(count), note, NOW) == late_at
    assert next_note(info(count), note, NOW) == noted


def test_a_server_that_does_not_count_them_is_well() -> None:
    assert late_at_ms({}, "", NOW) is None
    assert next_note({}, "", NOW) is None
