"""A frozen quota is mended: the ledger's history goes on, and no charge that was told is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from sqlalchemy import text

from quota_engine.commands import (
    CancelOperation,
    CaptureHold,
    Context,
    Debit,
    DebitUsed,
    GrantTerms,
    IssueGrant,
    ReleaseHold,
    SetOverdraftLimit,
    VoidGrant,
)
from quota_engine.errors import OperationCancelledError, QuotaFrozenError
from quota_engine.events import parse_entry
from quota_engine.flows import captured
from quota_engine.jobs import quarantine
from quota_engine.jobs.reconcile import reconcile
from quota_engine.jobs.thaw import UnreadableError, plan, thaw
from quota_engine.keys import QuotaName
from quota_engine.ledger.quarantine import in_doubt
from quota_engine.scripts import load_scripts
from tests.deployments import Deployment
from tests.frozen import (
    ORDER,
    OTHER,
    TOKENS,
    check,
    drain,
    driver_of,
    fates,
    forge,
    junk,
    repairs,
)


@pytest.fixture
def deployment(redis_url: str, database_url: str) -> Iterator[Deployment]:
    """A deployment with two quotas of one shard; of the first 1000, a hold has 200."""
    with Deployment(redis_url, database_url) as made:
        made.open()
        made.issue(TOKENS, 1000, "grant-a")
        made.issue(OTHER, 50)
        made.place(TOKENS, 200, "hold-1")
        made.drain()
        yield made


def test_a_forged_fork_is_mended_and_keeps_every_charge_that_was_told(
    deployment: Deployment,
) -> None:
    forge(deployment, operation_id="grant-a")
    drain(deployment)
    with pytest.raises(QuotaFrozenError, match="fork_or_rollback"):
        deployment.debit(TOKENS, 1)
    deployment.capture(TOKENS, "hold-1", 150)
    deployment.run(DebitUsed(quota=TOKENS, operation_id="used", amount=30))
    deployment.debit(OTHER, 7)
    drain(deployment)
    assert len(deployment.operations(OTHER)) == 2
    assert deployment.operations(TOKENS) == ["grant-a", "hold-1"]

    report = thaw(driver_of(deployment), TOKENS, ORDER)
    assert (report.cause, report.version, report.refused) == ("fork_or_rollback", 5, ())
    assert fates(report) == [
        ("grant-a", "known"),
        ("hold-1:capture", "again"),
        ("used", "again"),
    ]
    check(deployment)
    assert deployment.operations(TOKENS)[2:] == ["hold-1:capture", "used", "thaw:2"]
    balance = deployment.balance(TOKENS)
    assert (balance.balance, balance.held, balance.frozen) == (820, 0, "")
    deployment.debit(TOKENS, 20)
    [entry] = repairs(deployment)
    told = json.loads(entry.details)
    assert (told["actor"], told["reason"], entry.terms) == ("王芳", "ticket:7", report.cause)
    assert (told["redis"]["version"], told["ledger"]["version"]) == (4, 2)
    assert told["again"] == ["hold-1:capture", "used"]
    assert (entry.delta, entry.held_delta, entry.amount) == (0, 0, 0)


def test_a_corrupt_balance_is_frozen_by_the_next_entry_and_resolved_right(
    deployment: Deployment,
) -> None:
    key = deployment.keys(TOKENS).quota(str(TOKENS))
    deployment.redis.hincrby(key, "remaining", 1000)
    deployment.debit(TOKENS, 900, "too-much")
    deployment.debit(TOKENS, 5, "after")
    drain(deployment)
    assert deployment.balance(TOKENS).frozen.startswith("balance")
    report = thaw(driver_of(deployment), TOKENS, ORDER)
    assert fates(report) == [("too-much", "again"), ("after", "again")]
    check(deployment)
    # 800 were spendable: what the provider was paid beyond them is shortfall.
    charges = [row.entry for row in deployment.ledger.history(TOKENS)][2:4]
    assert [(one.amount, one.shortfall, one.flags) for one in charges] == [
        (900, 100, "used"),
        (5, 5, "used"),
    ]
    assert deployment.balance(TOKENS).balance == 200


def test_a_retry_of_what_was_applied_again_gets_an_answer(deployment: Deployment) -> None:
    forge(deployment)
    deployment.debit(TOKENS, 10, "debit-x")
    drain(deployment)
    thaw(driver_of(deployment), TOKENS, ORDER)
    repeated = deployment.run(Debit(quota=TOKENS, operation_id="debit-x", amount=10))
    assert (repeated.amount, repeated.replayed) == (10, True)
    check(deployment)


def test_a_hold_of_the_other_history_is_charged_late(deployment: Deployment) -> None:
    forge(deployment, operation_id="grant-a")
    deployment.place(TOKENS, 40, "hold-2")
    drain(deployment)
    report = thaw(driver_of(deployment), TOKENS, ORDER)
    assert fates(report) == [("grant-a", "known"), ("hold-2", "nothing")]
    assert deployment.balance(TOKENS).held == 200
    command = CaptureHold(quota=TOKENS, hold_id="hold-2", operation_id="hold-2:capture", amount=25)
    done = driver_of(deployment).drive(captured(command))
    assert (done.late, done.balance) == (True, 975)
    check(deployment)


def test_what_was_put_in_and_given_back_is_kept_too(deployment: Deployment) -> None:
    forge(deployment, operation_id="grant-a")
    deployment.issue(TOKENS, 70, "grant-b")
    deployment.run(ReleaseHold(quota=TOKENS, hold_id="hold-1"))
    drain(deployment)
    thaw(driver_of(deployment), TOKENS, ORDER)
    check(deployment)
    balance = deployment.balance(TOKENS)
    assert (balance.balance, balance.held) == (1070, 0)
    assert [grant.grant_id for grant in balance.grants] == ["grant-a", "grant-b"]


def test_what_was_cancelled_limited_or_voided_stays_so(deployment: Deployment) -> None:
    deployment.issue(TOKENS, 70, "grant-b")
    deployment.drain()
    forge(deployment, operation_id="grant-a")
    run = deployment.run
    run(CancelOperation(quota=TOKENS, operation_id="never", is_absent=True))
    run(SetOverdraftLimit(quota=TOKENS, operation_id="limit-1", overdraft_limit=9))
    run(VoidGrant(quota=TOKENS, grant_id="grant-b"))
    drain(deployment)
    report = thaw(driver_of(deployment), TOKENS, ORDER)
    assert [fate for _, fate in fates(report)] == ["known", "again", "again", "again"]
    with pytest.raises(OperationCancelledError):
        deployment.debit(TOKENS, 1, "never")
    balance = deployment.balance(TOKENS)
    assert (balance.balance, balance.overdraft_limit) == (1000, 9)
    check(deployment)


def test_what_cannot_be_applied_again_is_told(deployment: Deployment) -> None:
    """Its grant has ended while the quota was frozen."""
    forge(deployment, operation_id="grant-a")
    soon = int(time.time() * 1000) + 1_500
    terms = GrantTerms(amount=7, source="promotion", expires_at_ms=soon)
    deployment.run(IssueGrant(quota=TOKENS, grant_id="short", terms=terms))
    drain(deployment)
    while time.time() * 1000 <= soon:
        time.sleep(0.05)
    report = thaw(driver_of(deployment), TOKENS, ORDER)
    [refused] = report.refused
    assert refused.entry is not None
    assert (refused.entry.operation_id, "must end" in refused.why) == ("short", True)
    check(deployment)


def test_bytes_that_are_no_entry_wait_for_a_person(deployment: Deployment) -> None:
    junk(deployment)
    deployment.debit(TOKENS, 10, "told")
    drain(deployment)
    driver = driver_of(deployment)
    with pytest.raises(UnreadableError, match="--discard"):
        thaw(driver, TOKENS, ORDER)
    assert deployment.balance(TOKENS).frozen
    id_ = plan(driver, TOKENS).decisions[0].quarantined.id
    quarantine.discard(deployment.ledger, id_, actor="王芳", reason="nothing of ours")
    report = thaw(driver, TOKENS, ORDER)
    assert fates(report) == [(None, "discarded"), ("told", "again")]
    assert deployment.balance(TOKENS).balance == 990
    check(deployment)
    assert json.loads(repairs(deployment)[0].details)["discarded"] == [f"quarantine:{id_}"]


def test_junk_of_no_quota_is_discarded_by_its_id_alone(deployment: Deployment) -> None:
    junk(deployment, "no quota at all")
    drain(deployment)
    with deployment.ledger.transaction() as sql:
        [found] = in_doubt(sql)
    assert (found.quota, found.entries, found.frozen) == (None, 1, "")
    assert found.first_id is not None
    done = quarantine.discard(deployment.ledger, found.first_id, actor="a", reason="r")
    again = quarantine.discard(deployment.ledger, found.first_id, actor="b", reason="s")
    assert done == again
    assert (done.resolution, done.resolved_by) == ("discarded: r", "a")
    check(deployment)


def test_all_may_be_discarded_and_the_bytes_stay(deployment: Deployment) -> None:
    forge(deployment)
    deployment.debit(TOKENS, 10, "gone")
    drain(deployment)
    report = thaw(driver_of(deployment), TOKENS, replace(ORDER, is_discarding=True))
    assert [fate for _, fate in fates(report)] == ["discarded", "discarded"]
    assert deployment.balance(TOKENS).balance == 1000
    check(deployment)
    with deployment.ledger.transaction() as sql:
        kept = sql.execute(text("SELECT raw_entry, resolved_by FROM quarantine ORDER BY id")).all()
    assert parse_entry(bytes(kept[1].raw_entry).decode()).operation_id == "gone"
    assert {row.resolved_by for row in kept} == {"王芳"}


def test_planning_does_nothing(deployment: Deployment) -> None:
    forge(deployment)
    deployment.debit(TOKENS, 10, "told")
    drain(deployment)
    before = deployment.redis.dbsize(), deployment.operations(TOKENS)
    assert fates(plan(driver_of(deployment), TOKENS)) == [("forged", "again"), ("told", "again")]
    assert (deployment.redis.dbsize(), deployment.operations(TOKENS)) == before
    assert deployment.balance(TOKENS).frozen


def test_what_nothing_explains_is_resolved_to_the_ledger(deployment: Deployment) -> None:
    """The quota's key is of another type: reconciling froze it."""
    deployment.redis.set(deployment.keys(TOKENS).quota(str(TOKENS)), "junk")
    reconcile(deployment.redis, deployment.ledger, opened=deployment.opened, repair=True)
    report = thaw(driver_of(deployment), TOKENS, ORDER)
    assert (report.cause, report.decisions) == ("unexplained", ())
    assert deployment.balance(TOKENS).balance == 1000
    check(deployment)


def test_versions_that_nobody_has_are_resolved_to_the_ledger(deployment: Deployment) -> None:
    keys = deployment.keys(TOKENS)
    deployment.redis.hset(keys.versions, str(TOKENS), 9)
    deployment.redis.hset(keys.quota(str(TOKENS)), "version", 9)
    reconcile(deployment.redis, deployment.ledger, opened=deployment.opened, repair=True)
    report = thaw(driver_of(deployment), TOKENS, ORDER)
    assert report.cause == "entry_missing"
    deployment.debit(TOKENS, 3)
    check(deployment)


def test_an_operator_freezes_and_thaws(deployment: Deployment) -> None:
    driver = driver_of(deployment)
    frozen = quarantine.freeze(driver, TOKENS, actor="王芳", reason="stolen key")
    assert frozen == "operator: stolen key (王芳)"
    with pytest.raises(QuotaFrozenError, match="stolen key"):
        deployment.debit(TOKENS, 1)
    deployment.capture(TOKENS, "hold-1", 200)
    drain(deployment)
    assert thaw(driver, TOKENS, ORDER).cause == "operator"
    assert deployment.balance(TOKENS).balance == 800
    check(deployment)


def test_thawing_what_is_sound_does_nothing(deployment: Deployment) -> None:
    report = thaw(driver_of(deployment), TOKENS, ORDER)
    assert (report.version, report.decisions, report.frozen) == (None, (), "")
    assert deployment.ledger.history(TOKENS)[-1].entry.version == 2


def test_thawing_again_has_no_further_effect(deployment: Deployment) -> None:
    forge(deployment)
    deployment.debit(TOKENS, 10, "told")
    drain(deployment)
    thaw(driver_of(deployment), TOKENS, ORDER)
    check(deployment)
    before = deployment.operations(TOKENS)
    assert thaw(driver_of(deployment), TOKENS, ORDER).version is None
    check(deployment)
    assert deployment.operations(TOKENS) == before


def test_a_quota_of_which_the_ledger_never_heard_begins_anew(deployment: Deployment) -> None:
    """Its entries are lost, so it could never be loaded."""
    lost = QuotaName("user:lost", "text_token")
    keys = deployment.keys(lost)
    deployment.redis.hset(keys.versions, str(lost), 3)
    report = reconcile(deployment.redis, deployment.ledger, opened=deployment.opened, repair=True)
    assert (report.repaired, report.frozen) == (0, 1)
    assert thaw(driver_of(deployment), lost, ORDER).cause == "entry_missing"
    deployment.issue(lost, 5)
    check(deployment)
    assert deployment.balance(lost).balance == 5


def test_a_script_that_failed_after_its_first_write_is_found_and_mended(
    deployment: Deployment,
) -> None:
    """The entry went out, the quota stayed as it was: the next one tells another history."""
    source = load_scripts()["debit"].source
    half = source.replace('redis.call("HSET", state.keys.quota, unpack(fields))', "error('x')")
    assert half != source
    command = Debit(quota=TOKENS, operation_id="half", amount=30)
    shard = deployment.ledger.shard_of(TOKENS)
    context = Context(deployment.keys(TOKENS), deployment.opened.epochs[shard])
    keys, argv = command.keys(context.keys), command.argv(context)
    with pytest.raises(redis.ResponseError):
        deployment.redis.eval(half, len(keys), *keys, *argv)
    found = reconcile(deployment.redis, deployment.ledger, opened=deployment.opened)
    assert [drift.cause for drift in found.drifts] == ["version_behind"]
    deployment.debit(TOKENS, 10, "next")
    drain(deployment)
    assert deployment.balance(TOKENS).frozen.startswith("fork_or_rollback")
    report = thaw(driver_of(deployment), TOKENS, ORDER)
    assert fates(report) == [("next", "again")]
    assert deployment.balance(TOKENS).balance == 960
    check(deployment)
