"""Counts of what metered calls of this process came to, for whoever exports them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from quota_engine.metrics.described import MODEL_CALLS, Sample
from quota_engine.waiting import forgotten_at_fork


class Counters:
    """
    Counts since the process began, by name; a forked child begins anew.

    ``calls`` that ended, of these ``failed``, ``estimated`` (charged without the provider's
    count), ``unbilled`` (for want of a price); ``anomalies``: impossible reports; ``spooled``:
    Redis was away, and the charge waits on this machine; ``unsettled``: nor could it be spooled,
    of these ``settled_late`` afterwards.
    """

    def __init__(self) -> None:
        self.forget()
        forgotten_at_fork(self)

    def forget(self) -> None:
        """Begin anew."""
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

    def samples(self) -> Iterator[Sample]:
        """Yield every count, also those that are zero."""
        counts = self.snapshot()
        for name, (metric, _) in MODEL_CALLS.items():
            yield Sample(metric, counts.get(name, 0))


COUNTERS = Counters()
