"""
Spooled operations: what could not be told to Redis in time, kept to be told later.

A spooled operation is the command that was meant, as plain values. This module says how it becomes
one, what its caller is answered meanwhile, and how it is replayed: once, whoever else may have
brought it to Redis before. It must not know where operations are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from quota_engine.commands import (
    CapturedHold,
    CaptureHold,
    Command,
    Debit,
    Debited,
    DebitUsed,
    FindOperation,
    Flow,
    OperationFate,
    PersistTail,
    RecordedUsage,
    RecordUsage,
    ReleasedHold,
    ReleaseHold,
    Share,
    SharedCommand,
)
from quota_engine.errors import (
    AccountBarredError,
    BackpressureError,
    HoldNotFoundError,
    IdempotencyConflictError,
    OperationCancelledError,
    QuotaFrozenError,
    QuotaInsufficientError,
)
from quota_engine.events import CANCELLED
from quota_engine.flows import captured, released, settled
from quota_engine.keys import QuotaName

#: What may be spooled: it has happened already, or gives back.
Spoolable: TypeAlias = CaptureHold | ReleaseHold | Debit | RecordUsage
SpooledResult: TypeAlias = CapturedHold | ReleasedHold | Debited | RecordedUsage

CAPTURE, RELEASE, RECORD = "capture_hold", "release_hold", "record_usage"
DEBIT, DEBIT_USED = "debit", "debit_used"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledOperation:
    """
    An operation that waits. ``kind`` is its script; ``amount`` is 0 where it has none.

    ``is_known``: its hold was seen to be placed. ``is_offline``: it was admitted while Redis was
    away, and counts towards the offline allowance until it is replayed.
    """

    kind: str
    account: str
    quota_type: str
    operation_id: str
    noted_ms: int
    hold_id: str = ""
    amount: int = 0
    is_final: bool = True
    is_known: bool = False
    is_offline: bool = False
    details: str = ""
    #: Of each further quota that it acts on ``amount name``, a line each.
    others: str = ""

    @property
    def shares(self) -> tuple[Share, ...]:
        """What it asks of further quotas."""
        told = (line.partition(" ") for line in self.others.splitlines())
        return tuple(Share(QuotaName.parse(name), int(amount)) for amount, _, name in told)

    @property
    def quota(self) -> QuotaName:
        """The quota that it changes."""
        return QuotaName(self.account, self.quota_type)

    @property
    def fingerprint(self) -> str:
        """The hash of what makes this operation this operation."""
        return command_of(self).fingerprint

    @property
    def checksum(self) -> str:
        """A hash of everything, by which a torn row is known."""
        names = [name for name in self.__slots__ if name != "others" or self.others]
        values = [str(getattr(self, name)) for name in names]
        return hashlib.blake2b("\x1f".join(values).encode(), digest_size=16).hexdigest()


def operation_of(
    command: Spoolable, noted_ms: int, *, is_known: bool = False, is_offline: bool = False
) -> SpooledOperation:
    """Return a command as the operation that is kept."""
    facts: dict[str, Any] = {"kind": command.script, "operation_id": command.operation_id}
    if isinstance(command, CaptureHold | ReleaseHold):
        facts["hold_id"] = command.hold_id
    if isinstance(command, CaptureHold | Debit):
        facts["amount"] = command.amount
    if isinstance(command, CaptureHold):
        facts["is_final"] = command.is_final
    if isinstance(command, SharedCommand):
        lines = (f"{share.amount} {share.quota}" for share in command.shares)
        facts["others"] = "\n".join(lines)
    return SpooledOperation(
        account=command.quota.account,
        quota_type=command.quota.quota_type,
        noted_ms=noted_ms,
        is_known=is_known,
        is_offline=is_offline,
        details=command.details,
        **facts,
    )


def command_of(operation: SpooledOperation) -> Spoolable:
    """Return the command that an operation was, word for word: its fingerprint is the same."""
    quota, operation_id, details = operation.quota, operation.operation_id, operation.details
    if operation.kind == CAPTURE:
        return CaptureHold(
            quota=quota,
            hold_id=operation.hold_id,
            operation_id=operation_id,
            amount=operation.amount,
            is_final=operation.is_final,
            details=details,
            shares=operation.shares,
        )
    if operation.kind == RELEASE:
        return ReleaseHold(
            quota=quota, hold_id=operation.hold_id, details=details, shares=operation.shares
        )
    if operation.kind in {DEBIT, DEBIT_USED}:
        kind = Debit if operation.kind == DEBIT else DebitUsed
        return kind(
            quota=quota,
            operation_id=operation_id,
            amount=operation.amount,
            details=details,
            shares=operation.shares,
        )
    return RecordUsage(quota=quota, operation_id=operation_id, details=details)


def forms_of(operation: SpooledOperation) -> Sequence[Spoolable]:
    """
    Return every command that an operation may be replayed as: at most one of them has an effect.

    First what was meant, since Redis may know it, or its hold. A hold that nobody knows was either
    admitted offline or lost with Redis: what was used of it is taken as a debit, and a record of
    usage that charges nothing stays one. A debit that was admitted offline has happened.
    """
    meant = command_of(operation)
    record = command_of(replace(operation, kind=RECORD))
    used = command_of(replace(operation, kind=DEBIT_USED))
    if operation.kind == CAPTURE and operation.is_known:
        return (meant, used if operation.amount else record)
    if operation.kind == RELEASE and operation.is_offline and operation.details:
        return (meant, record)
    if operation.kind == DEBIT:
        return (meant, used)
    return (meant,)


def replayed(operation: SpooledOperation, *, is_old: bool) -> Flow[bool]:
    """
    Bring an operation to Redis; return whether that had an effect, or it was there before.

    ``is_old``: Redis may have forgotten it, so the ledger is asked first. Raises
    ``IdempotencyConflictError`` when its id was used for something else, ``HoldNotFoundError``
    when its hold never was. Anything else raised says to try again later.
    """
    if is_old and (yield from _is_in_ledger(operation)):
        return False
    try:
        return (yield from _applied(operation))
    except OperationCancelledError:
        return False  # somebody made sure that it never happens
    except IdempotencyConflictError:
        if not (yield from _is_in_ledger(operation)):
            raise
        return False


def _applied(operation: SpooledOperation) -> Flow[bool]:
    meant, *others = forms_of(operation)
    result: SpooledResult
    try:
        if isinstance(meant, CaptureHold):
            result = yield from captured(meant)
        elif isinstance(meant, ReleaseHold):
            result = yield from released(meant)
        elif isinstance(meant, Debit):
            result = yield from settled(meant)
        else:
            result = yield from settled(meant)
        return not result.replayed
    except HoldNotFoundError:
        if isinstance(meant, ReleaseHold) and not others:
            return False  # nothing is held, so there is nothing to give back
        if not others:
            raise
    except (QuotaInsufficientError, AccountBarredError, QuotaFrozenError, BackpressureError):
        if not others:
            raise
    other: Command[Any] = others[0]
    again: SpooledResult = yield from settled(other)
    return not again.replayed


def _is_in_ledger(operation: SpooledOperation) -> Flow[bool]:
    """Whether the ledger has the operation, once it knows all that Redis knows now."""
    yield PersistTail(operation.quota)
    fate: OperationFate = yield FindOperation(operation.quota, operation.operation_id)
    found = fate.answer
    if found is None:
        return False
    if found.fingerprint == CANCELLED:
        return True
    if found.fingerprint not in {form.fingerprint for form in forms_of(operation)}:
        raise IdempotencyConflictError(
            f"operation id {operation.operation_id} was used before with other arguments"
        )
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolReplay:
    """
    What came of one replay.

    ``replayed`` are in Redis now, ``refused`` never will be and wait for somebody, ``waiting`` are
    left; ``error`` says why.
    """

    replayed: int
    refused: int
    waiting: int
    error: str | None


def result_of(operation: SpooledOperation, *, replayed: bool) -> SpooledResult:
    """Return what the caller of a spooled operation is answered: no sum is known yet."""
    facts: dict[str, Any] = {
        "account": operation.account,
        "quota_type": operation.quota_type,
        "replayed": replayed,
        "spooled": True,
    }
    if operation.kind == RELEASE:
        return ReleasedHold(hold_id=operation.hold_id, amount=0, **facts)
    facts |= {"operation_id": operation.operation_id, "version": 0}
    if operation.kind == RECORD:
        return RecordedUsage(**facts)
    facts |= {"amount": operation.amount, "shortfall": 0, "balance": None, "allocations": ()}
    if operation.kind in {DEBIT, DEBIT_USED}:
        return Debited(**facts)
    return CapturedHold(hold_id=operation.hold_id, late=False, **facts)
