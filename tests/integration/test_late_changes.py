"""
Changes of plans that meet an edge: voided only after it, or made just behind it.

Goal: what an account has does not depend on how late somebody was. Method: who changes a plan dies
before anything is voided, or the quota is frozen; the same is done in time beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from quota_engine import QuotaEngine
from quota_engine.jobs.verify import verify
from tests.engines import NOON, TestClock
from tests.faults.rare import RARE
from tests.subscribers import ACCOUNT, PRO, TOKENS

SUB = "sub-1"
EDGE = datetime.fromisoformat("2026-02-01T12:00:00+00:00")


class DiedError(Exception):
    """Who changed a plan came no further."""


class Town:
    """One engine by the test's clock, whose changes of plans can die before they void."""

    def __init__(self, engine: QuotaEngine, clock: TestClock) -> None:
        self.engine, self.clock = engine, clock

    def subscribe(self, **terms: Any) -> None:
        """Subscribe to ``pro``, as of noon; other plans can be had, too."""
        given = {**PRO, **terms}
        self.engine.plans.define("pro", **given)
        self.engine.plans.define("small", **{**given, "amounts": {TOKENS: 60}})
        self.engine.plans.define("large", **{**given, "amounts": {TOKENS: 300}})
        self.engine.plans.define("yearly", **{**given, "period": "year", "amounts": {TOKENS: 900}})
        self.engine.subscribe(ACCOUNT, "pro", subscription_id=SUB)

    def go(self, instant: datetime) -> None:
        """Let time pass, and do what is due then."""
        self.clock.now = instant
        self.engine.run_schedule()

    def change(self, plan: str, monkeypatch: pytest.MonkeyPatch, *, dies: bool = False) -> None:
        """Change the plan now; who dies has it recorded, and nothing more."""
        if not dies:
            self.engine.change_subscription(SUB, plan)
            return
        advancing = self.engine._advancing

        def die(*_: object) -> None:
            raise DiedError

        with monkeypatch.context() as patch:
            act = self.engine.deployment.plan_store.act

            def act_and_die(*asked: Any) -> Any:
                patch.setattr(advancing, "make", die)
                patch.setattr(advancing, "finish", die)
                return act(*asked)

            patch.setattr(self.engine.deployment.plan_store, "act", act_and_die)
            with pytest.raises(DiedError):
                self.engine.change_subscription(SUB, plan)

    @property
    def balance(self) -> int:
        """What the account has."""
        return self.engine.read_balance(ACCOUNT, TOKENS).balance


@pytest.fixture
def town(redis_url: str, database_url: str) -> Iterator[Town]:
    clock = TestClock(NOON)
    with QuotaEngine.open(redis_url, database_url, clock=clock) as engine:
        yield Town(engine, clock)
        engine.drain()
        assert list(verify(engine.deployment.ledger)) == []
        assert engine.reconcile().drifts == ()


@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "late"])
@pytest.mark.parametrize(("used", "rest"), [(0, 60), (25, 35), (70, 0)])
def test_a_rest_rolls_over_however_late_a_change_was_finished(
    town: Town, monkeypatch: pytest.MonkeyPatch, used: int, rest: int, is_late: bool
) -> None:
    town.subscribe(rollover="all")
    if used:
        town.engine.debit(ACCOUNT, TOKENS, used)
    town.go(EDGE - timedelta(hours=1))
    town.change("small", monkeypatch, dies=is_late)
    town.go(EDGE + timedelta(minutes=1))
    town.go(EDGE + timedelta(minutes=2))
    assert town.balance == 60 + rest
    town.go(EDGE + timedelta(days=40))
    assert town.balance == 60 + 60 + rest


def test_a_rest_is_rolled_over_by_the_plan_that_was_changed_to(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.subscribe()
    town.engine.plans.define("kept", **{**PRO, "amounts": {TOKENS: 60}, "rollover": {"max": 20}})
    town.change("kept", monkeypatch, dies=True)
    town.go(EDGE + timedelta(minutes=1))
    assert town.balance == 60 + 20


@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "late"])
def test_units_that_ended_before_they_were_voided_were_not_used(
    town: Town, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    town.subscribe()
    town.engine.debit(ACCOUNT, TOKENS, 30)
    town.go(EDGE - timedelta(hours=1))
    town.change("yearly", monkeypatch, dies=is_late)
    town.go(EDGE + timedelta(minutes=1))
    assert town.balance == 900 - 30


def test_a_change_that_waits_does_not_hold_up_other_types(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    town.subscribe(amounts={TOKENS: 100, "image": 10})
    town.engine.plans.define("mixed", **{**PRO, "amounts": {TOKENS: 60, "image": 50}})
    town.change("mixed", monkeypatch, dies=True)
    assert town.engine.read_balance(ACCOUNT, "image").balance == 10
    with monkeypatch.context() as patch:
        patch.setattr("quota_engine.jobs.renewal._finish_changes", lambda *_: None)  # it is frozen
        town.go(EDGE - timedelta(hours=1))
        assert town.engine.read_balance(ACCOUNT, "image").balance == 50
        town.go(EDGE + timedelta(minutes=1))
        assert town.engine.read_balance(ACCOUNT, "image").balance == 50
    town.go(EDGE + timedelta(minutes=2))
    assert town.balance == 60


@pytest.mark.parametrize("debt", [RARE(20), 100, 350])
@pytest.mark.parametrize("change", [("small", 60), ("large", 300), RARE(("yearly", 900))])
@pytest.mark.parametrize("settled_first", [False, True], ids=["at once", "later"])
def test_a_change_behind_an_edge_keeps_what_the_edge_has_forgiven(
    town: Town,
    monkeypatch: pytest.MonkeyPatch,
    settled_first: bool,
    change: tuple[str, int],
    debt: int,
) -> None:
    plan, amount = change
    town.subscribe(debt="forgive")
    town.engine.set_overdraft_limit(ACCOUNT, TOKENS, None)
    town.engine.debit(ACCOUNT, TOKENS, 100 + debt)
    town.go(EDGE - timedelta(hours=1))
    assert town.balance == -debt
    town.clock.now = EDGE + timedelta(seconds=1)
    if settled_first:
        town.engine.run_schedule()
        assert town.balance == 100
    town.change(plan, monkeypatch)
    for minute in (1, 2, 3):
        town.go(EDGE + timedelta(minutes=minute))
    assert town.balance == amount
    found = town.engine.read_balance(ACCOUNT, TOKENS)
    assert found.debt == 0
    town.engine.debit(ACCOUNT, TOKENS, 10)
    town.change("pro", monkeypatch)
    town.go(EDGE + timedelta(minutes=4))
    assert town.balance == 90


@pytest.mark.parametrize("settled_first", [False, True], ids=["at once", "later"])
def test_a_cancellation_behind_an_edge_leaves_neither_units_nor_debt(
    town: Town, settled_first: bool
) -> None:
    town.subscribe(debt="forgive")
    town.engine.set_overdraft_limit(ACCOUNT, TOKENS, None)
    town.engine.debit(ACCOUNT, TOKENS, 100 + 350)
    town.go(EDGE - timedelta(hours=1))
    town.clock.now = EDGE + timedelta(seconds=1)
    if settled_first:
        town.engine.run_schedule()
    town.engine.cancel_subscription(SUB, when="now")
    for minute in (1, 2):
        town.go(EDGE + timedelta(minutes=minute))
    found = town.engine.read_balance(ACCOUNT, TOKENS)
    assert (found.balance, found.debt) == (0, 0)


@pytest.mark.parametrize("verb", ["cancel", "pause"])
def test_an_end_behind_an_edge_takes_no_rest_away(town: Town, verb: str) -> None:
    town.subscribe(rollover="all")
    town.engine.debit(ACCOUNT, TOKENS, 30)
    town.go(EDGE - timedelta(hours=1))
    town.clock.now = EDGE + timedelta(seconds=1)
    if verb == "cancel":
        town.engine.cancel_subscription(SUB, when="now")
    else:
        town.engine.pause_subscription(SUB)
    town.go(EDGE + timedelta(minutes=1))
    assert town.balance == 70 + (100 if verb == "pause" else 0)


def test_nothing_rolls_over_from_a_period_that_was_paused(town: Town) -> None:
    town.subscribe(rollover="all")
    town.engine.pause_subscription(SUB)
    town.clock.now = EDGE + timedelta(seconds=1)
    town.engine.resume_subscription(SUB)
    town.go(EDGE + timedelta(minutes=1))
    assert town.balance == 100
