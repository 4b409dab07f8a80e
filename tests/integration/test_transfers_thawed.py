"""A transfer of which one side is in doubt: mended, no unit of it is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quota_engine import QuotaEngine
from quota_engine.commands import Transfer, TransferQuota
from quota_engine.jobs.thaw import thaw
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
