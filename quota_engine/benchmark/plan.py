"""How much is measured: rounds, calls, seconds. More rounds say more; nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The size of one run."""

    #: Calls of one script in one round, and rounds, of the server times.
    script_calls: int
    script_rounds: int
    #: How many grants the debited quotas of "cost by grants" have.
    grant_counts: tuple[int, ...] = (1, 20, 100, 1_000)
    #: Seconds that one way runs in one round, and rounds, of the call rates.
    rate_seconds: float
    rate_rounds: int
    #: Accounts that "spread" calls are drawn from.
    accounts: int
    #: Callers at once in one asyncio process, and processes of several.
    tasks: int = 16
    processes: int = 4
    #: Seconds of calls with a persister beside them, and entries of a drain without calls.
    persist_seconds: float
    persist_entries: int
    #: Quotas, holds, events and operations whose bytes are counted.
    memory_count: int


FULL = Plan(
    script_calls=300,
    script_rounds=21,
    rate_seconds=1.0,
    rate_rounds=5,
    accounts=10_000,
    persist_seconds=10,
    persist_entries=50_000,
    memory_count=10_000,
)
QUICK = Plan(
    script_calls=100,
    script_rounds=7,
    rate_seconds=0.15,
    rate_rounds=3,
    accounts=1_000,
    persist_seconds=2,
    persist_entries=4_000,
    memory_count=1_000,
)
