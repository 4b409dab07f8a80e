"""
The ledger as the rest of the engine sees it: one object, one small pool, one method per question.

Synchronous on purpose; the async engine calls it in threads. Every method may raise
``EngineUnavailableError`` when PostgreSQL does not answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType

from sqlalchemy import Connection, Engine

from quota_engine.commands.charges import ChargeFate
from quota_engine.commands.grants import GrantTerms
from quota_engine.commands.refunds import RecordedRefund, Refund, RefundRequest
from quota_engine.commands.snapshots import Operation, Snapshot
from quota_engine.commands.steps import HoldFate, OperationFate
from quota_engine.corrections import CallOfModel
from quota_engine.errors import EngineUnavailableError
from quota_engine.keys import QuotaName, shard_of
from quota_engine.ledger import charges, intents, refunds, shards, snapshots
from quota_engine.ledger import history as histories
from quota_engine.ledger.alert_rules import KnownRules
from quota_engine.ledger.connection import (
    CONNECT_TIMEOUT_S,
    CONNECTIONS_MAX,
    answering,
    open_engine,
)
from quota_engine.ledger.history import QuotaHead, RecordedEntry
from quota_engine.ledger.intents import GrantIntent
from quota_engine.ledger.pooling import PoolTables
from quota_engine.ledger.shards import Deployment, ShardState
from quota_engine.ledger.usage_records import calls_of_model, read_usage
from quota_engine.pools import PoolStanding
from quota_engine.recorded import RecordedCall, UsageQuery

PAGE_SIZE = 1_000


class Ledger:
    """
    The ledger in one PostgreSQL database.

    Safe to share between threads; a forked child opens connections of its own.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._deployment: Deployment | None = None
        #: What alerts look at, as this process read it last.
        self.known_rules = KnownRules()

    @classmethod
    def open(
        cls,
        database_url: str,
        *,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_S,
        connections_max: int = CONNECTIONS_MAX,
    ) -> Ledger:
        """
        Return the ledger at ``database_url``, after one connection to prove that it answers.

        Does not look at the tables: see ``migrate.check_migrated(ledger.engine)``.
        """
        engine = open_engine(
            database_url,
            connect_timeout_seconds=connect_timeout_seconds,
            connections_max=connections_max,
        )
        ledger = cls(engine)
        try:
            with ledger.transaction():
                pass
        except BaseException:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Close the pool's connections."""
        self.engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Yield a connection in a transaction that commits at the end, or rolls back on errors."""
        with answering(self.engine), self.engine.begin() as connection:
            yield connection

    # -- the deployment and its shards

    def deployment(self) -> Deployment | None:
        """Return the recorded deployment, or None before the first start."""
        with self.transaction() as connection:
            return shards.read_deployment(connection)

    def create_deployment(self, deployment_id: str, shard_count: int) -> Deployment:
        """Record a deployment unless one is recorded; return the recorded one."""
        with self.transaction() as connection:
            return shards.create_deployment(connection, deployment_id, shard_count)

    def read_shards(self) -> list[ShardState]:
        """Return every shard's row, in order."""
        with self.transaction() as connection:
            return shards.read_shards(connection)

    @property
    def shard_count(self) -> int:
        """The deployment's number of shards. Read once: it never changes."""
        return self._known_deployment().shards

    @property
    def deployment_id(self) -> str:
        """Whose ledger this is. Read once: it never changes."""
        return self._known_deployment().deployment_id

    def _known_deployment(self) -> Deployment:
        if self._deployment is None:
            self._deployment = self.deployment()
        if self._deployment is None:
            raise EngineUnavailableError(
                "the ledger belongs to no deployment yet; the engine's first start makes one"
            )
        return self._deployment

    def shard_of(self, quota: QuotaName) -> int:
        """Return the shard of a quota in this deployment."""
        return shard_of(quota.account, self.shard_count)

    # -- one quota

    def read_snapshot(self, quota: QuotaName, horizon_ms: int) -> Snapshot:
        """Return a quota's newest state and its shard's epoch, as of one instant."""
        shard = self.shard_of(quota)
        with self.transaction() as connection:
            return snapshots.read_snapshot(connection, quota, shard, horizon_ms)

    def find_hold(self, quota: QuotaName, hold_id: str) -> HoldFate:
        """Return whether a hold was ever placed, and its final capture."""
        with self.transaction() as connection:
            return snapshots.find_hold(connection, quota, hold_id)

    def find_operation(self, quota: QuotaName, operation_id: str) -> Operation | None:
        """Return what an operation was answered, or None if the ledger has never seen it."""
        with self.transaction() as connection:
            return snapshots.find_operation(connection, quota, operation_id)

    def find_fate(self, quota: QuotaName, operation_id: str) -> OperationFate:
        """Return what an operation was answered, and up to which version the ledger knows."""
        with self.transaction() as connection:
            return snapshots.find_fate(connection, quota, operation_id)

    def find_charge(self, quota: QuotaName, operation_id: str) -> ChargeFate:
        """Return a charge and its corrections, as of the quota's head."""
        with self.transaction() as connection:
            return charges.find_charge(connection, quota, operation_id)

    def quotas_of_call(self, operation_id: str) -> list[QuotaName]:
        """Return the quotas in which a call left a usage record."""
        with self.transaction() as connection:
            return charges.quotas_of_call(connection, operation_id)

    def quotas_beside(self, quota: QuotaName, operation_id: str) -> list[QuotaName]:
        """Return which further quota types of its account a charge took in the same step."""
        with self.transaction() as connection:
            return charges.quotas_beside(connection, quota, operation_id)

    def history(
        self, quota: QuotaName, after_version: int = 0, limit: int | None = None
    ) -> list[RecordedEntry]:
        """Return a quota's entries after a version, oldest first."""
        with self.transaction() as connection:
            return histories.read_history(connection, quota, after_version, limit)

    def usage(self, query: UsageQuery) -> list[RecordedCall]:
        """Return the usage records that are asked for, oldest first."""
        with self.transaction() as connection:
            return read_usage(connection, query)

    def calls_of_model(
        self,
        provider: str,
        model: str,
        between_ms: tuple[int, int],
        after: tuple[int, int] | None,
    ) -> list[CallOfModel]:
        """Return a page of a model's billed calls, in the order of their end, after a place."""
        with self.transaction() as sql:
            return calls_of_model(sql, provider, model, between_ms, after=after, limit=PAGE_SIZE)

    # -- many quotas

    def known_quotas(
        self, *, shard: int | None = None, page_size: int = PAGE_SIZE
    ) -> Iterator[QuotaHead]:
        """
        Yield every quota's head in the order of (account, quota type).

        Each page is a short transaction of its own: quotas made meanwhile may be missed.
        """
        after: QuotaName | None = None
        while True:
            with self.transaction() as connection:
                page = histories.read_heads(connection, shard=shard, after=after, limit=page_size)
            yield from page
            if len(page) < page_size:
                return
            after = page[-1].quota

    def quotas_with_due_changes(self, now_ms: int, limit: int) -> list[QuotaName]:
        """Return quotas of which a grant begins or ends, or a hold expires, by ``now_ms``."""
        with self.transaction() as connection:
            return histories.quotas_with_due_changes(connection, now_ms, limit)

    # -- intents

    def record_intent(
        self, quota: QuotaName, grant_id: str, terms: GrantTerms, details: str = ""
    ) -> tuple[GrantIntent, bool]:
        """Promise a grant; return it as recorded, and whether that is new."""
        with self.transaction() as connection:
            return intents.record_intent(connection, quota, grant_id, terms, details)

    def withdraw_intent(self, quota: QuotaName, grant_id: str) -> None:
        """Forget the promise of a grant that was refused; does nothing once it was kept."""
        with self.transaction() as connection:
            intents.withdraw_intent(connection, quota, grant_id)

    def open_intents(
        self, older_than: timedelta = timedelta(0), limit: int = PAGE_SIZE
    ) -> list[GrantIntent]:
        """Return promised grants that nobody has applied for a while, oldest first."""
        with self.transaction() as connection:
            return intents.open_intents(connection, older_than, limit)

    def record_refunds(self, requests: Sequence[RefundRequest]) -> list[RecordedRefund]:
        """Promise refunds; decide how much of each charge may be given back, and to whom."""
        with self.transaction() as connection:
            return refunds.record_refunds(connection, requests)

    def withdraw_refund(self, quota: QuotaName, refund_id: str) -> None:
        """Forget the promise of a refund that was refused; does nothing once it was kept."""
        with self.transaction() as connection:
            refunds.withdraw_refund(connection, quota, refund_id)

    def open_refunds(
        self, older_than: timedelta = timedelta(0), limit: int = PAGE_SIZE
    ) -> list[Refund]:
        """Return promised refunds that nobody has applied for a while, oldest first."""
        with self.transaction() as connection:
            return refunds.open_refunds(connection, older_than, limit)

    # -- provider pools

    def pool_standings(self) -> list[PoolStanding]:
        """Return every provider pool as it is now, with its level, by provider and currency."""
        return PoolTables(self).standings()
