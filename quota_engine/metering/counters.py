"""Counts of what metered calls of this process came to, for whoever exports them."""

from __future__ import annotations

import threading
from collections import Counter


class Counters:
    """
    Counts since the process began, by name.

    ``calls`` that ended, of these ``failed``, ``estimated`` (charged without the provider's
    count), ``unbilled`` (for want of a price); ``anomalies``: impossible reports; ``spooled``:
    Redis was away, and the charge waits on this machine; ``unsettled``: nor could it be spooled,
    of these ``settled_late`` afterwards.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str) -> None:
        """Count one more."""
        with self._lock:
            self._counts[name] += 1

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def snapshot(self) -> dict[str, int]:
        """Return all counts that are not zero."""
        with self._lock:
            return dict(self._counts)


COUNTERS = Counters()
