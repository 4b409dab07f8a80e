"""
A quota that is charged all the time is compared in full, too: grants and holds one by one.

Goal: what is edited of a busy quota is found at the next look, and nothing else is. Method: edits
that no sum shows, with entries on their way and under load.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import text

from quota_engine.drift import Cause, Drift, ReconcileReport
from quota_engine.errors import QuotaInsufficientError
from quota_engine.jobs import persist
from quota_engine.jobs.reconcile import reconcile
from quota_engine.keys import QuotaName
from quota_engine.ledger.quarantine import open_repairs
from tests.deployments import Deployment

BUSY = [QuotaName(f"user:{number}", "text_token") for number in range(24)]
EDITED = BUSY[3]


@pytest.fixture
def deployment(redis_url: str, database_url: str) -> Iterator[Deployment]:
    """A deployment with quotas of two grants and a hold each, all persisted."""
    with Deployment(redis_url, database_url) as made:
        made.open()
        for quota in BUSY:
            made.issue(quota, 10**9, f"a-{quota.account}")
            made.issue(quota, 10**9, f"b-{quota.account}")
            made.place(quota, 200, f"hold-{quota.account}")
        made.drain()
        yield made


def check(deployment: Deployment, *, repair: bool = False) -> ReconcileReport:
    return reconcile(deployment.redis, deployment.ledger, opened=deployment.opened, repair=repair)


def move_between_grants(deployment: Deployment, quota: QuotaName, units: int) -> None:
    """Move units from the grant that pays last to the one that pays first: no sum shows it."""
    key = deployment.keys(quota).quota(str(quota))
    names = [f"g:a-{quota.account}", f"g:b-{quota.account}"]
    script = """
        for place, name in ipairs({ARGV[1], ARGV[2]}) do
            local first, rest = string.match(redis.call("HGET", KEYS[1], name), "^(%d+)(.*)$")
            local more = place == 1 and ARGV[3] or -ARGV[3]
            redis.call("HSET", KEYS[1], name, string.format("%.0f", first + more) .. rest)
        end
    """
    deployment.redis.eval(script, 1, key, *names, units)


def forge_hold(deployment: Deployment, quota: QuotaName) -> None:
    """Give another id to a hold: each sum stays."""
    key = deployment.keys(quota).holds(str(quota))
    record = deployment.redis.hget(key, f"hold-{quota.account}")
    assert isinstance(record, bytes)
    deployment.redis.hset(key, "forged", record)
    deployment.redis.hdel(key, f"hold-{quota.account}")


@contextmanager
def load(deployment: Deployment, *, persisting: bool = True) -> Iterator[None]:
    """Charge all quotas all the time, and persist that, as long as the context lasts."""
    stop = threading.Event()
    broken: list[BaseException] = []

    def charge(part: list[QuotaName]) -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                for quota in part:
                    hold_id = f"load-{quota.account}-{number}"
                    deployment.place(quota, 50, hold_id)
                    deployment.debit(quota, 3, f"debit-{quota.account}-{number}")
                    deployment.capture(quota, hold_id, 60)
        except QuotaInsufficientError as error:
            broken.append(error)

    def persist_all() -> None:
        while not stop.is_set():
            for shard in range(4):
                persist.persist_batch(deployment.redis, deployment.ledger, shard, batch_max=50)

    threads = [threading.Thread(target=charge, args=(part,)) for part in (BUSY[:8], BUSY[8:])]
    if persisting:
        threads.append(threading.Thread(target=persist_all))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert broken == []


def drift_of(report: ReconcileReport, quota: QuotaName) -> Drift:
    found = {(drift.account, drift.quota_type): drift for drift in report.drifts}
    assert found.keys() == {(quota.account, quota.quota_type)}, report
    return found[quota.account, quota.quota_type]


def test_what_no_sum_shows_is_found_while_entries_wait(deployment: Deployment) -> None:
    move_between_grants(deployment, EDITED, 70)
    deployment.debit(EDITED, 3)
    drift = drift_of(check(deployment), EDITED)
    assert (drift.cause, drift.is_mendable) == (Cause.GRANT_EDITED, True)


@pytest.mark.parametrize("persisting", [True, False])
def test_busy_quotas_are_compared_in_full_and_nothing_is_found(
    deployment: Deployment, persisting: bool
) -> None:
    with load(deployment, persisting=persisting):
        reports = [check(deployment, repair=turn % 2 == 1) for turn in range(8)]
    assert [drift for report in reports for drift in report.drifts] == []
    assert {(report.checked, report.not_compared) for report in reports} == {(len(BUSY), 0)}
    with deployment.ledger.transaction() as sql:
        assert sql.execute(text("SELECT count(*) FROM repairs")).scalar_one() == 0


def test_an_edit_of_a_busy_quota_is_found_by_the_next_look(deployment: Deployment) -> None:
    with load(deployment):
        time.sleep(0.1)
        move_between_grants(deployment, EDITED, 70)
        assert drift_of(check(deployment), EDITED).cause is Cause.GRANT_EDITED
        move_between_grants(deployment, EDITED, -70)
        assert check(deployment).drifts == ()
        forge_hold(deployment, BUSY[20])
        assert drift_of(check(deployment), BUSY[20]).cause is Cause.HOLD_MISSING


def test_an_edit_of_a_busy_quota_is_mended_while_it_is_busy(deployment: Deployment) -> None:
    with load(deployment):
        move_between_grants(deployment, EDITED, 70)
        reports = [check(deployment, repair=True)]
        while not reports[-1].is_clean and len(reports) < 10:
            reports.append(check(deployment, repair=True))
        assert check(deployment).drifts == ()
    assert [report.frozen for report in reports] == [0] * len(reports)
    deployment.drain()
    assert check(deployment).drifts == ()
    with deployment.ledger.transaction() as sql:
        assert open_repairs(sql) == []
    kinds = [row.entry.kind for row in deployment.ledger.history(EDITED)]
    assert kinds.count("quota.repaired") == 1


def test_what_cannot_be_persisted_is_counted_as_not_compared(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persist, "LOCK_WAIT_MS", 50)
    move_between_grants(deployment, EDITED, 70)
    deployment.debit(EDITED, 3)
    shard = deployment.ledger.shard_of(EDITED)
    with deployment.ledger.transaction() as sql:
        sql.execute(text("SELECT FROM shards WHERE shard = :shard FOR UPDATE"), {"shard": shard})
        report = check(deployment)
    assert (report.drifts, report.not_compared, report.checked) == ((), 1, len(BUSY))
    report = check(deployment)
    assert (len(report.drifts), report.not_compared) == (1, 0)


def test_a_look_at_rest_keeps_what_it_persists(deployment: Deployment) -> None:
    deployment.debit(EDITED, 3, "the-last")
    assert check(deployment).drifts == ()
    assert deployment.operations(EDITED)[-1] == "the-last"
    noted = deployment.redis.hget(deployment.keys(EDITED).versions, "@cursor")
    row = deployment.ledger.read_shards()[deployment.ledger.shard_of(EDITED)]
    assert isinstance(noted, bytes)
    assert noted.decode() == str(row.cursor)
    assert json.dumps(row.stopped) in {"null", '""'}
