"""
What an engine client needs of its deployment beside Redis: a description, no code.

``quota_engine.deployment`` implements it on the ledger and the jobs; the clients, which stand
below them, know only this. Every method may block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Protocol

from quota_engine.batches import Batch
from quota_engine.codes import RedemptionCode
from quota_engine.commands import (
    ChargeFate,
    HoldFate,
    IntentFate,
    IssueGrant,
    OperationFate,
    RecordedRefund,
    Refund,
    RefundRequest,
    Snapshot,
    VoidGrant,
)
from quota_engine.corrections import CallOfModel
from quota_engine.drift import ReconcileReport
from quota_engine.history import HistoryEntry
from quota_engine.keys import QuotaName
from quota_engine.listed import ListedGrant
from quota_engine.packages import Order, Package, PackageTerms, Purchase
from quota_engine.plans import Plan, PlanTerms
from quota_engine.pools import PoolEntry, PoolName, PoolStanding, PoolTerms
from quota_engine.prices.catalog import Model, ModelFacts, Provider
from quota_engine.prices.importing import ImportReport, Reading
from quota_engine.prices.price import NewPrice, Price
from quota_engine.prices.versions import PriceList
from quota_engine.provider_exports import Comparison, Difference, ExportReport
from quota_engine.recorded import RecordedCall, UsageQuery
from quota_engine.refusals import RefusalPiece
from quota_engine.reminders import Reminder, ReminderQuery
from quota_engine.reporting import Piece, ReportQuery, Timed
from quota_engine.statements import Period, Statement
from quota_engine.subscribing import Begin, Done, Subscription, SubscriptionChange, Wanted


class Opened(Protocol):
    """A deployment that may be used: its shards, each one's epoch, and on which server."""

    @property
    def shards(self) -> int: ...
    @property
    def epochs(self) -> Mapping[int, int]: ...
    @property
    def incarnation(self) -> str: ...


class PriceStore(Protocol):
    """The price book in PostgreSQL. ``now`` None: PostgreSQL's clock decides."""

    def find_provider(self, name: str) -> Provider | None: ...
    def create_provider(self, name: str) -> Provider:
        """Return a provider, made if there was none."""

    def find_model(self, provider: str, name: str) -> Model | None: ...
    def create_model(self, provider: str, name: str, facts: ModelFacts) -> Model:
        """Return a model as it is, made with these facts if there was none."""

    def change_model(self, provider: str, name: str, facts: ModelFacts) -> Model | None: ...
    def list_models(self, provider: str | None) -> Sequence[Model]: ...
    def read_prices(self, provider: str | None, model: str | None) -> PriceList: ...
    def add_price(self, new: NewPrice, now: datetime | None) -> Price: ...
    def import_prices(
        self, read: Callable[[datetime], Reading], now: datetime | None, *, dry_run: bool
    ) -> ImportReport: ...


class CodeStore(Protocol):
    """Redemption codes in PostgreSQL. ``now`` None: PostgreSQL's clock decides."""

    def create_codes(
        self,
        batch_id: str,
        package: str,
        codes: Sequence[str],
        expires_at: datetime | None,
        now: datetime | None,
    ) -> tuple[int, bool]:
        """Make codes valid; return the package's version, and whether they were before."""

    def redeem(self, account: str, hashed: str, now: datetime | None) -> Order: ...
    def list_codes(
        self, batch_id: str | None, account: str | None, now: datetime | None
    ) -> Sequence[RedemptionCode]: ...
    def revoke(
        self, *, where: dict[str, str], now: datetime | None
    ) -> Sequence[RedemptionCode]: ...


class BatchStore(Protocol):
    """Which table each batch of grants was, in PostgreSQL."""

    def now_ms(self) -> int: ...
    def check(self, batch: Batch) -> bool:
        """Return whether it was begun before; raise if its id was used for another table."""

    def begin(self, batch: Batch, actor: str | None) -> None: ...


class SaleStore(Protocol):
    """Packages and orders in PostgreSQL. ``now`` None: PostgreSQL's clock decides."""

    @property
    def codes(self) -> CodeStore: ...
    def define_package(self, name: str, terms: PackageTerms, *, is_active: bool) -> Package: ...
    def activate_package(self, name: str, *, is_active: bool) -> Package: ...
    def find_package(self, name: str) -> Package | None: ...
    def list_packages(self, *, only_active: bool) -> Sequence[Package]: ...
    def package_history(self, name: str) -> Sequence[Package]: ...
    def order(self, account: str, names: Sequence[str], order_id: str) -> Order: ...
    def pay(
        self, order_id: str, now: datetime | None, *, of: tuple[str, Sequence[str]] | None = None
    ) -> Order:
        """Mark an order as paid and promise its grants; ``of``: make it if there is none."""

    def find_order(self, order_id: str) -> Order: ...
    def list_purchases(self, account: str) -> Sequence[Purchase]: ...
    def close_order(self, order_id: str, *, state: str) -> Order: ...
    def expired_units(self, quota: QuotaName, grant_id: str) -> int: ...


class PlanStore(Protocol):
    """Plans in PostgreSQL."""

    def define_plan(self, name: str, terms: PlanTerms, *, is_active: bool) -> Plan: ...
    def activate_plan(self, name: str, *, is_active: bool) -> Plan: ...
    def find_plan(self, name: str, version: int | None) -> Plan | None: ...
    def list_plans(self, *, only_active: bool) -> Sequence[Plan]: ...
    def plan_history(self, name: str) -> Sequence[Plan]: ...


class ReminderStore(Protocol):
    """Reminders in PostgreSQL."""

    def list_reminders(self, query: ReminderQuery) -> Sequence[Reminder]: ...
    def claim(self, limit: int) -> Sequence[Reminder]:
        """Return reminders that nobody has delivered or is delivering: they are the caller's."""

    def mark_delivered(self, reminder: Reminder) -> None: ...


class ReportStore(Protocol):
    """The daily sums of usage records in PostgreSQL. Days are UTC."""

    def read_sums(self, query: ReportQuery) -> tuple[Sequence[Piece], Sequence[Timed]]:
        """Return what a report is made of; what records wait to be summed is summed first."""

    def read_refusals(self, query: ReportQuery) -> Sequence[RefusalPiece]: ...
    def days(self, since: date | None, until: date | None) -> Sequence[date]: ...
    def rebuild_day(self, day: date) -> int: ...
    def wrong_on(self, day: date) -> Sequence[str]: ...
    def first_day(self, quota: QuotaName) -> date | None: ...


class PoolStore(Protocol):
    """Provider pools in PostgreSQL. ``now`` None: PostgreSQL's clock decides."""

    def define(
        self,
        name: PoolName,
        terms: PoolTerms,
        now: datetime | None,
        *,
        operator: str | None = None,
        remark: str | None = None,
    ) -> PoolStanding: ...
    def enter(
        self,
        name: PoolName,
        kind: str,
        amount: Decimal,
        now: datetime | None,
        *,
        entry_id: str,
        operator: str | None,
        remark: str | None,
    ) -> PoolEntry: ...
    def currencies_of(self, provider: str) -> Sequence[str]: ...
    def name_of(self, provider: str, currency: str | None) -> PoolName: ...
    def standing(self, name: PoolName) -> PoolStanding: ...
    def standings(self) -> Sequence[PoolStanding]: ...
    def history(self, name: PoolName, now: datetime | None) -> Sequence[PoolEntry]: ...
    def rebuild(self, name: PoolName) -> int: ...
    def wrong_days(self, name: PoolName) -> Sequence[date]: ...
    def compare(
        self,
        comparison: Comparison,
        file: Path,
        on_difference: Callable[[Difference], object] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> ExportReport: ...


class StatementStore(Protocol):
    """Statements, reports and grants from the ledger, as far as it was persisted."""

    @property
    def reminders(self) -> ReminderStore: ...
    @property
    def reports(self) -> ReportStore: ...
    @property
    def pools(self) -> PoolStore: ...
    def read_statement(self, quota: QuotaName, period: Period) -> Statement: ...
    def read_grants(self, quota: QuotaName) -> tuple[datetime, Sequence[ListedGrant]]:
        """Return PostgreSQL's now, and every grant of a quota with the state it has there."""

    def quota_types_of(self, account: str) -> Sequence[str]: ...


class SubscriptionStore(PlanStore, Protocol):
    """Plans and subscriptions in PostgreSQL. ``now`` None: PostgreSQL's clock decides."""

    def subscribe(self, begin: Begin, wanted: Wanted, now: datetime | None) -> Done: ...
    def act(self, subscription_id: str, wanted: Wanted, now: datetime | None) -> Done: ...
    def voids_of(self, subscription_id: str) -> Sequence[VoidGrant]: ...
    def note_voided(self, subscription_id: str, grant_id: str, units: int) -> None: ...
    def promise_of(self, quota: QuotaName, grant_id: str) -> IssueGrant | None: ...
    def open_promises(self, subscription_id: str) -> Sequence[IssueGrant]: ...
    def renew(self, subscription_id: str, now: datetime | None) -> Done: ...
    def find_subscription(
        self, subscription_id: str, now: datetime | None
    ) -> Subscription | None: ...
    def list_subscriptions(
        self, account: str | None, now: datetime | None, limit: int
    ) -> Sequence[Subscription]: ...
    def with_voids(self, limit: int) -> Sequence[str]: ...
    def renew_due(self, now: datetime, limit: int) -> tuple[int, Sequence[IssueGrant]]: ...
    def unsettled(
        self, now: datetime, after: str, limit: int
    ) -> Sequence[tuple[str, QuotaName]]: ...
    def settle(
        self, subscription_id: str, ready: Sequence[QuotaName], now: datetime
    ) -> Sequence[IssueGrant]: ...
    def subscription_history(self, subscription_id: str) -> Sequence[SubscriptionChange]: ...


class Backing(Protocol):
    """The ledger, the gate and the drain, as a client sees them."""

    @property
    def price_store(self) -> PriceStore: ...
    @property
    def batch_store(self) -> BatchStore: ...
    @property
    def sale_store(self) -> SaleStore: ...
    @property
    def plan_store(self) -> SubscriptionStore: ...
    @property
    def statement_store(self) -> StatementStore: ...
    @property
    def deployment_id(self) -> str:
        """Whose Redis and ledger these are; known without Redis, and remembered."""

    def reopen(self, seen: Opened | None) -> Opened:
        """Return an open deployment; ask the gate unless that differs already from ``seen``."""

    def read_snapshot(self, quota: QuotaName) -> Snapshot: ...
    def find_hold(self, quota: QuotaName, hold_id: str) -> HoldFate: ...
    def find_operation(self, quota: QuotaName, operation_id: str) -> OperationFate: ...
    def record_intent(self, command: IssueGrant) -> IntentFate: ...
    def withdraw_intent(self, quota: QuotaName, grant_id: str) -> None: ...
    def find_charge(self, quota: QuotaName, operation_id: str) -> ChargeFate: ...
    def quotas_of_call(self, operation_id: str) -> Sequence[QuotaName]: ...
    def calls_of_model(
        self,
        provider: str,
        model: str,
        between_ms: tuple[int, int],
        after: tuple[int, int] | None,
    ) -> Sequence[CallOfModel]:
        """Return a page of a model's billed calls, in the order of their end."""

    def record_refund(self, request: RefundRequest) -> RecordedRefund: ...
    def withdraw_refund(self, command: Refund) -> None: ...
    def persist(self, quota: QuotaName) -> None:
        """Help to persist what this quota's outbox holds, or wait a little for who does."""

    def persist_tail(self, quota: QuotaName) -> None:
        """Return once everything that this quota's outbox holds now is persisted."""

    def history(self, quota: QuotaName) -> Sequence[HistoryEntry]: ...
    def usage(self, query: UsageQuery) -> Sequence[RecordedCall]: ...
    def drain(self) -> int: ...
    def reconcile(self, *, repair: bool, actor: str = ...) -> ReconcileReport: ...
    def run_schedule(self, now_ms: int | None) -> dict[str, str]:
        """Do what is due by ``now_ms`` (None: the server's now); return what came of it."""

    def close(self) -> None: ...
