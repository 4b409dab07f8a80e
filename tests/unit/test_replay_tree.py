"""
A tree is planned by its seed alone, and what follows its logs finds what exceeds a limit.

Goal: ``replay --tree`` proves something: its walk counts windows by what they mean, and each way
to go beyond a limit is found.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from quota_engine import events
from quota_engine.instants import to_ms
from quota_engine.replay.synthetic import synthetic_calls
from quota_engine.replay.tree.planning import (
    BARE_TEAM,
    LEVELS,
    LIMITED_TEAM,
    ORGANISATIONS,
    TEAMS,
    PlannedLimit,
    pace_of,
    plan_tree,
)
from quota_engine.replay.tree.walking import Line, Walk

NOW = datetime(2026, 1, 31, 23, 50, tzinfo=UTC)
MONTH_END_MS = to_ms(datetime(2026, 2, 1, tzinfo=UTC), name="end")
SECOND, MINUTE = 1_000, 60_000


def walked(limit: PlannedLimit, *lines: tuple[int, str, str, int]) -> list[str]:
    """Follow entries of which each is an instant, a kind, a hold and an amount."""
    numbered = (
        Line(version, f"hold.{kind}", at_ms, hold, amount, "")
        for version, (at_ms, kind, hold, amount) in enumerate(lines, start=1)
    )
    return list(Walk("acme", [limit]).follow(numbered))


def ended(*holds: str) -> list[tuple[int, str, str, int]]:
    """Holds that end with nothing used, so that none is open."""
    return [(MONTH_END_MS, "released", hold, 0) for hold in holds]


@pytest.mark.parametrize(
    ("limit", "second_ms", "is_exceeded"),
    [
        (PlannedLimit(10, "units", "minute", "sliding"), MINUTE - 1, True),
        (PlannedLimit(10, "units", "minute", "sliding"), MINUTE, False),
        (PlannedLimit(10, "units", "minute", "calendar"), MINUTE - 1, True),
        (PlannedLimit(10, "units", "minute", "calendar"), MINUTE, False),
        (PlannedLimit(1, "calls", "minute", "sliding"), MINUTE - 1, True),
        (PlannedLimit(1, "calls", "minute", "sliding"), MINUTE, False),
        (PlannedLimit(1, "holds"), MINUTE, True),
        (PlannedLimit(10, "units", "month", "sliding"), 30 * 24 * 60 * MINUTE - 1, True),
        (PlannedLimit(10, "units", "month", "sliding"), 30 * 24 * 60 * MINUTE, False),
    ],
)
def test_what_comes_before_a_window_is_over_exceeds_it(
    limit: PlannedLimit, second_ms: int, is_exceeded: bool
) -> None:
    found = walked(
        limit,
        (MONTH_END_MS, "placed", "a", 6),
        (MONTH_END_MS + second_ms, "placed", "b", 6),
        *ended("a", "b"),
    )
    assert bool(found) == is_exceeded, found


def test_a_calendar_month_is_that_of_its_zone() -> None:
    before, after = MONTH_END_MS - SECOND, MONTH_END_MS + SECOND
    lines = ((before, "placed", "a", 6), (after, "placed", "b", 6), *ended("a", "b"))
    assert not walked(PlannedLimit(10, "units", "month", "calendar", "UTC"), *lines)
    assert walked(PlannedLimit(10, "units", "month", "calendar", "Asia/Shanghai"), *lines)
    assert walked(PlannedLimit(10, "units", "month", "calendar", "America/New_York"), *lines)


def test_a_call_counts_what_it_used_from_its_capture_on() -> None:
    limit = PlannedLimit(10, "units", "minute", "sliding")
    placed = (MONTH_END_MS, "placed", "a", 9)
    second = (MONTH_END_MS + 3, "placed", "b", 6)
    assert walked(limit, placed, second, *ended("a", "b"))
    assert not walked(limit, placed, (MONTH_END_MS + 1, "captured", "a", 4), second, *ended("b"))
    beyond = (MONTH_END_MS + 1, "captured", "a", 12)
    assert not walked(limit, placed, beyond), "only an admission can exceed a limit"
    assert walked(limit, placed, beyond, (MONTH_END_MS + 3, "placed", "b", 1), *ended("b"))


def test_what_a_slow_clock_tells_late_counts_with_what_came_before() -> None:
    limit = PlannedLimit(10, "units", "minute", "calendar")
    early, late = MONTH_END_MS - SECOND, MONTH_END_MS + SECOND
    placed = [(late, "placed", "a", 6), (early, "placed", "b", 3), (late, "placed", "c", 3)]
    assert walked(limit, *placed, *ended("a", "b", "c"))


def test_a_log_that_cannot_be_followed_is_no_proof() -> None:
    limit = PlannedLimit(10, "holds")
    assert walked(limit, (MONTH_END_MS, "placed", "a", 1)) == ["acme: 1 holds are open in the end"]
    assert walked(limit, (MONTH_END_MS, "captured", "a", 1)), "nobody held it"
    debit = Line(1, events.QUOTA_DEBITED, MONTH_END_MS, "", 1, "")
    assert list(Walk("acme", [limit]).follow([debit])), "no replay debits"


def test_a_tree_is_decided_by_its_seed_and_something_is_short_everywhere() -> None:
    calls = synthetic_calls(2_000, seed=5)
    asked = {"prefix": "r:", "users": 48, "pace": pace_of(calls, None, NOW), "output_limit": 100}
    tree = plan_tree(calls, seed=1, **asked)
    assert tree == plan_tree(calls, seed=1, **asked)
    assert tree.workload.user_of != plan_tree(calls, seed=2, **asked).workload.user_of
    levels = [node.level for node in tree.nodes]
    assert [levels.count(level) for level in LEVELS] == [3, ORGANISATIONS * (TEAMS - 1), 48]
    paths = {user.account.rpartition("/")[0] for user in tree.workload.users}
    assert len(paths) == ORGANISATIONS * TEAMS
    assert tree.above(f"r:org-1/team-{BARE_TEAM + 1}/u") == ("r:org-1",)
    assert tree.above(f"r:org-1/team-{BARE_TEAM}/u") == (f"r:org-1/team-{BARE_TEAM}", "r:org-1")
    limited = {node.account for node in tree.nodes if not node.gates}
    assert limited == {f"r:org-{number}/team-{LIMITED_TEAM + 1}" for number in (1, 2, 3)}
    for node in tree.nodes:
        assert len(node.limits) == (2 if node.level == "user" else 4)


def test_a_month_ends_in_the_middle_of_a_run_that_is_never_in_the_past() -> None:
    calls = synthetic_calls(100, seed=1)
    hour = [call._replace(offset_seconds=call.number * 36.0) for call in calls]
    for now in (NOW, NOW + timedelta(minutes=9), datetime(2026, 12, 1, tzinfo=UTC)):
        pace = pace_of(hour, None, now)
        assert pace.starts_at >= now
        middle = pace.starts_at + timedelta(seconds=1800)
        assert (middle.day, middle.hour, middle.minute) == (1, 0, 0)
        assert pace.instant_of(36.0) - pace.starts_at == timedelta(seconds=36)
    pace = pace_of(hour, 40, NOW)
    assert pace.instant_of(3600.0) == NOW + timedelta(days=40)
