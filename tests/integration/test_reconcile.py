"""Reconciliation: nothing is reported that is right, everything that is wrong, and why."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text

from quota_engine.commands import DebitUsed, GrantTerms, IssueGrant, ReleaseHold
from quota_engine.commands.loading import UnloadQuota
from quota_engine.drift import Cause, Drift, ReconcileReport
from quota_engine.errors import EngineUnavailableError, QuotaFrozenError, QuotaInsufficientError
from quota_engine.jobs.persist import drain
from quota_engine.jobs.reconcile import reconcile
from quota_engine.keys import DEPLOYMENT_KEY, QuotaName
from quota_engine.ledger.quarantine import open_repairs
from tests.deployments import Deployment

TOKENS = QuotaName("acme/team-7", "text_token")
IMAGES = QuotaName("user:42", "image")
NEVER_USED = QuotaName("user:43", "image")


@pytest.fixture
def deployment(redis_url: str, database_url: str) -> Iterator[Deployment]:
    """A deployment with two quotas, a hold and three grants, all persisted."""
    with Deployment(redis_url, database_url) as made:
        made.open()
        made.issue(TOKENS, 1000, "grant-a")
        made.issue(TOKENS, 500, "grant-b")
        made.debit(TOKENS, 100)
        made.place(TOKENS, 200, "hold-1")
        made.issue(IMAGES, 5, "grant-c")
        made.drain()
        yield made


def check(deployment: Deployment, *, repair: bool = False) -> ReconcileReport:
    """Reconcile the deployment."""
    return reconcile(deployment.redis, deployment.ledger, opened=deployment.opened, repair=repair)


def only_drift(report: ReconcileReport) -> Drift:
    """Return the one drift of a report."""
    assert len(report.drifts) == 1, report
    return report.drifts[0]


def edit(deployment: Deployment, field: str, value: object) -> None:
    """Write a field of the token quota past every script."""
    deployment.redis.hset(deployment.keys(TOKENS).quota(str(TOKENS)), field, str(value))


def test_what_agrees_is_no_drift(deployment: Deployment) -> None:
    counts: list[int] = []
    report = reconcile(
        deployment.redis, deployment.ledger, opened=deployment.opened, progress=counts.append
    )
    assert (report.checked, report.drifts, report.is_clean) == (2, (), True)
    assert counts[-1] == 2


def test_pending_entries_are_no_drift(deployment: Deployment) -> None:
    deployment.debit(TOKENS, 7)
    deployment.issue(NEVER_USED, 3)
    deployment.capture(TOKENS, "hold-1", 150)
    assert check(deployment).drifts == ()
    assert check(deployment).checked == 3


def test_every_kind_of_life_agrees(deployment: Deployment) -> None:
    run = deployment.run
    terms = GrantTerms(amount=50, source="purchase", starts_at_ms=4_000_000_000_000)
    run(IssueGrant(quota=TOKENS, grant_id="grant-later", terms=terms))
    ends = GrantTerms(amount=50, source="purchase", priority=1, expires_at_ms=4_000_000_000_000)
    run(IssueGrant(quota=TOKENS, grant_id="grant-ending", terms=ends))
    deployment.place(TOKENS, 120, "hold-2")
    deployment.place(TOKENS, 60, "hold-3")
    run(DebitUsed(quota=TOKENS, operation_id="used", amount=5000))
    assert check(deployment).drifts == ()
    run(ReleaseHold(quota=TOKENS, hold_id="hold-2"))
    assert check(deployment).drifts == ()
    deployment.drain()
    assert check(deployment).drifts == ()
    deployment.open()
    deployment.redis.delete(deployment.keys(TOKENS).quota(str(TOKENS)))
    deployment.balance(TOKENS)
    assert check(deployment).drifts == ()


def test_an_unloaded_quota_is_no_drift(deployment: Deployment) -> None:
    command = UnloadQuota(quota=IMAGES, version=1, change_after_ms=0)
    assert deployment.run(command) == ""
    report = check(deployment)
    assert (report.checked, report.drifts) == (2, ())


def test_load_and_drains_meanwhile_are_no_drift(deployment: Deployment) -> None:
    quotas = [QuotaName(f"user:{number}", "text_token") for number in range(6)]
    for quota in quotas:
        deployment.issue(quota, 10**9)
    deployment.drain()
    stop = threading.Event()

    def load(seed: int) -> None:
        chance = random.Random(seed)
        number = 0
        while not stop.is_set():
            number += 1
            quota, hold_id = chance.choice(quotas), f"load-{seed}-{number}"
            with suppress(QuotaInsufficientError):
                deployment.place(quota, chance.randint(1, 100), hold_id)
                deployment.debit(quota, 3, f"load-debit-{seed}-{number}")
                deployment.capture(quota, hold_id, chance.randint(0, 120))

    def persist() -> None:
        while not stop.is_set():
            drain(deployment.redis, deployment.ledger, range(4), batch_max=50)

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(2)]
    threads.append(threading.Thread(target=persist))
    for thread in threads:
        thread.start()
    try:
        reports = [check(deployment, repair=turn % 2 == 1) for turn in range(20)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [drift for report in reports for drift in report.drifts] == []
    assert all(report.checked == 8 for report in reports)
    with deployment.ledger.transaction() as sql:
        assert sql.execute(text("SELECT count(*) FROM repairs")).scalar_one() == 0
    deployment.drain()
    assert check(deployment).drifts == ()


Spoil = Callable[[Deployment], object]


class Edit(NamedTuple):
    """How a cause comes about, and what is told of it."""

    cause: Cause
    field: str
    redis: object
    #: None: not compared here.
    ledger: object
    spoil: Spoil


EDITS = [
    Edit(Cause.BALANCE_EDITED, "balance", 2400, 1400, lambda d: edit(d, "remaining", 2200)),
    Edit(Cause.HELD_EDITED, "held", 0, 200, lambda d: edit(d, "held", 0)),
    Edit(Cause.DEBT_EDITED, "debt", 9, 0, lambda d: edit(d, "debt", 9)),
    Edit(Cause.CHAIN_FORKED, "chain", "f" * 40, None, lambda d: edit(d, "chain", "f" * 40)),
    Edit(Cause.VERSION_AHEAD, "version", 9, 4, lambda d: edit(d, "version", 9)),
    Edit(Cause.VERSION_BEHIND, "version", 2, 4, lambda d: edit(d, "version", 2)),
    Edit(
        Cause.LIMIT_EDITED, "overdraft_limit", None, 0, lambda d: edit(d, "overdraft", "unlimited")
    ),
    Edit(Cause.FROZEN_ALONE, "frozen", "by hand", None, lambda d: edit(d, "frozen", "by hand")),
    Edit(
        Cause.HOLD_MISSING,
        "hold hold-1",
        None,
        200,
        lambda d: d.redis.hdel(d.keys(TOKENS).holds(str(TOKENS)), "hold-1"),
    ),
    Edit(
        Cause.HOLD_UNKNOWN,
        "hold hold-x",
        5,
        None,
        lambda d: d.redis.hset(d.keys(TOKENS).holds(str(TOKENS)), "hold-x", "5 0 1"),
    ),
    Edit(
        Cause.HOLD_EDITED,
        "hold hold-1 amount",
        100,
        200,
        lambda d: d.redis.hset(
            d.keys(TOKENS).holds(str(TOKENS)), "hold-1", "100 100 9 grant-a 100"
        ),
    ),
    Edit(
        Cause.GRANT_MISSING,
        "grant grant-b",
        None,
        500,
        lambda d: d.redis.hdel(d.keys(TOKENS).quota(str(TOKENS)), "g:grant-b"),
    ),
    Edit(
        Cause.GRANT_EDITED,
        "grant grant-b remaining",
        900,
        500,
        lambda d: edit_grant(d, "grant-b", 900),
    ),
    Edit(
        Cause.CHANGE_MISSING,
        "change a:hold-1",
        None,
        "a:hold-1",
        lambda d: d.redis.zrem(d.keys(TOKENS).changes(str(TOKENS)), "a:hold-1"),
    ),
]


def edit_grant(deployment: Deployment, grant_id: str, remaining: int) -> None:
    """Give a grant another remainder, past every script."""
    key = deployment.keys(TOKENS).quota(str(TOKENS))
    record = deployment.redis.hget(key, f"g:{grant_id}")
    assert isinstance(record, bytes)
    _, rest = record.decode().split(" ", 1)
    deployment.redis.hset(key, f"g:{grant_id}", f"{remaining} {rest}")


@pytest.mark.parametrize("case", EDITS, ids=[case.cause.value for case in EDITS])
def test_an_edit_is_found_without_traffic_and_mended(deployment: Deployment, case: Edit) -> None:
    case.spoil(deployment)
    drift = only_drift(check(deployment))
    assert (drift.account, drift.quota_type) == (TOKENS.account, TOKENS.quota_type)
    assert (drift.cause, drift.field, drift.redis) == (case.cause, case.field, case.redis)
    assert case.ledger is None or drift.ledger == case.ledger
    report = check(deployment, repair=True)
    assert (only_drift(report).cause, report.repaired, report.frozen) == (case.cause, 1, 0)
    assert report.is_clean
    assert check(deployment).drifts == ()
    balance = deployment.balance(TOKENS)
    assert (balance.balance, balance.held, balance.frozen) == (1400, 200, "")
    deployment.capture(TOKENS, "hold-1", 200)
    assert deployment.drain() == 1, "the mend was persisted by the look after it"
    assert check(deployment).drifts == ()
    repaired = deployment.ledger.history(TOKENS)[4].entry
    told = json.loads(repaired.details)
    assert (repaired.kind, repaired.terms) == ("quota.repaired", case.cause)
    assert (told["actor"], told["field"]) == ("reconcile", case.field)
    assert (told.get("redis"), told.get("ledger")) == (drift.redis, drift.ledger)


def test_an_edited_grant_that_keeps_the_sums_is_found_under_load(deployment: Deployment) -> None:
    deployment.debit(IMAGES, 1)
    deployment.debit(TOKENS, 1)
    edit_grant(deployment, "grant-b", 400)
    assert only_drift(check(deployment)).cause is Cause.GRANT_EDITED


def test_a_last_version_set_back_is_found_and_mended(deployment: Deployment) -> None:
    deployment.redis.hset(deployment.keys(TOKENS).versions, str(TOKENS), 2)
    drift = only_drift(check(deployment))
    assert (drift.cause, drift.field) == (Cause.VERSION_BEHIND, "versions")
    assert check(deployment, repair=True).repaired == 1
    deployment.debit(TOKENS, 1)
    deployment.drain()
    assert check(deployment).drifts == ()


def test_an_edit_of_a_quota_with_pending_entries_is_drained_first(deployment: Deployment) -> None:
    deployment.debit(TOKENS, 50)
    edit(deployment, "held", 0)
    report = check(deployment, repair=True)
    assert (only_drift(report).cause, report.repaired) == (Cause.HELD_EDITED, 1)
    assert deployment.balance(TOKENS).balance == 1350
    assert deployment.balance(TOKENS).held == 200


def test_a_missing_entry_freezes_the_quota_and_is_not_called_repaired(
    deployment: Deployment,
) -> None:
    keys = deployment.keys(TOKENS)
    deployment.debit(TOKENS, 10)
    deployment.drain()
    deployment.redis.hset(keys.versions, str(TOKENS), 6)
    edit(deployment, "version", 6)
    assert only_drift(check(deployment)).cause is Cause.ENTRY_MISSING
    report = check(deployment, repair=True)
    assert (report.repaired, report.frozen, report.is_clean) == (0, 1, False)
    with pytest.raises(QuotaFrozenError, match="entry_missing"):
        deployment.debit(TOKENS, 1)
    assert "entry_missing" in deployment.ledger.read_snapshot(TOKENS, 1).frozen
    report = check(deployment, repair=True)
    assert only_drift(report).cause is Cause.FROZEN
    assert (report.repaired, report.frozen) == (0, 0)


def test_a_missing_entry_of_a_quota_that_is_not_loaded_is_found(deployment: Deployment) -> None:
    deployment.redis.hset(deployment.keys(NEVER_USED).versions, str(NEVER_USED), 3)
    drift = only_drift(check(deployment))
    assert (drift.cause, drift.redis, drift.ledger) == (Cause.ENTRY_MISSING, 3, 0)
    assert check(deployment, repair=True).repaired == 0


def test_a_forged_entry_in_the_outbox_is_found(deployment: Deployment) -> None:
    entry = f"1\nquota.debited\n{TOKENS}\n9" + "\n0" * 15
    keys = deployment.keys(TOKENS)
    deployment.redis.xadd(keys.outbox, {"entry": entry, "chain": "0" * 40}, id="1-*")
    assert only_drift(check(deployment)).cause is Cause.ENTRY_UNFIT


def test_a_key_of_another_type_is_unexplained(deployment: Deployment) -> None:
    deployment.redis.set(deployment.keys(TOKENS).quota(str(TOKENS)), "junk")
    report = check(deployment, repair=True)
    assert only_drift(report).cause is Cause.UNEXPLAINED
    assert (report.repaired, report.frozen) == (0, 1)


def test_a_quota_that_changes_meanwhile_is_left_alone(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(deployment, "remaining", 2200)
    from quota_engine.jobs import reconcile as module

    dropping = module._drop

    def after_a_debit(run: module.Reconciler, *rest: Any) -> bool:
        deployment.debit(TOKENS, 1)
        return dropping(run, *rest)

    monkeypatch.setattr(module, "_drop", after_a_debit)
    report = check(deployment, repair=True)
    assert (len(report.drifts), report.repaired) == (1, 0)
    assert repairs(deployment) == []
    with deployment.ledger.transaction() as sql:
        assert open_repairs(sql) == []


def repairs(deployment: Deployment) -> list[str]:
    """Return the operation ids of the token quota's repairs."""
    deployment.drain()
    entries = [row.entry for row in deployment.ledger.history(TOKENS)]
    return [entry.operation_id for entry in entries if entry.kind == "quota.repaired"]


@pytest.mark.parametrize("step", ["_drop", "_finish"])
def test_a_repair_whose_process_died_is_finished_by_the_next_once(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    from quota_engine.jobs import reconcile as module

    edit(deployment, "held", 0)
    monkeypatch.setattr(module if step == "_drop" else module._Mender, step, die)
    with pytest.raises(Killed):
        check(deployment, repair=True)
    monkeypatch.undo()
    check(deployment, repair=True)
    check(deployment, repair=True)
    assert repairs(deployment) == ["repair:held_edited:4"]
    assert check(deployment).drifts == ()
    with deployment.ledger.transaction() as sql:
        assert open_repairs(sql) == []


def test_two_who_repair_at_once_leave_one_entry(deployment: Deployment) -> None:
    edit(deployment, "held", 0)
    threads = [
        threading.Thread(target=check, args=(deployment,), kwargs={"repair": True})
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(repairs(deployment)) == 1
    assert check(deployment, repair=True).drifts == ()


def test_another_epoch_ends_the_run(deployment: Deployment) -> None:
    old = deployment.opened
    deployment.redis.delete(DEPLOYMENT_KEY)
    deployment.open()
    deployment.opened = old
    with pytest.raises(EngineUnavailableError, match="recovered meanwhile"):
        check(deployment)


def test_a_ledger_that_was_edited_differs(deployment: Deployment) -> None:
    with deployment.ledger.transaction() as sql:
        sql.execute(text("UPDATE quotas SET balance = 1 WHERE account = 'user:42'"))
    drift = only_drift(check(deployment))
    assert (drift.cause, drift.redis, drift.ledger) == (Cause.BALANCE_EDITED, 5, 1)
