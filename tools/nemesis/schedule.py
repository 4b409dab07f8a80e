"""
Which fault comes when: a function of the seed alone, so that a run can be had again.

Faults come in shuffled rounds of all kinds, so each is met about equally often. It must not know
how any of them is done.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

#: The first fault comes when the clients are at work.
FIRST_SECONDS = 2.0
GAP_SECONDS = (0.5, 5.0)
#: The last fault has ended so long before the clients stop, at least.
LAST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Kind:
    """
    One kind of fault. ``target``: faults of the same target wait for each other.

    ``lasts``: seconds, from and to. ``row``: of the fault matrix, 0 where it is of none.
    """

    name: str
    target: str
    row: int
    lasts: tuple[float, float] = (0.0, 0.0)
    stops_redis: bool = False


KINDS = (
    Kind("redis-kill", "redis", 1, (0.0, 2.0), stops_redis=True),
    Kind("redis-terminate", "redis", 2, (0.0, 2.0), stops_redis=True),
    Kind("redis-torn-file", "redis", 5, (0.0, 1.0), stops_redis=True),
    Kind("redis-stall", "redis", 28, (0.3, 3.0), stops_redis=True),
    Kind("redis-rewrite", "redis", 28),
    Kind("script-flush", "redis", 24),
    Kind("quota-deleted", "redis", 10, (0.5, 2.0)),
    Kind("connections-killed", "redis", 16),
    Kind("postgres-restart", "postgres", 31, (0.0, 0.0)),
    Kind("postgres-away", "postgres", 32, (1.0, 5.0)),
    Kind("commit-reply-lost", "postgres", 33, (0.5, 2.0)),
    Kind("postgres-connections-cut", "postgres", 35),
    Kind("worker-kill", "worker", 37, (0.0, 1.0)),
    Kind("worker-child-kill", "worker", 37),
    Kind("worker-terminate", "worker", 37, (0.0, 1.0)),
    Kind("worker-stall", "worker", 38, (1.0, 6.0)),
    Kind("replies-lost", "network", 16, (0.5, 4.0)),
    Kind("network-slow", "network", 56, (1.0, 4.0)),
    Kind("network-drops", "network", 56, (0.5, 3.0)),
    Kind("network-refuses", "network", 61, (0.5, 3.0)),
    Kind("many-drainers", "drainers", 39, (1.0, 3.0)),
    Kind("unload-races", "unloading", 54, (1.0, 4.0)),
    Kind("client-kill", "client", 60),
    Kind("client-stall", "client", 17, (0.5, 3.0)),
    Kind("reconcile-under-load", "reconciling", 53),
    Kind("account-suspended", "accounts", 0, (0.5, 3.0)),
    Kind("payers-changed", "accounts", 0, (0.5, 3.0)),
)
#: Beside the others where the server syncs every second: what it had not synced is lost.
POWER_LOSS = Kind("redis-power-loss", "redis", 3, (0.0, 1.0), stops_redis=True)


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One fault to come: ``at`` seconds after the start, for ``seconds``.

    ``pick`` (0 to 1) says which of several it meets: a worker, a client, a quota.
    """

    number: int
    at: float
    kind: Kind
    seconds: float
    pick: float

    def __str__(self) -> str:
        return f"{self.at:7.2f}  {self.kind.name:<24} {self.seconds:4.2f} s, {self.pick:.3f}"


def schedule(seed: int, seconds: float, *, with_power_loss: bool = False) -> tuple[Fault, ...]:
    """Return the faults of a run of that length; a longer run of the seed begins with them."""
    chance = random.Random(f"nemesis-{seed}")
    kinds = (*KINDS, POWER_LOSS) if with_power_loss else KINDS
    faults: list[Fault] = []
    at, deck = FIRST_SECONDS, list[Kind]()
    while True:
        if not deck:
            deck = list(kinds)
            chance.shuffle(deck)
        kind = deck.pop()
        fault = Fault(
            len(faults) + 1,
            round(at, 2),
            kind,
            round(chance.uniform(*kind.lasts), 2),
            round(chance.random(), 3),
        )
        if at + kind.lasts[1] > seconds - LAST_SECONDS:
            return tuple(faults)
        faults.append(fault)
        at += chance.uniform(*GAP_SECONDS)
