"""
Reconcile: prove, quota by quota and under load, that Redis and the log tell the same.

How they are compared is in ``reconciler``. With ``repair`` a quota whose log is whole is dropped,
so that it is loaded from the ledger again; what cannot be explained is frozen.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import redis

from quota_engine import flows
from quota_engine.commands import RecordRepair
from quota_engine.commands.arguments import details_text
from quota_engine.commands.reconcile import DropQuota
from quota_engine.drift import Cause, Drift, ReconcileReport
from quota_engine.errors import EngineUnavailableError, InvalidArgumentError, QuotaError
from quota_engine.ids import checked_account, checked_quota_type
from quota_engine.jobs.driving import Driver
from quota_engine.jobs.gate import Opened
from quota_engine.jobs.persist import drain
from quota_engine.jobs.pinned import undecoded
from quota_engine.jobs.policies import mend_policies, policy_drifts
from quota_engine.jobs.reconciler import Compared, Progress, Reconciler
from quota_engine.jobs.running import HORIZON_MS, run_command
from quota_engine.jobs.thaw import THAW
from quota_engine.jobs.thaw import finish as finish_thaw
from quota_engine.keys import QuotaName, shard_of
from quota_engine.ledger import Ledger, comparing, epochs, quarantine
from quota_engine.ledger.quarantine import Repair
from quota_engine.ledger.shards import lock_shard

log = logging.getLogger("quota_engine.reconcile")

#: How often it is tried to mend a quota that changes under the hand.
MENDS_MAX = 5
LOCK_WAIT_MS = 5_000
#: Who mends where nobody says another.
ACTOR = "reconcile"


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
        driver = Driver(reader, ledger, opened, horizon_ms)
        run = Reconciler(reader, ledger, opened, progress, driver.freeze)
        mender = _Mender(run, driver, actor)
        if repair:
            mender.finish_others()
        of_quotas = tuple(run.find_drifts())
        of_accounts = policy_drifts(reader, ledger, opened)
        drifts = (*of_quotas, *(found.drift for found in of_accounts))
        for drift in drifts:
            log.error("drift: %s", drift)
        repaired = frozen = 0
        if repair:
            repaired, frozen = mender.mend(of_quotas)
            repaired += mend_policies(driver, of_accounts, actor)
    return ReconcileReport(
        checked=run.checked,
        drifts=drifts,
        repaired=repaired,
        frozen=frozen,
        not_compared=run.not_compared,
    )


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
            for quota, compared in self.run.compare_closely(shard, page).items():
                is_mended, is_frozen = self._mend(shard, quota, compared)
                repaired += is_mended
                frozen += is_frozen
        return repaired, frozen

    def _mend(self, shard: int, quota: QuotaName, compared: Compared) -> tuple[bool, bool]:
        """Mend or freeze a quota; return whether it was mended, and whether frozen."""
        for _ in range(MENDS_MAX):
            if compared.drift is None:
                return True, False
            if not compared.drift.is_explained:
                return False, self._freeze(shard, quota, compared.drift)
            if compared.drift.is_mendable and self._repair(quota, compared, compared.drift):
                return True, False
            compared = self.run.compare_closely(shard, [quota])[quota]
        log.error("%s is too busy to be mended now: %s", quota, compared.drift)
        return False, False

    def _repair(self, quota: QuotaName, compared: Compared, drift: Drift) -> bool:
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
        is_mended = self.run.compare_closely(shard, [quota])[quota].drift is None
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


def _drop(run: Reconciler, quota: QuotaName, compared: Compared) -> bool:
    """Drop a quota as it was seen; return whether it still was."""
    command = DropQuota(
        quota=quota, version=compared.ledger_version, snapshotted=compared.snapshotted
    )
    if not run_command(run.client, run.opened, command):
        log.warning("%s changed meanwhile and is left as it is", quota)
        return False
    log.warning("%s was dropped (%s); it is loaded from the ledger again", quota, compared.drift)
    return True
