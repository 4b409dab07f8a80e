"""
Operations that take more than one step.

A flow is a generator: it yields a step, is sent the answer (or the error), and returns the
outcome. It reads from top to bottom and never awaits, so the sync and the async engine share it
word for word. Waiting is the transport's: it bounds every flow by its deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

from quota_engine.commands import (
    AccountsRead,
    AwaitDrain,
    CancelledOperation,
    CancelOperation,
    CapturedHold,
    CaptureHold,
    CatchUp,
    CaughtUp,
    Command,
    ExtendedHold,
    ExtendHold,
    FindHold,
    FindOperation,
    Flow,
    HoldFate,
    HydrateQuota,
    IntentFate,
    IssuedGrant,
    IssueGrant,
    NotePolicy,
    NotRemembered,
    OperationFate,
    PersistTail,
    PlaceHold,
    ReadAccounts,
    ReadBalance,
    ReadPolicy,
    ReadSnapshot,
    RecordIntent,
    ReleasedHold,
    ReleaseHold,
    SetAccount,
    SetLimit,
    Snapshot,
    VoidGrant,
    WithdrawIntent,
    WithdrawRefund,
)
from quota_engine.commands.limits import renewals
from quota_engine.commands.loading import UNKNOWN, WAIT_DRAIN
from quota_engine.commands.replies import (
    CatchUpError,
    FencedError,
    PayersWantedError,
    PeriodsOverError,
    QuotaNotLoadedError,
)
from quota_engine.commands.shares import with_payers
from quota_engine.errors import (
    AccountBarredError,
    AccountClosedError,
    BackpressureError,
    EngineFault,
    GrantNotFoundError,
    HoldClosedError,
    HoldNotFoundError,
    IdempotencyConflictError,
    InvalidArgumentError,
    LimitNotFoundError,
    OperationCancelledError,
    QuotaFrozenError,
    QuotaInsufficientError,
)
from quota_engine.events import CANCELLED
from quota_engine.keys import QuotaName
from quota_engine.policies import AccountPolicy, field_of, record_of

T = TypeVar("T")

#: Why a grant is refused now that was promised rightly.
MAY_PASS = (QuotaFrozenError, AccountClosedError)
#: There is something else by its id, or it was cancelled: it will never be made.
_CONFLICTS = (IdempotencyConflictError, OperationCancelledError)
#: How often one command has periods renewed: once for each of its quotas, and some more.
RENEWALS_MAX = 64


def never() -> bool:
    """Return no."""
    return False


def settled(command: Command[T]) -> Flow[T]:
    """
    Run a command until it has an answer: hydrate what Redis lacks, catch up with what is due.

    A quota that nobody knows answers by itself and is not made, unless the command makes one.
    Periods of limits that are over are renewed. Who may pay is sent along once it is known.
    """
    renewals_left = RENEWALS_MAX
    while True:
        try:
            result: T = yield command
        except QuotaNotLoadedError as error:
            missing = QuotaName.parse(str(error))
            if missing in command.others:
                yield from hydrated(missing, may_create=True)
            elif not (yield from hydrated(command.quota, may_create=command.may_create)):
                if not (command.is_admission and (yield from _may_be_admitted(command.quota))):
                    return command.unknown()
                yield from hydrated(command.quota, may_create=True)
        except CatchUpError:
            yield from caught_up(command.quota)
            for quota in command.others:
                yield from caught_up(quota)
        except PeriodsOverError as error:
            if not renewals_left:
                raise EngineFault(str(error)) from error
            renewals_left -= 1
            command = yield from renewed(command, error)
        except PayersWantedError as error:
            command = with_payers(command, error)
        else:
            return result


def _may_be_admitted(quota: QuotaName) -> Flow[bool]:
    """Return whether calls on a quota that nobody knows are; raise ``AccountBarredError``."""
    found: AccountsRead = yield ReadAccounts(quota=quota)
    if found.barred is not None:
        raise found.barred
    return found.may_admit


def told(account: str) -> Flow[AccountPolicy]:
    """Tell Redis what the ledger says of an account, until it knows the newest; return that."""
    while True:
        policy: AccountPolicy = yield ReadPolicy(account)
        record: str = yield set_account(policy)
        is_newest: bool = yield NotePolicy(account, record)
        if is_newest:
            return policy


def set_account(policy: AccountPolicy, *, seen: str = "") -> SetAccount:
    """Return the command that tells Redis a policy; ``seen``: the record that it replaces."""
    return SetAccount(
        quota=field_of(policy.account),
        revision=policy.revision,
        record=record_of(policy),
        restricts=policy.is_restricting,
        seen=seen,
    )


def renewed(command: Command[T], over: PeriodsOverError) -> Flow[Command[T]]:
    """
    Have limits know the periods of now; return the command that is to be tried again.

    A limit that is to be set is told around the instant that the server told.
    """
    if isinstance(command, SetLimit):
        again: Any = replace(command, at_ms=over.at_ms)
        return cast("Command[T]", again)
    for renewal in renewals(over.quota, over.limits, over.at_ms):
        try:
            yield renewal
        except (QuotaNotLoadedError, CatchUpError, LimitNotFoundError):
            break  # the command itself will meet what is wrong, or it is gone
    return command


def admits(command: PlaceHold) -> Flow[bool]:
    """Return whether a hold would be placed now; ``command`` is a dry one."""
    try:
        yield from settled(command)
    except (QuotaInsufficientError, AccountBarredError, QuotaFrozenError, BackpressureError):
        return False
    return True


def hydrated(quota: QuotaName, *, may_create: bool = False) -> Flow[bool]:
    """Load a quota from the ledger; return False if nobody knows it and none was made."""
    while True:
        snapshot: Snapshot = yield ReadSnapshot(quota)
        command = HydrateQuota(snapshot=snapshot, may_create=may_create)
        try:
            outcome: str = yield command
        except FencedError:
            continue
        if outcome == WAIT_DRAIN:
            yield AwaitDrain(quota)
        else:
            return outcome != UNKNOWN


def caught_up(quota: QuotaName) -> Flow[int]:
    """Apply everything that is due; return how many changes that was."""
    applied = 0
    while True:
        try:
            caught: CaughtUp = yield CatchUp(quota=quota)
        except QuotaNotLoadedError:
            if not (yield from hydrated(quota)):
                return applied
            continue
        applied += caught.applied
        if not caught.is_more_due:
            return applied


def booked(quota: QuotaName) -> Flow[None]:
    """Have the ledger know all that has happened to a quota, or has come due, by now."""
    yield from caught_up(quota)
    yield PersistTail(quota)


def captured(
    command: CaptureHold, *, was_placed: Callable[[], bool] = never
) -> Flow[CapturedHold]:
    """
    Capture a hold; one that Redis has forgotten is charged late if the ledger knows it.

    ``was_placed``: the caller can show it. It was lost with all that Redis had not synced.
    """
    try:
        return (yield from settled(command))
    except HoldNotFoundError:
        fate = yield from fate_of(command.quota, command.hold_id, with_capture=command.is_final)
        if not (fate.was_placed or was_placed()):
            raise
    if command.is_final and fate.capture is not None:
        if fate.capture.fingerprint == CANCELLED:
            raise OperationCancelledError(f"the capture of {command.hold_id} was cancelled")
        if fate.capture.fingerprint != command.fingerprint:
            raise IdempotencyConflictError(
                f"hold {command.hold_id} was captured before with other arguments"
            )
        return command.captured(fate.capture, replayed=True)
    return (yield from settled(replace(command, is_known=True)))


def released(
    command: ReleaseHold, *, was_placed: Callable[[], bool] = never
) -> Flow[ReleasedHold]:
    """Release a hold; one that was closed long ago, or lost, changes nothing."""
    try:
        return (yield from settled(command))
    except HoldNotFoundError:
        fate = yield from fate_of(command.quota, command.hold_id)
        if not (fate.was_placed or was_placed()):
            raise
    return command.released(0, replayed=False)


def extended(command: ExtendHold, *, was_placed: Callable[[], bool] = never) -> Flow[ExtendedHold]:
    """Extend a hold; say whether one that is not open was ever placed."""
    try:
        return (yield from settled(command))
    except HoldNotFoundError as error:
        fate = yield from fate_of(command.quota, command.hold_id)
        if not (fate.was_placed or was_placed()):
            raise
        raise HoldClosedError(
            f"hold {command.hold_id} was captured, released or has expired"
        ) from error


def fate_of(quota: QuotaName, hold_id: str, *, with_capture: bool = False) -> Flow[HoldFate]:
    """
    Ask the ledger about a hold; "never placed" counts once it knows all that Redis knows.

    So does "never captured", unless the quota is frozen: then the ledger waits for somebody.
    """
    known = yield from settled(ReadBalance(quota=quota, with_grants=False))
    is_enough = not with_capture or known.frozen
    while True:
        fate: HoldFate = yield FindHold(quota, hold_id)
        is_told = fate.was_placed and (is_enough or fate.capture is not None)
        if is_told or fate.version >= known.version:
            return fate
        yield AwaitDrain(quota)


def cancelled(command: CancelOperation) -> Flow[CancelledOperation]:
    """
    Tell what became of an operation; cancel it if neither Redis nor the ledger knows it.

    What Redis had forgotten when it was first asked is in the ledger once that knows the quota up
    to the same version; what comes later, Redis remembers until the second question.
    """
    version = None
    while True:
        found = yield from settled(command)
        if isinstance(found, CancelledOperation):
            return found
        # a new epoch may have begun, and what the ledger will never know with it
        version = found.version if version is None else min(version, found.version)
        fate: OperationFate = yield FindOperation(command.quota, command.operation_id)
        if fate.answer is not None or fate.version >= version:
            break
        yield AwaitDrain(command.quota)
    if fate.answer is not None:
        return command.told(fate.answer, replayed=fate.answer.fingerprint == CANCELLED)
    cancelled = yield from settled(replace(command, is_absent=True))
    if isinstance(cancelled, NotRemembered):
        raise EngineFault(f"operation {command.operation_id} was not cancelled")
    # a grant or refund that was promised and never made is promised no more
    if not cancelled.was_applied:
        yield WithdrawIntent(command.quota, command.operation_id)
        yield WithdrawRefund(command.quota, command.operation_id)
    return cancelled


def issued(command: IssueGrant) -> Flow[IssuedGrant]:
    """
    Issue a grant: promised in the ledger first, then applied in Redis by the same id.

    An intent that somebody else recorded may have been applied long ago: then it is applied only
    after all that the outbox holds now has been persisted. A refused grant leaves no intent; only
    while its quota is frozen, or its account closed, what somebody else has promised waits for the
    workers.
    """
    intent: IntentFate = yield RecordIntent(command)
    is_ours = intent.is_new
    if not is_ours and intent.applied is None:
        yield PersistTail(command.quota)
        intent = yield RecordIntent(command)
    if intent.applied is not None:
        return command.issued(intent.applied, replayed=True)
    try:
        return (yield from settled(command))
    except (InvalidArgumentError, *_CONFLICTS, *MAY_PASS) as error:
        if is_ours or not isinstance(error, MAY_PASS):
            yield WithdrawIntent(command.quota, command.grant_id)
        raise


def voided(command: VoidGrant) -> Flow[int]:
    """Void a grant; return how much was left of it, also when that was asked before."""
    known = yield from settled(ReadBalance(quota=command.quota, with_grants=False))
    try:
        return (yield from settled(command)).amount
    except (GrantNotFoundError, IdempotencyConflictError):
        pass  # nothing is left, or somebody has voided it, perhaps in other words
    while True:
        fate: OperationFate = yield FindOperation(command.quota, command.operation_id)
        if fate.answer is not None:
            return fate.answer.amount
        if fate.version >= known.version:
            return 0
        yield AwaitDrain(command.quota)
