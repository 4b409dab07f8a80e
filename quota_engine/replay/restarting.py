"""
Redis killed and started again in the middle of a run, and how long nobody was served.

Only a server that the engine itself started: the home's own. The clients are not told.
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from quota_engine.deployment import Deployment
from quota_engine.embedded import Server, home_valkey
from quota_engine.errors import InvalidArgumentError
from quota_engine.replay.clients import Told
from quota_engine.replay.proofs import Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarts:
    """How often Redis was killed, and the time without service after each kill, in order."""

    planned: int
    count: int
    seconds: tuple[float, ...]
    median_seconds: float
    max_seconds: float

    @property
    def proof(self) -> Proof:
        """Say whether it was done as often as was asked for, and the run went on each time."""
        return Proof(
            f"Redis was killed {self.planned} times, and operations that began after each kill"
            " were acknowledged",
            len(self.seconds) == self.planned,
            ()
            if len(self.seconds) == self.planned
            else (f"{self.count} kills, {len(self.seconds)} of them with a call after it",),
        )


class Restarter:
    """
    Kills the server ``times`` times, spread evenly over the calls of a run.

    ``server`` None: it never does anything.
    """

    def __init__(self, server: Server | None, times: int, *, calls: int, processes: int) -> None:
        self._server = server
        self._times = times
        self._processes = processes
        #: How many calls must be made before each kill, next one last.
        self._due_at = [calls * number // (times + 1) for number in range(times, 0, -1)]
        self._killed_ns: list[int] = []
        self._earliest = 0

    def step(self, made: int) -> None:
        """Kill and start it, if so many calls made say that it is time. Blocks meanwhile."""
        if (
            self._server is None
            or not self._due_at
            or made < max(self._due_at[-1], self._earliest)
        ):
            return
        self._due_at.pop()
        self._server.kill()
        self._killed_ns.append(time.monotonic_ns())
        self._server.start()
        # each process had at most one call under way: one more of them began after the kill
        self._earliest = made + self._processes + 1

    def report(self, told: Sequence[Told]) -> Restarts | None:
        """Return what the clients noticed; None where nothing was to be done."""
        if self._server is None:
            return None
        seconds = tuple(times_without_service(self._killed_ns, told))
        return Restarts(
            planned=self._times,
            count=len(self._killed_ns),
            seconds=seconds,
            median_seconds=round(statistics.median(seconds), 3) if seconds else 0.0,
            max_seconds=max(seconds, default=0.0),
        )


def times_without_service(killed_ns: Sequence[int], told: Sequence[Told]) -> list[float]:
    """
    Return seconds from each kill to the end of the first acknowledged operation begun after it.

    One that began before does not count: its answer may have been on its way. A kill after which
    nothing was acknowledged has no place in the list.
    """
    began, ended = _operations(told)
    first_ended = list(ended)  # the earliest end among those that began here or later
    for place in range(len(first_ended) - 2, -1, -1):
        first_ended[place] = min(first_ended[place], first_ended[place + 1])
    places = [bisect_right(began, instant) for instant in killed_ns]
    return [
        round((first_ended[place] - instant) / 1e9, 3)
        for instant, place in zip(killed_ns, places, strict=True)
        if place < len(began)
    ]


def _operations(told: Sequence[Told]) -> tuple[list[int], list[int]]:
    """Return when the acknowledged operations of all clients began, in order, and ended."""
    pairs = sorted(
        pair
        for one in told
        for pair in zip(one.acknowledged[::2], one.acknowledged[1::2], strict=True)
    )
    return [began for began, _ in pairs], [ended for _, ended in pairs]


def own_server(deployment: Deployment) -> Server:
    """Return the Redis that this deployment's home started; refuse any other."""
    if not deployment.is_embedded:
        raise InvalidArgumentError(
            "--restart-redis kills only a server of one's own: unset QUOTA_ENGINE_REDIS_URL and"
            " QUOTA_ENGINE_DATABASE_URL, and set QUOTA_ENGINE_HOME to a folder for the run"
        )
    return home_valkey(deployment.settings.home)


def check_restarts(times: int, *, calls: int, processes: int) -> None:
    """Refuse more restarts than a run of so many calls can show."""
    if times and calls < (times + 1) * (processes + 2):
        raise InvalidArgumentError(
            f"--restart-redis {times} with --processes {processes} needs at least"
            f" {(times + 1) * (processes + 2)} calls, not {calls}"
        )
