# Written by tools/unasync.py from quota_engine/_async/books.py. Edit that file instead.
"""The calls that read the books, fill them, and prove them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from quota_engine import flows
from quota_engine._sync.accounts import Accounts
from quota_engine._sync.alerting import Alerts
from quota_engine._sync.calling import Calling
from quota_engine._sync.limiting import Limits
from quota_engine._sync.pooling import Pools
from quota_engine._sync.replaying import Replayer
from quota_engine._sync.reporting import Reports
from quota_engine._sync.transport import Transport
from quota_engine.amounts import checked_amount
from quota_engine.arguments import checked_text
from quota_engine.backing import Backing
from quota_engine.commands import ReadBalance
from quota_engine.drift import ReconcileReport
from quota_engine.history import HistoryEntry
from quota_engine.ids import checked_account
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName
from quota_engine.listed import ListedGrant, checked_grant_query, in_order, laid_over
from quota_engine.recorded import RecordedCall, checked_usage_query
from quota_engine.reminders import Reminder, checked_reminder_query
from quota_engine.settings import Settings
from quota_engine.spool import Spool
from quota_engine.spooled import SpoolReplay
from quota_engine.statements import Period, Statement, checked_period
from quota_engine.viewing import check_seen, checked_viewer
from quota_engine.waiting import in_place

log = logging.getLogger("quota_engine.reminders")


class Books(Calling):
    """
    History, reports, drain, reconciliation and schedule.

    ``viewer``: an account, on whose behalf is asked; one that is neither the viewer nor below it
    raises ``NotSeenError``, whether it exists or not. None: an operator, who sees all.
    """

    def __init__(self, transport: Transport, backing: Backing, settings: Settings) -> None:
        super().__init__(transport, backing, settings)
        self.reports = Reports(transport, backing, settings)
        self.pools = Pools(transport, backing, settings)
        self.accounts = Accounts(transport, backing, settings)
        self.limits = Limits(transport, backing, settings)
        self.alerts = Alerts(transport, backing, settings)

    def check_pool(self, provider: str, currency: str | None = None) -> None:
        """Raise ``PoolEmptyError`` if nothing is left at a provider: see ``Pools.check``."""
        self.pools.check(provider, currency)

    def history(
        self, account: str, quota_type: str, *, viewer: str | None = None
    ) -> Sequence[HistoryEntry]:
        """Return a quota's entries, oldest first, pending ones included. Reads PostgreSQL."""
        quota = self._quota(_seen(account, viewer), quota_type)
        self._transport.connect()
        return in_place(self._backing.history, quota)

    def usage(
        self,
        account: str,
        quota_type: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        provider: str | None = None,
        model: str | None = None,
        status: str | None = None,
        operation_id: str | None = None,
        limit: int | None = None,
        viewer: str | None = None,
    ) -> Sequence[RecordedCall]:
        """
        Return an account's usage records, oldest first, pending ones included.

        ``since`` counts, ``until`` does not; ``status``: success, failed, timeout or cancelled;
        ``operation_id``: a hold's own finds what its capture or release recorded; ``limit``: at
        most so many, the oldest. An unknown account has none. Raises ``InvalidArgumentError``,
        also for a datetime without time zone. Reads PostgreSQL, and walks through the outbox.
        """
        query = checked_usage_query(
            self._settings,
            _seen(account, viewer),
            quota_type,
            since=since,
            until=until,
            provider=provider,
            model=model,
            status=status,
            operation_id=operation_id,
            limit=limit,
        )
        self._transport.connect()
        return in_place(self._backing.usage, query)

    def statement(
        self,
        account: str,
        quota_type: str,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        viewer: str | None = None,
    ) -> Statement:
        """
        Return what an account had of a quota type, what came and went, and what it has, in units.

        ``opening + granted + refunded + transferred_in − used − expired − voided −
        transferred_out = closing``, exactly. ``since`` counts, ``until`` does not, so periods that
        touch share a balance; None: from the first entry, until now. What has come due is applied
        and persisted first. An unknown account has zeros. Raises ``InvalidArgumentError`` for a
        period that ends before it starts, an unknown quota type, or a datetime without time zone.
        Costs a look at every entry of the quota.
        """
        period = checked_period(since, until)
        return self._stated(self._quota(_seen(account, viewer), quota_type), period)

    def statements(
        self,
        account: str,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        viewer: str | None = None,
    ) -> Sequence[Statement]:
        """Return a statement of each quota type that an account ever had: see ``statement``."""
        period = checked_period(since, until)
        name = _seen(account, viewer)
        self._transport.connect()
        types = in_place(self._backing.statement_store.quota_types_of, name)
        return [self._stated(QuotaName(name, one), period) for one in types]

    def _stated(self, quota: QuotaName, period: Period) -> Statement:
        self._transport.drive(flows.booked(quota))
        return in_place(self._backing.statement_store.read_statement, quota, period)

    def grants(
        self,
        account: str,
        quota_type: str | None = None,
        *,
        state: str | None = None,
        expiring_within: timedelta | None = None,
        viewer: str | None = None,
    ) -> Sequence[ListedGrant]:
        """
        Return the grants of an account as they are now, in the order of their making.

        ``state``: promised, pending, active, exhausted, expired or voided. ``expiring_within``:
        only those that may still be used and end by then, the next one first. An unknown account
        has none. Raises ``InvalidArgumentError``. Reads Redis and PostgreSQL; waits for the drain
        of the shard where only its entries tell what became of a grant.
        """
        query = checked_grant_query(state, expiring_within)
        name = _seen(account, viewer)
        self._transport.connect()
        if quota_type is not None:
            quotas = [self._quota(name, quota_type)]
        else:
            types = in_place(self._backing.statement_store.quota_types_of, name)
            quotas = [QuotaName(name, one) for one in types]
        found: list[ListedGrant] = []
        for quota in quotas:
            now, listed = self._listed(quota)
            found += [grant for grant in listed if query.fits(grant, now)]
        return in_order(found, query)

    def _listed(self, quota: QuotaName) -> tuple[datetime, Sequence[ListedGrant]]:
        """Return now, and a quota's grants as they are now."""
        for attempt in (1, 2):
            balance = self._transport.drive(flows.settled(ReadBalance(quota=quota)))
            read = in_place(self._backing.statement_store.read_grants, quota)
            now_ms = self._transport.now_ms()
            now = read[0] if now_ms is None else from_ms(now_ms)
            found, is_clear = laid_over(read[1], balance, now)
            if is_clear or attempt == 2:
                break
            self._transport.drive(flows.booked(quota))
        return now, found

    def reminders(
        self,
        account: str | None = None,
        *,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> Sequence[Reminder]:
        """
        Return the reminders of grants that end soon, oldest first; they are made by the schedule.

        Of one account or of all; ``since``: made then or later. Raises ``InvalidArgumentError``.
        """
        query = checked_reminder_query(account, since, limit)
        return in_place(self._backing.statement_store.reminders.list_reminders, query)

    def deliver_reminders(
        self, callback: Callable[[Reminder], object], *, limit: int = 100
    ) -> int:
        """
        Call ``callback`` with each reminder that was not delivered yet; return how many it took.

        A plain function, run in a thread by the async engine. Each reminder is one caller's, and
        delivered once that has returned; where it raises, which is logged, or dies, somebody gets
        it again after five minutes. So it is delivered at least once.
        """
        store = self._backing.statement_store.reminders
        delivered = 0
        for reminder in in_place(store.claim, checked_amount(limit, name="limit")):
            try:
                in_place(callback, reminder)
            except Exception:
                log.exception("the reminder of grant %s was not delivered", reminder.grant_id)
            else:
                in_place(store.mark_delivered, reminder)
                delivered += 1
        return delivered

    def drain(self) -> int:
        """Persist everything that is pending now; return how many entries that was."""
        self._transport.connect()
        return in_place(self._backing.drain)

    def reconcile(self, repair: bool = False, *, actor: str = "reconcile") -> ReconcileReport:
        """
        Compare every quota in Redis with the ledger and what is pending. Online: others go on.
        Persists entries of busy quotas on its way, so that these are compared in full, too.

        With ``repair`` what the ledger explains is mended, each with an entry ``quota.repaired``
        of ``actor``'s, and what nothing explains is frozen.
        """
        told = checked_text(actor, name="actor") or "reconcile"
        self._transport.connect()
        return in_place(self._backing.reconcile, repair=repair, actor=told)

    @property
    def spool(self) -> Spool:
        """The deployment's spool on this machine: what waits in it, and since when."""
        return self._spooling.spool

    def replay_spool(self) -> SpoolReplay:
        """
        Bring what waits in this machine's spool to Redis now, as the engine does by itself.

        ``.replayed .refused .waiting .error``. Each operation has one effect, whoever replays it.
        """
        replayer = Replayer(self._spooling, self._transport, self._settings)
        return replayer.replay()

    def run_schedule(self) -> dict[str, str]:
        """
        Do now what is due, as the workers do by themselves; return what came of each duty.

        Grants and holds begin and end on time without it: it tells the ledger, and keeps promises.
        """
        self._transport.connect()
        return in_place(self._backing.run_schedule, self._transport.now_ms())


def _seen(account: str, viewer: str | None) -> str:
    """Return an account's id; raise ``NotSeenError`` where the viewer does not see it."""
    name = checked_account(account)
    check_seen(name, checked_viewer(viewer))
    return name
