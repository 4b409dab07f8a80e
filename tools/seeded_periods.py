"""Seeded faults of subscriptions, orders and transfers: what is done late, or half."""

from __future__ import annotations

from tools.mutant import Mutant

LATE = "tests/integration/test_late_changes.py"

PERIODS = (
    Mutant(
        "units that ended before they were voided count as used",
        "quota_engine/ledger/replacing.py",
        "return 0 if entry is None else entry.amount",
        "return 0 if entry is None else 0 * entry.amount",
        (LATE + "::test_a_rest_rolls_over_however_late_a_change_was_finished",),
    ),
    Mutant(
        "a change behind an edge drops what the edge has forgiven",
        "quota_engine/ledger/replacing.py",
        "update(table).where(*of_grants, table.c.forgive_at > now)",
        "update(table).where(*of_grants)",
        (LATE + "::test_a_change_behind_an_edge_keeps_what_the_edge_has_forgiven",),
    ),
    Mutant(
        "a refund of an order that its caller left undone stays so",
        "quota_engine/jobs/refunded_orders.py",
        "store.being_refunded(older_than, after, PAGE)",
        "store.being_refunded(older_than, after, PAGE)[:0]",
        (
            "tests/faults/test_purchases_killed.py::test_a_purchase_is_given_back_once_whoever_dies",
        ),
    ),
    Mutant(
        "a refund that waits holds up those behind it",
        "quota_engine/jobs/refunded_orders.py",
        "        after = page[-1]\n",
        "        break\n",
        (
            "tests/integration/test_promises_stay.py"
            "::test_what_waits_does_not_hold_up_what_comes_behind_it",
        ),
    ),
    Mutant(
        "a change of a plan that waits holds up those behind it",
        "quota_engine/jobs/renewal.py",
        "        after = page[-1]\n",
        "        break\n",
        (
            "tests/integration/test_promises_stay.py"
            "::test_what_waits_does_not_hold_up_what_comes_behind_it",
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
