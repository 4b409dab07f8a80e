"""
Renewal: while a call runs, its hold is renewed at a third of its life.

One thread serves all holds of a process, and ends when there are none. A process that dies stops
renewing, so its holds expire by themselves.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from typing import Any

from quota_engine.errors import QuotaError

log = logging.getLogger("quota_engine.metering")


class Renewals:
    """The holds of this process that are renewed, and the thread that does it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[str, tuple[float, float, Any, weakref.ref[Any]]] = {}
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._changed = threading.Condition()
        self._due = {}
        self._thread = None

    def add(self, call: Any, engine: Any, ttl: float) -> None:
        """Renew the hold of ``call`` until it is removed or nobody knows the call any more."""
        with self._changed:
            next_at = time.monotonic() + ttl / 3
            self._due[call.hold.hold_id] = (next_at, ttl, engine, weakref.ref(call))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="quota-engine-renewals", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def remove(self, hold_id: str) -> None:
        """Let a hold be: it is about to be settled."""
        with self._changed:
            self._due.pop(hold_id, None)

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._due:
                    self._thread = None
                    return
                wait = min(row[0] for row in self._due.values()) - time.monotonic()
                if wait > 0:
                    self._changed.wait(wait)
                    continue
                now = time.monotonic()
                due = [(hold_id, row) for hold_id, row in self._due.items() if row[0] <= now]
            for hold_id, row in due:
                self._renew(hold_id, row)

    def _renew(self, hold_id: str, row: tuple[float, float, Any, weakref.ref[Any]]) -> None:
        _, ttl, engine, reference = row
        call = reference()
        try:
            if call is not None and not call.is_settled:
                engine.extend_hold(call.hold, ttl=ttl)
        except QuotaError as error:
            log.warning("hold %s could not be renewed: %s", hold_id, error)
        with self._changed:
            if call is None or call.is_settled:
                self._due.pop(hold_id, None)
            elif hold_id in self._due:
                self._due[hold_id] = (time.monotonic() + ttl / 3, ttl, engine, reference)


RENEWALS = Renewals()
