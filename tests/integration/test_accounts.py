"""
Accounts that are suspended or closed: nobody passes, nothing that was used is lost.

Goal: what an operator says of an account counts from the moment it is said, whatever dies. Method:
both engines and their stores, with Redis wiped, edited and taken away.
"""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import (
    AccountBarredError,
    AccountClosedError,
    AccountSuspendedError,
    EngineUnavailableError,
    IdempotencyConflictError,
    InvalidArgumentError,
    QuotaEngine,
    QuotaInsufficientError,
    Shadowed,
    TransferRefusedError,
)
from quota_engine.embedded import ValkeyServer
from quota_engine.errors import QuotaError
from quota_engine.jobs.policies import tell_policies
from quota_engine.jobs.schedule import Scheduler
from quota_engine.jobs.verify import verify
from quota_engine.keys import ShardKeys, shard_of
from quota_engine.policies import SUSPEND, WantedPolicy
from tests.commands import Cli
from tests.engines import NOON, Engines, TestClock
from tests.spools import OPEN, Away

pytestmark = pytest.mark.anyio

USER, TEAM, ACME, OTHER = "acme/team-7/user-42", "acme/team-7", "acme", "other"
TOKENS = "text_token"
ANN: dict[str, Any] = {"operator": "ann"}
UNPAID: dict[str, Any] = {"reason": "unpaid", **ANN}


async def say(call: Engines, verb: str, *args: Any, **kwargs: Any) -> Any:
    result = getattr(call.engine.accounts, verb)(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


async def refused(call: Engines, method: str, *args: Any, **kwargs: Any) -> AccountBarredError:
    with pytest.raises(AccountBarredError) as raised:
        await call(method, *args, **kwargs)
    error: AccountBarredError = pickle.loads(pickle.dumps(raised.value))
    assert error.http_status == 403
    return error


@pytest.fixture
def engine(redis_url: str, database_url: str) -> Iterator[QuotaEngine]:
    with QuotaEngine.open(redis_url, database_url, shards=4) as opened:
        opened.issue_grant(USER, TOKENS, 1_000)
        yield opened


def versions_of(engine: QuotaEngine, account: str) -> str:
    return ShardKeys(shard_of(account, 4)).versions


# -- what callers see


async def test_suspended_above_all_calls_are_refused_and_what_was_held_is_captured(
    timed: Engines, clock: TestClock
) -> None:
    await timed("issue_grant", USER, TOKENS, 1_000)
    hold, spare = [await timed("place_hold", USER, TOKENS, 100, ttl=9_000) for _ in range(2)]
    said = await say(timed, "suspend", ACME, **UNPAID)
    assert (said.state, said.since, said.changed_by) == ("suspended", NOON, "ann")
    clock.forward(hours=1)
    for method in ("place_hold", "debit"):
        error = await refused(timed, method, USER, TOKENS, 1)
        assert isinstance(error, AccountSuspendedError)
        assert (error.account, error.reason, error.since) == (ACME, "unpaid", NOON)
        assert str(error) == "acme is suspended: unpaid"
    await refused(timed, "extend_hold", hold, 150)
    await refused(timed, "place_hold", "acme/nobody", "image", 1)
    assert not await timed("has_quota", USER, TOKENS, 1)
    told = await timed("explain", USER, TOKENS, 1)
    assert (told.admitted, told.reason, told.refused_by) == (False, "suspended", ACME)
    assert "accounts activate acme" in told.fix
    assert (await timed("capture_hold", hold, 60)).balance == 940
    assert (await timed("release_hold", spare)).amount == 100
    assert (await timed("debit", USER, TOKENS, 40, already_used=True)).balance == 900
    assert (await timed("issue_grant", USER, TOKENS, 5)).balance == 905
    again = await say(timed, "activate", ACME, reason="paid", operator="ben")
    assert (again.state, again.since) == ("active", NOON + timedelta(hours=1))
    assert (await timed("debit", USER, TOKENS, 5)).balance == 900
    history = await say(timed, "history", ACME)
    assert [(one.before, one.after, one.operator, one.reason) for one in history] == [
        ("active", "suspended", "ann", "unpaid"),
        ("suspended", "active", "ben", "paid"),
    ]
    assert (await timed("reconcile")).drifts == ()


async def test_an_act_is_done_once_by_its_operation_id(call: Engines) -> None:
    once = {"operation_id": "op-1", **UNPAID}
    first = await say(call, "suspend", ACME, **once)
    await say(call, "activate", ACME)
    again = await say(call, "suspend", ACME, **once)
    assert (first.replayed, again.replayed, again.state) == (False, True, "active")
    with pytest.raises(IdempotencyConflictError):
        await say(call, "suspend", TEAM, **once)
    await say(call, "close", TEAM, reason="dissolved")
    for wrong in ({"reason": " "}, {"reason": "x" * 5_000}):
        with pytest.raises(InvalidArgumentError):
            await say(call, "suspend", ACME, **wrong)
    with pytest.raises(InvalidArgumentError, match="is closed"):
        await say(call, "suspend", TEAM, **UNPAID)
    with pytest.raises(InvalidArgumentError, match="one of active, suspended, closed"):
        await say(call, "list", state="shut")
    assert [one.account for one in await say(call, "list")] == [ACME, TEAM]
    assert [one.account for one in await say(call, "list", state="closed")] == [TEAM]
    standing = await say(call, "get", USER)
    assert (standing.state, standing.decided_by, standing.own.state) == ("closed", TEAM, "active")
    assert [one.account for one in standing.above] == [TEAM, ACME]
    assert len(await say(call, "history", ACME)) == 2


async def test_nothing_is_put_into_a_closed_account(timed: Engines, clock: TestClock) -> None:
    engine = timed.engine
    await timed("issue_grant", OTHER, TOKENS, 100)
    for made in (
        engine.plans.define("pro", period="day", amounts={TOKENS: 10}),
        engine.packages.define("starter", quota_type=TOKENS, amount=7, price="1"),
    ):
        if inspect.isawaitable(made):
            await made
    await timed("subscribe", USER, "pro", subscription_id="sub")
    order = await timed("order", USER, "starter", order_id="ordered")
    await say(timed, "close", ACME, reason="gone")
    for method, *args in (
        ("issue_grant", USER, TOKENS, 5),
        ("order", USER, "starter", "late"),
        ("purchase", USER, "starter", "paid"),
        ("pay_order", order.order_id),
        ("subscribe", USER, "pro"),
        ("change_subscription", "sub", "pro"),
    ):
        assert isinstance(await refused(timed, method, *args), AccountClosedError), method
    with pytest.raises((AccountClosedError, TransferRefusedError)):
        await timed("transfer", OTHER, USER, TOKENS, 10)
    assert (await timed("read_balance", OTHER, TOKENS)).balance == 100
    clock.forward(days=2)
    await timed("run_schedule")
    assert [grant.state for grant in await timed("grants", USER)] == ["expired"]
    await say(timed, "activate", ACME)
    await timed("run_schedule")
    balance = await timed("read_balance", USER, TOKENS)
    assert [grant.remaining for grant in balance.grants] == [10], "the running period's"
    assert (await timed("pay_order", order.order_id)).state == "paid"


def _call_until_refused(redis_url: str, database_url: str, number: int, told: Any) -> None:
    """Debit until the account is suspended; tell when each admitted call had begun."""
    begun: list[int] = []
    with QuotaEngine.open(redis_url, database_url) as engine:
        try:
            while True:
                now = time.monotonic_ns()  # one clock for all processes of a machine
                engine.debit(f"{TEAM}/user-{number}", TOKENS, 1)
                begun.append(now)
                if len(begun) == 10:
                    told.put((number, "goes on"))
        except AccountSuspendedError:
            told.put((number, begun))


def test_a_kill_switch_stops_eight_processes_within_the_call(
    redis_url: str, database_url: str
) -> None:
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    with QuotaEngine.open(redis_url, database_url) as engine:
        for number in range(8):
            engine.issue_grant(f"{TEAM}/user-{number}", TOKENS, 10**9)
        hold = engine.place_hold(f"{TEAM}/user-0", TOKENS, 7)
    children = [
        context.Process(target=_call_until_refused, args=(redis_url, database_url, number, told))
        for number in range(8)
    ]
    for child in children:
        child.start()
    assert {told.get(timeout=60)[1] for _ in children} == {"goes on"}
    with QuotaEngine.open(redis_url, database_url) as engine:
        asked = time.monotonic_ns()
        engine.accounts.suspend(ACME, **UNPAID)
        suspended = time.monotonic_ns()
        admitted = [at for _ in children for at in told.get(timeout=60)[1]]
        assert engine.capture_hold(hold, 7).shortfall == 0
        for child in children:
            child.join(30)
        assert max(admitted) < suspended, "nothing that began afterwards was admitted"
        last = (max(admitted) - asked) / 1e6
        print(f"suspended in {(suspended - asked) / 1e6:.1f} ms, last admitted at {last:.1f} ms")
        engine.drain()
        charged = 8 * 10**9 - len(admitted) - 7
        balances = [engine.read_balance(f"{TEAM}/user-{n}", TOKENS).balance for n in range(8)]
        assert sum(balances) == charged
        assert engine.reconcile().drifts == ()


async def test_in_the_shadow_nothing_is_refused_and_everything_is_told(call: Engines) -> None:
    await call("issue_grant", USER, TOKENS, 100)
    await call("issue_grant", TEAM, TOKENS, 1_000)
    await say(call, "set_enforcement", ACME, "shadow", reason="trial run", **ANN)
    hold = await call("place_hold", USER, TOKENS, 300)
    told = Shadowed(account=USER, quota_type=TOKENS, reason="insufficient")
    assert hold.shadowed == (told,)
    assert (await call("place_hold", USER, TOKENS, 300, dry_run=True)).shadowed == (told,)
    explained = await call("explain", USER, TOKENS, 300)
    assert (explained.admitted, explained.shadowed) == (True, (told,))
    captured = await call("capture_hold", hold, 250)
    assert (captured.shortfall, captured.scopes[0].shortfall) == (150, 0)
    assert (await call("debit", "acme/nobody", "image", 3)).shadowed[0].account == "acme/nobody"
    await say(call, "set_enforcement", TEAM, "enforce", [TOKENS])
    await say(call, "set_enforcement", USER, "shadow")
    with pytest.raises(QuotaInsufficientError) as refused:
        await call("debit", USER, TOKENS, 800)
    assert refused.value.account == TEAM, "the nearest to each quota decides"
    await say(call, "set_enforcement", USER, "inherit")
    standing = await say(call, "get", USER)
    assert standing.enforcement == {"*": "shadow", TOKENS: "enforce"}
    for wrong in (("off",), ("shadow", []), ("shadow", TOKENS), ("shadow", ["no-type"])):
        with pytest.raises(InvalidArgumentError):
            await say(call, "set_enforcement", ACME, *wrong)
    counted = call.engine._transport.refusals.take()
    reasons = {(one.account, one.reason): count for one, count in counted.items()}
    assert reasons == {
        (USER, "shadow_insufficient"): 1,
        ("acme/nobody", "shadow_insufficient"): 1,
        (USER, "insufficient"): 1,
    }, "one count for a call"
    shadowed = {
        sample.labels["operation"]: sample.value
        for sample in call.engine.metrics.samples()
        if sample.name == "shadowed_total"
    }
    assert shadowed == {"place_hold": 1, "debit": 1}, "a question is no call"
    await call("drain")
    assert list(verify(call.engine.deployment.ledger)) == []
    assert (await call("reconcile")).drifts == ()


def test_the_deployment_s_types_are_in_the_shadow(redis_url: str, database_url: str) -> None:
    settings: dict[str, Any] = {"shadow_quota_types": f"image,{TOKENS}"}
    with QuotaEngine.open(redis_url, database_url, **settings) as engine:
        assert engine.debit(USER, TOKENS, 5).shortfall == 5
        engine.accounts.set_enforcement(USER, "enforce")
        with pytest.raises(QuotaInsufficientError):
            engine.debit(USER, TOKENS, 5)
        with pytest.raises(QuotaInsufficientError):
            engine.debit(OTHER, "credit", 5)


# -- whatever dies


def test_a_wiped_redis_knows_who_is_suspended_before_its_first_call(engine: QuotaEngine) -> None:
    engine.accounts.suspend(ACME, **UNPAID)
    engine.accounts.suspend(TEAM, **UNPAID)
    engine.accounts.activate(TEAM)
    client = engine.deployment.client
    for lose in (client.flushall, lambda: client.delete(versions_of(engine, ACME))):
        lose()
        with pytest.raises(AccountSuspendedError):
            engine.debit(USER, TOKENS, 1)
    told = engine.deployment.client.hgetall(versions_of(engine, ACME))
    assert {b"acme|", b"acme/team-7|", b"@accounts"} < told.keys()
    assert engine.reconcile().drifts == ()
    engine.accounts.activate(ACME)
    assert engine.debit(USER, TOKENS, 1).balance == 999


def test_who_dies_before_redis_was_told_is_followed_by_the_workers(engine: QuotaEngine) -> None:
    store, deployment = engine.deployment.account_store, engine.deployment
    engine.accounts.suspend(f"{ACME}/elsewhere", reason="abuse")
    store.change(WantedPolicy(account=ACME, action=SUSPEND, operation_id="op"), None)
    engine.debit(USER, TOKENS, 1)
    assert engine.reconcile().drifts == (), "it is on its way"
    scheduler = Scheduler(deployment)
    assert tell_policies(deployment, scheduler.transport) == 1
    assert tell_policies(deployment, scheduler.transport) == 0
    with pytest.raises(AccountSuspendedError):
        engine.debit(USER, TOKENS, 1)
    # a shard that a release opened which knows no policies
    deployment.client.hdel(versions_of(engine, ACME), "acme|", "@accounts")
    engine.debit(USER, TOKENS, 1)
    assert tell_policies(deployment, scheduler.transport) == 2
    scheduler.close()
    with pytest.raises(AccountSuspendedError):
        engine.debit(USER, TOKENS, 1)


def test_what_the_ledger_has_lost_does_not_keep_its_next_word_out(engine: QuotaEngine) -> None:
    for number in range(3):
        engine.accounts.suspend(ACME, reason=str(number))
    with engine.deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE accounts SET revision = 1, sent_revision = 1"))
    (drift,) = engine.reconcile().drifts
    assert (drift.account, drift.cause.value) == (ACME, "account_policy_edited")
    engine.accounts.activate(ACME)
    assert engine.debit(USER, TOKENS, 1).balance == 999
    assert engine.reconcile().drifts == ()


def test_what_somebody_has_edited_is_found_and_mended(engine: QuotaEngine) -> None:
    engine.accounts.suspend(ACME, **UNPAID)
    for words, cause, account in (
        (("HDEL", "acme|"), "account_policy_missing", ACME),
        (("HDEL", "@accounts"), "account_policy_missing", ACME),
        (("HSET", "acme|", "7\nactive\n0\n"), "account_policy_edited", ACME),
        (("HSET", "acme/x|", "1\nclosed\n5\nforged"), "account_policy_unknown", "acme/x"),
    ):
        engine.deployment.client.execute_command(words[0], versions_of(engine, ACME), *words[1:])
        report = engine.reconcile(repair=True, actor="ann")
        (drift,) = report.drifts
        assert (drift.account, drift.quota_type, drift.cause.value) == (account, "", cause)
        assert (report.repaired, report.is_clean) == (1, True)
        assert engine.reconcile().drifts == ()
        with pytest.raises(AccountSuspendedError):
            engine.debit(USER, TOKENS, 1)
        mended = engine.accounts.history(account)[-1]
        assert (mended.action, mended.operator) == ("repair", "ann")


async def test_while_redis_is_away_the_suspended_are_not_admitted(
    server: ValkeyServer, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away("sync", server, database_url, tmp_path / "spools")
    async with away.engine(**OPEN) as call, away.engine(**OPEN) as other:
        await call("issue_grant", USER, TOKENS, 1_000)
        await say(other, "suspend", TEAM, **UNPAID)
        await refused(call, "debit", USER, TOKENS, 1)
        away.server.kill()
        await refused(call, "debit", USER, TOKENS, 1)
        await refused(other, "place_hold", USER, TOKENS, 1)
        assert (await call("debit", "acme/team-8", TOKENS, 1)).spooled
        with pytest.raises(QuotaError, match="is recorded, but Redis could not be told"):
            await say(other, "activate", TEAM)
        assert (await call("debit", USER, TOKENS, 1)).spooled, "PostgreSQL knows better"
        with pytest.raises(QuotaError, match="is recorded"):
            await say(other, "suspend", ACME, **UNPAID)
        await refused(call, "debit", USER, TOKENS, 1)
        monkeypatch.setattr(call.engine.deployment.account_store, "read_path", _no_answer)
        await refused(call, "debit", USER, TOKENS, 1)
        assert (await call("debit", OTHER, TOKENS, 1)).spooled
        away.server.start()
        await refused(call, "debit", USER, TOKENS, 1)


def _no_answer(_: str) -> Any:
    raise EngineUnavailableError("PostgreSQL is away")


# -- the command line


def test_the_command_line_suspends_shows_and_activates(cli: Cli) -> None:
    told = cli.json(
        *("accounts", "suspend", ACME, "--reason", "unpaid", "--operator", "ann", "--id", "op-1")
    )
    assert (told["account"], told["state"], told["reason"]) == (ACME, "suspended", "unpaid")
    assert "acme/x is suspended, since acme is: unpaid" in cli.done("accounts", "policy", "acme/x")
    shown = cli.json("accounts", "policy", ACME)
    assert (shown["standing"]["decided_by"], len(shown["history"])) == (ACME, 1)
    explained = cli.run("accounts", "explain", ACME, TOKENS)
    assert explained.code == 1
    assert "suspended" in explained.out
    assert "suspended" in cli.done("accounts", "policy", "--state", "suspended")
    cli.done("accounts", "close", ACME, "--reason", "gone")
    assert cli.run("grants", "issue", ACME, TOKENS, "5").code == 1
    assert cli.json("accounts", "activate", ACME)["state"] == "active"
    assert cli.run("accounts", "suspend", ACME).code == 2
    cli.done("accounts", "enforcement", ACME, "shadow", "--type", TOKENS, "--type", "credit")
    assert "text_token shadow" in cli.done("accounts", "policy", "acme/x")
    assert "in the shadow" in cli.done("accounts", "explain", ACME, TOKENS, "5")
    assert "nothing is said of any" in cli.done("accounts", "policy", "--state", "closed")
