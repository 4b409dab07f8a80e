"""
Asking the gate, for all callers of one process at once: one asks, and everybody waits boundedly.

The one who asks is a thread of its own, so a recovery that takes longer than a call may wait goes
on when its caller has given up, and whoever calls next finds it done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from quota_engine.errors import EngineUnavailableError
from quota_engine.jobs.gate import Opened


class Opening:
    """What one process knows of its open deployment. Safe in threads; renew it after a fork."""

    def __init__(self, ask: Callable[[], Opened], describe: Callable[[], str]) -> None:
        """``ask`` asks the gate; ``describe`` says how far a recovery is, or nothing."""
        self._ask = ask
        self._describe = describe
        self._lock = threading.Lock()
        self._asking: Future[Opened] | None = None
        self.current: Opened | None = None

    def renew(self) -> None:
        """Forget the lock and the thread that a forked child does not have."""
        self._lock = threading.Lock()
        self._asking = None

    def reopen(self, seen: object, wait_seconds: float) -> Opened:
        """
        Return an open deployment; ask the gate unless that differs already from ``seen``.

        Raises ``EngineUnavailableError`` after ``wait_seconds``, with what the gate is doing.
        """
        with self._lock:
            if self.current is not None and self.current is not seen:
                return self.current
            asking = self._asking
            if asking is None:
                asking = self._asking = Future()
                threading.Thread(
                    target=self._open, args=(asking,), name="quota-engine-gate", daemon=True
                ).start()
        with suppress(TimeoutError):
            return asking.result(wait_seconds)
        raise EngineUnavailableError(
            f"the gate has not opened Redis within {wait_seconds:g} s; "
            + (self._describe() or "another process may hold the shards")
            + "; it goes on, so try again (`quota-engine recovery status` shows how far it is)"
        )

    def _open(self, asking: Future[Opened]) -> None:
        try:
            opened = self._ask()
        except BaseException as error:
            with self._lock:
                self._asking = None
            asking.set_exception(error)
            return
        with self._lock:
            if self.current is None or opened != self.current:
                self.current = opened
            self._asking = None
            opened = self.current
        asking.set_result(opened)
