"""
What one engine refused, in memory until somebody writes it down.

Counted only where a call is refused: an admitted one never comes here. Memory is bounded: beyond
``PLACES_MAX`` accounts, models and so on at once, refusals are counted without their names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from quota_engine.errors import QuotaError
from quota_engine.keys import QuotaName
from quota_engine.refusals import DAY_MS, Refused, counted_name, reason_of

#: About 5 MB.
PLACES_MAX = 10_000


class Refusals:
    """Counts that wait to be written; a forked child begins anew. Safe in threads."""

    def __init__(self) -> None:
        #: Called when something waits where nothing did.
        self.on_waiting: Callable[[], None] | None = None
        self.forget()

    def forget(self) -> None:
        """Begin anew: what a parent counted, it writes itself."""
        self._lock = threading.Lock()
        self._counts: dict[Refused, int] = {}

    def add(
        self,
        quota: QuotaName,
        error: QuotaError,
        now_ms: int,
        *,
        provider: str | None = None,
        model: str | None = None,
    ) -> None:
        """Count a refused call; an error that is no refusal is not counted."""
        reason = reason_of(error)
        if reason is not None:
            self.count(quota, reason, now_ms, provider=provider, model=model)

    def count(
        self,
        quota: QuotaName,
        reason: str,
        now_ms: int,
        *,
        provider: str | None = None,
        model: str | None = None,
    ) -> None:
        """Count a call by the reason for which it was, or would have been, refused."""
        names = (counted_name(provider).strip().lower(), counted_name(model))
        refused = Refused(now_ms // DAY_MS, quota.account, quota.quota_type, *names, reason)
        with self._lock:
            was_empty = not self._counts
            self._add({refused: 1})
        if was_empty and self.on_waiting is not None:
            self.on_waiting()

    def take(self) -> Mapping[Refused, int]:
        """Return what waits; it waits no longer."""
        with self._lock:
            taken, self._counts = self._counts, {}
        return taken

    def give_back(self, counts: Mapping[Refused, int]) -> None:
        """Let counts wait again that could not be written."""
        with self._lock:
            self._add(counts)

    def _add(self, counts: Mapping[Refused, int]) -> None:
        known = self._counts
        for refused, count in counts.items():
            place = refused
            if place not in known and len(known) >= PLACES_MAX:
                place = Refused(refused.day, "", refused.quota_type, "", "", refused.reason)
            known[place] = known.get(place, 0) + count
