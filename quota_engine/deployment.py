"""
One process's hold on a deployment: its servers, its ledger, the gate, and the jobs by name.

Clients, workers and the CLI all begin here. Every method may block; all are safe in threads.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from quota_engine.commands import (
    ChargeFate,
    FreezeQuota,
    HoldFate,
    IntentFate,
    IssueGrant,
    OperationFate,
    RecordedRefund,
    RefundRequest,
    Snapshot,
)
from quota_engine.corrections import CallOfModel
from quota_engine.drift import ReconcileReport
from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.events import parse_entry
from quota_engine.history import HistoryEntry, history_entry
from quota_engine.instants import from_ms
from quota_engine.jobs import gate, persist, quarantine, thaw
from quota_engine.jobs.driving import Driver
from quota_engine.jobs.gate import Opened
from quota_engine.jobs.gate_progress import described, read_progress
from quota_engine.jobs.opening import Opening
from quota_engine.jobs.prewarm import Warming, prewarm
from quota_engine.jobs.reconcile import ACTOR, reconcile
from quota_engine.jobs.running import run_command
from quota_engine.jobs.schedule import run_schedule
from quota_engine.jobs.thaw import ThawReport
from quota_engine.keys import QuotaName, shard_of
from quota_engine.ledger.account_moves import MoveTables
from quota_engine.ledger.batches import BatchTables
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.migrate import check_migrated, upgrade
from quota_engine.ledger.policies import AccountTables
from quota_engine.ledger.pricing import PriceTables
from quota_engine.ledger.quarantine import InDoubt, in_doubt
from quota_engine.ledger.selling import SaleTables
from quota_engine.ledger.statements import StatementTables
from quota_engine.ledger.subscribing import SubscriptionTables
from quota_engine.ledger.usage_records import pending_call
from quota_engine.outbox import Outbox
from quota_engine.recorded import RecordedCall, UsageQuery
from quota_engine.settings import Settings
from quota_engine.stores import redis_client, server_urls

#: The pause of one who waits for another's drain.
WAIT_SECONDS = 0.05


class Deployment:
    """The servers, the ledger and the gate of one deployment, for one process."""

    def __init__(self, settings: Settings) -> None:
        """Reach both stores; start the home's own where the settings name none."""
        self.settings = settings
        self.is_embedded = settings.redis_url is None and settings.database_url is None
        self.redis_url, self.database_url = server_urls(settings)
        self.client = redis_client(self.redis_url, settings)
        self.ledger = self._open_ledger()
        self.price_store = PriceTables(self.ledger)
        self.sale_store = SaleTables(self.ledger)
        self.account_store = AccountTables(self.ledger)
        self.move_store = MoveTables(self.ledger)
        self.batch_store = BatchTables(self.ledger)
        self.statement_store = StatementTables(self.ledger)
        self.plan_store = SubscriptionTables(self.ledger)
        self._opening = Opening(self.recover, lambda: described(read_progress(self.client)))
        self._hydrations = threading.BoundedSemaphore(settings.hydrations_max)
        self._closing = threading.Event()
        self._prewarming: threading.Thread | None = None
        #: How far this process is with loading quotas ahead; None: it has recovered nothing.
        self.warming: Warming | None = None
        os.register_at_fork(after_in_child=self._renew_locks)

    def _open_ledger(self) -> Ledger:
        if self.is_embedded:
            upgrade(self.database_url)
        ledger = Ledger.open(
            self.database_url,
            connect_timeout_seconds=self.settings.connect_timeout_seconds,
            connections_max=self.settings.database_connections_max,
        )
        try:
            check_migrated(ledger.engine)
        except BaseException:
            ledger.close()
            raise
        return ledger

    def _renew_locks(self) -> None:
        self._opening.renew()
        self._hydrations = threading.BoundedSemaphore(self.settings.hydrations_max)
        self._prewarming = self.warming = None

    def close(self) -> None:
        """Close the connections to both stores."""
        self._closing.set()
        if self._prewarming is not None:
            self._prewarming.join(self.settings.socket_timeout_seconds)
        self.client.close()
        self.ledger.close()

    # -- the gate

    @property
    def opened(self) -> Opened:
        """The open deployment; asks the gate the first time."""
        return self._opening.current or self.reopen(None)

    @property
    def deployment_id(self) -> str:
        """Whose Redis and ledger these are: asked of the ledger, which knows it without Redis."""
        return self.ledger.deployment_id

    def reopen(self, seen: object) -> Opened:
        """
        Return an open deployment; ask the gate unless another thread just has.

        Waits no longer than a call may, at the first opening a little longer.
        """
        first = gate.LOCK_WAIT_S if self._opening.current is None else 0.0
        return self._opening.reopen(seen, max(first, self.settings.call_timeout_seconds))

    def recover(self, *, adopt: bool = False, accept_gaps: str = "") -> Opened:
        """
        Ask the gate, and wait for it as long as it takes.

        ``adopt``: an operator means this very server. ``accept_gaps``: who accepts, and why, that
        entries which a stopped shard misses are lost.
        """
        return gate.ensure_open(
            self.client,
            self.ledger,
            self.settings,
            adopt=adopt,
            allow_wiped=self.is_embedded,
            is_durable_elsewhere=self.settings.redis_is_durable_elsewhere,
            accept_gaps=accept_gaps,
            on_recovered=self._prewarm,
        )

    def _prewarm(self, opened: Opened) -> None:
        """Load the busiest quotas in the background, after a recovery of this process's own."""
        if not self.settings.prewarm_max or self._closing.is_set():
            return
        self.warming = Warming()
        self._prewarming = threading.Thread(
            target=partial(
                prewarm,
                *(self.client, self.ledger, opened),
                limit=self.settings.prewarm_max,
                read=self.read_snapshot,
                stopping=self._closing,
                warming=self.warming,
            ),
            name="quota-engine-prewarm",
            daemon=True,
        )
        self._prewarming.start()

    # -- the ledger, as clients ask it

    def read_snapshot(self, quota: QuotaName) -> Snapshot:
        """Return a quota as the ledger last knew it; a few at once, the others wait a while."""
        hydrations, seconds = self._hydrations, self.settings.call_timeout_seconds
        if not hydrations.acquire(timeout=seconds):
            raise EngineUnavailableError(
                f"{quota} could not be loaded within {seconds:g} s: too many others are loaded"
                " from PostgreSQL before it; try again"
            )
        try:
            return self.ledger.read_snapshot(quota, self.settings.horizon_ms)
        finally:
            hydrations.release()

    def find_hold(self, quota: QuotaName, hold_id: str) -> HoldFate:
        """Return what became of a hold."""
        return self.ledger.find_hold(quota, hold_id)

    def find_operation(self, quota: QuotaName, operation_id: str) -> OperationFate:
        """Return what the ledger knows of an operation, and up to which version it knows."""
        return self.ledger.find_fate(quota, operation_id)

    def record_intent(self, command: IssueGrant) -> IntentFate:
        """Promise a grant; tell whether that is new, and how it was kept if it was."""
        intent, is_new = self.ledger.record_intent(
            command.quota, command.grant_id, command.terms, command.details
        )
        applied = None
        if intent.applied_version is not None:
            applied = self.ledger.find_operation(command.quota, command.grant_id)
        return IntentFate(is_new, applied)

    def withdraw_intent(self, quota: QuotaName, grant_id: str) -> None:
        """Forget the promise of a grant that was refused."""
        self.ledger.withdraw_intent(quota, grant_id)

    def find_charge(self, quota: QuotaName, operation_id: str) -> ChargeFate:
        """Return a charge and its corrections."""
        return self.ledger.find_charge(quota, operation_id)

    def quotas_of_call(self, operation_id: str) -> Sequence[QuotaName]:
        """Return the quotas in which a call left a record; drains first if it finds none."""
        found = self.ledger.quotas_of_call(operation_id)
        if not found:
            self.drain()
            found = self.ledger.quotas_of_call(operation_id)
        return found

    def quotas_beside(self, quota: QuotaName, operation_id: str) -> Sequence[QuotaName]:
        """Return which further quota types of its account a charge took in the same step."""
        return self.ledger.quotas_beside(quota, operation_id)

    def calls_of_model(
        self,
        provider: str,
        model: str,
        between_ms: tuple[int, int],
        after: tuple[int, int] | None,
    ) -> Sequence[CallOfModel]:
        """Return a page of a model's billed calls, in the order of their end."""
        return self.ledger.calls_of_model(provider, model, between_ms, after)

    def record_refunds(self, requests: Sequence[RefundRequest]) -> list[RecordedRefund]:
        """Promise refunds; tell how much is given back, to whom, and whether it was already."""
        return self.ledger.record_refunds(requests)

    def withdraw_refund(self, quota: QuotaName, refund_id: str) -> None:
        """Forget the promise of a refund that was refused or cancelled."""
        self.ledger.withdraw_refund(quota, refund_id)

    def history(self, quota: QuotaName) -> Sequence[HistoryEntry]:
        """Return a quota's entries, oldest first: the pending ones are read before the rest."""
        shard = self.ledger.shard_of(quota)
        cursor = self.ledger.read_shards()[shard].cursor
        pending = Outbox(self.client, shard).pending_of(quota, cursor)
        entries = [
            history_entry(
                recorded.entry,
                recorded.chain,
                recorded_at=recorded.recorded_at,
                duplicate_of=recorded.duplicate_of,
            )
            for recorded in self.ledger.history(quota)
        ]
        known = entries[-1].version if entries else 0
        for event in pending:
            entry = parse_entry(event.entry.decode())
            if entry.version > known:
                entries.append(history_entry(entry, event.chain.decode(), recorded_at=None))
        return entries

    def usage(self, query: UsageQuery) -> Sequence[RecordedCall]:
        """Return usage records, oldest first: the pending ones are read before the rest."""
        shard = shard_of(query.account, self.ledger.shard_count)
        cursor = self.ledger.read_shards()[shard].cursor
        pending = Outbox(self.client, shard).pending_of_account(query.account, cursor)
        found = self.ledger.usage(query)
        known = {(call.quota_type, call.version) for call in found}
        waiting = [call for event in pending if (call := pending_call(event)) is not None]
        found += [
            call
            for call in waiting
            if query.fits(call) and (call.quota_type, call.version) not in known
        ]
        found.sort(key=lambda call: call.occurred_at)
        return found[: query.limit]

    # -- the drain

    def persist(self, quota: QuotaName) -> None:
        """Help to persist what this quota's outbox holds, or wait a little for who does."""
        outcome = persist.persist_batch(
            self.client,
            self.ledger,
            self.ledger.shard_of(quota),
            batch_max=self.settings.persist_batch_max,
            on_freeze=self.freeze,
        )
        if outcome.status != "persisted":
            time.sleep(WAIT_SECONDS)

    def persist_tail(self, quota: QuotaName) -> None:
        """Return once everything that this quota's outbox holds now is persisted."""
        shard = self.ledger.shard_of(quota)
        tail = Outbox(self.client, shard).last_id()
        deadline = time.monotonic() + self.settings.call_timeout_seconds
        while tail is not None and self.ledger.read_shards()[shard].cursor < tail:
            if time.monotonic() >= deadline:
                raise EngineUnavailableError(
                    f"shard {shard} was not drained in time; is a worker running?"
                )
            self.persist(quota)

    def drain(self) -> int:
        """Persist everything that is pending now; return how many entries that was."""
        return persist.drain(
            self.client,
            self.ledger,
            range(self.opened.shards),
            self.freeze,
            batch_max=self.settings.persist_batch_max,
        )

    def freeze(self, quota: QuotaName, reason: str) -> None:
        """Mark a quota as frozen in Redis; one that is not loaded brings the mark itself."""
        try:
            run_command(self.client, self.opened, FreezeQuota(quota=quota, reason=reason))
        except QuotaError as error:
            raise EngineUnavailableError(f"{quota} could not be frozen: {error}") from error

    def reconcile(
        self,
        *,
        repair: bool = False,
        actor: str = ACTOR,
        progress: Callable[[int], None] | None = None,
    ) -> ReconcileReport:
        """
        Compare every quota in Redis with the ledger and what is pending.

        Asks the gate first: this process may not have called since another one recovered.
        """
        return reconcile(
            self.client,
            self.ledger,
            opened=self.reopen(self.opened),
            repair=repair,
            actor=actor,
            horizon_ms=self.settings.horizon_ms,
            progress=progress,
        )

    # -- the quarantine

    @property
    def driver(self) -> Driver:
        """Return what the jobs act with."""
        return Driver(self.client, self.ledger, self.opened, self.settings.horizon_ms)

    def in_doubt(self, *, with_resolved: bool = False) -> list[InDoubt]:
        """Return every quota that is frozen or has something in quarantine."""
        with self.ledger.transaction() as sql:
            return in_doubt(sql, with_resolved=with_resolved)

    def plan_thaw(self, quota: QuotaName, *, is_discarding: bool = False) -> ThawReport:
        """Return what thawing a quota would do now."""
        return thaw.plan(self.driver, quota, is_discarding=is_discarding)

    def thaw(self, quota: QuotaName, order: thaw.Order) -> ThawReport:
        """Mend a frozen quota and write its entry ``quota.repaired``. Safe to run again."""
        return thaw.thaw(self.driver, quota, order)

    def freeze_by_hand(self, quota: QuotaName, *, actor: str, reason: str) -> str:
        """Freeze a quota on an operator's word; return why it is frozen now."""
        return quarantine.freeze(self.driver, quota, actor=actor, reason=reason)

    def run_schedule(self, now_ms: int | None) -> dict[str, str]:
        """Do what is due by ``now_ms`` (None: the server's now); return what came of it."""
        clock = None if now_ms is None else partial(from_ms, now_ms)
        outcomes = run_schedule(self, clock)
        failed = [outcome.text for outcome in outcomes.values() if not outcome.is_ok]
        if failed:
            raise EngineUnavailableError("not all that is due was done: " + "; ".join(failed))
        return {name: outcome.text for name, outcome in outcomes.items()}
