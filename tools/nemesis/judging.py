"""
What must be true when everything is healed: each broken promise becomes one named violation.

Accounts are judged one after another, so that memory is bounded by the largest one's log.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

from sqlalchemy import text

from quota_engine.errors import QuotaError
from tests.faults import history, oracle
from tests.faults.history import Call, Verdict, Window
from tests.faults.world import World
from tests.workers import wait_until
from tools.nemesis import chronicle
from tools.nemesis.arena import Arena
from tools.nemesis.injecting import TORN_KEY, Injected
from tools.nemesis.schedule import Fault

DRAIN_SECONDS = 300.0
DRAIN_PAUSE_SECONDS = 0.5

#: Who is at work or in a transaction, for how long, and whom it waits for.
_SESSIONS = text(
    "SELECT concat_ws(', ', pid, state, wait_event_type, wait_event, now() - xact_start,"
    " pg_blocking_pids(pid)::text, left(query, 120)) AS told FROM pg_stat_activity"
    " WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
_ENTRIES = text("""
SELECT account, operation_id, kind, version, amount, delta, balance_after, held_after, shortfall,
    subject, flags
FROM ledger_entries ORDER BY account, quota_type, version
""")


@dataclass(slots=True)
class Judgement:
    """What a run came to."""

    verdict: Verdict = field(default_factory=Verdict)
    violations: list[str] = field(default_factory=list)
    #: Calls of the clients, and entries of the ledger by kind.
    calls: int = 0
    attempts: int = 0
    entries: dict[str, int] = field(default_factory=dict)
    #: Seconds without any answer, and the fault that stopped Redis then.
    outages: list[tuple[float, Fault]] = field(default_factory=list)
    #: How long the judging took.
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Windows:
    """Several windows in which answered calls may have been lost."""

    windows: Sequence[Window]

    def has(self, call: Call) -> bool:
        return any(window.has(call) for window in self.windows)


def judge(arena: Arena, injected: Sequence[Injected], windows: Sequence[Window]) -> Judgement:
    """Drain a healed arena to empty, and compare everything with everything."""
    world, judgement, started = arena.world, Judgement(), time.monotonic()
    judgement.violations.extend(_emptied(world))
    calls, faults = chronicle.read(arena.chronicles)
    judgement.violations.extend(faults)
    for call in world.calls:
        calls[call.account].append(call)
    judgement.calls = sum(map(len, calls.values()))
    judgement.attempts = sum(call.attempts for of_account in calls.values() for call in of_account)
    judgement.outages = outages(calls, injected)
    excepting = ("I12",) if windows else ()  # what a cut file brings back may be in doubt
    try:
        judgement.violations.extend(oracle.broken(world.engine, excepting))
    except QuotaError as error:
        judgement.violations.append(f"the oracle could not look: {error}")
    _judge_calls(judgement, world, calls, Windows(windows) if windows else None)
    judgement.violations.extend(judgement.verdict.wrong)
    if world.admin.exists(TORN_KEY):
        judgement.violations.append("half a transaction was executed after a restart")
    judgement.seconds = time.monotonic() - started
    return judgement


def _emptied(world: World) -> Iterator[str]:
    """Drain until nothing waits, promises kept; say what could not be."""
    last = ""

    def is_empty() -> bool:
        nonlocal last
        try:
            world.drain()
            world.engine.run_schedule()
            world.drain()
            return world.pending() == 0
        except QuotaError as error:
            last = str(error)
            time.sleep(DRAIN_PAUSE_SECONDS)
            return False

    try:
        wait_until(is_empty, "everything is persisted", DRAIN_SECONDS)
    except AssertionError as error:
        yield f"drain: {error}: {last}"
        with world.engine.deployment.ledger.transaction() as sql:
            yield from (f"at PostgreSQL: {row.told}" for row in sql.execute(_SESSIONS))


def _judge_calls(
    judgement: Judgement, world: World, calls: dict[str, list[Call]], may_lose: Windows | None
) -> None:
    """Compare each account's calls with its log."""
    counts: dict[str, int] = defaultdict(int)
    left = dict(calls)
    elsewhere = world.quarantined() if may_lose is not None else ()
    with world.engine.deployment.ledger.transaction() as sql:
        rows = sql.execution_options(yield_per=5_000).execute(_ENTRIES)
        for account, of_account in groupby(rows, key=lambda row: row.account):
            entries: list[Any] = list(of_account)
            for entry in entries:
                counts[entry.kind] += 1
            judgement.verdict.add(
                history.check(
                    left.pop(account, ()), entries, may_lose=may_lose, elsewhere=elsewhere
                )
            )
    for rest in left.values():
        judgement.verdict.add(history.check(rest, (), may_lose=may_lose))
    judgement.entries = dict(sorted(counts.items()))


def outages(
    calls: dict[str, list[Call]], injected: Sequence[Injected]
) -> list[tuple[float, Fault]]:
    """Return for each fault that stopped Redis the longest time in which nobody had an answer."""
    answered = sorted(
        call.ended for of_account in calls.values() for call in of_account if call.ended
    )
    found = []
    for one in injected:
        if one.fault.kind.stops_redis and not one.error:
            first = max(bisect_left(answered, one.began) - 1, 0)
            last = bisect_right(answered, one.ended) + 1
            gaps = (b - a for a, b in pairwise(answered[first:last]))
            found.append((max(gaps, default=0.0), one.fault))
    return found
