"""
Accounts that move to another place: nothing is lost on the way, and nothing is there twice.

Goal: what an account may spend is the same before and after, whoever dies between two steps.
Method: an engine by a clock of the test's own; processes of their own that are killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from quota_engine import (
    AccountClosedError,
    AccountSuspendedError,
    IdempotencyConflictError,
    InvalidArgumentError,
    MoveRefusedError,
    QuotaEngine,
    flows,
)
from quota_engine.commands import Action, ReadLimits, SetLimit
from quota_engine.instants import to_ms
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.limits import Limit
from tests.commands import Cli
from tests.engines import NOON, TestClock

ANN, BOB, TEAM, NEW = "acme/team/ann", "acme/team/bob", "acme/team", "globex/team"
TOKENS, CREDIT = "text_token", "credit"
WHY: dict[str, Any] = {"reason": "sold", "operator": "eve", "operation_id": "move-1"}


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    """An engine by a test's clock; at the end both stores agree, and every log is right."""
    with QuotaEngine.open(redis_url, database_url, shards=8, clock=TestClock(NOON)) as opened:
        yield opened
        opened.drain()
        assert list(verify(opened.deployment.ledger)) == []
        assert opened.reconcile().drifts == ()


def clock_of(engine: QuotaEngine) -> TestClock:
    clock: Any = engine._transport._clock
    return clock  # type: ignore[no-any-return]


def grants_of(engine: QuotaEngine, account: str, quota_type: str = TOKENS) -> list[Any]:
    balance = engine.read_balance(account, quota_type)
    return [
        (one.remaining, one.priority, one.expires_at)
        for one in (*balance.grants, *balance.pending_grants)
    ]


def funded(engine: QuotaEngine) -> None:
    """Give a team and its two users grants of every kind, a plan, an order and limits."""
    day = timedelta(days=1)
    engine.issue_grant(TEAM, TOKENS, 1_000)
    engine.issue_grant(ANN, TOKENS, 100, priority=10, expires_at=NOON + 5 * day)
    engine.issue_grant(ANN, TOKENS, 50, priority=60)
    engine.issue_grant(ANN, TOKENS, 30, grant_id="later", starts_at=NOON + day)
    engine.issue_grant(BOB, CREDIT, 7)
    engine.set_overdraft_limit(BOB, TOKENS, 40)
    engine.plans.define("pro", period="month", amounts={TOKENS: 200}, rollover="all")
    engine.subscribe(ANN, "pro", subscription_id="sub")
    engine.packages.define("pack", quota_type=TOKENS, amount=20, price="1")
    engine.purchase(ANN, "pack", "order-1")


def set_limit(engine: QuotaEngine, account: str, limit: Limit) -> None:
    command = SetLimit(
        quota=QuotaName(account, TOKENS),
        operation_id=limit.key,
        action=Action.SET,
        limit=limit,
        at_ms=to_ms(NOON, name="noon"),
    )
    engine._transport.drive(flows.settled(command))


@pytest.mark.parametrize("target", ["acme/other", NEW])
def test_an_account_moves_with_all_that_it_has(engine: QuotaEngine, target: str) -> None:
    funded(engine)
    engine.accounts.suspend(BOB, reason="abuse")
    engine.debit(ANN, TOKENS, 40)
    limits = [
        Limit(of="units", amount=500, per="day", window="calendar", time_zone="Asia/Shanghai"),
        Limit(of="calls", amount=3, per="minute", window="sliding"),
    ]
    for limit in limits:
        set_limit(engine, ANN, limit)
    before = {one: grants_of(engine, one) for one in (TEAM, ANN, BOB)}
    moved = engine.accounts.move(TEAM, target, **WHY)
    assert (moved.account, moved.target, moved.replayed) == (TEAM, target, False)
    assert moved.finished_at is not None
    for old, had in before.items():
        place = moved.place_of(old)
        assert grants_of(engine, place) == had, old
        assert grants_of(engine, old) == []
        with pytest.raises(AccountClosedError, match=f"moved to {target}"):
            engine.issue_grant(old, TOKENS, 1)
    assert engine.read_balance(f"{target}/bob", TOKENS).overdraft_limit == 40
    assert engine.read_balance(f"{target}/bob", CREDIT).balance == 7
    read = ReadLimits(quota=QuotaName(f"{target}/ann", TOKENS))
    standings = engine._transport.drive(flows.settled(read)).standings
    assert [(one.amount, one.per, one.time_zone, one.used) for one in standings] == [
        (500, "day", "Asia/Shanghai", 0),
        (3, "minute", None, 0),
    ]
    with pytest.raises(AccountSuspendedError, match="abuse"):
        engine.debit(f"{target}/bob", TOKENS, 1)
    assert engine.debit(f"{target}/ann", TOKENS, 10).scopes[0].account == target
    again = engine.accounts.move(TEAM, target, **WHY)
    assert (again.replayed, again.finished_at) == (True, moved.finished_at)
    with pytest.raises(IdempotencyConflictError):
        engine.accounts.move(TEAM, "elsewhere", **WHY)


def test_a_subscription_and_an_order_go_on_at_the_new_place(engine: QuotaEngine) -> None:
    funded(engine)
    engine.debit(ANN, TOKENS, 110, scopes=())
    place = engine.accounts.move(ANN, parent="globex", **WHY).target
    assert place == "globex/ann"
    assert [one.account for one in (engine.find_subscription("sub"),) if one] == [place]
    refunded = engine.refund_purchase("order-1")
    assert [(line.voided, line.used) for line in refunded.lines] == [(20, 0)]
    engine.purchase(place, "pack", "order-2")
    clock_of(engine).forward(days=35)
    engine.run_schedule()
    active = [one for one in engine.grants(place, TOKENS) if one.state == "active"]
    assert sorted((one.source, one.remaining) for one in active) == [
        ("admin_grant", 30),
        ("membership", 200),
        ("purchase", 20),
        ("rollover", 200 - 10),
        ("transfer", 50),
    ]
    assert [one.state for one in engine.grants(ANN) if one.remaining] == []


def test_open_holds_are_settled_at_the_old_place_and_what_they_leave_follows(
    engine: QuotaEngine,
) -> None:
    funded(engine)
    holds = [engine.place_hold(ANN, TOKENS, 150, ttl=3_600, scopes=()) for _ in range(2)]
    total = engine.read_balance(ANN, TOKENS).balance
    moved = engine.accounts.move(ANN, parent="globex", **WHY)
    assert moved.finished_at is None
    with pytest.raises(MoveRefusedError, match="still moving"):
        engine.accounts.activate(ANN)
    assert engine.read_balance("globex/ann", TOKENS).balance == total - 300
    assert engine.capture_hold(holds[0], 110).shortfall == 0
    engine.run_schedule()
    assert engine.read_balance("globex/ann", TOKENS).balance == total - 110 - 150
    engine.release_hold(holds[1])
    engine.run_schedule()
    assert engine.read_balance("globex/ann", TOKENS).balance == total - 110
    assert engine.read_balance(ANN, TOKENS).balance == 0
    again = engine.accounts.move(ANN, parent="globex", **WHY)
    assert again.finished_at is not None


def test_many_who_move_at_once_have_one_effect(engine: QuotaEngine) -> None:
    funded(engine)
    had = grants_of(engine, ANN)

    def move(_: int) -> str:
        return engine.accounts.move(TEAM, NEW, **WHY).target

    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(move, range(3))) == {NEW}
    engine.run_schedule()
    assert grants_of(engine, f"{NEW}/ann") == had


def test_what_is_refunded_later_follows_the_account_wherever_it_went(engine: QuotaEngine) -> None:
    engine.issue_grant(ANN, TOKENS, 100)
    charge = engine.debit(ANN, TOKENS, 60)
    for source, target in ((ANN, "globex/ann"), ("globex/ann", "initech/ann")):
        engine.accounts.move(source, target, reason="sold")
    engine.drain()
    engine.refund(ANN, TOKENS, charge.operation_id)
    engine.drain()
    engine.run_schedule()
    assert engine.read_balance("initech/ann", TOKENS).balance == 100
    engine.accounts.close("initech/ann", reason="gone")
    engine.accounts.activate(ANN, reason="begins anew")
    engine.issue_grant(ANN, TOKENS, 5)
    engine.drain()
    engine.run_schedule()
    assert engine.read_balance(ANN, TOKENS).balance == 5


def test_what_cannot_move_is_refused_with_a_reason(engine: QuotaEngine) -> None:
    engine.issue_grant(ANN, TOKENS, 100)
    engine.issue_grant("globex/eve", TOKENS, 1)
    engine.set_overdraft_limit("acme/debtor", TOKENS, 10)
    engine.debit("acme/debtor", TOKENS, 10)
    engine.accounts.close("shut", reason="gone")
    for account, target, why in (
        (ANN, "globex/eve", "in use"),
        (ANN, "globex", "in use"),
        ("nobody", "globex/x", "nothing to move"),
        ("acme/debtor", "globex/x", "owes 10 units"),
        ("acme", "globex/x", "owes 10 units"),
        ("acme", "g" * 195, "longer than"),
    ):
        with pytest.raises(MoveRefusedError, match=why):
            engine.accounts.move(account, target, reason="sold")
    with pytest.raises(AccountClosedError):
        engine.accounts.move(ANN, "shut/ann", reason="sold")
    for wrong in ({}, {"to": "x", "parent": "y"}, {"to": ANN}, {"to": f"{ANN}/x"}):
        with pytest.raises(InvalidArgumentError):
            engine.accounts.move(ANN, reason="sold", **wrong)  # type: ignore[arg-type]
    assert engine.debit(ANN, TOKENS, 1).balance == 99, "a refusal leaves no trace"


#: Where somebody who moves an account dies: before or after a step of the store.
STEPS = [
    *("after begin", "before plan", "after plan", "before note_voided", "after note_voided"),
    *("before hand_over", "after hand_over", "before finish", "after finish"),
]


def _move_and_die(step: str, account: str, redis_url: str, database_url: str) -> None:
    """Move an account, and be killed at a step."""
    when, method = step.split()
    with QuotaEngine.open(redis_url, database_url, clock=TestClock(NOON)) as engine:
        store = engine.deployment.move_store
        kept = getattr(store, method)

        def dying(*args: Any, **kwargs: Any) -> None:
            if when == "after":
                kept(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(store, method, dying)
        engine.accounts.move(account, f"globex/{account}", reason="sold", operation_id=account)


@pytest.mark.fault
def test_who_dies_at_a_step_of_a_move_is_followed_by_the_schedule(
    engine: QuotaEngine, redis_url: str, database_url: str
) -> None:
    forking = multiprocessing.get_context("fork")
    for number, step in enumerate(STEPS):
        team, ann = f"acme-{number}", f"acme-{number}/ann"
        engine.issue_grant(team, TOKENS, 1_000)
        engine.issue_grant(ann, TOKENS, 50, priority=60)
        for source, starts_at in (("purchase", None), ("promotion", NOON + timedelta(days=1))):
            engine.issue_grant(ann, TOKENS, 30, source=source, starts_at=starts_at)
        engine.set_overdraft_limit(ann, TOKENS, 40)
        had = {one: grants_of(engine, one) for one in (team, ann)}
        dying = forking.Process(target=_move_and_die, args=(step, team, redis_url, database_url))
        dying.start()
        dying.join(60)
        assert dying.exitcode == -signal.SIGKILL, f"it came to {step}"
        engine.run_schedule()
        for old, grants in had.items():
            assert grants_of(engine, f"globex/{old}") == grants, step
            assert grants_of(engine, old) == [], step
        assert engine.read_balance(f"globex/{ann}", TOKENS).overdraft_limit == 40
        again = engine.accounts.move(team, f"globex/{team}", reason="sold", operation_id=team)
        assert (again.replayed, again.finished_at is None) == (True, False), step


def test_the_command_line_moves(cli: Cli) -> None:
    cli.done("grants", "issue", ANN, TOKENS, "5")
    told = cli.json("accounts", "move", ANN, "--parent", "globex", "--reason", "sold")
    assert (told["target"], told["account"]) == ("globex/ann", ANN)
    assert cli.run("accounts", "move", ANN, "--to", "x", "--reason", "sold").code == 1
    assert "moved to globex/ann" in cli.done("accounts", "policy", ANN)
