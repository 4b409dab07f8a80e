"""
Time without service is measured from a kill to an acknowledged operation that began after it.

Goal: an answer that was on its way when the server died never counts as service.
"""

from __future__ import annotations

from array import array

import pytest

from quota_engine.errors import InvalidArgumentError
from quota_engine.replay.clients import Told
from quota_engine.replay.restarting import (
    Restarter,
    Restarts,
    check_restarts,
    times_without_service,
)

SECOND = 10**9


def told(*operations: tuple[float, float]) -> Told:
    """A client whose operations began and ended at these seconds."""
    flat = [round(instant * SECOND) for operation in operations for instant in operation]
    return Told(acknowledged=array("Q", flat))


def test_only_what_began_after_the_kill_ends_the_time_without_service() -> None:
    clients = [told((0, 1), (1.9, 2.1), (2.2, 4)), told((1.8, 3), (3.1, 3.5))]
    assert times_without_service([2 * SECOND], clients) == [1.5]


def test_a_kill_after_which_nothing_was_acknowledged_is_missed() -> None:
    clients = [told((0, 1), (1.5, 2)), told()]
    times = times_without_service([SECOND, 3 * SECOND], clients)
    assert times == [1.0]
    restarts = Restarts(
        planned=2, count=2, seconds=tuple(times), median_seconds=1.0, max_seconds=1.0
    )
    assert not restarts.proof.holds


class _Server:
    """Counts what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def kill(self) -> bool:
        self.done.append("kill")
        return True

    def start(self) -> None:
        self.done.append("start")


def test_kills_are_spread_over_the_calls_and_never_meet() -> None:
    server = _Server()
    restarter = Restarter(server, 3, calls=100, processes=2)  # type: ignore[arg-type]
    at = []
    for made in (0, 24, 25, 26, 74, 75, 76, 77, 78, 100):
        before = len(server.done)
        restarter.step(made)
        if len(server.done) > before:
            at.append(made)
    assert at == [25, 74, 77]
    assert server.done == ["kill", "start"] * 3


def test_without_a_server_nothing_is_done_or_told() -> None:
    restarter = Restarter(None, 0, calls=10, processes=1)
    restarter.step(10)
    assert restarter.report([told((0, 1))]) is None


def test_a_run_too_short_for_its_restarts_is_refused() -> None:
    check_restarts(20, calls=126, processes=4)
    with pytest.raises(InvalidArgumentError, match="at least 126 calls, not 125"):
        check_restarts(20, calls=125, processes=4)
