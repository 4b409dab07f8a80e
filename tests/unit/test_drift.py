"""The comparison of two plain values: which difference is told, and which is told first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quota_engine.drift import (
    Cause,
    Drift,
    GrantFacts,
    HoldFacts,
    Loaded,
    Log,
    Seen,
    Sums,
    compare,
)
from quota_engine.events import EventId

END = 5_000
GRANTS = {
    "grant-a": GrantFacts(300, 100, "live", (10, 0, END, 1)),
    "grant-b": GrantFacts(500, 0, "live", (50, 0, 2**53 - 1, 2)),
    "grant-c": GrantFacts(70, 0, "pending", (50, 9_000, END, 3)),
}
HOLDS = {"hold-1": HoldFacts(120, (("grant-a", 100),))}
SUMS = Sums(7, "c" * 40, balance=900, held=120, debt=0)
LOADED = Loaded(
    version=7,
    chain="c" * 40,
    remaining=800,
    covered=100,
    held=120,
    debt=0,
    pending=70,
    overdraft_limit=20,
    frozen="",
    next_change_at_ms=4_000,
    head="grant-a",
    grants=GRANTS,
    following={"grant-a": "grant-b", "grant-b": "", "grant-c": ""},
    holds=HOLDS,
    changes={"a:hold-1": 4_000, "b:grant-c": 9_000, "c:grant-a": END},
)
LOG = Log(last=SUMS, overdraft_limit=20, grants=GRANTS, holds=HOLDS)


def drift_of(
    loaded: Loaded | None = LOADED, issued: int | None = 7, log: Log = LOG, unreadable: str = ""
) -> Drift | None:
    """Compare what is given."""
    seen = Seen(EventId(1, 50), issued, loaded, unreadable)
    return compare("user:42", "text_token", seen, log)


def test_equal_tellings_are_no_drift() -> None:
    assert drift_of() is None
    assert drift_of(issued=None) is None


def test_a_quota_that_is_not_in_redis_is_no_drift_while_its_log_is_whole() -> None:
    assert drift_of(loaded=None) is None
    assert drift_of(loaded=None, issued=None) is None


@pytest.mark.parametrize(
    ("changes", "cause", "field", "values"),
    [
        ({"remaining": 900}, Cause.BALANCE_EDITED, "balance", (1000, 900)),
        ({"debt": 30}, Cause.DEBT_EDITED, "debt", (30, 0)),
        ({"held": 121}, Cause.HELD_EDITED, "held", (121, 120)),
        ({"chain": "d" * 40}, Cause.CHAIN_FORKED, "chain", ("d" * 40, "c" * 40)),
        ({"version": 8}, Cause.VERSION_AHEAD, "version", (8, 7)),
        ({"version": 6}, Cause.VERSION_BEHIND, "version", (6, 7)),
        ({"overdraft_limit": None}, Cause.LIMIT_EDITED, "overdraft_limit", (None, 20)),
        ({"frozen": "why"}, Cause.FROZEN_ALONE, "frozen", ("why", None)),
        ({"pending": 71}, Cause.GRANT_EDITED, "sum of pending", (70, 71)),
        ({"head": ""}, Cause.GRANT_EDITED, "burn-down order", ("", "grant-a grant-b")),
        (
            {"head": "grant-b"},
            Cause.GRANT_EDITED,
            "burn-down order",
            ("grant-b", "grant-a grant-b"),
        ),
        ({"next_change_at_ms": END}, Cause.CHANGE_MISSING, "next_change_at", (END, 4_000)),
        ({"holds": {}}, Cause.HOLD_MISSING, "hold hold-1", (None, 120)),
        (
            {"holds": {"hold-1": HoldFacts(120, (("grant-b", 100),))}},
            Cause.HOLD_EDITED,
            "hold hold-1 terms",
            ("grant-b 100", "grant-a 100"),
        ),
        (
            {"changes": {"a:hold-1": 4_000, "b:grant-c": 9_000}},
            Cause.CHANGE_MISSING,
            "change c:grant-a",
            (None, "c:grant-a"),
        ),
    ],
)
def test_one_edit_is_told_with_its_cause(
    changes: dict[str, Any], cause: Cause, field: str, values: tuple[object, object]
) -> None:
    drift = drift_of(replace(LOADED, **changes))
    assert drift is not None
    assert (drift.cause, drift.field, (drift.redis, drift.ledger)) == (cause, field, values)
    assert drift.is_mendable


def test_a_grant_that_only_redis_knows_is_unknown() -> None:
    extra = {**GRANTS, "grant-d": GrantFacts(0, 5, "expired", (1, 1, 2, 3))}
    drift = drift_of(replace(LOADED, grants=extra))
    assert drift is not None
    assert (drift.cause, drift.field) == (Cause.GRANT_UNKNOWN, "grant grant-d")


def test_a_grant_of_which_nothing_is_left_counts_in_neither() -> None:
    extra = {**GRANTS, "grant-d": GrantFacts(0, 0, "live", (1, 1, 2**53 - 1, 3))}
    assert drift_of(replace(LOADED, grants=extra)) is None


def test_other_terms_of_a_grant_are_told() -> None:
    other = {**GRANTS, "grant-b": replace(GRANTS["grant-b"], terms=(60, 0, 2**53 - 1, 2))}
    drift = drift_of(replace(LOADED, grants=other))
    assert drift is not None
    assert drift.field == "grant grant-b terms"


def test_grants_and_holds_of_another_entry_are_not_compared() -> None:
    log = replace(LOG, is_drained=False, grants={}, holds={}, overdraft_limit=0)
    assert drift_of(log=log) is None
    drift = drift_of(replace(LOADED, held=1), log=log)
    assert drift is not None
    assert (drift.cause, drift.is_mendable) == (Cause.HELD_EDITED, False)


def test_a_list_of_grants_that_runs_in_a_circle_ends() -> None:
    drift = drift_of(replace(LOADED, following={"grant-a": "grant-b", "grant-b": "grant-a"}))
    assert drift is not None
    assert drift.field == "burn-down order"


def test_issued_versions_beyond_the_log_are_missing_entries() -> None:
    for loaded in (None, replace(LOADED, version=9)):
        drift = drift_of(loaded, issued=9)
        assert drift is not None
        assert (drift.cause, drift.redis, drift.ledger) == (Cause.ENTRY_MISSING, 9, 7)
        assert not drift.is_mendable


def test_a_last_version_set_back_is_behind() -> None:
    drift = drift_of(issued=3)
    assert drift is not None
    assert (drift.cause, drift.field, drift.is_mendable) == (
        Cause.VERSION_BEHIND,
        "versions",
        True,
    )


def test_what_cannot_be_read_is_unexplained() -> None:
    drift = drift_of(None, unreadable="no quota")
    assert drift is not None
    assert (drift.cause, drift.is_mendable) == (Cause.UNEXPLAINED, False)


def test_a_frozen_quota_is_told_as_frozen_only_where_it_differs() -> None:
    log = replace(LOG, frozen="fork")
    assert drift_of(log=log) is None
    drift = drift_of(replace(LOADED, version=8), issued=8, log=log)
    assert drift is not None
    assert (drift.cause, drift.field, drift.is_mendable) == (Cause.FROZEN, "versions", False)


def test_the_gravest_difference_comes_first() -> None:
    drift = drift_of(replace(LOADED, held=1, remaining=1), log=replace(LOG, unfit="forged"))
    assert drift is not None
    assert drift.cause is Cause.ENTRY_UNFIT
    causes = [difference.cause for difference in drift.differences]
    assert causes == sorted(causes, key=list(Cause).index)
