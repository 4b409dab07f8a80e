"""
What a command is.

A command is one Lua call, described but not made: it knows its script, builds KEYS and ARGV, and
reads the reply. It does no I/O, so the sync and the async engine run the very same objects, and
tests need no Redis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from quota_engine.amounts import AMOUNT_MAX
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
    #: Entries that may wait to be persisted before what is new is refused.
    outbox_max: int = AMOUNT_MAX
    #: Quota types that refuse nothing unless an account says so, a space before and after each.
    unenforced: str = ""

    @property
    def now(self) -> Argument:
        """The ``now_ms`` argument: empty for the server's clock."""
        return "" if self.now_ms is None else self.now_ms


class Command(Generic[T]):
    """One Lua call. Subclasses are frozen dataclasses named after their script."""

    __slots__ = ()

    script: ClassVar[str]
    #: Whether a client that was answered sends it again when a new epoch begins.
    is_sent_again: ClassVar[bool] = False
    #: Whether it asks that something new be admitted, which an account may not be open for.
    is_admission: ClassVar[bool] = False
    quota: QuotaName

    @property
    def may_create(self) -> bool:
        """Whether the command may make a quota that nobody knows."""
        return False

    @property
    def others(self) -> tuple[QuotaName, ...]:
        """Further quotas of the same shard that the command acts on, and may make."""
        return ()

    def unknown(self) -> T:
        """Return what the command means for a quota that nobody knows, or raise it."""
        raise NotImplementedError

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        """Return KEYS, in the order of the script's header."""
        raise NotImplementedError

    def argv(self, context: Context) -> Sequence[Argument]:
        """Return ARGV, in the order of the script's header."""
        raise NotImplementedError

    def parse(self, reply: Reply) -> T:
        """Return what the reply means, or raise the error it stands for."""
        raise NotImplementedError
