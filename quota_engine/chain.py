"""
A quota's log as far as it goes: its head, its grants and holds, and whether an entry extends it.

Whether an entry is numbered, chained and summed rightly is judged here; what its kind requires and
changes is in ``kinds``. This module must not know where entries come from, nor a clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from quota_engine import events
from quota_engine.events import GENESIS, Entry, next_chain
from quota_engine.keys import QuotaName
from quota_engine.limits import Limit

#: A limit's key and ``since``, and where a step or period of it begins (ms).
Place: TypeAlias = tuple[str, int, int]

INTENT = "intent"
PENDING = "pending"
LIVE = "live"
EXPIRED = "expired"
VOIDED = "voided"
OPEN = "open"
CAPTURED = "captured"
RELEASED = "released"


class Cause(StrEnum):
    """Why an entry does not fit, or what two tellings of a quota disagree about."""

    MALFORMED = "malformed"
    FOREIGN_SHARD = "foreign_shard"
    FROZEN = "frozen"
    VERSION_GAP = "version_gap"
    FORK_OR_ROLLBACK = "fork_or_rollback"
    CHAIN = "chain"
    BALANCE = "balance"
    HELD = "held"
    DEBT = "debt"
    MOVEMENTS = "movements"
    GRANT = "grant"
    HOLD = "hold"
    TERMS = "terms"
    HEAD = "head"
    DUPLICATE = "duplicate"
    USAGE = "usage"
    CURSOR = "cursor"
    SUMS = "sums"
    LIMITS = "limits"


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why an entry does not fit its quota's log."""

    cause: Cause
    reason: str


@dataclass(slots=True)
class Grant:
    """A grant as the log left it. ``remaining`` of a pending one is its amount."""

    grant_id: str
    state: str
    fingerprint: str
    amount: int
    remaining: int
    reserved: int
    priority: int
    starts_at_ms: int
    expires_at_ms: int
    created_at_ms: int
    applied_version: int | None
    #: The entry that issued it, when it has been seen since the log was loaded.
    issued_by: Entry | None = None

    @property
    def counts(self) -> bool:
        """Whether anything of it is left to be used, returned or ended."""
        return self.state == PENDING or self.remaining > 0 or self.reserved > 0


@dataclass(slots=True)
class Hold:
    """A hold as the log left it. Allocations: grant id and units, in the order taken."""

    hold_id: str
    state: str
    amount: int
    allocations: list[tuple[str, int]]
    expires_at_ms: int
    placed_version: int
    closed_version: int | None = None
    #: Where its units count in limits (ms); None: in none.
    counts_at_ms: int | None = None
    #: Whether it counts in limits alone, and is no part of what is held.
    is_counted: bool = False
    #: The account that pays in its place, percent-encoded; empty: none.
    paid_by: str = ""

    @property
    def held(self) -> int:
        """What the quota holds of it."""
        return 0 if self.is_counted else self.amount


@dataclass(slots=True, kw_only=True)
class QuotaLog:
    """
    One quota's log up to its head: sums, grants, holds.

    ``grants`` and ``holds`` need to hold only those that the next entries touch.
    """

    name: QuotaName
    version: int = 0
    chain: str = GENESIS
    balance: int = 0
    held: int = 0
    debt: int = 0
    #: None: unlimited.
    overdraft_limit: int | None = 0
    frozen: str = ""
    limits: tuple[Limit, ...] = ()
    #: The latest instant that anything counted at in its limits.
    last_count_ms: int = 0
    #: What has counted in limits since the log was loaded: see ``quota_engine.counting``.
    counts: dict[Place, int] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)

    def misfit(self, entry: Entry, text: str, chain: str) -> Misfit | None:
        """Return why ``entry``, with its exact ``text``, cannot extend this log, or None."""
        return (
            self._wrong_place(entry, text, chain)
            or self._wrong_sums(entry)
            or self._wrong_movements(entry)
        )

    def advance(self, entry: Entry, chain: str) -> None:
        """Move sums, grants and head over ``entry``, which must fit."""
        for move in entry.movements:
            grant = self.grants[move.grant_id]
            grant.remaining += move.remaining
            grant.reserved += move.reserved
        self.version, self.chain = entry.version, chain
        self.balance, self.held, self.debt = entry.balance, entry.held, entry.debt

    def _wrong_place(self, entry: Entry, text: str, chain: str) -> Misfit | None:
        if entry.version > self.version + 1:
            return Misfit(Cause.VERSION_GAP, f"version {entry.version} comes after {self.version}")
        if entry.version <= self.version:
            return Misfit(
                Cause.FORK_OR_ROLLBACK,
                f"version {entry.version} comes again; the head is {self.version}",
            )
        if next_chain(self.chain, text) != chain:
            return Misfit(Cause.CHAIN, f"version {entry.version} is not chained to {self.version}")
        return None

    def _wrong_sums(self, entry: Entry) -> Misfit | None:
        if entry.balance != self.balance + entry.delta:
            return Misfit(
                Cause.BALANCE, f"{self.balance} and {entry.delta} do not make {entry.balance}"
            )
        if entry.held != self.held + entry.held_delta or entry.held < 0:
            return Misfit(
                Cause.HELD, f"{self.held} and {entry.held_delta} do not make {entry.held} held"
            )
        if entry.debt < 0:
            return Misfit(Cause.DEBT, f"debt cannot be {entry.debt}")
        moved = sum(move.remaining + move.reserved for move in entry.movements)
        if moved - (entry.debt - self.debt) != entry.delta:
            return Misfit(
                Cause.MOVEMENTS,
                f"movements of {moved} and a change of debt of {entry.debt - self.debt}"
                f" do not make {entry.delta}",
            )
        return None

    def _wrong_movements(self, entry: Entry) -> Misfit | None:
        if len({move.grant_id for move in entry.movements}) != len(entry.movements):
            return Misfit(Cause.MOVEMENTS, "one grant is moved twice")
        issued = entry.subject if entry.kind == events.GRANT_ISSUED else None
        for move in entry.movements:
            if move.grant_id == issued or entry.kind == events.QUOTA_TRANSFERRED_IN:
                continue
            grant = self.grants.get(move.grant_id)
            if grant is None or grant.state == INTENT:
                return Misfit(Cause.GRANT, f"no grant {move.grant_id}")
            remaining = 0 if grant.state == PENDING else grant.remaining
            if remaining + move.remaining < 0 or grant.reserved + move.reserved < 0:
                return Misfit(
                    Cause.GRANT,
                    f"grant {move.grant_id} has {remaining} remaining, {grant.reserved} reserved:"
                    f" not {-move.remaining} and {-move.reserved} to give",
                )
        return None
