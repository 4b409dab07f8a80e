"""
The spool's file: what was noted survives, is replayed by one at a time, and keeps the allowance.

Goal: nothing noted is lost, whoever is killed and whatever becomes of the file. Method: real
files, real processes that are killed; no Redis.
"""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from quota_engine.errors import (
    IdempotencyConflictError,
    RedisAwayError,
)
from quota_engine.spool import Spool
from quota_engine.spool.spool import CLAIM_MS
from quota_engine.spooled import command_of, forms_of, operation_of
from tests.programs import Program
from tests.spools import (
    NOW,
    QUOTA,
    capture,
    claimed,
    debit,
    place,
)


def test_nothing_is_made_until_something_is_noted(spool: Spool) -> None:
    assert spool.complaint() == ""
    assert (spool.waiting(), spool.rows(), spool.claim(NOW)) == (0, [], [])
    assert spool.status(NOW).waiting == 0
    assert not spool.has_hold(QUOTA, "hold-1")
    assert not spool.path.parent.exists()
    spool.note(capture(1))
    assert spool.path.stat().st_mode & 0o777 == 0o600
    assert spool.path.parent.stat().st_mode & 0o777 == 0o700


def test_what_was_noted_comes_back_as_it_was(spool: Spool) -> None:
    operations = [capture(1, is_known=True), capture(2, 0), capture(3, is_final=False)]
    assert [spool.note(operation) for operation in operations] == [True] * 3
    spool.close()
    assert claimed(spool) == operations
    for operation in operations:
        command = command_of(operation)
        assert replace(operation_of(command, NOW), noted_ms=0) == replace(
            operation, noted_ms=0, is_known=False
        )
        assert command.fingerprint == operation.fingerprint


def test_the_same_operation_is_noted_once_and_another_one_by_its_id_is_refused(
    spool: Spool,
) -> None:
    assert spool.note(capture(1))
    assert not spool.note(replace(capture(1), noted_ms=NOW + 999))
    with pytest.raises(IdempotencyConflictError):
        spool.note(capture(1, amount=8))
    assert spool.note(replace(capture(1), account="user:2"))
    assert spool.waiting() == 2


def test_a_claim_is_for_one_and_ends_with_a_minute(spool: Spool) -> None:
    for number in range(5):
        spool.note(capture(number))
    first = spool.claim(NOW, limit=3)
    second = Spool(spool.path.parent, spool.deployment_id).claim(NOW)
    assert [one.operation for one in first + second] == [capture(n) for n in range(5)]
    assert spool.claim(NOW) == []
    assert spool.claim(NOW + CLAIM_MS - 1) == []
    assert len(spool.claim(NOW + CLAIM_MS + 1)) == 5


def test_a_claim_by_a_clock_that_was_set_back_is_none(spool: Spool) -> None:
    spool.note(capture(1))
    assert len(spool.claim(NOW + 3_600_000)) == 1
    assert len(spool.claim(NOW)) == 1


def test_what_comes_of_claims_is_kept(spool: Spool) -> None:
    for number in range(4):
        spool.note(capture(number))
    done, refused, failed, back = spool.claim(NOW)
    spool.settle(
        done=[done],
        refused={refused.row_id: "never placed"},
        failed={failed.row_id: "broken"},
        put_back=[back.row_id],
        now_ms=NOW,
    )
    assert claimed(spool) == [capture(3)]
    status = spool.status(NOW)
    assert (status.waiting, status.refused, status.replayed) == (2, 1, 1)
    assert status.oldest_at == datetime.fromtimestamp((NOW + 2) / 1000, UTC)
    assert {(row.state, row.last_error, row.attempts) for row in spool.rows()} == {
        ("refused", "never placed", 1),
        ("waiting", "broken", 1),
        ("waiting", None, 0),
    }
    assert spool.retry_refused() == 1
    assert spool.status(NOW).refused == 0


def test_a_refused_operation_is_dropped_when_somebody_says_so(spool: Spool) -> None:
    spool.note(capture(1))
    assert spool.drop("hold-1:capture") == 0  # it still waits
    [one] = spool.claim(NOW)
    spool.settle(refused={one.row_id: "never placed"}, now_ms=NOW)
    assert spool.drop("hold-1:capture") == 1
    assert [row.state for row in spool.rows()] == ["dropped"]
    assert spool.retry_refused() == 0


def test_every_form_of_an_operation_has_its_id() -> None:
    for operation in (capture(1), capture(1, is_known=True), capture(2, 0, is_known=True)):
        assert {form.operation_id for form in forms_of(operation)} == {operation.operation_id}
    scripts = {
        form.script
        for operation in (capture(1, is_known=True), capture(1, 0, is_known=True), debit(1, 2))
        for form in forms_of(operation)
    }
    assert scripts == {"capture_hold", "debit", "debit_used", "record_usage"}
    assert [form.script for form in forms_of(capture(1))] == ["capture_hold"]


NOTING = """
import os, signal, sys
from pathlib import Path
from quota_engine.spool import Spool
from tests.spools import capture
spool = Spool(Path(sys.argv[1]), "deployment_1")
for number in range(1_000_000):
    spool.note(capture(number))
    os.write(1, f"{number}\\n".encode())
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def noting(folder: Path, last: int) -> Program:
    return Program(NOTING, str(folder), str(last), stdout=subprocess.PIPE)


def test_a_process_killed_right_after_noting_has_noted(spool: Spool) -> None:
    process = noting(spool.path.parent, 3)
    assert process.communicate(timeout=60)[0].split() == [b"0", b"1", b"2", b"3"]
    assert process.returncode == -signal.SIGKILL
    assert claimed(spool) == [capture(number) for number in range(4)]


def test_a_process_killed_at_any_time_loses_nothing_that_it_said(spool: Spool) -> None:
    said = 0
    for part in range(5):
        process = noting(spool.path.parent, -1)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(part + 1)]
        process.kill()
        lines += process.stdout.readlines()
        process.wait(60)
        process.stdout.close()
        said = max([said, *(int(line) + 1 for line in lines if line.endswith(b"\n"))])
        assert said > 0
    kept = {operation.operation_id for operation in claimed(spool, NOW)}
    while more := claimed(spool, NOW):
        kept |= {operation.operation_id for operation in more}
    assert {f"hold-{number}:capture" for number in range(said)} <= kept


def admit_all(folder: Path, number: int, allowance: int) -> int:
    spool = Spool(folder, "deployment_1")
    admitted = 0
    for turn in range(20):
        try:
            spool.place(place(100 * number + turn, 7), allowance=allowance, now_ms=NOW)
        except RedisAwayError:
            continue
        admitted += 7
    return admitted


def test_many_processes_keep_the_allowance_together(spool: Spool) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(8) as pool:
        jobs = [(spool.path.parent, number, 300) for number in range(8)]
        admitted = sum(pool.starmap(admit_all, jobs))
    assert admitted == 294  # 42 holds of 7; one more would be 301
    assert spool.status(NOW).offline_holds == 42


def claim_all(folder: Path) -> list[str]:
    spool = Spool(folder, "deployment_1")
    mine = []
    while found := spool.claim(NOW, limit=3):
        mine += [one.operation.operation_id for one in found]
        spool.settle(done=found, now_ms=NOW)
    return mine


def test_two_processes_that_replay_take_each_operation_once(spool: Spool) -> None:
    for number in range(30):
        spool.note(capture(number))
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        first, second = pool.map(claim_all, [spool.path.parent] * 2)
    assert sorted(first + second) == sorted(f"hold-{number}:capture" for number in range(30))
    assert spool.status(NOW).replayed == 30


def test_a_forked_child_writes_by_a_connection_of_its_own(spool: Spool) -> None:
    spool.note(capture(1))
    process = multiprocessing.get_context("fork").Process(target=lambda: spool.note(capture(2)))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    spool.note(capture(3))
    assert claimed(spool) == [capture(1), capture(2), capture(3)]


def test_threads_share_a_spool(spool: Spool) -> None:
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(spool.note, [capture(number % 20) for number in range(60)]))
    assert sum(told) == 20
    assert spool.waiting() == 20
