"""Worker processes as an operator starts them, and clients that keep them busy."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from quota_engine import QuotaEngine
from quota_engine.errors import EngineUnavailableError
from quota_engine.jobs.verify import verify
from quota_engine.outbox import ends_of
from tests.programs import COMMAND_LINE, Program

QUOTA_TYPE = "text_token"
WAIT_SECONDS = 20.0


class Worker:
    """``quota-engine worker`` in a process of its own, with its log in a file."""

    def __init__(self, environment: Mapping[str, str], log: Path, *arguments: str) -> None:
        self.log = log
        with log.open("ab") as stream:
            self.process = Program(
                *(COMMAND_LINE, "worker", *arguments),
                env={**os.environ, **environment},
                stdout=stream,
                stderr=stream,
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if error is not None:
            print(self.said())

    def said(self) -> str:
        """Return what it and its children have written."""
        return self.log.read_text(encoding="utf-8")

    def children(self) -> list[int]:
        """Return the ids of its RQ workers."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
        return [int(pid) for pid in listed.stdout.split()]

    def wait_until_it_runs(self) -> None:
        """Return once it has said what it is."""
        wait_until(lambda: "RQ worker" in self.said(), "the worker runs")

    def terminate(self) -> float:
        """Ask it to end, and check that it does so well; return how many seconds that took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_SECONDS) == 0
        return time.monotonic() - started


class Clients:
    """Threads that debit a few accounts; an unknown outcome is tried again with the same id."""

    def __init__(self, engine: QuotaEngine, threads: int = 2, accounts: int = 6) -> None:
        self.engine = engine
        self.done = 0
        self._accounts = [f"user:{number}" for number in range(accounts)]
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._debit, args=(number,)) for number in range(threads)
        ]
        for account in self._accounts:
            engine.issue_grant(account, QUOTA_TYPE, 1_000_000)

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _debit(self, number: int) -> None:
        while not self._stopping.wait(0.01):
            account = self._accounts[(number + self.done) % len(self._accounts)]
            operation_id = uuid4().hex
            while True:
                try:
                    self.engine.debit(account, QUOTA_TYPE, 1, operation_id=operation_id)
                    break
                except EngineUnavailableError:
                    pass
            self.done += 1

    def check(self) -> None:
        """Check that every debit is in the ledger, once, and that both stores agree."""
        self.engine.drain()
        assert self.engine.reconcile().drifts == ()
        assert list(verify(self.engine.deployment.ledger)) == []
        histories = [self.engine.history(account, QUOTA_TYPE) for account in self._accounts]
        debits = [one for entries in histories for one in entries if one.kind == "quota.debited"]
        assert len(debits) == self.done
        with self.engine.deployment.ledger.transaction() as sql:
            assert sql.exec_driver_sql("SELECT count(*) FROM quarantine").scalar_one() == 0


def pending(engine: QuotaEngine) -> int:
    """Return how many entries wait in the outboxes."""
    rows = engine.deployment.ledger.read_shards()
    _, ends = ends_of(engine.deployment.client, len(rows))
    return sum(
        end.n - (row.cursor.n if end.epoch == row.cursor.epoch else -1)
        for row, end in zip(rows, ends, strict=True)
        if end is not None
    )


def persisted(engine: QuotaEngine) -> int:
    """Return how many entries the ledger has."""
    with engine.deployment.ledger.transaction() as sql:
        count: int = sql.exec_driver_sql("SELECT count(*) FROM ledger_entries").scalar_one()
    return count


def wait_until(is_true: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> float:
    """Return once it is true, and after how many seconds that was."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if is_true():
            return time.monotonic() - started
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")
