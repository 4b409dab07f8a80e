"""
A deployment driven by hand: commands as they are, with the little that the engine does beside.

For tests of what works below the engine, and must not depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, TypeVar

import redis

from quota_engine.commands import (
    Balance,
    CaptureHold,
    Command,
    Debit,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    PlaceHold,
    ReadBalance,
)
from quota_engine.commands.loading import LOADED, PRESENT
from quota_engine.commands.replies import QuotaNotLoadedError
from quota_engine.embedded import ValkeyServer
from quota_engine.jobs.gate import Opened, ensure_open
from quota_engine.jobs.persist import drain
from quota_engine.jobs.running import HORIZON_MS, run_command
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from quota_engine.ledger import Ledger
from quota_engine.settings import Settings

T = TypeVar("T")

SETTINGS = Settings(shards=4)


class Deployment:
    """One client of a server and a database, with the gate passed."""

    def __init__(self, redis_url: str, database_url: str) -> None:
        self.redis = redis.Redis.from_url(redis_url)
        self.ledger = Ledger.open(database_url)
        self.opened: Opened
        self._numbers = count(1)

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        self.ledger.close()

    def open(self, **policy: Any) -> Opened:
        """Pass the gate."""
        self.opened = ensure_open(self.redis, self.ledger, SETTINGS, **policy)
        return self.opened

    def keys(self, quota: QuotaName) -> ShardKeys:
        """Return the keys of a quota's shard."""
        return ShardKeys(shard_of(quota.account, self.opened.shards))

    def run(self, command: Command[T]) -> T:
        """Run a command, hydrating its quota when it must be."""
        try:
            return run_command(self.redis, self.opened, command)
        except QuotaNotLoadedError:
            self.hydrate(command.quota)
            return run_command(self.redis, self.opened, command)

    def hydrate(self, quota: QuotaName) -> None:
        """Load a quota from the ledger."""
        snapshot = self.ledger.read_snapshot(quota, HORIZON_MS)
        command = HydrateQuota(snapshot=snapshot, may_create=True)
        assert run_command(self.redis, self.opened, command) in (LOADED, PRESENT)

    def issue(self, quota: QuotaName, amount: int, grant_id: str | None = None) -> None:
        """Put quota in."""
        grant_id = grant_id or f"grant-{next(self._numbers)}"
        terms = GrantTerms(amount=amount, source="purchase")
        self.run(IssueGrant(quota=quota, grant_id=grant_id, terms=terms))

    def debit(self, quota: QuotaName, amount: int, operation_id: str | None = None) -> None:
        """Take quota."""
        operation_id = operation_id or f"debit-{next(self._numbers)}"
        self.run(Debit(quota=quota, operation_id=operation_id, amount=amount))

    def place(self, quota: QuotaName, amount: int, hold_id: str) -> None:
        """Set quota aside."""
        self.run(PlaceHold(quota=quota, hold_id=hold_id, amount=amount, ttl_ms=600_000))

    def capture(self, quota: QuotaName, hold_id: str, amount: int) -> None:
        """Charge a hold."""
        operation_id = f"{hold_id}:capture"
        self.run(
            CaptureHold(quota=quota, hold_id=hold_id, operation_id=operation_id, amount=amount)
        )

    def balance(self, quota: QuotaName) -> Balance:
        """Return what a quota has now."""
        return self.run(ReadBalance(quota=quota))

    def drain(self) -> int:
        """Persist everything that is pending."""
        return drain(self.redis, self.ledger, range(self.opened.shards))

    def operations(self, quota: QuotaName) -> Sequence[str]:
        """Return the ids of the ledger's entries of a quota, oldest first."""
        return [row.entry.operation_id for row in self.ledger.history(quota)]


def restart(server: ValkeyServer) -> None:
    """Kill the server and start it on the same data."""
    server.kill()
    server.start()
