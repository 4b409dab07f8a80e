"""
The protocol keeps its promises in every interleaving of a small scope, and without its rules not.

A run prints how many states each scope has; `make model` follows larger ones, too.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.model.explore import explore
from tests.model.faults import ALL
from tests.model.world import Rules, Scope

CAPTURED, RELEASED = ("place h", "capture h"), ("place h", "release h")
A, B = ("debit a",), ("debit b",)


def scope(name: str, *faults: str, **changes: Any) -> Scope:
    """A hold and a debit, and as many faults in all as are named."""
    made = Scope(name, (CAPTURED, A), faults=frozenset(faults), faults_max=len(faults))
    return replace(made, **changes)


DEBITS: dict[str, Any] = {"programs": (A, B)}
ALL_DUTIES: dict[str, Any] = {"duties": frozenset({"unload", "drop"})}

SCOPES = (
    scope("calm", has_expiry=True, lost_replies_max=1, **ALL_DUTIES),
    scope("calm, a release", programs=(RELEASED, A), has_expiry=True, **ALL_DUTIES),
    scope("a quota deleted", "quota deleted", lost_replies_max=1, **ALL_DUTIES),
    scope(
        "a key deleted",
        *("quota deleted", "outbox deleted", "versions deleted", "script flush"),
        faults_max=1,
        gate_crashes_max=1,
    ),
    scope("operations deleted", "operations deleted"),
    scope("restart", "restart"),
    scope("restart, the gate crashes", "restart", gate_crashes_max=1, **DEBITS),
    scope("restart, expiry", "restart", has_expiry=True, has_trim=False, copies_max=0),
    scope("wipe, the gate crashes", "wipe", gate_crashes_max=1),
    scope("re-promotion", "re-promotion", granted=1, **DEBITS),
    scope("promotion", "promotion", granted=1, has_trim=False, **DEBITS),
    scope("promotion and back", "promotion", "failback", copies_max=0, **DEBITS),
    scope("two restarts", "restart", faults_max=2, has_trim=False, **DEBITS),
    scope(
        *("a torn script", "power cut in a script", "restart"),
        has_trim=False,
        copies_max=0,
        **DEBITS,
    ),
    scope(
        *("restart, a quota deleted", "restart", "quota deleted"),
        has_trim=False,
        granted=1,
        **DEBITS,
    ),
    scope("two gates", "restart", gates=2, zombies_max=1, has_trim=False, granted=1, **DEBITS),
    scope("a ledger restored", "ledger restored"),
)

DEEP = (
    scope("deep: restart, the gate crashes", "restart", gate_crashes_max=1, has_expiry=True),
    scope("deep: promotion", "promotion", "failback", faults_max=1, gate_crashes_max=1),
    scope("deep: wipe and restart", "wipe", "restart", faults_max=2, has_trim=False, **DEBITS),
    scope("deep: three restarts", "restart", faults_max=3, has_trim=False, copies_max=1, **DEBITS),
    scope("deep: a ledger restored, and a restart", "ledger restored", "restart", **DEBITS),
    scope(
        "deep: three operations, three callers",
        *("quota deleted", "wipe"),
        programs=(CAPTURED, A, B),
        faults_max=1,
        granted=3,
    ),
    scope(
        "deep: restart, unload, lost answers",
        "restart",
        lost_replies_max=1,
        has_trim=False,
        **ALL_DUTIES,
    ),
)

#: Which scope sees that a rule is missing. Rules joined by "+" guard the same: either is enough.
SEEDED = {
    "scripts_compare_the_epoch+the_outbox_refuses_older_epochs": "a key deleted",
    "scripts_compare_the_version+hydration_compares_the_version": "a quota deleted",
    "scripts_need_the_outbox": "a key deleted",
    "operations_are_remembered": "calm",
    "held_units_are_not_spendable": "calm",
    "expiries_are_entries": "calm",
    "captures_after_expiry_are_charged": "calm",
    "only_the_gate_loads_scripts+connections_compare_the_incarnation": "restart",
    "connections_compare_the_incarnation": "re-promotion",
    "hydration_compares_the_epoch": "a key deleted",
    "hydration_brings_operations_back": "a quota deleted",
    "drops_compare_the_state": "calm",
    "cursor_moves_with_the_entries": "calm",
    "chains_are_compared": "promotion and back",
    "trims_compare_the_epoch": "promotion and back",
    "trims_wait_for_the_commit": "calm",
    "gate_locks": "a key deleted",
    "gate_rewrites_the_file": "a torn script",
    "gate_goes_above_the_outbox": "a key deleted",
    "gate_absorbs": "a key deleted",
    "gate_reads_below_the_cursor": "promotion and back",
    "gate_drops_what_differs": "a key deleted",
    "gate_empties_versions": "a key deleted",
    "gate_opens_only_at_its_marker": "two gates",
}


def check(scope: Scope, capsys: pytest.CaptureFixture[str]) -> None:
    found = explore(scope)
    with capsys.disabled():
        print(f"\n  {found}", end="")
    assert not found.broken, str(found)
    assert found.settled, "nothing ever comes to rest, so nothing was checked there"


@pytest.mark.slow
@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: scope.name)
def test_every_interleaving_keeps_every_promise(
    scope: Scope, capsys: pytest.CaptureFixture[str]
) -> None:
    check(scope, capsys)


@pytest.mark.slow
@pytest.mark.deep
@pytest.mark.parametrize("scope", DEEP, ids=lambda scope: scope.name)
def test_larger_scopes_keep_every_promise(
    scope: Scope, capsys: pytest.CaptureFixture[str]
) -> None:
    check(scope, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("missing", SEEDED)
def test_a_missing_rule_breaks_a_promise(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope = next(scope for scope in SCOPES if scope.name == SEEDED[missing])
    found = explore(scope, Rules(**dict.fromkeys(missing.split("+"), False)))
    with capsys.disabled():
        print(f"\n  without {missing}: {found.broken} ({found.states:,} states)", end="")
    assert found.broken
    assert not found.broken.startswith("more than"), "the scope is too large to tell"


def test_each_rule_is_once_missing_and_each_fault_happens() -> None:
    missing = {rule for rules in SEEDED for rule in rules.split("+")}
    assert missing == {field.name for field in fields(Rules)}
    assert {fault for scope in SCOPES for fault in scope.faults} == ALL
