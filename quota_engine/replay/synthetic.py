"""A small made-up workload, for a first look where no trace is at hand."""

from __future__ import annotations

import random

from quota_engine.replay.trace import Call

CALLS_PER_SECOND = 50.0
#: Logarithms of tokens: half of all prompts are below e^7 = 1,100, answers below e^4.6 = 100.
CONTEXT_MU, CONTEXT_SIGMA, CONTEXT_MAX = 7.0, 1.0, 32_000
GENERATED_MU, GENERATED_SIGMA, GENERATED_MAX = 4.6, 0.9, 1_000


def synthetic_calls(count: int, seed: int) -> list[Call]:
    """Return made-up calls: many small ones and a few large, as traces of real ones show."""
    chance = random.Random(seed)
    calls = []
    offset = 0.0
    for number in range(1, count + 1):
        context = int(chance.lognormvariate(CONTEXT_MU, CONTEXT_SIGMA))
        generated = int(chance.lognormvariate(GENERATED_MU, GENERATED_SIGMA))
        calls.append(
            Call(number, offset, min(context + 1, CONTEXT_MAX), min(generated + 1, GENERATED_MAX))
        )
        offset += chance.expovariate(CALLS_PER_SECOND)
    return calls
