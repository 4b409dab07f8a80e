"""Attending to one channel: what is due is claimed, sent, and marked, one message at a time."""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from quota_engine.alerts.channels import DEAD, Claimed, pause_seconds
from quota_engine.settings import Settings
from quota_engine.waiting import forgotten_at_fork

log = logging.getLogger("quota_engine.alerts")

#: Sends a message; whatever it raises says why it was not taken.
Send = Callable[[Claimed], object]

#: Who claims a message has this much longer than an attempt may take.
GRACE_SECONDS = 25.0
#: A failed attempt beyond this many in a row: the channel is left alone for a moment.
FAILURES_MAX = 3


class Messages(Protocol):
    """The outbox of messages."""

    def due(self, kinds: Sequence[str]) -> Sequence[str]: ...
    def claim(self, channel: str, seconds: float) -> Claimed | None: ...
    def mark_delivered(self, claimed: Claimed) -> None: ...
    def mark_failed(
        self, claimed: Claimed, error: str, *, pause: float, attempts_max: int
    ) -> str | None: ...


class Counters:
    """What came of this process's attempts: ``delivered``, ``failed``, ``dead``."""

    def __init__(self) -> None:
        self.forget()
        forgotten_at_fork(self)

    def forget(self) -> None:
        """Begin anew."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, outcome: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[outcome] += 1

    def snapshot(self) -> dict[str, int]:
        """Return every count, also those that are zero."""
        with self._lock:
            return {name: self._counts[name] for name in ("delivered", "failed", "dead")}


COUNTERS = Counters()


def attend(
    messages: Messages,
    channel: str,
    send: Send,
    settings: Settings,
    stopping: threading.Event,
    *,
    limit: int | None = None,
) -> tuple[int, int]:
    """
    Send what is due on a channel, until nothing is; return how many arrived, and how many not.

    ``limit``: at most so many attempts. After a few failures in a row the rest waits for the next
    turn, so that a channel that is away does not keep anybody for long.
    """
    arrived = failed = in_a_row = 0
    while not stopping.is_set() and in_a_row < FAILURES_MAX:
        if limit is not None and arrived + failed >= limit:
            break
        claimed = messages.claim(channel, settings.alert_timeout_seconds + GRACE_SECONDS)
        if claimed is None:
            break
        if attempt(messages, claimed, send, settings):
            arrived, in_a_row = arrived + 1, 0
        else:
            failed, in_a_row = failed + 1, in_a_row + 1
    return arrived, failed


def attempt(messages: Messages, claimed: Claimed, send: Send, settings: Settings) -> bool:
    """Send a claimed message and mark what came of it; return whether it arrived."""
    try:
        send(claimed)
    except Exception as error:
        said = str(error) or type(error).__name__
        pause = pause_seconds(claimed.attempts, settings.alert_retry_seconds, _DICE)
        state = messages.mark_failed(
            claimed, said, pause=pause, attempts_max=settings.alert_attempts_max
        )
        is_dead = state == DEAD
        COUNTERS.add("dead" if is_dead else "failed")
        level = logging.ERROR if is_dead else logging.WARNING
        what = "is given up" if is_dead else "is tried again"
        log.log(
            level,
            "message %s to channel %s %s after attempt %d: %s",
            *(claimed.delivery_id, claimed.channel, what, claimed.attempts, said),
        )
        return False
    messages.mark_delivered(claimed)
    COUNTERS.add("delivered")
    return True


_DICE = random.Random()
