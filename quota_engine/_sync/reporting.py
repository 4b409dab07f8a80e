# Written by tools/unasync.py from quota_engine/_async/reporting.py. Edit that file instead.
"""Reports, as the engine's callers see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from quota_engine import flows
from quota_engine._sync.transport import Transport
from quota_engine.amounts import checked_amount
from quota_engine.arguments import checked_quota
from quota_engine.backing import Backing, ReportStore
from quota_engine.balance_series import BalanceSeries, balance_series
from quota_engine.commands import ReadBalance
from quota_engine.forecasts import Forecast, forecast
from quota_engine.ids import checked_account
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName
from quota_engine.refusals import RefusalReport, checked_refusal_query, refusal_report
from quota_engine.reporting import (
    ReportQuery,
    UsageReport,
    checked_days,
    checked_report_query,
    usage_report,
)
from quota_engine.series import (
    LAYERS,
    CostSeries,
    UsageSeries,
    checked_usage_series,
    cost_series,
    usage_series,
)
from quota_engine.settings import Settings
from quota_engine.statements import Period
from quota_engine.trends import (
    AccountStatistics,
    Trend,
    account_statistics,
    checked_trend_query,
    trend,
)
from quota_engine.viewing import check_seen, checked_viewer, sees
from quota_engine.waiting import in_place


class Reports:
    """
    What calls used and cost, from the daily sums in PostgreSQL.

    Days are UTC; ``since`` counts, ``until`` does not. What is still on its way to the ledger is
    in no report yet: ``drain`` first, where the last second matters. Raises
    ``InvalidArgumentError`` for what cannot be meant.

    ``viewer``: an account, on whose behalf is asked: the answer is that of a deployment that has
    this account and those below its path, and no other. Whoever names an account beyond gets
    ``NotSeenError``. None: an operator, who sees all.
    """

    def __init__(self, transport: Transport, backing: Backing, settings: Settings) -> None:
        self._transport = transport
        self._backing = backing
        self._settings = settings

    def usage(
        self,
        by: str | Sequence[str] = (),
        *,
        since: date | None = None,
        until: date | None = None,
        **asked: Any,
    ) -> UsageReport:
        """
        Return sums by any of day, month, account, team, provider, model and the like.

        Filters: ``account``, ``team`` (accounts below a path), ``provider``, ``model``,
        ``quota_type``, ``usage_type``, ``status``, ``currency``. ``team_depth``: how many parts of
        the path name a team. ``order_by``: calls, cost or consumed, the latter two with ``unit``,
        a currency or quota type; ``limit``: so many rows, ``.total`` is of all. ``viewer``: who
        asks. See ``quota_engine.reporting``.
        """
        query = checked_report_query(by=by, since=since, until=until, **asked)
        return self._report(query)

    def top(
        self,
        by: str = "account",
        *,
        unit: str | None = None,
        order_by: str = "cost",
        limit: int = 10,
        **asked: Any,
    ) -> UsageReport:
        """
        Return who spends most: in ``unit``, a currency, or with ``order_by="consumed"`` a type.

        The same as ``usage`` in that order; ``.total`` is of all, not of the rows alone.
        """
        return self.usage(by, unit=unit, order_by=order_by, limit=limit, **asked)

    def trend(
        self, by: str | Sequence[str] = (), *, since: date, until: date, **asked: Any
    ) -> Sequence[Trend]:
        """Return a period beside the one of the same length before it, and how that changed."""
        now, before = checked_trend_query(by=by, since=since, until=until, **asked)
        return trend(self._report(now), self._report(before))

    def refusals(
        self,
        by: str | Sequence[str] = (),
        *,
        since: date | None = None,
        until: date | None = None,
        **asked: Any,
    ) -> RefusalReport:
        """
        Return how many calls were made, refused and failed, by day, account, model and the like.

        Also by month, team, provider and quota type; filters are these, and ``viewer``. Clients
        write down what they refused a few seconds later. A refusal has a model where the caller
        named it: metered calls do.
        """
        query = checked_refusal_query(by=by, since=since, until=until, **asked)
        pieces = in_place(self._store.read_refusals, query)
        return refusal_report(self._report(query), pieces)

    def forecast(
        self, account: str, quota_type: str, *, days: int = 7, viewer: str | None = None
    ) -> Forecast:
        """
        Return when a quota runs dry, at the pace of the last ``days`` whole days and of today.

        The pace is of all that the quota was to pay, also for calls of accounts below it. A
        younger use is measured from its first day on. Reads Redis for the balance.
        """
        quota = self._seen(account, quota_type, viewer)
        span = checked_amount(days, name="days")
        balance = self._transport.drive(flows.settled(ReadBalance(quota=quota)))
        now = self._now(quota)
        begin = now.date() - timedelta(days=min(span, 36_500))
        charged, first = in_place(self._store.charged, quota, begin)
        since = from_ms(_midnight_ms(max(begin, first or now.date())))
        return forecast(balance, now, charged, since)

    def account(
        self,
        account: str,
        *,
        since: date | None = None,
        until: date | None = None,
        viewer: str | None = None,
    ) -> Sequence[AccountStatistics]:
        """
        Return what an account was granted, used and has of each quota type, and its calls' rates.

        ``since`` to ``until``: this period; by default the current month in UTC. An unknown
        account has none.
        """
        name = checked_account(account)
        check_seen(name, checked_viewer(viewer))
        self._transport.connect()
        store = self._backing.statement_store
        found = []
        for quota_type in in_place(store.quota_types_of, name):
            quota = QuotaName(name, quota_type)
            self._transport.drive(flows.booked(quota))
            balance = self._transport.drive(flows.settled(ReadBalance(quota=quota)))
            ever = in_place(store.read_statement, quota, Period(None, None))
            begin = since or (self._now(quota)).date().replace(day=1)
            report = self.usage(since=begin, until=until, account=name, quota_type=quota_type)
            span = Period(_midnight_ms(begin), None if until is None else _midnight_ms(until))
            period = in_place(store.read_statement, quota, span)
            found.append(account_statistics(ever, period, balance, report))
        return found

    # -- what pictures show

    def usage_series(
        self,
        by: str = "model",
        *,
        measure: str = "tokens",
        layers: int = LAYERS,
        since: date | None = None,
        until: date | None = None,
        **asked: Any,
    ) -> UsageSeries:
        """
        Return usage over time by model, provider, team and the like, the greatest layers first.

        ``measure``: tokens, calls, images and so on, or ``consumed`` with ``quota_type``. What is
        beyond the first ``layers`` is one more. Filters and ``viewer`` are those of ``usage``.
        """
        query, kept = checked_usage_series(by, measure, layers, since=since, until=until, **asked)
        return usage_series(self._report(query), query, measure, kept)

    def cost_series(
        self, *, since: date | None = None, until: date | None = None, **asked: Any
    ) -> CostSeries:
        """Return cost over time, each currency for itself; filters are those of ``usage``."""
        query = checked_report_query(by="day", since=since, until=until, **asked)
        return cost_series(self._report(query), query)

    def balance_series(
        self,
        account: str,
        quota_type: str,
        *,
        since: date | None = None,
        until: date | None = None,
        viewer: str | None = None,
    ) -> BalanceSeries:
        """
        Return a quota's balance over time, its grants' begins and ends, and the ends to come.

        Costs a look at every entry of the quota; pending ones are included. Reads Redis, too.
        """
        quota = self._seen(account, quota_type, viewer)
        period = checked_days(since, until)
        balance = self._transport.drive(flows.settled(ReadBalance(quota=quota)))
        entries = in_place(self._backing.history, quota)
        return balance_series(quota, entries, balance, self._now(quota), period)

    # -- the daily sums themselves

    def rebuild(
        self,
        since: date | None = None,
        until: date | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """
        Sum whole days again; return how many lines they have. They come out the same.

        An operator's: no viewer may. Needed only after somebody has edited them: see ``check``. A
        day is a transaction; calls and workers go on. ``progress`` is told after each day how many
        of how many are done.
        """
        query = checked_report_query(since=since, until=until)
        days = in_place(self._store.days, query.since, query.until)
        lines = 0
        for done, day in enumerate(days, 1):
            lines += in_place(self._store.rebuild_day, day)
            if progress is not None:
                progress(done, len(days))
        return lines

    def check(
        self, since: date | None = None, until: date | None = None, *, viewer: str | None = None
    ) -> Sequence[tuple[date, Sequence[str]]]:
        """Return the days on which sums are not those of the records, with their accounts."""
        query = checked_report_query(since=since, until=until, viewer=viewer)
        found = []
        for day in in_place(self._store.days, query.since, query.until):
            wrong = in_place(self._store.wrong_on, day)
            if accounts := [account for account in wrong if sees(query.viewer, account)]:
                found.append((day, accounts))
        return found

    def _seen(self, account: str, quota_type: str, viewer: str | None) -> QuotaName:
        """Return a quota's name; raise ``NotSeenError`` where the viewer does not see it."""
        quota = checked_quota(account, quota_type, self._settings)
        check_seen(quota.account, checked_viewer(viewer))
        return quota

    @property
    def _store(self) -> ReportStore:
        return self._backing.statement_store.reports

    def _report(self, query: ReportQuery) -> UsageReport:
        pieces, timed = in_place(self._store.read_sums, query)
        return usage_report(query, pieces, timed)

    def _now(self, quota: QuotaName) -> datetime:
        """Return the client's clock, or PostgreSQL's."""
        now_ms = self._transport.now_ms()
        if now_ms is not None:
            return from_ms(now_ms)
        now: datetime = (in_place(self._backing.statement_store.read_grants, quota))[0]
        return now.astimezone(UTC)


def _midnight_ms(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 86_400_000
