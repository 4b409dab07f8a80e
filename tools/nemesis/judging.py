"""
What must be true when everything is healed: each broken promise becomes one named violation.

Quotas are judged one after another, so that no more than the largest one's log is in memory.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

from sqlalchemy import text

from quota_engine.errors import QuotaError
from tests.faults import caps, history, oracle, shares
from tests.faults.corrections import Corrections
from tests.faults.history import SUFFIX, Call, Key, Verdict, Window
from tests.faults.shares import Quota, Sums, above
from tests.faults.world import LEAN, World
from tests.workers import wait_until
from tools.nemesis import chronicle
from tools.nemesis.arena import Arena
from tools.nemesis.injecting import TORN_KEY, Injected, Injector, Suspension
from tools.nemesis.schedule import Fault

DRAIN_SECONDS = 300.0
DRAIN_PAUSE_SECONDS = 0.5

#: Who is at work or in a transaction, for how long, and whom it waits for.
_SESSIONS = text(
    "SELECT concat_ws(', ', pid, state, wait_event_type, wait_event, now() - xact_start,"
    " pg_blocking_pids(pid)::text, left(query, 120)) AS told FROM pg_stat_activity"
    " WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
)
_ENTRIES = text(f"""
SELECT account, quota_type, operation_id, kind, version, at_ms, amount, delta, balance_after,
    held_after, shortfall, subject, flags, terms,
    CASE WHEN operation_id ~ '{SUFFIX}' THEN {oracle.CALLER} END AS caller
FROM ledger_entries ORDER BY account, quota_type, version
""")
#: Of those for whom others may pay.
_OF_LEAN = text(
    "SELECT account, quota_type, kind, operation_id, subject, amount, flags FROM ledger_entries"
    " WHERE account = ANY(:accounts)"
)
#: What a suspended account admits no more.
NEW = frozenset({"debit", "place_hold", "extend_hold"})


@dataclass(slots=True)
class Judgement:
    """What a run came to."""

    verdict: Verdict = field(default_factory=Verdict)
    violations: list[str] = field(default_factory=list)
    #: Calls of the clients, and entries of the ledger by kind.
    calls: int = 0
    attempts: int = 0
    entries: dict[str, int] = field(default_factory=dict)
    #: Calls that were refused, by the error that said so.
    refusals: dict[str, int] = field(default_factory=dict)
    suspensions: int = 0
    #: Answered calls that another account paid for; refunds, and those that went to a payer.
    paid_by_others: int = 0
    refunds: int = 0
    refunds_to_payers: int = 0
    #: Charges that were settled anew.
    corrections: int = 0
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


def judge(arena: Arena, injector: Injector) -> Judgement:
    """Drain a healed arena to empty, and compare everything with everything."""
    world, judgement, started = arena.world, Judgement(), time.monotonic()
    windows = Windows(injector.windows) if injector.windows else None
    judgement.violations.extend(_emptied(world))
    calls, faults = chronicle.read(arena.chronicles)
    calls += world.calls
    judgement.violations.extend(faults)
    judgement.violations.extend(injector.findings)
    judgement.calls = len(calls)
    judgement.attempts = sum(call.attempts for call in calls)
    refused = (call.error.partition(":")[0] for call in calls if call.outcome == "refused")
    judgement.refusals = dict(sorted(Counter(refused).items()))
    judgement.outages = outages(calls, injector.done)
    judgement.suspensions = len(injector.suspensions)
    judgement.violations.extend(admitted_while_suspended(calls, injector.suspensions))
    excepting = ("I12", "I13") if windows else ()  # what a cut file brings back may be in doubt
    try:
        with world.engine.deployment.ledger.transaction() as sql:
            sql.execute(text("ANALYZE"))  # what grew so fast is planned for as if it were small
        judgement.violations.extend(oracle.broken(world.engine, excepting))
    except QuotaError as error:
        judgement.violations.append(f"the oracle could not look: {error}")
    _judge_calls(judgement, world, calls, windows)
    judgement.violations.extend(judgement.verdict.wrong)
    if windows is None:
        torn = judgement.verdict.torn
        judgement.violations.extend(f"{call} is in some of its quotas only" for call in torn)
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
    judgement: Judgement, world: World, calls: Sequence[Call], may_lose: Windows | None
) -> None:
    """Compare each quota's calls with its log, and what accounts were charged with each other."""
    counts: Counter[str] = Counter()
    sums, corrections = Sums(shares.apart(calls)), Corrections.of(calls)
    left: dict[Quota, list[Call]] = defaultdict(list)
    with world.engine.deployment.ledger.transaction() as sql:
        payers = shares.payers_in(sql.execute(_OF_LEAN, {"accounts": list(LEAN)}))
    for call in shares.spread(calls, world.acting, payers):
        left[call.account, call.quota_type].append(call)
    _count_payers(judgement, calls, payers)
    elsewhere = world.quarantined() if may_lose is not None else ()
    with world.engine.deployment.ledger.transaction() as sql:
        rows = sql.execution_options(yield_per=5_000).execute(_ENTRIES)
        for quota, of_quota in groupby(rows, key=lambda row: (row.account, row.quota_type)):
            entries: list[Any] = list(of_quota)
            for entry in entries:
                counts[entry.kind] += 1
                sums.add(entry, entry.caller)
                corrections.add(entry)
            judgement.violations.extend(caps.exceeded(entries))
            judgement.verdict.add(
                history.check(left.pop(quota, ()), entries, may_lose=may_lose, elsewhere=elsewhere)
            )
    for rest in left.values():
        judgement.verdict.add(history.check(rest, (), may_lose=may_lose, elsewhere=elsewhere))
    judgement.violations.extend(corrections.wrong(may_lose))
    if may_lose is None:
        judgement.violations.extend(sums.wrong(world.acting))
    judgement.entries = dict(sorted(counts.items()))


def _count_payers(judgement: Judgement, calls: Sequence[Call], payers: Mapping[Key, str]) -> None:
    """Count what others paid for, and what was given back."""
    done = [call for call in calls if call.outcome == "done"]
    refunds = [call for call in done if call.verb == "refund"]
    judgement.paid_by_others = sum(bool(payers.get(call.key)) for call in done)
    judgement.refunds = len(refunds)
    judgement.corrections = sum(call.verb == "correct_usage" for call in done)
    judgement.refunds_to_payers = sum(
        bool(payers.get((call.account, call.quota_type, call.charge_id))) for call in refunds
    )


def admitted_while_suspended(
    calls: Sequence[Call], suspensions: Sequence[Suspension]
) -> Iterator[str]:
    """Say which call was admitted that began and ended while its account was suspended."""
    begun = sorted(
        (call for call in calls if call.verb in NEW and call.outcome == "done"),
        key=attrgetter("started"),
    )
    for one in suspensions:
        for call in begun[bisect_right(begun, one.since, key=attrgetter("started")) :]:
            if call.started > one.until:
                break
            if call.ended >= one.until:
                continue
            payers = {call.paid_by, *(told.paid_by for told in call.told)} - {None, ""}
            if one.of_payers:
                if call.account == one.account and payers:
                    yield f"{call} was paid by {payers} while nobody was to pay for it"
                continue
            paths = [(name, *above(name)) for name in (call.account, *filter(None, payers))]
            if any(one.account in path for path in paths):
                yield f"{call} was admitted while {one.account} was suspended"


def outages(calls: Sequence[Call], injected: Sequence[Injected]) -> list[tuple[float, Fault]]:
    """Return for each fault that stopped Redis the longest time in which nobody had an answer."""
    answered = sorted(call.ended for call in calls if call.ended)
    found = []
    for one in injected:
        if one.fault.kind.stops_redis and not one.error:
            first = max(bisect_left(answered, one.began) - 1, 0)
            last = bisect_right(answered, one.ended) + 1
            gaps = (b - a for a, b in pairwise(answered[first:last]))
            found.append((max(gaps, default=0.0), one.fault))
    return found
