"""
Drift: what Redis has of a quota and what its log says, compared. Pure values in, differences out.

The log is the ledger and, behind it, what the outbox still holds. Both sides are told as of one
instant: when Redis was looked at. This module must not know how either was read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from quota_engine.events import GENESIS, EventId
from quota_engine.facts import NO_LIMITS, GrantFacts, HoldFacts, LimitFacts, differences_of_limits

NEVER_MS = 2**53 - 1

Value = int | str | None


class Cause(StrEnum):
    """Why Redis and the log disagree. Of several, the first in this order is told first."""

    FROZEN = "frozen"
    """The quota is frozen: its log was found in doubt before, and waits to be mended."""
    UNEXPLAINED = "unexplained"
    """What Redis holds cannot be read as a quota."""
    ENTRY_UNFIT = "entry_unfit"
    """An entry in the outbox does not continue the log; the persister will quarantine it."""
    ENTRY_MISSING = "entry_missing"
    """Redis has issued entries that neither outbox nor ledger has."""
    VERSION_AHEAD = "version_ahead"
    """The quota claims a version that was never issued."""
    VERSION_BEHIND = "version_behind"
    """The quota, or its last version issued, is of an earlier life."""
    CHAIN_FORKED = "chain_forked"
    """The version is right and its chain is not: another history, or an edited hash."""
    DEBT_EDITED = "debt_edited"
    BALANCE_EDITED = "balance_edited"
    HELD_EDITED = "held_edited"
    FROZEN_ALONE = "frozen_alone"
    """Redis marks the quota as frozen, the ledger does not."""
    LIMIT_EDITED = "overdraft_limit_edited"
    HOLD_MISSING = "hold_missing"
    HOLD_UNKNOWN = "hold_unknown"
    HOLD_EDITED = "hold_edited"
    GRANT_MISSING = "grant_missing"
    GRANT_UNKNOWN = "grant_unknown"
    GRANT_EDITED = "grant_edited"
    LIMITS_EDITED = "limits_edited"
    """Redis has other limits than the log tells."""
    LIMIT_COUNT_EDITED = "limit_count_edited"
    """Something else counts in a limit than the log tells."""
    CHANGE_MISSING = "change_missing"
    """A hold or grant would not begin or end on time."""
    POLICY_MISSING = "account_policy_missing"
    """Redis was told what is said of an account, and does not know it."""
    POLICY_UNKNOWN = "account_policy_unknown"
    POLICY_EDITED = "account_policy_edited"


_PLACE = {cause: place for place, cause in enumerate(Cause)}

#: What loading the quota from the ledger again does not mend.
_BEYOND_HYDRATION = frozenset(
    {Cause.FROZEN, Cause.UNEXPLAINED, Cause.ENTRY_UNFIT, Cause.ENTRY_MISSING}
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that Redis and the log tell differently. None: it does not know it."""

    cause: Cause
    field: str
    redis: Value
    ledger: Value


@dataclass(frozen=True, slots=True)
class Drift:
    """
    A quota that differs, by its first difference; ``differences`` has them all.

    ``quota_type`` is empty where it is what is said of the account itself.
    """

    account: str
    quota_type: str
    cause: Cause
    field: str
    redis: Value
    ledger: Value
    differences: tuple[Difference, ...] = dataclasses.field(repr=False)
    #: Whether all its entries are in the ledger, none in the outbox.
    is_drained: bool = True

    @property
    def is_mendable(self) -> bool:
        """Whether loading the quota from the ledger again mends it and loses nothing."""
        return self.is_drained and self.is_explained

    @property
    def is_explained(self) -> bool:
        """Whether that would mend it once all its entries are in the ledger."""
        causes = {difference.cause for difference in self.differences}
        return not causes & _BEYOND_HYDRATION


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileReport:
    """
    What a reconciliation found and did.

    ``drifts``: every quota that differed. ``repaired``: how many of them were mended, as a second
    look has shown; ``frozen``: how many were frozen because nothing explains them.
    ``not_compared``: of how many quotas version, chain and sums alone were compared, because their
    entries could not be persisted meanwhile.
    """

    checked: int
    drifts: tuple[Drift, ...]
    repaired: int = 0
    frozen: int = 0
    not_compared: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether Redis and the ledger agree now."""
        return len(self.drifts) == self.repaired


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A quota as Redis holds it, field by field."""

    version: int
    chain: str
    remaining: int
    covered: int
    held: int
    debt: int
    pending: int
    #: None: unlimited.
    overdraft_limit: int | None
    frozen: str
    next_change_at_ms: int
    head: str
    grants: Mapping[str, GrantFacts]
    #: Which grant pays after which.
    following: Mapping[str, str]
    holds: Mapping[str, HoldFacts]
    #: Members of ``changes`` and their instants.
    changes: Mapping[str, int]
    limits: LimitFacts = NO_LIMITS

    @property
    def balance(self) -> int:
        """What the scripts count as the balance."""
        return self.remaining + self.covered - self.debt


@dataclass(frozen=True, slots=True)
class Seen:
    """What Redis showed of a quota in one instant, when its outbox ended at ``last_id``."""

    last_id: EventId
    #: The last version ever issued in this epoch; None: none was.
    issued: int | None
    #: None: not in Redis.
    loaded: Loaded | None
    #: Why what is there cannot be read as a quota; empty: it can.
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Sums:
    """A quota's log after one entry."""

    version: int = 0
    chain: str = GENESIS
    balance: int = 0
    held: int = 0
    debt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the log says of a quota as of the instant at which Redis was looked at."""

    #: After the last entry that had been written by then.
    last: Sums = Sums()
    #: Why the outbox does not continue the ledger; empty: it does.
    unfit: str = ""
    frozen: str = ""
    #: Whether ``last`` is the ledger's head, so that the rest is as of the same entry.
    is_drained: bool = True
    overdraft_limit: int | None = 0
    limits: LimitFacts = NO_LIMITS
    grants: Mapping[str, GrantFacts] = dataclasses.field(default_factory=dict)
    holds: Mapping[str, HoldFacts] = dataclasses.field(default_factory=dict)


def compare(account: str, quota_type: str, seen: Seen, log: Log) -> Drift | None:
    """Return the drift of a quota, or None when Redis tells what the log tells."""
    found = sorted(_differences(seen, log), key=lambda difference: _PLACE[difference.cause])
    if not found:
        return None
    if log.frozen:
        found.insert(0, Difference(Cause.FROZEN, found[0].field, found[0].redis, found[0].ledger))
    first = found[0]
    return Drift(
        account,
        quota_type,
        first.cause,
        first.field,
        first.redis,
        first.ledger,
        tuple(found),
        log.is_drained,
    )


def _differences(seen: Seen, log: Log) -> Iterator[Difference]:
    last = log.last
    if log.unfit:
        yield Difference(Cause.ENTRY_UNFIT, "outbox", log.unfit, None)
    if seen.issued is not None and seen.issued != last.version:
        is_lost = seen.issued > last.version
        cause = Cause.ENTRY_MISSING if is_lost else Cause.VERSION_BEHIND
        yield Difference(cause, "versions", seen.issued, last.version)
    if seen.unreadable:
        yield Difference(Cause.UNEXPLAINED, "quota", seen.unreadable, None)
    loaded = seen.loaded
    if loaded is None:
        return
    if loaded.version != last.version:
        is_ahead = loaded.version > last.version
        cause = Cause.VERSION_AHEAD if is_ahead else Cause.VERSION_BEHIND
        yield Difference(cause, "version", loaded.version, last.version)
    else:
        yield from _wrong_sums(loaded, last)
        if log.is_drained:
            yield from _other_terms(loaded, log)
    yield from _contradictions(loaded)


def _wrong_sums(loaded: Loaded, last: Sums) -> Iterator[Difference]:
    if loaded.chain != last.chain:
        yield Difference(Cause.CHAIN_FORKED, "chain", loaded.chain, last.chain)
    if loaded.debt != last.debt:
        yield Difference(Cause.DEBT_EDITED, "debt", loaded.debt, last.debt)
    if loaded.balance != last.balance:
        yield Difference(Cause.BALANCE_EDITED, "balance", loaded.balance, last.balance)
    if loaded.held != last.held:
        yield Difference(Cause.HELD_EDITED, "held", loaded.held, last.held)


def _other_terms(loaded: Loaded, log: Log) -> Iterator[Difference]:
    """Compare what only the ledger's head tells: limit, holds and grants, one by one."""
    if loaded.frozen and not log.frozen:
        yield Difference(Cause.FROZEN_ALONE, "frozen", loaded.frozen, None)
    if loaded.overdraft_limit != log.overdraft_limit:
        yield Difference(
            Cause.LIMIT_EDITED, "overdraft_limit", loaded.overdraft_limit, log.overdraft_limit
        )
    if loaded.limits.text != log.limits.text:
        yield Difference(Cause.LIMITS_EDITED, "limits", loaded.limits.text, log.limits.text)
    else:
        for name, here, there in differences_of_limits(loaded.limits, log.limits):
            yield Difference(Cause.LIMIT_COUNT_EDITED, name, here, there)
    for hold_id in sorted(log.holds.keys() | loaded.holds.keys()):
        mine, theirs = loaded.holds.get(hold_id), log.holds.get(hold_id)
        name = f"hold {hold_id}"
        if mine is None or theirs is None:
            cause = Cause.HOLD_MISSING if mine is None else Cause.HOLD_UNKNOWN
            yield Difference(
                cause, name, mine.amount if mine else None, theirs.amount if theirs else None
            )
        elif mine.amount != theirs.amount:
            yield Difference(Cause.HOLD_EDITED, f"{name} amount", mine.amount, theirs.amount)
        elif mine != theirs:
            yield Difference(Cause.HOLD_EDITED, f"{name} terms", _listed(mine), _listed(theirs))
    counting = {name: grant for name, grant in loaded.grants.items() if _counts(grant)}
    for grant_id in sorted(log.grants.keys() | counting.keys()):
        yield from _other_grant(grant_id, counting.get(grant_id), log.grants.get(grant_id))


def _other_grant(
    grant_id: str, mine: GrantFacts | None, theirs: GrantFacts | None
) -> Iterator[Difference]:
    name = f"grant {grant_id}"
    if mine is None or theirs is None:
        cause = Cause.GRANT_MISSING if mine is None else Cause.GRANT_UNKNOWN
        yield Difference(
            cause, name, mine.remaining if mine else None, theirs.remaining if theirs else None
        )
        return
    for what in ("remaining", "reserved", "state"):
        one, other = getattr(mine, what), getattr(theirs, what)
        if one != other:
            yield Difference(Cause.GRANT_EDITED, f"{name} {what}", one, other)
    if mine.terms != theirs.terms:
        yield Difference(
            Cause.GRANT_EDITED, f"{name} terms", _words(mine.terms), _words(theirs.terms)
        )


def _contradictions(loaded: Loaded) -> Iterator[Difference]:
    """Check the quota's fields against each other: true under any load."""
    held = sum(hold.held for hold in loaded.holds.values())
    if held != loaded.held:
        yield Difference(Cause.HOLD_EDITED, "sum of open holds", held, loaded.held)
    covered = sum(hold.covered for hold in loaded.holds.values())
    if covered != loaded.covered:
        yield Difference(Cause.HOLD_EDITED, "sum of covered parts", covered, loaded.covered)
    grants = loaded.grants.values()
    live = sum(grant.remaining for grant in grants if grant.state != "pending")
    if live != loaded.remaining:
        yield Difference(Cause.GRANT_EDITED, "sum of remaining", live, loaded.remaining)
    reserved = sum(grant.reserved for grant in grants)
    if reserved != loaded.covered:
        yield Difference(Cause.GRANT_EDITED, "sum of reserved", reserved, loaded.covered)
    pending = sum(grant.remaining for grant in grants if grant.state == "pending")
    if pending != loaded.pending:
        yield Difference(Cause.GRANT_EDITED, "sum of pending", pending, loaded.pending)
    if (listed := _burn_down(loaded)) != (expected := _expected_burn_down(loaded)):
        yield Difference(
            Cause.GRANT_EDITED, "burn-down order", " ".join(listed), " ".join(expected)
        )
    for key in loaded.limits.unequal:
        yield Difference(Cause.LIMIT_COUNT_EDITED, f"sum of limit {key}", "unequal", None)
    yield from _missing_changes(loaded)


def _burn_down(loaded: Loaded) -> list[str]:
    """Return the grants as the list in the hash names them, at most once each."""
    listed: list[str] = []
    grant_id = loaded.head
    while grant_id and grant_id not in listed[-1:] and len(listed) <= len(loaded.grants):
        listed.append(grant_id)
        grant_id = loaded.following.get(grant_id, "")
    return listed


def _expected_burn_down(loaded: Loaded) -> list[str]:
    def order(grant_id: str) -> tuple[int, int, int, bytes]:
        priority, _, expires_at_ms, created_at_ms = loaded.grants[grant_id].terms
        return priority, expires_at_ms, created_at_ms, grant_id.encode()

    paying = (
        grant_id
        for grant_id, grant in loaded.grants.items()
        if grant.state == "live" and grant.remaining > 0
    )
    return sorted(paying, key=order)


def _missing_changes(loaded: Loaded) -> Iterator[Difference]:
    """Look for what must begin or end and is not planned."""
    planned = [f"a:{hold_id}" for hold_id in loaded.holds]
    for grant_id, grant in loaded.grants.items():
        if grant.state == "pending":
            planned.append(f"b:{grant_id}")
        elif grant.state == "live" and grant.remaining > 0 and grant.terms[2] < NEVER_MS:
            planned.append(f"c:{grant_id}")
    for member in sorted(planned):
        if member not in loaded.changes:
            yield Difference(Cause.CHANGE_MISSING, f"change {member}", None, member)
    first = min(loaded.changes.values(), default=NEVER_MS)
    if loaded.next_change_at_ms > first:
        yield Difference(Cause.CHANGE_MISSING, "next_change_at", loaded.next_change_at_ms, first)


def _counts(grant: GrantFacts) -> bool:
    return grant.state == "pending" or grant.remaining > 0 or grant.reserved > 0


def _listed(hold: HoldFacts) -> str:
    covered = " ".join(f"{grant_id} {units}" for grant_id, units in hold.allocations)
    counts = "" if hold.counts_at_ms is None else f"counts at {hold.counts_at_ms}"
    alone = " alone" if hold.is_counted else ""
    paid_by = f" by:{hold.paid_by}" if hold.paid_by else ""
    return f"{covered} {counts}{alone}{paid_by}".strip()


def _words(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))
