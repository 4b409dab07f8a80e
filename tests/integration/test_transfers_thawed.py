"""A transfer of which one side is in doubt: mended, no unit of it is lost or doubled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from quota_engine import QuotaEngine
from quota_engine.commands import (
    Command,
    Debit,
    GrantTerms,
    IssueGrant,
    Transfer,
    TransferOut,
    TransferQuota,
)
from quota_engine.jobs.arrived import ArrivedError
from quota_engine.jobs.quarantine import discard
from quota_engine.jobs.running import run_command
from quota_engine.jobs.thaw import plan, thaw
from quota_engine.jobs.thaw_rules import entry_of
from quota_engine.ledger.quarantine import entries_of
from tests.deployments import SETTINGS, Deployment
from tests.frozen import ORDER, OTHER, TOKENS, check, drain, driver_of, fates, forge


@pytest.fixture
def deployment(redis_url: str, database_url: str) -> Iterator[Deployment]:
    """A deployment with two quotas of one shard."""
    with Deployment(redis_url, database_url) as made:
        made.open()
        made.issue(TOKENS, 1000, "grant-a")
        made.issue(OTHER, 50, "grant-b")
        made.drain()
        yield made


def test_what_left_a_quota_in_doubt_leaves_it_again(deployment: Deployment) -> None:
    """The arrival is in the ledger, the leaving in quarantine."""
    forge(deployment, operation_id="grant-a")
    transfer = Transfer(transfer_id="t", source=TOKENS, target=OTHER, amount=100)
    deployment.run(TransferQuota(quota=TOKENS, transfer=transfer))
    drain(deployment)
    assert deployment.operations(OTHER)[-1] == transfer.arrival_id
    assert "t" not in deployment.operations(TOKENS)
    report = thaw(driver_of(deployment), TOKENS, ORDER)
    assert ("t", "again") in fates(report)
    drain(deployment)
    assert deployment.operations(TOKENS).count("t") == 1
    assert (deployment.balance(TOKENS).balance, deployment.balance(OTHER).balance) == (900, 150)
    check(deployment)


def test_what_left_and_has_arrived_is_not_discarded(deployment: Deployment) -> None:
    forge(deployment, operation_id="grant-a")
    transfer = Transfer(transfer_id="t", source=TOKENS, target=OTHER, amount=100)
    deployment.run(TransferQuota(quota=TOKENS, transfer=transfer))
    drain(deployment)
    with deployment.ledger.transaction() as sql:
        ids = {entry_of(one): one.id for one in entries_of(sql, TOKENS)}
    (leaving,) = (id_ for entry, id_ in ids.items() if entry and entry.operation_id == "t")
    told = "100 units have arrived in acme/team-8"
    with pytest.raises(ArrivedError, match=told):
        plan(driver_of(deployment), TOKENS, is_discarding=True)
    with pytest.raises(ArrivedError, match=told):
        thaw(driver_of(deployment), TOKENS, replace(ORDER, is_discarding=True))
    with pytest.raises(ArrivedError, match=f"entry {leaving} is the leaving of transfer t"):
        discard(deployment.ledger, leaving, actor="ann", reason="mistaken")
    for other in set(ids.values()) - {leaving}:
        discard(deployment.ledger, other, actor="ann", reason="forged")
    thaw(driver_of(deployment), TOKENS, ORDER)
    drain(deployment)
    assert (deployment.balance(TOKENS).balance, deployment.balance(OTHER).balance) == (900, 150)
    check(deployment)


def test_what_arrived_in_a_quota_in_doubt_arrives_again(
    deployment: Deployment, redis_url: str, database_url: str
) -> None:
    """The leaving is in the ledger, the arrival in quarantine: then workers bring it."""
    forge(deployment, operation_id="grant-a")
    transfer = Transfer(transfer_id="t", source=OTHER, target=TOKENS, amount=30)
    deployment.run(TransferQuota(quota=OTHER, transfer=transfer))
    drain(deployment)
    assert transfer.arrival_id not in deployment.operations(TOKENS)
    thaw(driver_of(deployment), TOKENS, ORDER)
    assert deployment.balance(TOKENS).balance == 1000
    with QuotaEngine.open(redis_url, database_url, shards=SETTINGS.shards) as engine:
        for _ in range(2):
            engine.run_schedule()
    assert (deployment.balance(TOKENS).balance, deployment.balance(OTHER).balance) == (1030, 20)
    check(deployment)


def test_what_arrived_and_cannot_leave_again_is_charged(redis_url: str, database_url: str) -> None:
    """The arrival stands and was spent, the grant it came from has ended before it was mended."""
    an_hour_ago = time.time_ns() // 1_000_000 - 3_600_000
    ended = GrantTerms(amount=1000, source="purchase", expires_at_ms=an_hour_ago + 1_000_000)
    kept = GrantTerms(amount=60, source="purchase")
    transfer = Transfer(transfer_id="t", source=TOKENS, target=OTHER, amount=100)
    with Deployment(redis_url, database_url) as deployment:
        deployment.open()
        for quota in (TOKENS, OTHER):
            deployment.hydrate(quota)
        issues = (
            IssueGrant(quota=TOKENS, grant_id="grant-a", terms=ended),
            IssueGrant(quota=TOKENS, grant_id="grant-b", terms=kept),
        )
        for command in issues:
            run_command(deployment.redis, deployment.opened, command, now_ms=an_hour_ago)
        drain(deployment)
        forge(deployment, operation_id="grant-b")
        moves: tuple[Command[Any], ...] = (
            TransferQuota(quota=TOKENS, transfer=transfer),
            Debit(quota=OTHER, operation_id="spent", amount=100),
        )
        for move in moves:
            run_command(deployment.redis, deployment.opened, move, now_ms=an_hour_ago + 1)
        drain(deployment)
        assert "t" not in deployment.operations(TOKENS)
        report = thaw(driver_of(deployment), TOKENS, ORDER)
        assert ("t", "again") in fates(report)
        drain(deployment)
        charged = deployment.ledger.history(TOKENS)
        (left,) = (row.entry for row in charged if row.entry.operation_id == "t")
        assert (left.kind, left.amount, left.shortfall) == ("quota.debited", 100, 40)
        assert (deployment.balance(TOKENS).balance, deployment.balance(OTHER).balance) == (0, 0)
        check(deployment)
    with QuotaEngine.open(redis_url, database_url, shards=SETTINGS.shards) as engine:
        names = (TOKENS.account, OTHER.account, TOKENS.quota_type)
        assert engine.transfer(*names, 100, "t").replayed
        assert engine.read_balance(OTHER.account, OTHER.quota_type).balance == 0


def test_what_cannot_leave_again_and_never_arrived_stays_refused(
    redis_url: str, database_url: str
) -> None:
    """Nothing stands of it, so nothing is charged."""
    an_hour_ago = time.time_ns() // 1_000_000 - 3_600_000
    ended = GrantTerms(amount=1000, source="purchase", expires_at_ms=an_hour_ago + 1_000_000)
    transfer = Transfer(transfer_id="t", source=TOKENS, target=OTHER, amount=100)
    with Deployment(redis_url, database_url) as deployment:
        deployment.open()
        deployment.hydrate(TOKENS)
        issue = IssueGrant(quota=TOKENS, grant_id="grant-a", terms=ended)
        run_command(deployment.redis, deployment.opened, issue, now_ms=an_hour_ago)
        drain(deployment)
        forge(deployment, operation_id="grant-a")
        leave = TransferOut(quota=TOKENS, transfer=transfer)
        run_command(deployment.redis, deployment.opened, leave, now_ms=an_hour_ago + 1)
        drain(deployment)
        assert ("t", "refused") in fates(thaw(driver_of(deployment), TOKENS, ORDER))
        drain(deployment)
        assert "t" not in deployment.operations(TOKENS)
        check(deployment)
