"""Who thaws a quota may die, or be one of many, or have traffic beside; the outcome is one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from quota_engine.commands import CaptureHold, DebitUsed, ReleaseHold
from quota_engine.errors import QuotaError
from quota_engine.flows import captured
from quota_engine.jobs import crash_points
from quota_engine.jobs.thaw import Order, ThawReport, thaw
from tests.deployments import Deployment
from tests.frozen import (
    ORDER,
    OTHER,
    TOKENS,
    check,
    drain,
    driver_of,
    forge,
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


class Killed(BaseException):
    """The operator's process dies here."""


def spoil(deployment: Deployment) -> None:
    """Have the quota frozen with two charges, a grant and a release in quarantine."""
    forge(deployment, operation_id="grant-a")
    deployment.debit(TOKENS, 10, "told-1")
    deployment.issue(TOKENS, 70, "grant-b")
    deployment.run(DebitUsed(quota=TOKENS, operation_id="told-2", amount=5))
    deployment.run(ReleaseHold(quota=TOKENS, hold_id="hold-1"))
    drain(deployment)


def check_spoiled_is_mended(deployment: Deployment) -> None:
    check(deployment)
    balance = deployment.balance(TOKENS)
    assert (balance.balance, balance.held, balance.frozen) == (1055, 0, "")
    operations = deployment.operations(TOKENS)
    told = ["told-1", "grant-b", "told-2", "hold-1:release"]
    assert [operations.count(one) for one in told] == [1, 1, 1, 1]
    with deployment.ledger.transaction() as sql:
        duplicates = sql.execute(
            text("SELECT count(*) FROM ledger_entries WHERE duplicate_of IS NOT NULL")
        ).scalar_one()
    assert duplicates == 0


STEPS = [(point, 1) for point in sorted(crash_points.OF_THAWING)] + [("after_applied", 3)]


@pytest.mark.parametrize(("point", "nth"), STEPS)
def test_who_dies_at_any_step_is_followed_by_who_ends_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, point: str, nth: int
) -> None:
    spoil(deployment)
    met: list[str] = []

    def reach(name: str) -> None:
        met.append(name)
        if met.count(point) == nth and name == point:
            raise Killed

    monkeypatch.setattr(crash_points, "reach", reach)
    with pytest.raises(Killed):
        thaw(driver_of(deployment), TOKENS, ORDER)
    monkeypatch.undo()
    deployment.run(DebitUsed(quota=TOKENS, operation_id="meanwhile", amount=1))
    drain(deployment)
    thaw(driver_of(deployment), TOKENS, Order("李雷", "the first died"))
    deployment.issue(TOKENS, 1, "grant-c")  # what was used meanwhile
    check_spoiled_is_mended(deployment)
    assert deployment.operations(TOKENS).count("meanwhile") == 1
    assert len(repairs(deployment)) == 1


def test_two_operators_at_once_have_one_effect(deployment: Deployment) -> None:
    spoil(deployment)
    ended: list[ThawReport | QuotaError] = []

    def mend(actor: str) -> None:
        try:
            ended.append(thaw(driver_of(deployment), TOKENS, Order(actor, "both saw it")))
        except QuotaError as error:
            ended.append(error)

    threads = [threading.Thread(target=mend, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(isinstance(one, ThawReport) for one in ended), ended
    assert len(ended) == 3
    check_spoiled_is_mended(deployment)
    assert len(repairs(deployment)) == 1


def test_others_go_on_while_a_quota_is_frozen_and_mended(deployment: Deployment) -> None:
    """Traffic on a quota of the same shard, and captures of the frozen one, all the time."""
    for number in range(30):
        deployment.place(TOKENS, 5, f"busy-{number}")
    drain(deployment)
    forge(deployment, operation_id="grant-a")
    drain(deployment)
    stop = threading.Event()
    charged: list[int] = []

    def others() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            deployment.issue(OTHER, 1, f"other-{number}")
            deployment.debit(OTHER, 1, f"other-debit-{number}")

    def captures() -> None:
        for number in range(30):
            command = CaptureHold(
                quota=TOKENS,
                hold_id=f"busy-{number}",
                operation_id=f"busy-{number}:capture",
                amount=5,
            )
            driver_of(deployment).drive(captured(command))
            charged.append(number)

    threads = [threading.Thread(target=others), threading.Thread(target=captures)]
    for thread in threads:
        thread.start()
    try:
        thaw(driver_of(deployment), TOKENS, ORDER)
    finally:
        threads[1].join(60)
        stop.set()
        threads[0].join(60)
    drain(deployment)
    if deployment.balance(TOKENS).frozen:
        thaw(driver_of(deployment), TOKENS, ORDER)
    assert len(charged) == 30
    check(deployment)
    assert deployment.balance(TOKENS).balance == 1000 - 150
    assert deployment.balance(OTHER).balance == 50
