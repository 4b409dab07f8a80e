"""
The scripts and the model agree, whatever happens in whatever order.

Hypothesis drives every command on a real server and, beside it, on the plain model
(``quota_engine.quotas``). After every step:

1. the answers are equal, refusals and their numbers included; a refusal has written nothing;
2. everything Redis keeps of the quota is what the model says (``check_state``);
3. versions are dense, ids are dense, every entry is chained to the one before, and equal;
4. each entry's movements make its delta; balance and held are the sums over grants and holds;
5. the ledger's own rules take each entry.

Loading the quota anew, from a snapshot made of the model, changes nothing of this.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from quota_engine.scripts import load_scripts
from tests.properties.beside import PHASES
from tests.properties.walking import Rules
from tests.shards import Shard, rows_met

EXAMPLES, STEPS = 25, 30
#: Beside Hypothesis's own: so many walks by chance alone, each of so many acts.
WALKS, ACTS = 18, 120
STEPS_MIN = 2_000

#: Rows that a walk of this length is sure to meet, by script; tests/lua meets all the others.
EXPECTED_ROWS = {
    "cancel_operation": {"CANCELLED", "REPLAYED", "APPLIED", "ABSENT"},
    "capture_hold": {"CAPTURED", "REPLAYED", "IDEMPOTENCY_CONFLICT", "HOLD_NOT_FOUND"},
    "catch_up": {"CAUGHT_UP"},
    "debit": {"DEBITED", "REPLAYED", "DENIED", "EXCEEDED", "IDEMPOTENCY_CONFLICT", "QUOTA_FROZEN"},
    "extend_hold": {
        "EXTENDED",
        "DENIED",
        "EXCEEDED",
        "HOLD_CLOSED",
        "HOLD_NOT_FOUND",
        "HOLD_SHRINKS",
    },
    "freeze_quota": {"MARKED"},
    "hydrate_quota": {"LOADED", "PRESENT"},
    "issue_grant": {"ISSUED", "REPLAYED", "IDEMPOTENCY_CONFLICT", "QUOTA_FROZEN", "GRANT_ENDED"},
    "place_hold": {"PLACED", "REPLAYED", "DENIED", "EXCEEDED", "IDEMPOTENCY_CONFLICT"},
    "read_balance": {"BALANCE"},
    "record_repair": {"RECORDED"},
    "record_usage": {"RECORDED"},
    "release_hold": {"RELEASED", "REPLAYED", "CLOSED", "HOLD_NOT_FOUND"},
    "set_limit": {"SET", "REPLAYED", "LIMIT_NOT_FOUND", "IDEMPOTENCY_CONFLICT"},
    "set_overdraft_limit": {"LIMITED", "REPLAYED"},
    "transfer_in": {"ARRIVED", "REPLAYED", "IDEMPOTENCY_CONFLICT"},
    "transfer_out": {"SENT", "REPLAYED", "DENIED", "IDEMPOTENCY_CONFLICT"},
    "void_grant": {"VOIDED", "REPLAYED", "GRANT_NOT_FOUND"},
}


@pytest.fixture
def shard(redis_url: str) -> Iterator[Shard]:
    made = Shard(redis_url)
    yield made
    made.close()


def test_scripts_and_model_agree(shard: Shard, capsys: pytest.CaptureFixture[str]) -> None:
    class Walk(Rules):
        pass

    Walk.shard = shard
    rows_met.clear()
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Walk,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for seed in range(WALKS):
        walk, chance = Walk(), random.Random(seed)
        walk.begin(chance.choice([0, 0, 100, None]))  # type: ignore[no-untyped-call]
        for _ in range(ACTS):
            walk.act_by(chance)
            walk.redis_keeps_what_the_model_says()
            walk.the_log_is_whole()
    with capsys.disabled():
        print(f"\n{Walk.steps} operations; rows met:")
        for script in load_scripts():
            met = {row: count for (name, row), count in sorted(rows_met.items()) if name == script}
            print(f"  {script:20} {' '.join(f'{row} {count}' for row, count in met.items())}")
    assert Walk.steps >= STEPS_MIN, "the walk is shorter than it should be"
    missing = {
        (script, row)
        for script, rows in EXPECTED_ROWS.items()
        for row in rows
        if not rows_met[script, row]
    }
    assert missing == set()
