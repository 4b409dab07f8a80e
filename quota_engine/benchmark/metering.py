"""Metering: what the decorator adds to a bare hold and capture, in the client's own time."""

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
from quota_engine.usage import Usage

BARE = "place_hold and capture_hold"
ACCOUNT = "user:metered"
USED = Usage(input_tokens=120, output_tokens=30)
ANSWER = {
    "id": "chatcmpl-1",
    "model": "bench",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}],
    "usage": {"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150},
}
MESSAGES = [{"role": "user", "content": "What are quotas, and why would I hold them? " * 5}]


def measure_metering(lab: Lab, plan: Plan, tick: Tick) -> Section:
    """Return microseconds per metered call, one after the other, of a model that takes no time."""
    samples: dict[str, list[float]] = defaultdict(list)
    with lab.deployment(shards=1) as deployment:
        engine = QuotaEngine(deployment)
        engine.issue_grant(ACCOUNT, TYPE, PLENTY)
        for kind in ("input_token", "output_token"):
            engine.prices.set("bench", "bench", kind, 1)
        ways = _ways(engine)
        for number in range(plan.rate_rounds):
            for name in in_turn(ways, number):
                tick("metering")
                samples[name].append(_microseconds(ways[name], plan.script_calls))
        return section_of(
            "Metered calls",
            "one caller, round trips included; the ratios are to the bare calls",
            "µs",
            samples,
            BARE,
        )


def _ways(engine: QuotaEngine) -> dict[str, Callable[[], Any]]:
    def bare() -> None:
        hold = engine.place_hold(ACCOUNT, TYPE, 300)
        engine.capture_hold(hold, USED.total_tokens, usage=USED)

    @engine.requires_quota(TYPE, estimate=300, usage=USED.total_tokens)
    def told(account: str) -> Any:
        return ANSWER

    @engine.requires_quota(TYPE)
    def extracted(account: str, messages: Any, max_tokens: int) -> Any:
        return ANSWER

    @engine.requires_quota(TYPE, provider="bench", model="bench")
    def priced(account: str, messages: Any, max_tokens: int) -> Any:
        return ANSWER

    return {
        BARE: bare,
        "decorated, units told": lambda: told(ACCOUNT),
        "decorated, estimated and extracted": lambda: extracted(ACCOUNT, MESSAGES, 200),
        "decorated, and priced": lambda: priced(ACCOUNT, MESSAGES, 200),
    }


def _microseconds(way: Callable[[], Any], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - started) / calls * 1e6
