"""
Reconcile: prove, quota by quota and under load, that Redis and the log tell the same.

Each quota is seen in Redis in one instant, with the end of its outbox; then the outbox is read up
to there, then the ledger. So whatever is persisted meanwhile is found in one of the two, and what
is written meanwhile is told from its id. With ``repair`` a quota whose log is whole is dropped,
so that it is loaded from the ledger again; what cannot be explained is frozen.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import redis
from sqlalchemy import Connection

from quota_engine import flows
from quota_engine.commands import RecordRepair
from quota_engine.commands.arguments import details_text
from quota_engine.commands.reconcile import (
    DropQuota,
    SnapshotQuota,
    Snapshotted,
    grant_facts,
    hold_facts,
)
from quota_engine.commands.replies import FencedError
from quota_engine.drift import Cause, Drift, Log, ReconcileReport, Seen, Sums, compare
from quota_engine.errors import EngineUnavailableError, InvalidArgumentError, QuotaError
from quota_engine.ids import checked_account, checked_quota_type
from quota_engine.jobs import gate_server
from quota_engine.jobs.driving import Driver
from quota_engine.jobs.gate import Opened
from quota_engine.jobs.pending import Pending
from quota_engine.jobs.persist import drain
from quota_engine.jobs.pinned import PinnedConnection, undecoded
from quota_engine.jobs.policies import mend_policies, policy_drifts
from quota_engine.jobs.running import HORIZON_MS, run_command, run_commands
from quota_engine.jobs.thaw import THAW
from quota_engine.jobs.thaw import finish as finish_thaw
from quota_engine.keys import QuotaName, shard_of
from quota_engine.ledger import Ledger, comparing, epochs, quarantine
from quota_engine.ledger.comparing import KnownQuota
from quota_engine.ledger.quarantine import Repair
from quota_engine.ledger.shards import lock_shard
from quota_engine.outbox import Outbox

log = logging.getLogger("quota_engine.reconcile")

#: Quotas that are compared at once.
PAGE = 200
LOCK_WAIT_MS = 5_000
#: Who mends where nobody says another.
ACTOR = "reconcile"

#: Told how many quotas have been compared so far.
Progress = Callable[[int], None]


@dataclass(slots=True)
class _Compared:
    """One quota as it was compared."""

    drift: Drift | None
    snapshotted: Snapshotted
    ledger_version: int

    @property
    def is_blank(self) -> bool:
        """Whether nothing has happened to it anywhere: a call only looked whether it limits."""
        loaded = self.snapshotted.seen.loaded
        return self.ledger_version == 0 and loaded is not None and loaded.version == 0


@dataclass(slots=True)
class Reconciler:
    """One run over one deployment. ``client`` must not decode replies."""

    client: redis.Redis
    ledger: Ledger
    opened: Opened
    progress: Progress | None = None
    checked: int = 0
    _pending: dict[int, Pending] = field(default_factory=dict)

    def find_drifts(self) -> Iterator[Drift]:
        """Compare every quota that Redis or the ledger knows; yield those that differ."""
        for shard in range(self.opened.shards):
            known = (head.quota for head in self.ledger.known_quotas(shard=shard))
            for page in comparing.pages(known, PAGE):
                yield from self._drifts_of(shard, page)
        with PinnedConnection(self.client) as connection:
            for shard, page in self._unknown_to_ledger(connection):
                yield from self._drifts_of(shard, page)

    def compare(self, shard: int, quotas: Sequence[QuotaName]) -> dict[QuotaName, _Compared]:
        """Compare quotas of one shard: see them in Redis, then read outbox and ledger."""
        snapshots = self._snapshots(quotas)
        pending = self._pending_of(shard)
        pending.read_until(max(snapshot.seen.last_id for snapshot in snapshots.values()))
        with self.ledger.transaction() as sql:
            page = comparing.read_page(sql, shard, quotas)
            pending.forget(page.cursor)
            compared = {}
            for quota, snapshotted in snapshots.items():
                known = page.quotas.get(quota)
                told = self._log_of(sql, quota, known, snapshotted.seen, pending)
                drift = compare(quota.account, quota.quota_type, snapshotted.seen, told)
                version = known.head.version if known else 0
                compared[quota] = _Compared(drift, snapshotted, version)
        return compared

    def _drifts_of(self, shard: int, quotas: Sequence[QuotaName]) -> Iterator[Drift]:
        compared = self.compare(shard, quotas)
        self.checked += sum(not one.is_blank for one in compared.values())
        if self.progress is not None:
            self.progress(self.checked)
        for one in compared.values():
            if one.drift is not None:
                yield one.drift

    def _snapshots(self, quotas: Sequence[QuotaName]) -> dict[QuotaName, Snapshotted]:
        commands = [SnapshotQuota(quota=quota) for quota in quotas]
        found = {}
        results = run_commands(self.client, self.opened, commands)
        for quota, result in zip(quotas, results, strict=True):
            if isinstance(result, FencedError):
                raise EngineUnavailableError(
                    "the server was recovered meanwhile; reconcile again"
                ) from result
            if isinstance(result, QuotaError):
                raise result
            found[quota] = result
        return found

    def _pending_of(self, shard: int) -> Pending:
        if shard not in self._pending:
            cursors = {row.shard: row.cursor for row in self.ledger.read_shards()}
            self._pending |= {
                number: Pending(Outbox(self.client, number), cursor)
                for number, cursor in cursors.items()
                if number not in self._pending
            }
        return self._pending[shard]

    @staticmethod
    def _log_of(
        sql: Connection,
        quota: QuotaName,
        known: KnownQuota | None,
        seen: Seen,
        pending: Pending,
    ) -> Log:
        """Return what the log says of a quota as of the instant it was seen in."""
        head = known.sums if known is not None else Sums()
        if known is None or known.event_id <= seen.last_id:
            going_on = pending.continued(quota, head, seen.last_id)
            last, unfit, is_drained = going_on.last, going_on.unfit, not going_on.count
        else:
            last, unfit, is_drained = _earlier(sql, quota, seen) or head, "", False
        if known is None:
            return Log(last=last, unfit=unfit, is_drained=is_drained)
        return Log(
            last=last,
            unfit=unfit,
            frozen=known.head.frozen,
            is_drained=is_drained,
            overdraft_limit=known.head.overdraft_limit,
            limits=known.limits,
            grants={grant.grant_id: grant_facts(grant) for grant in known.grants},
            holds={hold.hold_id: hold_facts(hold) for hold in known.holds},
        )

    def _unknown_to_ledger(
        self, connection: PinnedConnection
    ) -> Iterator[tuple[int, list[QuotaName]]]:
        """Yield what Redis has and the ledger had not when it was paged through."""
        met: set[QuotaName] = set()
        for names in gate_server.known_names(connection, self.opened.shards):
            quotas = {QuotaName.parse(name) for name in names} - met
            with self.ledger.transaction() as sql:
                quotas -= epochs.heads_of(sql, quotas).keys()
            met |= quotas
            by_shard: dict[int, list[QuotaName]] = {}
            for quota in sorted(quotas, key=str):
                by_shard.setdefault(shard_of(quota.account, self.opened.shards), []).append(quota)
            yield from by_shard.items()


def _earlier(sql: Connection, quota: QuotaName, seen: Seen) -> Sums | None:
    """Return the log as of the instant a quota was seen in; None where nothing was shown."""
    shown = [] if seen.issued is None else [seen.issued]
    shown += [] if seen.loaded is None else [seen.loaded.version]
    if not shown:
        return None
    least = min(shown)
    found = comparing.sums_as_of(sql, quota, seen.last_id, least)
    return found or Sums(version=max(least - 1, 0))


def reconcile(
    client: redis.Redis,
    ledger: Ledger,
    *,
    opened: Opened,
    repair: bool = False,
    actor: str = ACTOR,
    horizon_ms: int = HORIZON_MS,
    progress: Progress | None = None,
) -> ReconcileReport:
    """
    Compare every quota, and what is said of accounts; with ``repair`` mend what is explained and
    freeze what is not.

    Each mend is an entry ``quota.repaired``, told to be ``actor``'s. Repairs that somebody has
    begun and not finished are finished first. Online: other clients and workers go on. Raises
    ``EngineUnavailableError`` when the server is recovered meanwhile; then reconcile again.
    """
    with undecoded(client) as reader:
        run = Reconciler(reader, ledger, opened, progress)
        mender = _Mender(run, Driver(reader, ledger, opened, horizon_ms), actor)
        if repair:
            mender.finish_others()
        of_quotas = tuple(run.find_drifts())
        of_accounts = policy_drifts(reader, ledger, opened)
        drifts = (*of_quotas, *(found.drift for found in of_accounts))
        for drift in drifts:
            log.error("drift: %s", drift)
        if not repair or not drifts:
            return ReconcileReport(checked=run.checked, drifts=drifts)
        repaired, frozen = mender.mend(of_quotas)
        repaired += mend_policies(mender.driver, of_accounts, actor)
    return ReconcileReport(checked=run.checked, drifts=drifts, repaired=repaired, frozen=frozen)


@dataclass(frozen=True, slots=True)
class _Mender:
    """Mends or freezes quotas that differ, in the name of ``actor``."""

    run: Reconciler
    driver: Driver
    actor: str

    def finish_others(self) -> None:
        """Finish what others have begun and died over; what cannot be finished now waits."""
        with self.run.ledger.transaction() as sql:
            begun = quarantine.open_repairs(sql)
        for repair in begun:
            try:
                if repair.repair_id.startswith(THAW):
                    finish_thaw(self.driver, repair)
                else:
                    self.driver.drain(repair.quota)
                    self._finish(repair)
            except QuotaError as error:
                log.error("the repair %s of %s waits: %s", repair.repair_id, repair.quota, error)

    def mend(self, drifts: Iterable[Drift]) -> tuple[int, int]:
        """Mend or freeze each quota that still differs once its shard is drained."""
        by_shard: dict[int, list[QuotaName]] = {}
        for drift in drifts:
            quota = QuotaName(drift.account, drift.quota_type)
            by_shard.setdefault(shard_of(quota.account, self.run.opened.shards), []).append(quota)
        repaired = frozen = 0
        for shard, page in by_shard.items():
            try:
                drain(self.run.client, self.run.ledger, [shard], self.driver.freeze)
            except EngineUnavailableError as error:
                log.error(
                    "shard %d cannot be drained, so nothing of it is mended: %s", shard, error
                )
                continue
            for quota, compared in self.run.compare(shard, page).items():
                if compared.drift is None:
                    repaired += 1
                elif compared.drift.is_mendable:
                    repaired += self._repair(quota, compared, compared.drift)
                else:
                    frozen += self._freeze(shard, quota, compared.drift)
        return repaired, frozen

    def _repair(self, quota: QuotaName, compared: _Compared, drift: Drift) -> bool:
        """
        Drop a quota that the ledger has whole; return whether a second look finds it mended.

        The repair is recorded first, so that its entry is written even if this process dies.
        """
        told = {"field": drift.field, "redis": drift.redis, "ledger": drift.ledger}
        with self.run.ledger.transaction() as sql:
            repair = quarantine.begin_repair(
                sql,
                quota,
                repair_id=f"repair:{drift.cause}:{compared.ledger_version}",
                cause=drift.cause.value,
                actor=self.actor,
                reason="reconcile found that Redis differs from the ledger",
                details=json.dumps(told),
            )
        if not _drop(self.run, quota, compared):
            with self.run.ledger.transaction() as sql:
                quarantine.withdraw_repair(sql, repair)
            return False
        return self._finish(repair)

    def _finish(self, repair: Repair) -> bool:
        """Write a repair's entry, if Redis and the ledger agree now; return whether they do."""
        quota = repair.quota
        shard = shard_of(quota.account, self.run.opened.shards)
        is_mended = self.run.compare(shard, [quota])[quota].drift is None
        if is_mended:
            told = {"actor": repair.actor, "reason": repair.reason, **json.loads(repair.details)}
            command = RecordRepair(
                quota=quota,
                operation_id=repair.repair_id,
                cause=repair.cause,
                details=details_text(told),
            )
            self.driver.drive(flows.settled(command))
        with self.run.ledger.transaction() as sql:
            if is_mended:
                quarantine.finish_repair(sql, repair)
            else:  # the next look finds the drift anew
                quarantine.withdraw_repair(sql, repair)
        return is_mended

    def _freeze(self, shard: int, quota: QuotaName, drift: Drift) -> bool:
        """Freeze a quota in both stores; return whether it was not frozen before."""
        ledger = self.run.ledger
        reason = f"reconcile: {drift.cause}, {drift.field} is {drift.redis}, not {drift.ledger}"
        with ledger.transaction() as sql:
            lock_shard(sql, shard, LOCK_WAIT_MS)
            is_new = drift.cause is not Cause.FROZEN and _may_freeze(quota)
            is_new = is_new and comparing.freeze(sql, quota, shard, reason)
            head = epochs.heads_of(sql, [quota]).get(quota)
        reason = head.frozen if head is not None else reason
        try:
            self.driver.freeze(quota, reason)
        except QuotaError as error:
            log.error("%s could not be marked as frozen in Redis: %s", quota, error)
        if is_new:
            log.error("%s is frozen: %s", quota, reason)
        return is_new


def _may_freeze(quota: QuotaName) -> bool:
    """Return whether a name in Redis is one that a quota can have."""
    try:
        checked_account(quota.account)
        checked_quota_type(quota.quota_type)
    except InvalidArgumentError:
        return False
    return True


def _drop(run: Reconciler, quota: QuotaName, compared: _Compared) -> bool:
    """Drop a quota as it was seen; return whether it still was."""
    command = DropQuota(
        quota=quota, version=compared.ledger_version, snapshotted=compared.snapshotted
    )
    if not run_command(run.client, run.opened, command):
        log.warning("%s changed meanwhile and is left as it is", quota)
        return False
    log.warning("%s was dropped (%s); it is loaded from the ledger again", quota, compared.drift)
    return True
