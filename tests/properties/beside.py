"""The same command twice: to the script on a real server, and to the model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import astuple, replace
from typing import Any

from hypothesis import Phase

from quota_engine.chain import Grant
from quota_engine.commands import (
    Action,
    CancelOperation,
    CaptureHold,
    CatchUp,
    Command,
    Context,
    Debit,
    ExtendHold,
    IssueGrant,
    PlaceHold,
    RecordRepair,
    RecordUsage,
    Refund,
    RefundPart,
    ReleaseHold,
    SetLimit,
    SetOverdraftLimit,
    TransferIn,
    TransferOut,
    VoidGrant,
)
from quota_engine.events import Entry
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.limits import marks_at
from quota_engine.quotas import Quota, Refused
from quota_engine.scripts import load_scripts

#: Finding the shortest way to a fault takes minutes: only where somebody looks for it.
SHRINKS = bool(os.environ.get("QUOTA_ENGINE_TEST_SHRINK"))
PHASES = tuple(Phase) if SHRINKS else (Phase.explicit, Phase.generate)

CONTEXT = Context(ShardKeys(7), epoch=3)


def fingerprint_of(command: Command[Any]) -> str:
    """Return the fingerprint that a command sends."""
    place = load_scripts()[command.script].argv.index("fingerprint")
    return str(command.argv(CONTEXT)[place])


def expected(
    quota: Quota,
    command: Command[Any],
    now_ms: int,
    due_max: int,
    *,
    print_: str = "",
    details: str = "",
    is_counted: bool = False,
    is_in_shadow: bool = False,
    paid_by: str = "",
) -> list[str]:
    """
    Return what the model answers, refusals included, in a script's words.

    ``print_``: the fingerprint of the call that this is a part of; empty: its own. ``details``:
    what an extension writes down. ``is_counted``: the quota does not gate the call;
    ``is_in_shadow``: it refuses nothing; ``paid_by``: who pays in its place, percent-encoded.
    """
    modes = {"is_counted": is_counted, "is_in_shadow": is_in_shadow, "paid_by": paid_by}
    options = {name: meant for name, meant in modes.items() if meant}
    try:
        return list(_answer(quota, command, (now_ms, due_max), print_, details, **options))
    except Refused as refused:
        available = [] if refused.available is None else [str(refused.available)]
        return [refused.code, *available, *refused.told]


def altered(command: Command[Any]) -> Command[Any]:
    """Return the same operation with other arguments."""
    match command:
        case IssueGrant():
            return replace(command, terms=replace(command.terms, amount=command.terms.amount + 1))
        case SetOverdraftLimit():
            return replace(command, overdraft_limit=7)
        case SetLimit() if command.action is not Action.RENEW:
            return replace(command, limit=replace(command.limit, amount=command.limit.amount + 1))
        case RecordUsage():
            return replace(command, details="{}")
        case RecordRepair():
            return replace(command, cause="chain")
        case TransferOut() | TransferIn():
            more = replace(command.transfer, amount=command.transfer.amount + 1)
            return replace(command, transfer=more)
        case CaptureHold() | Debit() | PlaceHold() | ExtendHold() | Refund():
            return replace(command, amount=command.amount + 1)
    return command


def _answer(
    quota: Quota,
    command: Command[Any],
    at: tuple[int, int],
    print_: str,
    details: str,
    **more: Any,
) -> tuple[str, ...]:
    now_ms, due_max = at
    if isinstance(command, CatchUp):
        return quota.catch_up(now_ms, command.due_max)
    options: dict[str, Any] = {"due_max": due_max}
    if isinstance(command, CancelOperation | RecordUsage | RecordRepair):
        return _noted(quota, command, now_ms, options)
    print_ = print_ or fingerprint_of(command)
    if isinstance(command, Refund):
        return _refund(quota, command, now_ms, print_, due_max)
    if isinstance(command, TransferOut | TransferIn):
        return _transfer(quota, command, now_ms, print_, due_max)
    match command:
        case IssueGrant(grant_id=grant_id, terms=terms):
            return quota.issue_grant(
                *(now_ms, grant_id, print_, terms.amount),
                priority=terms.priority,
                starts_at_ms=terms.starts_at_ms,
                expires_at_ms=terms.expires_at_ms,
                grants_max=command.grants_max,
                details=command.details,
                **options,
            )
        case VoidGrant(grant_id=grant_id):
            arguments = (now_ms, command.operation_id, print_, grant_id)
            return quota.void_grant(*arguments, details=command.details, **options)
        case PlaceHold(hold_id=hold_id, amount=amount, ttl_ms=ttl_ms):
            arguments = (now_ms, hold_id, print_, amount, ttl_ms)
            return quota.place_hold(*arguments, details=command.details, **options, **more)
        case ExtendHold(hold_id=hold_id, amount=amount, ttl_ms=ttl_ms):
            arguments = (now_ms, hold_id, command.operation_id, print_)
            options["details"] = details
            options["is_in_shadow"] = more.get("is_in_shadow", False)
            return quota.extend_hold(*arguments, amount=amount, ttl_ms=ttl_ms, **options)
        case CaptureHold(hold_id=hold_id, amount=amount):
            return quota.capture_hold(
                *(now_ms, hold_id, command.operation_id, print_, amount),
                is_final=command.is_final,
                is_known=command.is_known,
                details=command.details,
                **options,
                **more,
            )
        case ReleaseHold(hold_id=hold_id):
            arguments = (now_ms, hold_id, command.operation_id, print_)
            return quota.release_hold(*arguments, details=command.details, **options)
        case Debit(operation_id=operation_id, amount=amount):
            options |= {"already_used": command.already_used, "details": command.details}
            return quota.debit(now_ms, operation_id, print_, amount, **options, **more)
        case SetLimit() | SetOverdraftLimit():
            return _set(quota, command, now_ms, print_, options)
    raise TypeError(f"the model has no {command.script}")


def _set(
    quota: Quota,
    command: SetLimit | SetOverdraftLimit,
    now_ms: int,
    print_: str,
    options: dict[str, Any],
) -> tuple[str, ...]:
    """Return the answer to what sets a limit, of whichever kind."""
    options["details"] = command.details
    asked = (now_ms, command.operation_id, print_)
    if isinstance(command, SetOverdraftLimit):
        return quota.set_overdraft_limit(*asked, command.overdraft_limit, **options)
    limit = replace(command.limit, marks=marks_at(command.limit, command.at_ms))
    return quota.set_limit(*asked, command.action.value, limit, **options)


def _noted(
    quota: Quota,
    command: CancelOperation | RecordUsage | RecordRepair,
    now_ms: int,
    options: dict[str, Any],
) -> tuple[str, ...]:
    """Return the answer to what changes no sum."""
    options["details"] = command.details
    if isinstance(command, CancelOperation):
        options["is_absent"] = command.is_absent
        return quota.cancel_operation(now_ms, command.operation_id, **options)
    arguments = (now_ms, command.operation_id, fingerprint_of(command))
    if isinstance(command, RecordUsage):
        return quota.record_usage(*arguments, **options)
    return quota.record_repair(*arguments, command.cause, **options)


def _refund(
    quota: Quota, command: Refund, now_ms: int, print_: str, due_max: int
) -> tuple[str, ...]:
    place = load_scripts()["refund"].argv.index("grant_details")
    return quota.refund(
        *(now_ms, command.refund_id, print_, command.amount),
        charge_id=command.charge_id,
        parts=tuple(astuple(part) for part in command.parts),
        grace_ms=command.grace_ms,
        grant_details=str(command.argv(CONTEXT)[place]),
        details=command.details,
        due_max=due_max,
    )


def _transfer(
    quota: Quota, command: TransferOut | TransferIn, now_ms: int, print_: str, due_max: int
) -> tuple[str, ...]:
    asked = command.transfer
    if isinstance(command, TransferOut):
        return quota.transfer_out(
            *(now_ms, asked.transfer_id, print_, asked.amount),
            parts_max=command.parts_max,
            details=asked.sent_details,
            due_max=due_max,
        )
    return quota.transfer_in(
        *(now_ms, command.arrival_id, print_, asked.amount, command.terms),
        transfer_id=asked.transfer_id,
        grants_max=command.grants_max,
        details=asked.arrival_details(asked.source.account),
        due_max=due_max,
    )


def refund_of(
    quota: QuotaName, charge: Entry, amount: int, grants: Mapping[str, Grant], **options: Any
) -> Refund:
    """Return the refund of a charge, or of a part of it, as the ledger would decide."""
    collected = charge.amount - charge.shortfall
    amount = min(amount, charge.amount)
    units = min(amount, collected)
    taken = [(move.grant_id, move.consumed) for move in charge.movements if move.consumed]
    rest = units - min(units, collected - sum(units for _, units in taken))
    parts = [RefundPart.unreturned(amount - units)] if units < amount else []
    for grant_id, units in reversed(taken):
        if part := min(units, rest):
            parts.append(RefundPart.of(grants[grant_id], part))
            rest -= part
    charge_id = charge.operation_id
    return Refund(quota=quota, charge_id=charge_id, amount=amount, parts=tuple(parts), **options)
