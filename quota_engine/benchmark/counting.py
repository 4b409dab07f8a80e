"""Counting: what an engine's own metrics cost a call, in the client's own time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from quota_engine.benchmark.figures import Section, in_turn, section_of
from quota_engine.benchmark.plan import Plan
from quota_engine.benchmark.server_time import Tick
from quota_engine.benchmark.servers import PLENTY, TYPE, Lab
from quota_engine.engine import QuotaEngine
from quota_engine.errors import QuotaError
from quota_engine.metrics.collector import Metrics

COUNTED = "a debit, counted"
ACCOUNT = "user:counted"


class Uncounted(Metrics):
    """Metrics that count nothing."""

    def done(self, operation: str, seconds: float, result: Any) -> None:
        """Do nothing."""

    def failed(self, operation: str, seconds: float, error: QuotaError) -> None:
        """Do nothing."""


def measure_counting(lab: Lab, plan: Plan, tick: Tick) -> Section:
    """Return microseconds per call with and without metrics, and of their count alone."""
    samples: dict[str, list[float]] = defaultdict(list)
    with lab.deployment(shards=1) as deployment:
        engine = QuotaEngine(deployment)
        engine.issue_grant(ACCOUNT, TYPE, PLENTY)
        counted, uncounted = engine.metrics, Uncounted()
        answer = engine.debit(ACCOUNT, TYPE, 1)

        def debit_with(metrics: Metrics) -> Callable[[], Any]:
            def debit() -> None:
                engine._transport.metrics = metrics
                engine.debit(ACCOUNT, TYPE, 1)

            return debit

        ways = {
            COUNTED: debit_with(counted),
            "a debit, not counted": debit_with(uncounted),
            "the count alone": lambda: counted.done("debit", 0.0003, answer),
        }
        for number in range(plan.rate_rounds):
            for name in in_turn(ways, number):
                tick("counting")
                samples[name].append(_microseconds(ways[name], plan.script_calls))
        engine._transport.metrics = counted
        engine._transport.close()
    return section_of(
        "Metrics",
        "one caller, round trips included; the ratios are to the counted debit",
        "µs",
        samples,
        COUNTED,
    )


def _microseconds(way: Callable[[], Any], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - started) / calls * 1e6
