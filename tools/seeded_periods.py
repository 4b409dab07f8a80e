"""Seeded faults of subscriptions, orders and transfers: what is done late, or half."""

from __future__ import annotations

from tools.mutant import Mutant

PERIODS = (
    Mutant(
        "what has arrived elsewhere can be said to have never left",
        "quota_engine/jobs/thaw.py",
        "        refuse_doubled(sql, found)\n",
        "",
        (
            "tests/integration/test_transfers_thawed.py"
            "::test_what_left_and_has_arrived_is_not_discarded",
        ),
    ),
)
