"""
Moving quota between accounts, as flows: what left is the promise that it arrives.

In one shard both happen in one script. Else, and after a loss between the two entries, the entry
of what left is in the ledger first, and whoever finds it there finishes it: the caller, a repeat,
or a worker. What the other account can never take comes back; that it will never arrive is then an
entry of its own, so nobody can bring it there later. See docs/decisions/0056.
"""

from __future__ import annotations

from quota_engine.commands import (
    AccountsRead,
    CancelOperation,
    FindOperation,
    Flow,
    Operation,
    OperationFate,
    PersistTail,
    ReadAccounts,
    ReadBalance,
    Transfer,
    TransferIn,
    TransferOut,
    TransferQuota,
    Transferred,
)
from quota_engine.commands.arguments import details_text
from quota_engine.errors import (
    AccountClosedError,
    EngineUnavailableError,
    IdempotencyConflictError,
    InvalidArgumentError,
    OperationCancelledError,
    QuotaFrozenError,
    TransferRefusedError,
)
from quota_engine.events import CANCELLED
from quota_engine.flows import cancelled, settled

#: Why units that left will not arrive, whenever it is tried again.
CANNOT_ARRIVE = (
    *(InvalidArgumentError, AccountClosedError, IdempotencyConflictError),
    OperationCancelledError,
)


def transferred(transfer: Transfer, *, is_one_shard: bool, grants_max: int) -> Flow[Transferred]:
    """Move units; a repeat, however late, has the first answer and finishes what is not."""
    known: OperationFate = yield FindOperation(transfer.source, transfer.transfer_id)
    answer, is_new = known.answer, False
    if answer is None:
        if is_one_shard:
            sent = yield from settled(
                TransferQuota(quota=transfer.source, transfer=transfer, grants_max=grants_max)
            )
        else:
            yield from _refuse_unable(transfer)
            sent = yield from settled(TransferOut(quota=transfer.source, transfer=transfer))
        answer, is_new = sent.answer, not sent.replayed
    elif answer.fingerprint == CANCELLED:
        raise OperationCancelledError(f"transfer {transfer.transfer_id} was cancelled")
    elif answer.fingerprint != transfer.fingerprint:
        raise IdempotencyConflictError(
            f"transfer id {transfer.transfer_id} was used before with other arguments"
        )
    if not (is_new and is_one_shard):
        yield from finished(transfer, grants_max=grants_max)
    return transfer.transferred(answer, replayed=not is_new)


def finished(transfer: Transfer, *, grants_max: int) -> Flow[bool]:
    """
    Bring what left to where it goes, once; return False if it was there already.

    What left is persisted first: an arrival must never outlive it. Then, what may have arrived
    long ago, and Redis has forgotten. Raises ``TransferRefusedError`` when it is back.
    """
    left = yield from _left(transfer)
    yield PersistTail(transfer.target)
    there: OperationFate = yield FindOperation(transfer.target, transfer.arrival_id)
    if there.answer is not None and there.answer.fingerprint != CANCELLED:
        return False
    why = "it was refused before"
    if there.answer is None:
        arrival = TransferIn(
            quota=transfer.target, transfer=transfer, terms=left.terms, grants_max=grants_max
        )
        try:
            yield from settled(arrival)
        except CANNOT_ARRIVE as error:
            why = str(error)
        else:
            return True
        if (yield from _arrived_after_all(transfer, why)):
            return False
    back: OperationFate = yield FindOperation(transfer.source, transfer.return_id)
    if back.answer is None:
        returning = TransferIn(
            quota=transfer.source, transfer=transfer, terms=left.terms, is_back=True
        )
        yield from settled(returning)
    raise TransferRefusedError(
        f"{transfer.target} cannot take transfer {transfer.transfer_id} ({why}): its"
        f" {transfer.amount} units are back in {transfer.source}"
    )


def _left(transfer: Transfer) -> Flow[Operation]:
    """Return what the ledger says of the leaving."""
    yield PersistTail(transfer.source)
    left: OperationFate = yield FindOperation(transfer.source, transfer.transfer_id)
    if left.answer is None:
        raise EngineUnavailableError(
            f"transfer {transfer.transfer_id} left {transfer.source}, and the ledger did not take"
            " its entry: see `quota-engine quarantine list`"
        )
    return left.answer


def _arrived_after_all(transfer: Transfer, why: str) -> Flow[bool]:
    """See to it that the units never arrive, in the ledger too; return True if they have."""
    cancel = CancelOperation(
        quota=transfer.target,
        operation_id=transfer.arrival_id,
        details=details_text({"reference": transfer.transfer_id, "reason": why}),
    )
    outcome = yield from cancelled(cancel)
    if outcome.was_applied:
        return True
    yield PersistTail(transfer.target)
    return False


def _refuse_unable(transfer: Transfer) -> Flow[None]:
    """Refuse to let units leave for a quota that takes none now."""
    found: AccountsRead = yield ReadAccounts(quota=transfer.target)
    if isinstance(found.barred, AccountClosedError):
        raise found.barred
    balance = yield from settled(ReadBalance(quota=transfer.target, with_grants=False))
    if balance.frozen:
        raise QuotaFrozenError(f"{transfer.target} is frozen until its log is mended")
