"""Between ledger and Redis: a quota is hydrated, unloaded, marked as frozen."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.quotas import burn_down_order
from quota_engine.commands.snapshots import GrantState, HoldState, Operation, Snapshot
from quota_engine.errors import EngineFault
from quota_engine.events import UNLIMITED, movements_text
from quota_engine.instants import NEVER_MS
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.limits import HOLDS, parse_limits

LOADED = "loaded"
PRESENT = "present"
UNKNOWN = "unknown"
WAIT_DRAIN = "wait_drain"

_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True, kw_only=True)
class HydrateQuota(Command[str]):
    """
    Load a snapshot unless Redis has the quota. See ``lua/hydrate_quota.lua``.

    Answers ``LOADED``, ``PRESENT``, ``UNKNOWN`` or ``WAIT_DRAIN``.
    """

    script: ClassVar[str] = "hydrate_quota"

    snapshot: Snapshot
    #: Load an empty quota when nobody knows it: the caller is about to make its first entry.
    may_create: bool = False

    @property
    def quota(self) -> QuotaName:  # type: ignore[override]
        """The quota that the snapshot is of."""
        return self.snapshot.quota

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        name = str(self.quota)
        return (
            keys.versions,
            keys.due,
            keys.quota(name),
            keys.holds(name),
            keys.changes(name),
            keys.ops0(name),
            keys.ops1(name),
        )

    def argv(self, context: Context) -> Sequence[Argument]:
        snapshot = self.snapshot
        changes = changes_of(snapshot)
        return (
            snapshot.epoch,
            str(self.quota),
            context.horizon_ms,
            snapshot.version,
            int(self.may_create),
            min((at for at, _ in changes), default=NEVER_MS),
            _words(word for field in quota_fields(snapshot).items() for word in field),
            _words(word for hold in snapshot.holds for word in (hold.hold_id, hold_record(hold))),
            _words(word for at, member in changes for word in (str(at), member)),
            _words(
                word
                for operation in snapshot.operations
                for word in (operation.operation_id, _answer(operation))
            ),
        )

    def parse(self, reply: Reply) -> str:
        match reply:
            case ["LOADED"]:
                return LOADED
            case ["PRESENT"]:
                return PRESENT
            case ["UNKNOWN"]:
                return UNKNOWN
            case ["WAIT_DRAIN", _]:
                return WAIT_DRAIN
        raise EngineFault(f"hydrate_quota answered {reply!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadQuota(Command[str]):
    """
    Forget an idle quota that the ledger knows whole. See ``lua/unload_quota.lua``.

    Answers why the quota was kept; empty when it was unloaded.
    """

    script: ClassVar[str] = "unload_quota"

    quota: QuotaName
    version: int
    change_after_ms: int

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        name = str(self.quota)
        return (
            keys.versions,
            keys.due,
            keys.quota(name),
            keys.holds(name),
            keys.changes(name),
            keys.ops0(name),
            keys.ops1(name),
        )

    def argv(self, context: Context) -> Sequence[Argument]:
        return (context.epoch, str(self.quota), self.version, self.change_after_ms)

    def parse(self, reply: Reply) -> str:
        match reply:
            case ["UNLOADED"]:
                return ""
            case ["KEPT", reason]:
                return str(reason)
        raise EngineFault(f"unload_quota answered {reply!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeQuota(Command[bool]):
    """Mark a loaded quota as frozen, or (empty reason) thawed. See ``lua/freeze_quota.lua``."""

    script: ClassVar[str] = "freeze_quota"

    quota: QuotaName
    reason: str

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return (keys.versions, keys.quota(str(self.quota)))

    def argv(self, context: Context) -> Sequence[Argument]:
        return (context.epoch, self.reason)

    def parse(self, reply: Reply) -> bool:
        match reply:
            case ["MARKED"]:
                return True
            case ["ABSENT"]:
                return False
        raise EngineFault(f"freeze_quota answered {reply!r}")


def quota_fields(snapshot: Snapshot) -> dict[str, str]:
    """Return the fields of the quota's hash, as ``lua/lib/quotas.lua`` names them."""
    covered = sum(amount for hold in snapshot.holds for _, amount in hold.allocations)
    listed = sorted(
        (grant for grant in snapshot.grants if grant.state == "live" and grant.remaining),
        key=burn_down_order,
    )
    following = {grant.grant_id: after.grant_id for grant, after in itertools.pairwise(listed)}
    pending = sum(grant.remaining for grant in snapshot.grants if grant.state == "pending")
    limit = snapshot.overdraft_limit
    fields = {
        "version": str(snapshot.version),
        "chain": snapshot.chain,
        "remaining": str(sum(grant.remaining for grant in listed)),
        "covered": str(covered),
        "held": str(sum(hold.held for hold in snapshot.holds)),
        "debt": str(snapshot.debt),
        "pending": str(pending),
        "overdraft": UNLIMITED if limit is None else str(limit),
        "frozen": snapshot.frozen,
        "next_change_at": str(min((at for at, _ in changes_of(snapshot)), default=NEVER_MS)),
        "head": listed[0].grant_id if listed else "",
        "granted": str(int(snapshot.is_granted)),
    }
    fields |= limit_fields(snapshot)
    for grant in snapshot.grants:
        fields[f"g:{grant.grant_id}"] = grant_record(grant, following.get(grant.grant_id, ""))
    return fields


def limit_fields(snapshot: Snapshot) -> dict[str, str]:
    """
    Return the fields of a quota's limits, as ``lua/lib/windows.lua`` names them.

    Windows that the ledger does not keep start anew: what counted before is not known.
    """
    fields = {"w:at": str(snapshot.last_count_ms)} if snapshot.last_count_ms else {}
    if snapshot.limits:
        fields["limits"] = snapshot.limits
    for limit in parse_limits(snapshot.limits):
        if limit.of == HOLDS:
            continue
        from_ms = limit.since_ms if limit.is_kept else snapshot.last_count_ms
        floor = limit.floor_of(snapshot.last_count_ms)
        counts = {
            one.starts_at_ms: one.counted
            for one in snapshot.counts
            if (one.key, one.since_ms) == (limit.key, limit.since_ms)
            and one.starts_at_ms >= floor
            and one.counted
        }
        newest = max(counts, default=0)
        head = [from_ms, newest, counts.pop(newest, 0)]
        if limit.is_sliding:
            head += [min(counts, default=newest), head[2] + sum(counts.values())]
            fields |= {f"w:{limit.key}:{start}": str(units) for start, units in counts.items()}
        else:
            head.append(limit.end_of(newest) if newest else 0)
        fields[f"w:{limit.key}"] = " ".join(map(str, head))
    return fields


def grant_record(grant: GrantState, following: str) -> str:
    """Return a grant as a record of ``lua/lib/grants.lua``."""
    return " ".join(
        (
            str(grant.remaining),
            str(grant.reserved),
            grant.state[0],
            f"={following}",
            str(grant.priority),
            str(grant.starts_at_ms),
            str(grant.expires_at_ms),
            str(grant.created_at_ms),
        )
    )


def hold_record(hold: HoldState) -> str:
    """Return a hold as a record of ``lua/lib/holds.lua``."""
    covered = sum(amount for _, amount in hold.allocations)
    ends = str(hold.expires_at_ms)
    if hold.counts_at_ms is not None or hold.paid_by:
        ends += f"@{'' if hold.counts_at_ms is None else hold.counts_at_ms}"
        ends += ("c" if hold.is_counted else "") + (f"={hold.paid_by}" if hold.paid_by else "")
    words = [str(hold.amount), str(covered), ends]
    words += [word for grant_id, amount in hold.allocations for word in (grant_id, str(amount))]
    return " ".join(words)


def changes_of(snapshot: Snapshot) -> list[tuple[int, str]]:
    """Return what will begin or end, as the members of the changes zset with their instants."""
    changes = [(hold.expires_at_ms, f"a:{hold.hold_id}") for hold in snapshot.holds]
    for grant in snapshot.grants:
        if grant.state == "pending":
            changes.append((grant.starts_at_ms, f"b:{grant.grant_id}"))
        if grant.state in ("pending", "live") and grant.expires_at_ms < NEVER_MS:
            changes.append((grant.expires_at_ms, f"c:{grant.grant_id}"))
    return changes


def _words(words: Iterable[str]) -> str:
    return "".join(f"{word}\n" for word in words)


def _answer(operation: Operation) -> str:
    lines = (
        operation.fingerprint,
        str(operation.version),
        str(operation.amount),
        str(operation.shortfall),
        str(operation.balance),
        str(operation.held),
        str(operation.debt),
        operation.flags,
        operation.terms,
        movements_text(operation.movements),
    )
    return _SEPARATOR.join(lines)
