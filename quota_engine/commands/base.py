"""
What a command is.

A command is one Lua call, described but not made: it knows its script, builds KEYS and ARGV, and
reads the reply. It does no I/O, so the sync and the async engine run the very same objects, and
tests need no Redis.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from quota_engine.events import GENESIS, Movement, parse_movements
from quota_engine.keys import QuotaName, ShardKeys

T = TypeVar("T")

Argument: TypeAlias = str | int
Reply: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Context:
    """What the transport adds to each call: where the quota lives and what time it is."""

    keys: ShardKeys
    epoch: int
    #: The client's clock in milliseconds, or None: the server's.
    now_ms: int | None = None
    horizon_ms: int = 900_000
    due_max: int = 32

    @property
    def now(self) -> Argument:
        """The ``now_ms`` argument: empty for the server's clock."""
        return "" if self.now_ms is None else self.now_ms


class Command(Generic[T]):
    """One Lua call. Subclasses are frozen dataclasses named after their script."""

    __slots__ = ()

    script: ClassVar[str]
    quota: QuotaName

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        """Return KEYS, in the order of the script's header."""
        raise NotImplementedError

    def argv(self, context: Context) -> Sequence[Argument]:
        """Return ARGV, in the order of the script's header."""
        raise NotImplementedError

    def parse(self, reply: Reply) -> T:
        """Return what the reply means, or raise the error it stands for."""
        raise NotImplementedError


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
    #: Why the quota is frozen; empty when it is not.
    frozen: str = ""
    #: Pending and live grants, and ended ones of which an open hold still reserves something.
    grants: tuple[GrantState, ...] = ()
    holds: tuple[HoldState, ...] = ()
    #: Operations younger than the horizon.
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadSnapshot:
    """Ask the ledger, not Redis, for a quota's newest state. Answer: ``Snapshot``."""

    quota: QuotaName


@dataclass(frozen=True, slots=True)
class FindHold:
    """
    Ask the ledger what became of a hold. Answer: ``HoldFate``.

    ``version`` is the version of the quota up to which the ledger must have been persisted for a
    "never seen" to be believed.
    """

    quota: QuotaName
    hold_id: str


@dataclass(frozen=True, slots=True)
class HoldFate:
    """What the ledger knows of a hold: whether it was ever placed, and its final capture if any."""

    #: The ledger's head version of the quota when it was asked.
    version: int
    was_placed: bool
    capture: Operation | None


@dataclass(frozen=True, slots=True)
class AwaitDrain:
    """Wait until more of this quota's entries have been persisted (bounded by the deadline)."""

    quota: QuotaName


#: One thing a flow asks its transport to do.
Step: TypeAlias = Command[Any] | ReadSnapshot | FindHold | AwaitDrain

#: Several steps in a row: yields each, is sent its result, returns the outcome.
Flow: TypeAlias = Generator[Step, Any, T]
