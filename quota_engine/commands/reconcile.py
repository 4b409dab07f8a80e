"""What the reconciler asks of Redis and, when it mends, does there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.quotas import parse_grant
from quota_engine.commands.snapshots import GrantState, HoldState
from quota_engine.drift import Loaded, Seen
from quota_engine.errors import EngineFault
from quota_engine.events import UNLIMITED, EventId
from quota_engine.facts import GrantFacts, HoldFacts, limit_facts_of_fields
from quota_engine.keys import QuotaName, ShardKeys

#: The fields by which a quota is recognised as unchanged.
STATE_FIELDS = ("version", "chain", "remaining", "covered", "held", "debt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshotted:
    """
    A quota as it was seen, and the words by which it is recognised as unchanged.

    ``state`` is empty where they could not be read.
    """

    seen: Seen
    issued: str = ""
    state: str = " " * (len(STATE_FIELDS) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotQuota(Command[Snapshotted]):
    """Show all that Redis keeps of a quota. See ``lua/snapshot_quota.lua``."""

    script: ClassVar[str] = "snapshot_quota"

    quota: QuotaName

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        name = str(self.quota)
        return (
            keys.versions,
            keys.outbox,
            keys.quota(name),
            keys.holds(name),
            keys.changes(name),
        )

    def argv(self, context: Context) -> Sequence[Argument]:
        return (context.epoch, str(self.quota))

    def parse(self, reply: Reply) -> Snapshotted:
        match reply:
            case ["SNAPSHOT", issued, last_id, fields, holds, changes]:
                return _snapshotted(
                    issued, last_id, _pairs(fields), _pairs(holds), _pairs(changes)
                )
            case ["UNREADABLE", issued, last_id, which]:
                reason = f"its key {which} is of another type"
                seen = Seen(EventId.parse(last_id), _number_or_none(issued), None, reason)
                return Snapshotted(seen=seen, issued=issued, state="")
        raise EngineFault(f"snapshot_quota answered {reply!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DropQuota(Command[bool]):
    """
    Forget a quota that the ledger has whole, if it still is as it was seen.

    See ``lua/drop_quota.lua``. Answers whether it was.
    """

    script: ClassVar[str] = "drop_quota"

    quota: QuotaName
    #: The ledger's newest version.
    version: int
    snapshotted: Snapshotted

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
        seen = self.snapshotted
        return (context.epoch, str(self.quota), self.version, seen.issued, seen.state)

    def parse(self, reply: Reply) -> bool:
        match reply:
            case ["DROPPED"]:
                return True
            case ["CHANGED"]:
                return False
        raise EngineFault(f"drop_quota answered {reply!r}")


def grant_facts(grant: GrantState) -> GrantFacts:
    """Return what is compared of a grant."""
    terms = (grant.priority, grant.starts_at_ms, grant.expires_at_ms, grant.created_at_ms)
    return GrantFacts(grant.remaining, grant.reserved, grant.state, terms)


def hold_facts(hold: HoldState) -> HoldFacts:
    """Return what is compared of a hold: not its expiry, for renewals are no entries."""
    return HoldFacts(
        hold.amount, hold.allocations, hold.counts_at_ms, hold.is_counted, hold.paid_by
    )


def _snapshotted(
    issued: str,
    last_id: str,
    fields: Mapping[str, str],
    holds: Mapping[str, str],
    changes: Mapping[str, str],
) -> Snapshotted:
    unreadable, loaded = "", None
    if fields:  # holds without their quota are an older life's: hydration replaces them
        try:
            loaded = _loaded(fields, holds, changes)
        except (ValueError, KeyError) as error:
            unreadable = f"{type(error).__name__}: {error}"
    seen = Seen(EventId.parse(last_id), _number_or_none(issued), loaded, unreadable)
    state = " ".join(fields.get(name, "") for name in STATE_FIELDS)
    return Snapshotted(seen=seen, issued=issued, state=state)


def _loaded(
    fields: Mapping[str, str], holds: Mapping[str, str], changes: Mapping[str, str]
) -> Loaded:
    records = {name[2:]: record for name, record in fields.items() if name.startswith("g:")}
    limit = fields["overdraft"]
    return Loaded(
        version=int(fields["version"]),
        chain=fields["chain"],
        remaining=int(fields["remaining"]),
        covered=int(fields["covered"]),
        held=int(fields["held"]),
        debt=int(fields["debt"]),
        pending=int(fields["pending"]),
        overdraft_limit=None if limit == UNLIMITED else int(limit),
        frozen=fields["frozen"],
        next_change_at_ms=int(float(fields["next_change_at"])),
        head=fields["head"],
        grants={name: grant_facts(parse_grant(name, record)) for name, record in records.items()},
        following={name: _following(record) for name, record in records.items()},
        holds={name: _hold(record) for name, record in holds.items()},
        changes={member: int(float(at)) for member, at in changes.items()},
        limits=limit_facts_of_fields(fields),
    )


def _following(record: str) -> str:
    """Return which grant pays after one, from its record (``lua/lib/grants.lua``)."""
    return record.split(" ")[3].removeprefix("=")


def _hold(record: str) -> HoldFacts:
    """Return a hold from its record (``lua/lib/holds.lua``)."""
    amount, covered, ends, *words = record.split(" ")
    counts, _, paid_by = ends.partition("@")[2].partition("=")
    counts_at = counts.removesuffix("c")
    facts = HoldFacts(
        int(amount),
        tuple((name, int(units)) for name, units in zip(words[::2], words[1::2], strict=True)),
        int(counts_at) if counts_at else None,
        counts.endswith("c"),
        paid_by,
    )
    if facts.covered != int(covered):
        raise ValueError(f"a hold's covered parts do not make {covered}")
    return facts


def _number_or_none(text: str) -> int | None:
    return int(text) if text else None


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))
