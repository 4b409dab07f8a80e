"""
Thaw: mend a frozen quota so that the ledger's history goes on, and no charge is lost.

1. drain, so that all that Redis has issued is in the ledger or in quarantine
2. under the shard's lock: record the repair, take the quarantined entries up, thaw the ledger's
   quota, and drop Redis' one if nothing was issued since; it is loaded from the ledger
3. apply the entries again, one by one, each under its own operation id
4. write the entry ``quota.repaired``

Each step may be the last before a crash. Whoever comes next, the same operator or another, goes
on: operation ids make each step count once. What happens meanwhile fits the ledger or is
quarantined, and then taken up, too.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from quota_engine import flows
from quota_engine.commands import DebitUsed, ReadBalance, RecordRepair, TransferOut
from quota_engine.commands.arguments import details_text
from quota_engine.commands.reconcile import DropQuota, SnapshotQuota, Snapshotted
from quota_engine.errors import (
    EngineUnavailableError,
    GrantNotFoundError,
    HoldNotFoundError,
    IdempotencyConflictError,
    InvalidArgumentError,
    OperationCancelledError,
    QuotaError,
    QuotaFrozenError,
    QuotaInsufficientError,
)
from quota_engine.events import LIMIT_SET, OVERDRAFT_LIMIT_SET
from quota_engine.jobs import crash_points
from quota_engine.jobs.arrived import has_arrived, refuse_doubled
from quota_engine.jobs.driving import Driver
from quota_engine.jobs.thaw_rules import Decision, Fate, Known, cause_of, decide, entry_of
from quota_engine.keys import QuotaName
from quota_engine.ledger import epochs, intents, quarantine
from quota_engine.ledger.history import QuotaHead
from quota_engine.ledger.quarantine import Quarantined, Repair
from quota_engine.ledger.shards import lock_shard
from quota_engine.outbox import Outbox

log = logging.getLogger("quota_engine.thaw")

LOCK_WAIT_MS = 10_000
#: The pause before another look at a quota that was written to meanwhile.
PAUSE_S = 0.05
#: Ids that an entry's details list; the table ``quarantine`` has all.
LISTED_MAX = 50
#: What the id of a thaw's repair begins with.
THAW = "thaw:"


class UnreadableError(QuotaError):
    """Quarantined bytes are no entry: a person must discard them first."""


@dataclass(frozen=True, slots=True)
class Order:
    """Who thaws, why, and whether what is in quarantine never counts."""

    actor: str
    reason: str
    is_discarding: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThawReport:
    """
    What thawing did, or would do.

    ``decisions``: each quarantined entry and its fate. ``version``: the entry ``quota.repaired``;
    None where there was nothing to mend, or nothing was done.
    """

    quota: QuotaName
    frozen: str
    cause: str
    decisions: tuple[Decision, ...] = ()
    version: int | None = None

    @property
    def refused(self) -> tuple[Decision, ...]:
        """What could not be applied again, and needs a person."""
        return tuple(one for one in self.decisions if one.fate is Fate.REFUSED)


class _ChangedError(Exception):
    """Something was written to the quota meanwhile: look again."""


def plan(driver: Driver, quota: QuotaName, *, is_discarding: bool = False) -> ThawReport:
    """Return what thawing would do now, and do nothing."""
    with driver.ledger.transaction() as sql:
        head = _known_head(sql, quota)
        found = quarantine.entries_of(sql, quota)
        decisions = _decided(sql, quota, found, is_discarding=is_discarding)
    cause = cause_of(head.frozen, found)
    return ThawReport(quota=quota, frozen=head.frozen, cause=cause, decisions=tuple(decisions))


def thaw(driver: Driver, quota: QuotaName, order: Order) -> ThawReport:
    """
    Mend a frozen quota; return what was done.

    Of two at once one begins, and both finish the same. Running it again after it has died, or
    when all is done, has no further effect. Raises ``UnreadableError`` while bytes that are no
    entry wait for a person, ``ArrivedError`` when discarding would double units,
    ``EngineUnavailableError`` when a store does not answer or the quota
    is written to all the time: then run it again.
    """
    until = time.monotonic() + driver.timeout_s
    while True:
        driver.drain(quota)
        try:
            repair = _begin(driver, quota, order)
            break
        except _ChangedError as error:
            if time.monotonic() > until:
                raise EngineUnavailableError(
                    f"{quota} is written to all the time; run it again"
                ) from error
            time.sleep(PAUSE_S)
    if repair is None:
        return plan(driver, quota)
    return finish(driver, repair)


def _begin(driver: Driver, quota: QuotaName, order: Order) -> Repair | None:
    """Thaw the quota in both stores, with its repair recorded; None: nothing is to be mended."""
    with driver.ledger.transaction() as sql:
        state = lock_shard(sql, driver.ledger.shard_of(quota), LOCK_WAIT_MS)
        assert state is not None
        head = _known_head(sql, quota)
        found = quarantine.entries_of(sql, quota)
        if not head.frozen and all(one.repair_id for one in found):
            begun = quarantine.open_repairs(sql, quota)
            return begun[0] if begun else None
        decisions = _decided(sql, quota, found, is_discarding=order.is_discarding)
        _refuse_unreadable(decisions)
        seen = driver.run(SnapshotQuota(quota=quota))
        if Outbox(driver.client, state.shard).pending_of(quota, state.cursor):
            raise _ChangedError
        repair = _record(sql, head, seen, decisions, order)
        quarantine.thaw(sql, quota)
        crash_points.reach("before_drop")
        _drop(driver, head, seen)
        crash_points.reach("after_drop")
    crash_points.reach("after_thaw")
    log.warning("%s is thawed by %s: %s (was %s)", quota, order.actor, order.reason, head.frozen)
    return repair


def _known_head(sql: Connection, quota: QuotaName) -> QuotaHead:
    head = epochs.heads_of(sql, [quota]).get(quota)
    if head is None:
        raise InvalidArgumentError(f"the ledger knows no quota {quota}")
    return head


def _decided(
    sql: Connection, quota: QuotaName, found: Sequence[Quarantined], *, is_discarding: bool
) -> list[Decision]:
    """Return what becomes of entries that nobody has resolved."""
    if is_discarding:
        refuse_doubled(sql, found)
        return [Decision(one, Fate.DISCARDED, "as it was ordered", entry_of(one)) for one in found]
    entries = [entry for one in found if (entry := entry_of(one)) is not None]
    ids = [entry.operation_id for entry in entries]
    promised = (
        intents.find_intent(sql, quota, entry.subject)
        for entry in entries
        if entry.kind == "grant.issued"
    )
    known = Known(
        frozenset(quarantine.known_operations(sql, quota, ids)),
        quarantine.last_at_ms(sql, quota, OVERDRAFT_LIMIT_SET),
        quarantine.last_at_ms(sql, quota, LIMIT_SET),
        {intent.grant_id: intent for intent in promised if intent is not None},
    )
    return [decide(one, known) for one in found]


def _refuse_unreadable(decisions: Sequence[Decision]) -> None:
    unreadable = [one.quarantined.id for one in decisions if one.fate is Fate.UNREADABLE]
    if unreadable:
        listed = ", ".join(map(str, unreadable[:LISTED_MAX]))
        raise UnreadableError(
            f"the bytes of {listed} are no entry, so nobody can say what they were: look at them"
            " with `quota-engine quarantine show ID`, then discard each with `quota-engine"
            " quarantine resolve ID --discard --actor WHO --reason WHY`"
        )


def _record(
    sql: Connection,
    head: QuotaHead,
    seen: Snapshotted,
    decisions: Sequence[Decision],
    order: Order,
) -> Repair:
    """Record the repair, and resolve what needs nothing to be done."""
    found = [one.quarantined for one in decisions]
    loaded = seen.seen.loaded
    names = ("version", "chain", "balance", "held", "debt")
    told = {
        "frozen": head.frozen,
        "redis": {name: getattr(loaded, name) for name in names} if loaded else None,
        "redis_issued": seen.seen.issued,
        "ledger": {name: getattr(head, name) for name in names},
    }
    quarantine.end_repairs(sql, head.quota)  # this one takes up what they left
    repair = quarantine.begin_repair(
        sql,
        head.quota,
        repair_id=f"{THAW}{head.version}",
        cause=cause_of(head.frozen, found),
        actor=order.actor,
        reason=order.reason,
        details=json.dumps(told),
    )
    quarantine.adopt_discarded(sql, repair)
    quarantine.take_up(sql, [one.id for one in found], repair.repair_id)
    for one in decisions:
        if one.fate is not Fate.AGAIN:
            _resolve(sql, one, order.actor)
    return repair


def _resolve(sql: Connection, decision: Decision, actor: str) -> None:
    resolution = f"{decision.fate}: {decision.why}"
    quarantine.resolve(sql, decision.quarantined.id, resolution, actor)


def _drop(driver: Driver, head: QuotaHead, seen: Snapshotted) -> None:
    """Drop the quota from Redis, if nothing was issued since it was seen."""
    command = DropQuota(quota=head.quota, version=head.version, snapshotted=seen)
    if not driver.run(command):
        raise _ChangedError


# -- what was taken up is applied again


def finish(driver: Driver, repair: Repair) -> ThawReport:
    """
    Apply again what a repair has taken up, and write its entry. Safe to run twice, and at once.

    Everything is drained first: what an earlier attempt applied long ago, Redis may have
    forgotten, but the ledger has it.
    """
    quota = repair.quota
    driver.drain(quota)
    _thaw_in_redis(driver, quota)
    with driver.ledger.transaction() as sql:
        taken_up = quarantine.entries_of_repair(sql, repair)
        waiting = [one for one in taken_up if one.resolved_at is None]
        decisions = _decided(sql, quota, waiting, is_discarding=False)
    for decision in decisions:
        if decision.fate is Fate.KNOWN:  # by an earlier attempt, or another operator's
            done = replace(decision, fate=Fate.AGAIN, why="it is applied again")
        else:
            done = _applied(driver, decision)
        crash_points.reach("after_applied")
        with driver.ledger.transaction() as sql:
            _resolve(sql, done, repair.actor)
    crash_points.reach("before_repaired")
    version = _write_entry(driver, repair)
    crash_points.reach("after_repaired")
    _thaw_in_redis(driver, quota)
    with driver.ledger.transaction() as sql:
        quarantine.finish_repair(sql, repair)
        resolved = _resolved(sql, repair)
    return ThawReport(
        quota=quota,
        frozen=json.loads(repair.details).get("frozen", ""),
        cause=repair.cause,
        decisions=tuple(resolved),
        version=version,
    )


def _thaw_in_redis(driver: Driver, quota: QuotaName) -> None:
    """
    Take the mark from a loaded quota, unless the ledger has frozen it again.

    A client may have read the ledger before it was thawed, and load what it read. So the quota is
    loaded first, and looked at again when the repair's entry has made older readings void.
    """
    driver.drive(flows.settled(ReadBalance(quota=quota, with_grants=False)))
    with driver.ledger.transaction() as sql:
        frozen = _known_head(sql, quota).frozen
    driver.freeze(quota, frozen)
    if frozen:
        raise QuotaFrozenError(f"{quota} was frozen again meanwhile ({frozen}); resolve it again")


def _applied(driver: Driver, decision: Decision) -> Decision:
    """Apply an entry again if that is its fate; return what became of it."""
    if decision.command is None:
        return decision
    try:
        driver.drive(flows.settled(decision.command))
    except (HoldNotFoundError, GrantNotFoundError):
        return replace(decision, fate=Fate.NOTHING, why="nothing of it is left")
    except (
        IdempotencyConflictError,
        InvalidArgumentError,
        OperationCancelledError,
        QuotaInsufficientError,
    ) as error:
        if (charge := _charge_of_arrived(driver, decision)) is not None:
            driver.drive(flows.settled(charge))
            return replace(decision, why="it has arrived and cannot leave again: it is charged")
        log.error("%s cannot be applied again: %s", decision.quarantined.id, error)
        return replace(decision, fate=Fate.REFUSED, why=str(error))
    return decision


def _charge_of_arrived(driver: Driver, decision: Decision) -> DebitUsed | None:
    """
    Return the charge that stands for units that cannot leave again, if they have arrived.

    Its units were told of, like those of a capture: taken from what is there, else owed.
    """
    command, entry = decision.command, decision.entry
    if not isinstance(command, TransferOut) or entry is None:
        return None
    with driver.ledger.transaction() as sql:
        if not has_arrived(sql, command.transfer):
            return None
    return DebitUsed(
        quota=command.quota,
        operation_id=entry.operation_id,
        amount=entry.amount,
        fingerprint_before=entry.fingerprint,
        details=entry.details,
    )


def _write_entry(driver: Driver, repair: Repair) -> int:
    """Write the entry ``quota.repaired``; return its version."""
    with driver.ledger.transaction() as sql:
        resolved = _resolved(sql, repair)
    counts = Counter(str(one.fate) for one in resolved)
    listed = {
        str(fate): [_name(one) for one in resolved if one.fate is fate][:LISTED_MAX]
        for fate in (Fate.AGAIN, Fate.DISCARDED, Fate.REFUSED)
        if counts[fate]
    }
    told = {"actor": repair.actor, "reason": repair.reason, **json.loads(repair.details)}
    command = RecordRepair(
        quota=repair.quota,
        operation_id=repair.repair_id,
        cause=repair.cause,
        details=details_text({**told, "resolved": dict(counts) or None, **listed}),
    )
    return driver.drive(flows.settled(command)).version


def _name(decision: Decision) -> str:
    return decision.quarantined.operation_id or f"quarantine:{decision.quarantined.id}"


def _resolved(sql: Connection, repair: Repair) -> list[Decision]:
    """Return what became of what a repair has taken up, as far as that is decided."""
    found = []
    for one in quarantine.entries_of_repair(sql, repair):
        if one.resolution is not None:
            word, _, why = one.resolution.partition(": ")
            found.append(Decision(one, Fate(word), why, entry_of(one)))
    return found
