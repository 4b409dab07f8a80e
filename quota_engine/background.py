"""
Background: one thread of this process does small jobs at their time.

Holds of metered calls are renewed here, and the spool is replayed. The thread begins with the
first job and ends some time after the last. It does not outlive the process: jobs that were due at
once are done before the interpreter ends.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Callable

log = logging.getLogger("quota_engine.background")

#: Does something, and returns in how many seconds again; None: never.
Job = Callable[[], float | None]

IDLE_SECONDS = 30.0


class Background:
    """Jobs by a key of their own, and the thread that does them."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[object, tuple[float, Job]] = {}
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0

    def do(self, key: object, job: Job, *, after: float = 0.0) -> None:
        """Do ``job`` in so many seconds; another job of the same key is forgotten."""
        with self._changed:
            due_at = time.monotonic() + after
            self._jobs[key] = (due_at, job)
            if self._thread is None:
                self._start()
            elif due_at < self._wakes_at:
                self._changed.notify()

    def do_by(self, key: object, job: Job, *, after: float) -> None:
        """Do ``job`` in so many seconds, or when that of its key is due, if that is sooner."""
        with self._changed:
            known = self._jobs.get(key)
            due_at = math.inf if known is None else known[0]
            self.do(key, job, after=min(after, max(0.0, due_at - time.monotonic())))

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="quota-engine-background", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending: ``finish`` does what is due
            return
        self._thread = thread

    def forget(self, key: object) -> None:
        """Let a job be; one that is being done is not repeated."""
        with self._changed:
            self._jobs.pop(key, None)

    def finish(self) -> None:
        """Do now, here, what is due: the process ends."""
        with self._changed:
            now = time.monotonic()
            due = [(key, job) for key, (due_at, job) in self._jobs.items() if due_at <= now]
            for key, _ in due:
                del self._jobs[key]
        for key, job in due:
            self._do(key, job)

    def _serve(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                next_at = min((row[0] for row in list(self._jobs.values())), default=None)
                if next_at is None or next_at > now:
                    self._wakes_at = now + IDLE_SECONDS if next_at is None else next_at
                    self._changed.wait(self._wakes_at - now)
                    if next_at is None and not self._jobs:
                        self._thread = None
                        return
                    continue
                due = [(key, row) for key, row in list(self._jobs.items()) if row[0] <= now]
                self._wakes_at = 0.0
            for key, row in due:
                again = self._do(key, row[1])
                with self._changed:
                    if self._jobs.get(key) is not row:
                        continue  # forgotten, or another one by now
                    if again is None:
                        del self._jobs[key]
                    else:
                        self._jobs[key] = (time.monotonic() + again, row[1])

    def _do(self, key: object, job: Job) -> float | None:
        try:
            return job()
        except Exception:
            log.exception("a job of the background failed: %s", key)
            return None


BACKGROUND = Background()
atexit.register(BACKGROUND.finish)
