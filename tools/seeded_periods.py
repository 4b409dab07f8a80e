"""Seeded faults of subscriptions, orders and transfers: what is done late, or half."""

from __future__ import annotations

from tools.mutant import Mutant

PERIODS = (
    Mutant(
        "a refund of an order that its caller left undone stays so",
        "quota_engine/jobs/refunded_orders.py",
        "store.being_refunded(older_than, PAGE)",
        "store.being_refunded(older_than, PAGE)[:0]",
        (
            "tests/faults/test_purchases_killed.py::test_a_purchase_is_given_back_once_whoever_dies",
        ),
    ),
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
