"""
Giving back a charge, as flows: promised in the ledger first, which decides how much and to whom.

What a call took above its account is given back there, too, and what another account paid is given
back to that one. All of it is promised in one transaction, so that it is all given back whoever
dies then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quota_engine.commands import (
    AwaitDrain,
    ChargeEntry,
    ChargeFate,
    FindCharge,
    Flow,
    PersistTail,
    ReadBalance,
    RecordedRefund,
    RecordRefunds,
    Refund,
    Refunded,
    RefundRequest,
    WithdrawRefund,
)
from quota_engine.commands.refunds import charge_id_in, requests_of
from quota_engine.errors import (
    IdempotencyConflictError,
    InvalidArgumentError,
    OperationCancelledError,
    OperationNotFoundError,
    QuotaFrozenError,
)
from quota_engine.events import CHARGES, USAGE_RECORDED
from quota_engine.flows import settled
from quota_engine.keys import QuotaName, parents_of

#: Something else has the refund's id: its promise can never be kept.
NEVER = (IdempotencyConflictError, OperationCancelledError)
#: Why a refund is not made now. A promise that can be kept later is kept by the workers.
REFUSED = (InvalidArgumentError, QuotaFrozenError, *NEVER)


def charge_of(quota: QuotaName, operation_id: str) -> Flow[ChargeFate]:
    """Ask the ledger about a charge, once it knows all that Redis knows now."""
    fate = yield from _found(quota, operation_id)
    if fate.charge is None:
        raise OperationNotFoundError(f"{quota} has no charge by the operation id {operation_id}")
    return fate


def _found(quota: QuotaName, operation_id: str) -> Flow[ChargeFate]:
    asked = ReadBalance(quota=quota, with_grants=False)
    known, frozen = (yield from settled(asked)).version, ""
    while True:
        fate: ChargeFate = yield FindCharge(quota, operation_id)
        if fate.version >= known:
            return fate
        if frozen:
            raise QuotaFrozenError(
                f"{quota} is frozen ({frozen}), and the ledger knows {fate.version} of its {known}"
                " entries: it must be mended first, see `quota-engine quarantine list`"
            )
        yield AwaitDrain(quota)
        now = yield from settled(asked)  # perhaps in a new epoch, which has lost what was there
        known, frozen = min(known, now.version), now.frozen


def call_of(quota: QuotaName, operation_id: str) -> Flow[ChargeFate]:
    """Return what settles a call anew goes by, once the ledger knows that who paid did so."""
    fate = yield from charge_of(quota, operation_id)
    assert fate.charge is not None
    for entry in (fate.charge, *fate.corrections):
        if entry.paid_by is not None and entry.kind in CHARGES:
            payer = QuotaName(entry.paid_by, quota.quota_type)
            yield from _known(payer, charge_id_in(payer, quota, entry))
    return fate


def _known(quota: QuotaName, operation_id: str) -> Flow[ChargeFate]:
    """Return what the ledger knows of a charge; if nothing, once it knows all that Redis knows."""
    fate: ChargeFate = yield FindCharge(quota, operation_id)
    if fate.charge is None:
        fate = yield from _found(quota, operation_id)
    return fate


def refunded(request: RefundRequest, accounts: Sequence[str] | None) -> Flow[Refunded]:
    """
    Give back a charge: to who paid, and to those of ``accounts`` (None: to all) that it charged.

    In one step; where one of them cannot take it now, each by itself, and what another account
    than the first of them cannot take is left to the workers. As with grants, a promise of
    somebody else may have been kept long ago.
    """
    fate = yield from charge_of(request.quota, request.operation_id)
    assert fate.charge is not None
    call = fate.charge if request.settled is None else request.settled.charges[0]
    others = _beside(request.quota, call, accounts)
    requests = requests_of(request, fate.charge, others)
    for one in requests[1:] if requests[0] is request else requests:
        yield from _known(one.quota, one.operation_id)
    recorded: list[RecordedRefund] = yield RecordRefunds(requests)
    ours = [one.command for one in recorded if one.is_new]
    if any(not one.is_new and one.applied is None for one in recorded):
        yield PersistTail(request.quota)
        recorded = yield RecordRefunds(requests)
        ours += [one.command for one in recorded if one.is_new]
    first, *beside = recorded
    try:
        made = yield from _made_together(first, beside)
    except REFUSED:
        yield PersistTail(first.command.quota)  # somebody else may have kept it meanwhile
        for command in ours:
            yield WithdrawRefund(command.quota, command.refund_id)
        raise
    known = {one.account: one for one in made.scopes}
    scopes = []
    for other in beside:
        try:
            scope = known.get(other.command.quota.account) or (yield from _made(other))
        except NEVER:
            yield WithdrawRefund(other.command.quota, other.command.refund_id)
        except REFUSED:
            continue
        else:
            scopes.append(scope)
    return replace(made, scopes=tuple(scopes))


def _made_together(first: RecordedRefund, beside: Sequence[RecordedRefund]) -> Flow[Refunded]:
    """Make all of a call's refunds in one step; the first alone, where one of them cannot be."""
    others = tuple(one.command for one in beside if one.applied is None)
    if others and first.applied is None:
        try:
            return (yield from settled(replace(first.command, beside=others)))
        except REFUSED:
            pass
    return (yield from _made(first))


def _beside(quota: QuotaName, call: ChargeEntry, scopes: Sequence[str] | None) -> Sequence[str]:
    """Return in which other accounts a call may have left a charge: above, or named by it."""
    return (*parents_of(quota.account), *call.scopes) if scopes is None else scopes


def charged_by(
    quota: QuotaName, fate: ChargeFate, scopes: Sequence[str] | None
) -> Flow[list[QuotaName]]:
    """
    Return in which quotas of other accounts a call left a charge, of ``scopes`` or of all.

    One that is only recorded left none anywhere, and is charged as any call.
    """
    assert fate.charge is not None
    found = []
    for account in _beside(quota, fate.charge, scopes):
        other = QuotaName(account, quota.quota_type)
        there = yield from _known(other, charge_id_in(other, quota, fate.charge))
        if there.charge is not None or fate.charge.kind == USAGE_RECORDED:
            found.append(other)
    return found


def _made(recorded: RecordedRefund) -> Flow[Refunded]:
    command: Refund = recorded.command
    if recorded.applied is not None:
        return command.refunded(recorded.applied, replayed=True)
    return (yield from settled(command))
