"""One engine shared: by many tasks of which some are cancelled, by threads, and over a fork."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from quota_engine import AsyncQuotaEngine, QuotaEngine, QuotaInsufficientError

ACCOUNT, TYPE = "user:42", "text_token"
ROOT = Path(__file__).resolve().parents[2]

FORKING = """
import os, sys
from quota_engine import QuotaEngine
engine = QuotaEngine.open(sys.argv[1], sys.argv[2])
engine.issue_grant("user:42", "text_token", 100)
engine.history("user:42", "text_token")
children = []
for number in range(3):
    pid = os.fork()
    if not pid:
        for step in range(20):
            engine.debit("user:42", "text_token", 1, operation_id=f"{number}:{step}")
        seen = len(engine.history("user:42", "text_token"))
        os._exit(0 if seen > 20 else 1)
    children.append(pid)
for step in range(20):
    engine.debit("user:42", "text_token", 1, operation_id=f"parent:{step}")
    engine.history("user:42", "text_token")
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert codes == [0, 0, 0], codes
assert engine.read_balance("user:42", "text_token").balance == 20
assert engine.drain() == 81
entries = engine.history("user:42", "text_token")
assert len({entry.operation_id for entry in entries}) == 81
"""


@pytest.mark.anyio
async def test_cancelled_calls_take_no_answer_of_others(redis_url: str, database_url: str) -> None:
    chance = random.Random(7)
    async with AsyncQuotaEngine.open(redis_url, database_url, connections_max=4) as engine:
        await engine.issue_grant(ACCOUNT, TYPE, 100_000)

        async def one(number: int) -> None:
            hold = await engine.place_hold(ACCOUNT, TYPE, 10, operation_id=f"hold-{number}")
            assert hold.hold_id == f"hold-{number}"
            captured = await engine.capture_hold(hold, number % 10)
            assert (captured.hold_id, captured.amount) == (hold.hold_id, number % 10)

        tasks = [asyncio.create_task(one(number)) for number in range(300)]
        for task in tasks:
            if chance.random() < 0.4:
                await asyncio.sleep(chance.random() / 300)
                task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
        await asyncio.gather(*(one(number) for number in range(300)))  # whatever happened before
        balance = await engine.read_balance(ACCOUNT, TYPE)
        assert (balance.balance, balance.held) == (100_000 - 30 * 45, 0)
        ids = [entry.operation_id for entry in await engine.history(ACCOUNT, TYPE)]
        assert len(ids) == len(set(ids)) == 601


def test_threads_share_an_engine_and_are_admitted_what_there_is(
    redis_url: str, database_url: str
) -> None:
    with QuotaEngine.open(redis_url, database_url, connections_max=5) as engine:
        engine.issue_grant(ACCOUNT, TYPE, 1_000)
        ready = threading.Barrier(12)

        def work(number: int) -> int:
            ready.wait()
            admitted = 0
            for step in range(20):
                with suppress(QuotaInsufficientError):
                    hold = engine.place_hold(ACCOUNT, TYPE, 7, operation_id=f"{number}-{step}")
                    assert hold.hold_id == f"{number}-{step}"
                    admitted += 1
            return admitted

        with ThreadPoolExecutor(12) as pool:
            assert sum(pool.map(work, range(12))) == 142
        assert engine.read_balance(ACCOUNT, TYPE).held == 994
        assert engine.drain() == 143
        assert engine.reconcile().is_clean


def test_an_engine_is_kept_over_a_fork(redis_url: str, database_url: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, redis_url, database_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
