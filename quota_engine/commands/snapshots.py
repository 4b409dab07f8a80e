"""
A quota as plain values: what the ledger knows of it, and what Redis is to be told.

The ledger fills a ``Snapshot``; ``HydrateQuota`` makes the fields of ``lua/lib/quotas.lua`` of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quota_engine.events import GENESIS, Movement, parse_movements
from quota_engine.keys import QuotaName


@dataclass(frozen=True, slots=True)
class GrantState:
    """A grant as Redis keeps it. Amounts in units, times in ms (``NEVER_MS`` for no end)."""

    grant_id: str
    remaining: int
    reserved: int
    priority: int
    starts_at_ms: int
    expires_at_ms: int
    created_at_ms: int
    #: pending, live, expired or voided.
    state: str


@dataclass(frozen=True, slots=True)
class HoldState:
    """An open hold: its total, its expiry, and the covered parts in the order they were taken."""

    hold_id: str
    amount: int
    expires_at_ms: int
    allocations: tuple[tuple[str, int], ...]
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


@dataclass(frozen=True, slots=True)
class WindowCount:
    """What counts in one step or period of a limit, which begins at ``starts_at_ms``."""

    key: str
    since_ms: int
    starts_at_ms: int
    counted: int


@dataclass(frozen=True, slots=True)
class Operation:
    """A remembered operation: its fingerprint and its first answer (see docs/format.md)."""

    operation_id: str
    fingerprint: str
    version: int
    amount: int
    shortfall: int
    balance: int
    held: int
    debt: int
    flags: str
    terms: str
    movements: tuple[Movement, ...]

    @classmethod
    def parse(cls, operation_id: str, lines: Sequence[str]) -> Operation:
        """Return the operation that ten lines say: fingerprint, version ... movements."""
        fingerprint, version, amount, shortfall, balance, held, debt, flags, terms, moves = lines
        return cls(
            operation_id,
            fingerprint,
            int(version),
            int(amount),
            int(shortfall),
            int(balance),
            int(held),
            int(debt),
            flags,
            terms,
            parse_movements(moves),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """
    A quota as the ledger last knew it, with the epoch that the ledger knew in the same instant.

    ``is_known`` is False when the ledger has no such quota: then the rest is that of an empty one.
    """

    quota: QuotaName
    epoch: int
    is_known: bool = True
    version: int = 0
    chain: str = GENESIS
    debt: int = 0
    #: None: unlimited.
    overdraft_limit: int | None = 0
    #: All limits as one line (``quota_engine.limits``); empty: it has none.
    limits: str = ""
    #: The latest instant that anything counted at in them.
    last_count_ms: int = 0
    #: What counts in those of their windows that the ledger keeps.
    counts: tuple[WindowCount, ...] = ()
    #: Why the quota is frozen; empty when it is not.
    frozen: str = ""
    #: Whether it has ever had a grant.
    is_granted: bool = False
    #: Pending and live grants, and ended ones of which an open hold still reserves something.
    grants: tuple[GrantState, ...] = ()
    holds: tuple[HoldState, ...] = ()
    #: Operations younger than the horizon.
    operations: tuple[Operation, ...] = ()
