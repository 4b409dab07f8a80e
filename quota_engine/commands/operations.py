"""An operation whose outcome is unknown: told, or cancelled before it happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from quota_engine.commands.arguments import writing_argv, writing_keys
from quota_engine.commands.base import Argument, Command, Context, Reply
from quota_engine.commands.snapshots import Operation
from quota_engine.errors import EngineFault
from quota_engine.events import CANCELLED
from quota_engine.keys import QuotaName, ShardKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledOperation:
    """
    What became of an operation that somebody wanted cancelled.

    ``was_applied``: it had happened, and the numbers are those of its first answer. Otherwise it
    has not happened and never will; amount and shortfall are 0, balance and version those of the
    entry that says so. ``replayed``: that entry was there already.
    """

    operation_id: str
    account: str
    quota_type: str
    was_applied: bool
    amount: int
    shortfall: int
    balance: int
    version: int
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class NotRemembered:
    """Redis does not remember the operation; what it knows goes up to ``version``."""

    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOperation(Command[CancelledOperation | NotRemembered]):
    """Tell or cancel an operation. See ``lua/cancel_operation.lua``."""

    script: ClassVar[str] = "cancel_operation"
    is_sent_again: ClassVar[bool] = True

    quota: QuotaName
    operation_id: str
    #: The ledger has told that it does not know the operation: cancel it. Otherwise only look.
    is_absent: bool = False
    details: str = ""

    def keys(self, keys: ShardKeys) -> Sequence[str]:
        return writing_keys(keys, self.quota)

    def argv(self, context: Context) -> Sequence[Argument]:
        rest = (self.operation_id, int(self.is_absent), self.details)
        return writing_argv(context, self.quota) + rest

    def parse(self, reply: Reply) -> CancelledOperation | NotRemembered:
        match reply:
            case ["CANCELLED" | "REPLAYED" | "APPLIED" as outcome, *lines]:
                answer = Operation.parse(self.operation_id, lines)
                return self.told(answer, replayed=outcome == "REPLAYED")
            case ["ABSENT", version]:
                return NotRemembered(int(version))
        raise EngineFault(f"cancel_operation answered {reply!r}")

    @property
    def may_create(self) -> bool:
        """A quota that nobody knows must know what is not to happen to it."""
        return self.is_absent

    def unknown(self) -> NotRemembered:
        return NotRemembered(0)

    def told(self, answer: Operation, *, replayed: bool) -> CancelledOperation:
        """Return the result that ``answer``, of Redis or of the ledger, stands for."""
        return CancelledOperation(
            operation_id=self.operation_id,
            account=self.quota.account,
            quota_type=self.quota.quota_type,
            was_applied=answer.fingerprint != CANCELLED,
            amount=answer.amount,
            shortfall=answer.shortfall,
            balance=answer.balance,
            version=answer.version,
            replayed=replayed,
        )
