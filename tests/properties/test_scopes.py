"""
One call on several quotas does to each what it would do alone, or nothing to any.

A random tree of accounts and two quota types on a real server, each quota beside its model. After
every step Redis keeps what the models say; a refused call writes nothing (the shard looks).
Some quotas are in the shadow, and some have others pay in their place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.properties.family import Family
from tests.shards import Shard, rows_met

WALKS, ACTS = 6, 120


@pytest.fixture
def shard(redis_url: str) -> Iterator[Shard]:
    made = Shard(redis_url)
    yield made
    made.close()


def test_a_call_acts_on_all_of_its_quotas_or_on_none(shard: Shard) -> None:
    outcomes, flags = Counter[str](), Counter[str]()
    rows_met.clear()
    several = 0
    for seed in range(WALKS):
        family = Family(shard, seed)
        for _ in range(ACTS):
            family.act()
            family.check()
        family.check_logs()
        outcomes.update(answer[0] for _, answer in family.calls)
        flags.update(flag for entry in shard.entries() for flag in entry.flags.split())
        several += sum(len(answer) > 11 for _, answer in family.calls)
    assert outcomes.keys() == {"PLACED", "CAPTURED", "RELEASED", "DEBITED"}
    assert flags["counted"] > 10
    assert sum(flags[flag] for flag in flags if flag.startswith("by:")) > 10
    assert min(flags["insufficient"], flags["limited"]) > 5
    assert rows_met["place_hold", "EXCEEDED"] + rows_met["debit", "EXCEEDED"] > 5
    assert several > sum(outcomes.values()) / 3
