"""One run from beginning to end: arena, faults by schedule, healing, judgement, summary."""

from __future__ import annotations

import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from tests.workers import wait_until
from tools.nemesis.arena import Arena
from tools.nemesis.client import FINISH_SECONDS
from tools.nemesis.injecting import Injected, Injector
from tools.nemesis.judging import Judgement, judge
from tools.nemesis.schedule import Fault, schedule

TICK_SECONDS = 0.05
#: A client that has not ended so long after its patience is killed.
SPARE_SECONDS = 30.0
VIOLATIONS_MAX = 200
LONGEST = 3
#: How a run ends that found something.
VIOLATED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run is made."""

    seed: int
    seconds: float = 60.0
    processes: int = 4
    threads: int = 4
    appendfsync: str = "always"
    #: The fault that is built into the engine, for the summary; empty: none.
    sabotage: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run did and what was found."""

    seed: int
    seconds: float
    clients: int
    appendfsync: str
    sabotage: str
    python: str
    schedule: tuple[str, ...]
    faults: dict[str, int]
    #: Faults that could not be done, with the reason.
    not_done: tuple[str, ...]
    calls: int
    attempts: int
    #: Calls that were answered and changed something, as the clients wrote down; those of them
    #: that are in the ledger, each once.
    acknowledged: int
    acknowledged_in_ledger: int
    refused: int
    #: Refused calls by the error that said so.
    refusals: dict[str, int]
    suspensions: int
    #: Answered calls that another account paid for; refunds, and those that went to a payer.
    paid_by_others: int
    refunds: int
    refunds_to_payers: int
    #: Charges that were settled anew.
    corrections: int
    cancelled: int
    unknown: int
    unknown_applied: int
    #: Answered calls that a power loss may have lost, and did (appendfsync everysec only).
    lost_within_bound: int
    entries: dict[str, int]
    outages: int
    outage_median_seconds: float
    outage_max_seconds: float
    longest_outages: tuple[str, ...]
    epochs: tuple[int, ...]
    #: Processes that ended without being told to, and were started again.
    ended_by_themselves: tuple[str, ...]
    judged_seconds: float
    violation_count: int
    violations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has got."""

    stage: str
    elapsed: float = 0.0
    counts: Counter[str] | None = None
    #: The fault that began last.
    fault: Fault | None = None


Watcher = Callable[[Progress], None]


def run(options: Options, watch: Watcher) -> Summary:
    """Make one run; everything that it started has ended when it returns."""
    faults = schedule(
        options.seed, options.seconds, with_power_loss=options.appendfsync == "everysec"
    )
    watch(Progress("starting servers, workers and clients"))
    with (
        Arena(
            seed=options.seed,
            processes=options.processes,
            threads=options.threads,
            appendfsync=options.appendfsync,
        ) as arena,
        Injector(arena) as injector,
    ):
        wait_until(lambda: all(one.is_ready for one in arena.clients), "clients work", 180)
        _let_happen(arena, injector, faults, options, watch)
        watch(Progress("healing"))
        injector.finish()
        _finish(arena, watch)
        watch(Progress("draining and judging", counts=arena.counts))
        judgement = judge(arena, injector)
        return _summary(options, arena, faults, injector.done, judgement)


def _let_happen(
    arena: Arena, injector: Injector, faults: Sequence[Fault], options: Options, watch: Watcher
) -> None:
    """Begin each fault at its time, until the time is over."""
    coming, last = list(faults), None
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < options.seconds:
        while coming and coming[0].at <= elapsed:
            last = coming.pop(0)
            injector.begin(last)
        watch(Progress("at work", elapsed, arena.counts, last))
        time.sleep(TICK_SECONDS)


def _finish(arena: Arena, watch: Watcher) -> None:
    """Let the clients finish what they began, then end the workers."""
    for client in arena.clients:
        client.finish()
    until = time.monotonic() + FINISH_SECONDS + SPARE_SECONDS
    while any(client.process.poll() is None for client in arena.clients):
        watch(Progress("clients finish", counts=arena.counts))
        if time.monotonic() > until:
            arena.died.append("a client process had to be killed: it did not end")
            break
        time.sleep(TICK_SECONDS)
    arena.end_processes()


def _summary(
    options: Options,
    arena: Arena,
    faults: Sequence[Fault],
    injected: Sequence[Injected],
    judgement: Judgement,
) -> Summary:
    verdict = judgement.verdict
    lost = len(verdict.lost) if arena.appendfsync == "everysec" else 0
    outages = [seconds for seconds, _ in judgement.outages]
    idle = verdict.done - verdict.kept - len(verdict.lost)
    return Summary(
        seed=options.seed,
        seconds=options.seconds,
        clients=options.processes * options.threads,
        appendfsync=options.appendfsync,
        sabotage=options.sabotage,
        python=platform.python_version(),
        schedule=tuple(map(str, faults)),
        faults=dict(sorted(Counter(one.fault.kind.name for one in injected).items())),
        not_done=tuple(f"{one.fault.kind.name}: {one.error}" for one in injected if one.error),
        calls=judgement.calls,
        attempts=judgement.attempts,
        acknowledged=verdict.done - idle,
        acknowledged_in_ledger=verdict.kept,
        refused=verdict.refused,
        refusals=judgement.refusals,
        suspensions=judgement.suspensions,
        paid_by_others=judgement.paid_by_others,
        refunds=judgement.refunds,
        refunds_to_payers=judgement.refunds_to_payers,
        corrections=judgement.corrections,
        cancelled=verdict.cancelled,
        unknown=verdict.unknown,
        unknown_applied=verdict.unknown_applied,
        lost_within_bound=lost,
        entries=judgement.entries,
        outages=len(judgement.outages),
        outage_median_seconds=round(statistics.median(outages or [0.0]), 3),
        outage_max_seconds=round(max(outages, default=0.0), 3),
        longest_outages=tuple(
            f"{seconds:.2f} s: fault {fault.number}, {fault.kind.name} at {fault.at:.0f} s"
            for seconds, fault in sorted(judgement.outages, key=itemgetter(0))[: -LONGEST - 1 : -1]
        ),
        epochs=tuple(arena.world.epochs()),
        ended_by_themselves=tuple(arena.died),
        judged_seconds=round(judgement.seconds, 1),
        violation_count=len(judgement.violations),
        violations=tuple(judgement.violations[:VIOLATIONS_MAX]),
    )
