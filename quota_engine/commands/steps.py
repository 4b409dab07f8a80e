"""What a flow may ask of its transport beside commands: questions to the ledger, and waiting."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from quota_engine.commands.base import Command
from quota_engine.commands.grants import IssueGrant
from quota_engine.commands.refunds import RefundRequest
from quota_engine.commands.snapshots import Operation
from quota_engine.keys import QuotaName

T = TypeVar("T")


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
    """What the ledger knows of a hold: whether it was placed, and its final capture if any."""

    #: The ledger's head version of the quota when it was asked.
    version: int
    was_placed: bool
    capture: Operation | None


@dataclass(frozen=True, slots=True)
class FindOperation:
    """Ask the ledger whether it knows an operation. Answer: ``OperationFate``."""

    quota: QuotaName
    operation_id: str


@dataclass(frozen=True, slots=True)
class OperationFate:
    """What the ledger knew of an operation when it knew the quota up to ``version``."""

    version: int
    answer: Operation | None


@dataclass(frozen=True, slots=True)
class AwaitDrain:
    """Wait until more of this quota's entries may have been persisted."""

    quota: QuotaName


@dataclass(frozen=True, slots=True)
class PersistTail:
    """Wait until everything that this quota's outbox holds now has been persisted."""

    quota: QuotaName


@dataclass(frozen=True, slots=True)
class RecordIntent:
    """Promise a grant in the ledger, before it is applied. Answer: ``IntentFate``."""

    command: IssueGrant


@dataclass(frozen=True, slots=True)
class IntentFate:
    """Whether the promise is new, and the answer of the entry that kept it, if it was kept."""

    is_new: bool
    applied: Operation | None


@dataclass(frozen=True, slots=True)
class WithdrawIntent:
    """Take back the promise of a grant that was refused."""

    quota: QuotaName
    grant_id: str


@dataclass(frozen=True, slots=True)
class FindCharge:
    """Ask the ledger for a charge and its corrections. Answer: ``ChargeFate``."""

    quota: QuotaName
    operation_id: str


@dataclass(frozen=True, slots=True)
class RecordRefunds:
    """
    Promise refunds in the ledger, all or none. Answer: a list of ``RecordedRefund``.

    The ledger must know the first's charge, and what became of its grants; of the others those
    are left out of which it knows no charge, or of which nothing is left.
    """

    requests: tuple[RefundRequest, ...]


@dataclass(frozen=True, slots=True)
class WithdrawRefund:
    """Take back the promise of a refund that was refused or cancelled, above its quota too."""

    quota: QuotaName
    refund_id: str


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """Ask the ledger what is said of an account. Answer: ``AccountPolicy``."""

    account: str


@dataclass(frozen=True, slots=True)
class NotePolicy:
    """Tell the ledger which record Redis has of an account. Answer: whether it is the newest."""

    account: str
    record: str


#: One thing a flow asks its transport to do.
Step: TypeAlias = (
    Command[Any]
    | ReadSnapshot
    | FindHold
    | FindOperation
    | AwaitDrain
    | PersistTail
    | RecordIntent
    | WithdrawIntent
    | FindCharge
    | RecordRefunds
    | WithdrawRefund
    | ReadPolicy
    | NotePolicy
)

#: Several steps in a row: yields each, is sent its result, returns the outcome.
Flow: TypeAlias = Generator[Step, Any, T]
