"""What client processes and their parent tell each other while they run, in shared memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

PAUSE_SECONDS = 0.002
#: Of each client: whether it is ready, calls made, calls refused, the simulated day that it is
#: in, and the instant (ms) of what it does next.
READY, MADE, REFUSED, DAY, NEXT = range(5)
COUNTS = 5


@dataclass(frozen=True, slots=True)
class Signals:
    """Begin, progress and simulated time of a crew; each client has a number."""

    #: Set when the calls may begin.
    go: Any
    #: The last simulated day whose calls may be made.
    today: Any
    counts: Any

    @classmethod
    def of(cls, clients: int, context: BaseContext) -> Signals:
        """Return those of so many clients, before anything is told."""
        counts = context.RawArray("q", COUNTS * clients)
        return cls(context.Event(), context.RawValue("q", -1), counts)

    @property
    def are_ready(self) -> bool:
        """Whether every client is."""
        return all(self.counts[READY::COUNTS])

    @property
    def made(self) -> int:
        """How many calls were made so far."""
        return int(sum(self.counts[MADE::COUNTS]))

    @property
    def refused(self) -> int:
        """How many of them were refused."""
        return int(sum(self.counts[REFUSED::COUNTS]))

    @property
    def first_day(self) -> int:
        """The earliest day that a client is in."""
        return int(min(self.counts[DAY::COUNTS]))

    def begin(self, client: int) -> None:
        """Tell that a client is ready, and wait until the calls may begin."""
        self.counts[COUNTS * client + READY] = 1
        self.go.wait()

    def tell(self, client: int, made: int, refused: int) -> None:
        """Tell how many calls a client has made, and how many of them were refused."""
        self.counts[COUNTS * client + MADE] = made
        self.counts[COUNTS * client + REFUSED] = refused

    def say_day(self, client: int, day: int) -> None:
        """Tell which day a client is in: it has done those before."""
        self.counts[COUNTS * client + DAY] = day

    def wait_for_day(self, client: int, day: int) -> None:
        """Tell which day a client is in, and wait until its calls may be made."""
        self.say_day(client, day)
        while self.today.value < day:
            time.sleep(PAUSE_SECONDS)

    def say_next(self, client: int, at_ms: int) -> None:
        """Tell the instant of what a client does next."""
        self.counts[COUNTS * client + NEXT] = at_ms

    def wait_for_others(self, client: int, at_ms: int, apart_ms: int) -> None:
        """Tell a client's next instant; wait until nobody's is earlier by more than so much."""
        self.say_next(client, at_ms)
        while at_ms > min(self.counts[NEXT::COUNTS]) + apart_ms:
            time.sleep(PAUSE_SECONDS)
