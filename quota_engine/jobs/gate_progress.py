"""
How far a recovery is: told in the log, and in Redis for those who wait for it.

Whoever recovers holds the shards' rows locked, so nothing can be told in the ledger before it is
done. The record stays: it is also the story of the last recovery. Nothing depends on it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import redis

from quota_engine.jobs.pinned import PinnedConnection
from quota_engine.keys import RECOVERY_KEY

log = logging.getLogger("quota_engine.gate")

#: Told no more often than this; the log less often still.
TELL_SECONDS = 0.5
LOG_SECONDS = 5.0


class Progress:
    """Tells of one recovery. A server that does not take it (it is full) goes without."""

    def __init__(self, connection: PinnedConnection) -> None:
        self._connection = connection
        self._facts: dict[str, Any] = {}
        self._tell_at = self._log_at = 0.0

    def begin(self, reason: str, entries: int) -> None:
        """Begin: why, and how many entries must be read."""
        now = time.time()
        self._facts = {
            "state": "running",
            "reason": reason,
            "pid": os.getpid(),
            "started_at": now,
            "entries": entries,
            "entries_read": 0,
        }
        self._log_at = time.monotonic() + LOG_SECONDS

    @property
    def entries_read(self) -> int:
        """How many entries were read."""
        return int(self._facts["entries_read"])

    def step(self, name: str) -> None:
        """Go on to a step."""
        self._facts["step"] = name
        self._tell()

    def advance(self, entries: int) -> None:
        """Tell that so many more entries were read."""
        self._facts["entries_read"] += entries
        if time.monotonic() >= self._tell_at:
            self._tell()

    def waiting(self, seconds: float) -> None:
        """Tell for how long the step has been waiting for the server."""
        self._facts["waited_seconds"] = round(seconds, 1)
        if time.monotonic() >= self._tell_at:
            self._tell()

    def end(self, **facts: Any) -> None:
        """Tell that it is done, and what it came to."""
        seconds = round(time.time() - self._facts["started_at"], 3)
        self._facts |= {"state": "done", "seconds": seconds, **facts}
        self._tell()
        log.log(
            logging.INFO if seconds < 1 else logging.WARNING,
            "opened after %.2f s, %d entries were read",
            *(seconds, self._facts["entries_read"]),
        )

    def _tell(self) -> None:
        now = time.monotonic()
        self._tell_at = now + TELL_SECONDS
        self._facts["told_at"] = time.time()
        self._connection.execute_all([("SET", RECOVERY_KEY, json.dumps(self._facts))])
        if now >= self._log_at:
            self._log_at = now + LOG_SECONDS
            log.warning("%s", described(self._facts))


def read_progress(client: redis.Redis) -> dict[str, Any] | None:
    """Return what was told of the last recovery; None when nothing was, or Redis is silent."""
    caller: Any = client
    try:
        told = caller.get(RECOVERY_KEY)
        found = None if told is None else json.loads(told)
    except (redis.RedisError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def described(facts: Mapping[str, Any] | None) -> str:
    """Return the progress of a recovery as one sentence; empty when none is known to run."""
    if not facts or facts.get("state") != "running":
        return ""
    now = time.time()
    running, silent = now - facts["started_at"], now - facts["told_at"]
    words = [
        f"it is being opened again since {running:.0f} s by process {facts['pid']}"
        f" ({facts['reason']}): {facts.get('step', 'beginning')}",
        f"{facts['entries_read']} of {facts['entries']} entries read",
    ]
    if silent > 4 * TELL_SECONDS:
        words.append(f"last heard of {silent:.0f} s ago")
    return ", ".join(words)
