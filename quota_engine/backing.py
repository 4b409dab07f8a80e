"""
What an engine client needs of its deployment beside Redis: a description, no code.

``quota_engine.deployment`` implements it on the ledger and the jobs; the clients, which stand
below them, know only this. Every method may block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from quota_engine.commands import HoldFate, IntentFate, IssueGrant, Snapshot
from quota_engine.history import HistoryEntry
from quota_engine.keys import QuotaName


class Opened(Protocol):
    """A deployment that may be used: its shards, each one's epoch, and on which server."""

    @property
    def shards(self) -> int: ...
    @property
    def epochs(self) -> Mapping[int, int]: ...
    @property
    def incarnation(self) -> str: ...


class Backing(Protocol):
    """The ledger, the gate and the drain, as a client sees them."""

    def reopen(self, seen: Opened | None) -> Opened:
        """Return an open deployment; ask the gate unless that differs already from ``seen``."""

    def read_snapshot(self, quota: QuotaName) -> Snapshot: ...
    def find_hold(self, quota: QuotaName, hold_id: str) -> HoldFate: ...
    def record_intent(self, command: IssueGrant) -> IntentFate: ...
    def withdraw_intent(self, quota: QuotaName, grant_id: str) -> None: ...
    def persist(self, quota: QuotaName) -> None:
        """Help to persist what this quota's outbox holds, or wait a little for who does."""

    def persist_tail(self, quota: QuotaName) -> None:
        """Return once everything that this quota's outbox holds now is persisted."""

    def history(self, quota: QuotaName) -> Sequence[HistoryEntry]: ...
    def drain(self) -> int: ...
    def reconcile(self, *, repair: bool) -> Any: ...
    def close(self) -> None: ...
