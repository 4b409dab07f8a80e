"""One run of everything, in order, with someone told of each step."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

from quota_engine.benchmark.counting import measure_counting
from quota_engine.benchmark.figures import Machine, Report, Section
from quota_engine.benchmark.memory import measure_memory
from quota_engine.benchmark.metering import measure_metering
from quota_engine.benchmark.persisting import DRAINS, measure_persisting
from quota_engine.benchmark.plan import Plan
from quota_engine.benchmark.rates import measure_rates
from quota_engine.benchmark.scopes import measure_scopes
from quota_engine.benchmark.server_time import measure_grant_counts, measure_scripts
from quota_engine.benchmark.servers import Lab, server_versions

#: Told what is measured next, and the share of the run that is done, from 0 to 1.
Progress = Callable[[str, float], None]


def run_benchmark(plan: Plan, progress: Progress | None = None) -> Report:
    """Measure everything on private servers, and leave nothing behind."""
    load = os.getloadavg()[0]
    started = time.perf_counter()
    lab = Lab()
    total, done = _seconds(plan), 0.0

    def tick_of(seconds: float) -> Callable[[str], None]:
        def tick(name: str) -> None:
            nonlocal done
            if progress is not None:
                progress(name, min(done / total, 1.0))
            done += seconds

        return tick

    try:
        with lab.deployment(shards=1) as deployment:
            redis_version, postgres_version = server_versions(deployment)
        script = tick_of(_script_seconds(plan))
        sections: list[Section] = [
            measure_scripts(lab, plan, script),
            measure_grant_counts(lab, plan, script),
            measure_scopes(lab, plan, script),
            measure_metering(lab, plan, tick_of(_metering_seconds(plan))),
            measure_counting(lab, plan, tick_of(_metering_seconds(plan))),
            *measure_rates(lab, plan, tick_of(plan.rate_seconds)),
            measure_persisting(lab, plan, tick_of(_persist_seconds(plan))),
            measure_memory(lab, plan, tick_of(_memory_seconds(plan))),
        ]
    finally:
        lab.close()
    machine = Machine(
        cpus=os.cpu_count() or 1,
        python=platform.python_version(),
        redis=redis_version,
        postgresql=postgres_version,
        load=round(load, 2),
    )
    return Report(machine=machine, seconds=time.perf_counter() - started, sections=tuple(sections))


def _seconds(plan: Plan) -> float:
    """Return about how long the plan takes: the progress bar's length."""
    scripts = 3 * (plan.script_rounds + 1) * _script_seconds(plan)
    rates = (4 * 6 + 6) * plan.rate_rounds * plan.rate_seconds
    rates += (4 + 3) * plan.rate_rounds * _metering_seconds(plan)
    return scripts + rates + (DRAINS + 1) * _persist_seconds(plan) + _memory_seconds(plan)


def _script_seconds(plan: Plan) -> float:
    return plan.script_calls * 0.002


def _metering_seconds(plan: Plan) -> float:
    return plan.script_calls * 0.001


def _persist_seconds(plan: Plan) -> float:
    return plan.persist_entries / 10_000 + plan.persist_seconds / DRAINS


def _memory_seconds(plan: Plan) -> float:
    return plan.memory_count / 1_000
