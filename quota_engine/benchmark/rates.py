"""Call rates: what one client reaches, many in one event loop, and several processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from quota_engine.benchmark.callers import (
    BARE,
    DEBIT,
    ENGINE,
    HOLD,
    HOT,
    ROW_LOCK,
    SPREAD,
    Caller,
    Place,
    Processes,
    Work,
)
from quota_engine.benchmark.figures import Section, figure_of
from quota_engine.benchmark.plan import Plan
from quota_engine.benchmark.row_lock import make_tables
from quota_engine.benchmark.server_time import Tick
from quota_engine.benchmark.servers import PLENTY, Lab, account_names, fill_accounts
from quota_engine.deployment import Deployment

Run = Callable[[Work, float], float]
UNIT = "calls/s"


def measure_rates(lab: Lab, plan: Plan, tick: Tick) -> list[Section]:
    """Return one section for each call and reach, and one for the client's own cost."""
    with lab.deployment() as deployment:
        place = place_of(deployment, plan)
        fill_accounts(deployment, account_names(plan.accounts))
        make_tables(place.conninfo, account_names(plan.accounts), PLENTY)
        deployment.client.set("bench:bare", 2**52)
        caller, processes = Caller(place, 0), Processes(place, plan.processes)
        try:
            runners: dict[str, Run] = {
                "sync": caller.run,
                f"asyncio, {plan.tasks} tasks": caller.run_tasks,
                f"{plan.processes} processes": processes.run,
            }
            sections = [
                _against_row_locks(runners, plan, call, reach, tick)
                for call in (DEBIT, HOLD)
                for reach in (HOT, SPREAD)
            ]
            return [*sections, _against_bare(runners, plan, tick)]
        finally:
            processes.close()
            caller.close()


def place_of(deployment: Deployment, plan: Plan) -> Place:
    """Return where the callers of a plan call."""
    return Place(
        redis_url=deployment.redis_url,
        database_url=deployment.database_url,
        accounts=plan.accounts,
        tasks=plan.tasks,
    )


def _against_row_locks(
    runners: dict[str, Run], plan: Plan, call: str, reach: str, tick: Tick
) -> Section:
    """Run both ways in turn; each of the engine's figures is compared with its own row lock."""
    works = (Work(ENGINE, call, reach), Work(ROW_LOCK, call, reach))
    samples = _sampled(runners, works, plan, tick)
    figures = []
    for runner in runners:
        ours, theirs = samples[ENGINE, runner], samples[ROW_LOCK, runner]
        figures.append(figure_of(f"{ENGINE}, {runner}", UNIT, ours, theirs))
        figures.append(figure_of(f"{ROW_LOCK}, {runner}", UNIT, theirs))
    where = "one account" if reach == HOT else f"{plan.accounts:,} accounts"
    return Section(
        title=f"Rate of {call}, {where}",
        note="ratios are to the row locks of the same callers; each caller waits for its answer",
        base=None,
        figures=tuple(figures),
    )


def _against_bare(runners: dict[str, Run], plan: Plan, tick: Tick) -> Section:
    works = (Work(ENGINE, DEBIT, HOT), Work(BARE, DEBIT, HOT))
    samples = _sampled(runners, works, plan, tick)
    figures = []
    for runner in runners:
        bare = samples[BARE, runner]
        figures.append(figure_of(f"{ENGINE}, {runner}", UNIT, samples[ENGINE, runner], bare))
        figures.append(figure_of(f"{BARE}, {runner}", UNIT, bare))
    return Section(
        title="Rate of debit beside what redis-py reaches at all",
        note="bare: redis-py's evalsha of a check-and-decrement, by the same callers",
        base=None,
        figures=tuple(figures),
    )


def _sampled(
    runners: dict[str, Run], works: tuple[Work, Work], plan: Plan, tick: Tick
) -> dict[tuple[str, str], list[float]]:
    """Return the rates of two ways, by way and runner; they take turns."""
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(plan.rate_rounds):
        for runner, run in runners.items():
            for work in works if number % 2 == 0 else works[::-1]:
                tick(f"{work.call}, {work.reach}")
                samples[work.way, runner].append(run(work, plan.rate_seconds))
    return samples
