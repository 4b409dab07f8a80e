"""
What a client was answered lately, and how it asks for the same again.

A server that loses power loses what it had not synced, a promoted replica what had not reached it.
So each client remembers the commands of the last few seconds that were answered, and when a shard
begins a new epoch, sends them again, in their order and with their ids: what survived is replayed
and has no effect, what was lost happens again, now. It must not know a connection nor a clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from quota_engine.commands import (
    CaptureHold,
    Command,
    Debit,
    DebitUsed,
    ExtendHold,
    Flow,
    PlaceHold,
    ReleaseHold,
)
from quota_engine.errors import (
    AccountBarredError,
    BackpressureError,
    HoldClosedError,
    HoldNotFoundError,
    OperationCancelledError,
    QuotaFrozenError,
    QuotaInsufficientError,
)
from quota_engine.flows import settled
from quota_engine.keys import QuotaName

#: Commands that one client remembers at most, and holds that could not be placed again.
KEPT_MAX, DROPPED_MAX = 20_000, 10_000
#: First words of replies that only tell what had happened: asking again would be another question.
QUESTIONS = frozenset({"APPLIED", "ABSENT", "ADMITTED"})
#: First words of replies by which nothing happened.
REFUSALS = frozenset({"DENIED", "BARRED", "EXCEEDED"})
#: First words of replies that tell of nothing new: what was answered before has survived.
SURVIVED = frozenset({"REPLAYED", "APPLIED", "CLOSED", "EXTENDED"})


class Outcome(StrEnum):
    """What came of a command that was sent again."""

    #: The server had it still.
    SURVIVED = "survived"
    #: The server had lost it, and it happened again.
    RESTORED = "restored"
    #: A hold that is not admitted now, or something about one. Its capture is charged late.
    DROPPED = "dropped"
    #: Somebody else has cancelled it meanwhile.
    CANCELLED = "cancelled"
    #: It was refused: the log says why.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Resent:
    """How many commands one client has sent again, by what came of them."""

    survived: int = 0
    restored: int = 0
    dropped: int = 0
    cancelled: int = 0
    failed: int = 0

    @property
    def sent(self) -> int:
        """All of them."""
        return self.survived + self.restored + self.dropped + self.cancelled + self.failed

    def with_one(self, outcome: Outcome) -> Resent:
        """Return the numbers with one more."""
        return replace(self, **{outcome.value: getattr(self, outcome.value) + 1})

    def since(self, before: Resent) -> Resent:
        """Return what was added since these numbers."""
        names = [outcome.value for outcome in Outcome]
        return Resent(*(getattr(self, name) - getattr(before, name) for name in names))


@dataclass(slots=True, eq=False)
class Kept:
    """A command that was answered at ``at`` (seconds of one clock), in an epoch of its shard."""

    at: float
    #: One opening of the deployment, compared by identity.
    life: object
    epoch: int
    command: Command[Any]


class RecentCommands:
    """
    The commands that one client was answered in the last ``keep_seconds``.

    Threads may ``keep`` at once, without a lock: what they do to the deque is atomic. ``take`` and
    ``put_back`` are for one at a time. ``is_behind`` says that there may be something to take.
    """

    def __init__(
        self, keep_seconds: float, age_max_seconds: float, kept_max: int = KEPT_MAX
    ) -> None:
        self._keep_seconds = keep_seconds
        self._age_max = age_max_seconds
        self._kept_max = kept_max
        self._kept: deque[Kept] = deque()
        self._prune_at = 0.0
        self._may_prune = deque([True])  # who takes it out prunes
        self._dropped: dict[tuple[QuotaName, str], bool] = {}
        self._taken: list[Kept] = []
        self.is_behind = False
        self._is_marked = False

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, at: float, life: object, epoch: int, command: Command[Any]) -> None:
        """Remember a command that was answered in ``life``."""
        self._kept.append(Kept(at, life, epoch, command))
        if at >= self._prune_at or len(self._kept) > self._kept_max:
            self._prune(at, life)

    def mark(self) -> None:
        """Say that a new life began, or that an answer of an older one was kept late."""
        self._is_marked = True
        self.is_behind = True

    def take(self, now: float, life: object, epoch_of: Callable[[QuotaName], int]) -> list[Kept]:
        """
        Return, oldest first, what must be sent again in ``life``, and let go of it.

        That is what was answered in another epoch, up to ``keep_seconds`` before the last answer
        of that time: how long after it the server failed nobody knows. Nothing is sent that is so
        old that its id may have been forgotten. When nothing is left, ``is_behind`` ends.
        """
        self._is_marked = False
        found = []
        with suppress(IndexError):  # another thread may let go of something old meanwhile
            for _ in range(len(self._kept)):
                found.append(self._kept.popleft())
        here: list[Kept] = []
        others: list[Kept] = []
        for kept in found:
            is_here = kept.epoch == epoch_of(kept.command.quota)
            kept.life = life if is_here else kept.life
            (here if is_here else others).append(kept)
        self._kept.extendleft(reversed(here))
        last = max((kept.at for kept in others), default=0.0)
        since = max(last - self._keep_seconds, now - self._age_max)
        lost = self._taken = [kept for kept in others if kept.at >= since]
        if not lost:
            self.is_behind = False
            if self._is_marked:
                self.is_behind = True
        return lost

    def put_back(self, kept: Sequence[Kept]) -> None:
        """Keep again what could not be sent."""
        self._kept.extendleft(reversed(kept))
        self.is_behind = self.is_behind or bool(kept)

    def drop(self, command: PlaceHold) -> None:
        """Remember that a hold was answered and is no more: captures of it are charged late."""
        self._dropped[command.quota, command.hold_id] = True
        if len(self._dropped) > DROPPED_MAX:
            self._dropped.pop(next(iter(self._dropped)), None)

    def knows_hold(self, quota: QuotaName, hold_id: str) -> bool:
        """Return whether a hold was answered lately, whatever became of it in a new epoch."""
        if (quota, hold_id) in self._dropped:
            return True
        return any(
            isinstance(kept.command, PlaceHold)
            and (kept.command.quota, kept.command.hold_id) == (quota, hold_id)
            for kept in (*self._taken, *self._kept.copy())
        )

    def forget(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._dropped.clear()
        self._taken = []
        self._may_prune = deque([True])
        self.is_behind = self._is_marked = False

    def _prune(self, at: float, life: object) -> None:
        """Let go of what is older than anything that a server of this life may lose."""
        try:
            token = self._may_prune.pop()
        except IndexError:
            return
        self._prune_at = at + self._keep_seconds / 4
        since, kept = at - self._keep_seconds, self._kept
        while kept and kept[0].life is life and kept[0].at < since:
            kept.popleft()
        if len(kept) > self._kept_max:  # some at once, so that this is seldom
            for _ in range(len(kept) - self._kept_max * 9 // 10):
                kept.popleft()
        self._may_prune.append(token)


def sent_again(command: Command[Any]) -> Flow[Outcome]:
    """
    Send a command again that was answered once.

    A debit that was admitted then was admitted for good: denied now, it is sent as one that has
    been used. So is the capture of a hold that is gone. A hold that is denied now is dropped.
    """
    try:
        result = yield from settled(command)
    except OperationCancelledError:
        return Outcome.CANCELLED
    except (QuotaInsufficientError, AccountBarredError, QuotaFrozenError, BackpressureError):
        if isinstance(command, PlaceHold | ExtendHold):
            return Outcome.DROPPED
        if not isinstance(command, Debit):
            raise
        result = yield from settled(owed(command))
    except HoldClosedError:
        return Outcome.SURVIVED  # it was open when it was extended, and has been closed since
    except HoldNotFoundError:
        if isinstance(command, ExtendHold | ReleaseHold):
            return Outcome.DROPPED
        if not isinstance(command, CaptureHold):
            raise
        result = yield from settled(replace(command, is_known=True))
    return Outcome.SURVIVED if getattr(result, "replayed", True) else Outcome.RESTORED


def owed(command: Debit) -> DebitUsed:
    """Return a debit that was admitted once, as one that is never denied, under the same id."""
    return DebitUsed(
        quota=command.quota,
        operation_id=command.operation_id,
        amount=command.amount,
        details=command.details,
        shares=command.shares,
        payers=command.payers,
        fingerprint_before=command.fingerprint,
    )
