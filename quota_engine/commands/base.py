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

from quota_engine.commands.snapshots import Operation, Snapshot
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
