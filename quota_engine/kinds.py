"""
What each kind of entry requires of its quota's log, and what it changes there.

Redis decides, so the persister never decides again; but it takes nothing on trust: an entry must
be one that grants and holds, as the entries before it left them, allow. The persister goes over
what an outbox brings, starting from the tables; the verifier over whole logs, from nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from quota_engine import counting, events
from quota_engine.amounts import AMOUNT_MAX
from quota_engine.chain import (
    CAPTURED,
    EXPIRED,
    INTENT,
    LIVE,
    OPEN,
    PENDING,
    RELEASED,
    VOIDED,
    Cause,
    Grant,
    Hold,
    Misfit,
    QuotaLog,
)
from quota_engine.errors import InvalidArgumentError
from quota_engine.events import CANCELLED, UNLIMITED, Entry, arriving_parts
from quota_engine.ids import checked_account
from quota_engine.payers import payer_in, payer_word


def misfit(log: QuotaLog, entry: Entry, text: str, chain: str) -> Misfit | None:
    """Return why ``entry``, with its exact ``text``, cannot be next, or None if it can."""
    return log.misfit(entry, text, chain) or _RULES[entry.kind][0](log, entry)


def apply(log: QuotaLog, entry: Entry, chain: str) -> None:
    """Move ``log`` over ``entry``, which must fit."""
    counting.count(log, entry)
    _RULES[entry.kind][1](log, entry)
    log.advance(entry, chain)


Rule = Callable[[QuotaLog, Entry], Misfit | None]
Change = Callable[[QuotaLog, Entry], None]


def _integers(terms: str, count: int) -> list[int] | None:
    """Return the ``count`` whole numbers that a terms line holds, or None."""
    words = terms.split(" ")
    if len(words) != count or not all(word.removeprefix("-").isdecimal() for word in words):
        return None
    numbers = [int(word) for word in words]
    return numbers if all(abs(number) <= AMOUNT_MAX for number in numbers) else None


def _check_issued(log: QuotaLog, entry: Entry) -> Misfit | None:
    if _integers(entry.terms, 4) is None:
        return Misfit(Cause.TERMS, f"not the terms of a grant: {entry.terms!r}")
    grant = log.grants.get(entry.subject)
    if grant is not None and grant.state != INTENT and grant.counts:
        return Misfit(Cause.GRANT, f"grant {entry.subject} is there already")
    if entry.delta not in {0, entry.amount}:
        return Misfit(Cause.GRANT, f"a grant of {entry.amount} changes the balance by it or by 0")
    if any(move.grant_id != entry.subject or move.reserved for move in entry.movements):
        return Misfit(Cause.MOVEMENTS, "a grant that is issued moves itself alone")
    return None


def _issue(log: QuotaLog, entry: Entry) -> None:
    priority, starts_at_ms, expires_at_ms, created_at_ms = _integers(entry.terms, 4) or (0,) * 4
    is_pending = entry.delta == 0
    log.grants[entry.subject] = Grant(
        grant_id=entry.subject,
        state=PENDING if is_pending else LIVE,
        fingerprint=entry.fingerprint,
        amount=entry.amount,
        remaining=entry.amount if is_pending else 0,
        reserved=0,
        priority=priority,
        starts_at_ms=starts_at_ms,
        expires_at_ms=expires_at_ms,
        created_at_ms=created_at_ms,
        applied_version=entry.version,
        issued_by=entry,
    )


def _check_started(log: QuotaLog, entry: Entry) -> Misfit | None:
    grant = log.grants.get(entry.subject)
    if grant is None or grant.state != PENDING:
        return Misfit(Cause.GRANT, f"grant {entry.subject} is not pending")
    if entry.delta != entry.amount or entry.amount != grant.amount:
        return Misfit(Cause.GRANT, f"grant {entry.subject} starts with {grant.amount}")
    return None


def _start(log: QuotaLog, entry: Entry) -> None:
    grant = log.grants[entry.subject]
    grant.state, grant.remaining = LIVE, 0


def _check_ended(log: QuotaLog, entry: Entry) -> Misfit | None:
    grant = log.grants.get(entry.subject)
    if grant is None or grant.state == INTENT:
        return Misfit(Cause.GRANT, f"no grant {entry.subject}")
    lost = 0 if grant.state == PENDING else entry.amount
    if -entry.delta != lost:
        return Misfit(Cause.GRANT, f"the end of {lost} units changes the balance by them")
    return None


def _end(state: str) -> Change:
    def end(log: QuotaLog, entry: Entry) -> None:
        grant = log.grants[entry.subject]
        if grant.state == PENDING:
            grant.remaining = 0
        if grant.state in {PENDING, LIVE}:
            grant.state = state

    return end


def _check_placed(log: QuotaLog, entry: Entry) -> Misfit | None:
    if _integers(entry.terms, 1) is None:
        return Misfit(Cause.TERMS, f"not the expiry of a hold: {entry.terms!r}")
    hold = log.holds.get(entry.subject)
    if hold is not None and hold.state == OPEN:
        return Misfit(Cause.HOLD, f"hold {entry.subject} is open already")
    held = 0 if entry.is_counted else entry.amount
    if entry.delta != 0 or entry.held_delta != held:
        return Misfit(Cause.HOLD, f"a hold of {entry.amount} holds {entry.held_delta}")
    return counting.misfit(log, entry) if entry.is_counted else None


def _place(log: QuotaLog, entry: Entry) -> None:
    log.holds[entry.subject] = Hold(
        hold_id=entry.subject,
        state=OPEN,
        amount=entry.amount,
        allocations=_reserved(entry),
        expires_at_ms=int(entry.terms),
        placed_version=entry.version,
        counts_at_ms=counting.counts_at(log),
        is_counted=entry.is_counted,
        paid_by=payer_word(payer_in(entry.flags) or ""),
    )


def _reserved(entry: Entry) -> list[tuple[str, int]]:
    return [(move.grant_id, move.reserved) for move in entry.movements if move.reserved > 0]


def _check_extended(log: QuotaLog, entry: Entry) -> Misfit | None:
    if _integers(entry.terms, 1) is None:
        return Misfit(Cause.TERMS, f"not the expiry of a hold: {entry.terms!r}")
    hold = log.holds.get(entry.subject)
    if hold is None or hold.state != OPEN:
        return Misfit(Cause.HOLD, f"hold {entry.subject} is not open")
    growth = entry.amount - hold.amount
    held = 0 if hold.is_counted else growth
    if entry.delta != 0 or growth < 0 or entry.held_delta != held:
        return Misfit(
            Cause.HOLD, f"hold {entry.subject} grows from {hold.amount} to {entry.amount}"
        )
    return None


def _extend(log: QuotaLog, entry: Entry) -> None:
    hold = log.holds[entry.subject]
    hold.amount, hold.expires_at_ms = entry.amount, int(entry.terms)
    if log.limits:
        hold.counts_at_ms = counting.counts_at(log)
    hold.allocations.extend(_reserved(entry))


def _check_charged(log: QuotaLog, entry: Entry) -> Misfit | None:
    if entry.is_counted:
        return counting.misfit(log, entry)
    if entry.delta != entry.shortfall - entry.amount:
        return Misfit(Cause.BALANCE, f"{-entry.delta} was collected of {entry.amount}")
    return None


def _check_captured(log: QuotaLog, entry: Entry) -> Misfit | None:
    flags = entry.flags.split()
    if (misfit := _check_charged(log, entry)) is not None or "late" in flags:
        return misfit or _unless_zero(entry)
    hold = log.holds.get(entry.subject)
    if hold is None or hold.state != OPEN:
        return Misfit(Cause.HOLD, f"hold {entry.subject} is not open")
    closed = 0 if hold.is_counted else _given_up(hold, entry)
    if -entry.held_delta != closed or entry.is_counted > hold.is_counted:
        return Misfit(Cause.HOLD, f"hold {entry.subject} gives up {closed}")
    return None


def _given_up(hold: Hold, entry: Entry) -> int:
    return min(entry.amount, hold.amount) if "part" in entry.flags.split() else hold.amount


def _capture(log: QuotaLog, entry: Entry) -> None:
    flags = entry.flags.split()
    if "late" in flags:
        return
    if "part" not in flags:
        _close(CAPTURED)(log, entry)
        return
    hold = log.holds[entry.subject]
    hold.amount -= _given_up(hold, entry)
    used = {move.grant_id: -move.reserved for move in entry.movements}
    hold.allocations = _without(hold.allocations, used)


def _without(allocations: list[tuple[str, int]], used: dict[str, int]) -> list[tuple[str, int]]:
    """Return allocations less what was used of each grant, first taken first."""
    rest = []
    for grant_id, units in allocations:
        part = min(used.get(grant_id, 0), units)
        if part > 0:
            used[grant_id] -= part
            units -= part  # noqa: PLW2901
        if units > 0:
            rest.append((grant_id, units))
    return rest


def _check_closed(log: QuotaLog, entry: Entry) -> Misfit | None:
    hold = log.holds.get(entry.subject)
    if hold is None or hold.state != OPEN:
        return Misfit(Cause.HOLD, f"hold {entry.subject} is not open")
    if entry.delta != 0 or -entry.held_delta != hold.held or entry.amount != hold.amount:
        return Misfit(Cause.HOLD, f"hold {entry.subject} gives up {hold.amount}")
    return None


def _close(state: str) -> Change:
    def close(log: QuotaLog, entry: Entry) -> None:
        hold = log.holds[entry.subject]
        hold.state, hold.closed_version, hold.allocations = state, entry.version, []

    return close


def _check_debited(log: QuotaLog, entry: Entry) -> Misfit | None:
    return _check_charged(log, entry) or _unless_zero(entry)


def _check_refunded(log: QuotaLog, entry: Entry) -> Misfit | None:
    parts = _integers(entry.terms, 2)
    if parts is None or min(parts) < 0:
        return Misfit(Cause.TERMS, f"not what a refund forfeits and regrants: {entry.terms!r}")
    if entry.delta != entry.amount - sum(parts):
        return Misfit(Cause.BALANCE, f"a refund of {entry.amount} brought {entry.delta}")
    if entry.is_counted and (misfit := counting.misfit(log, entry)) is not None:
        return misfit
    for move in entry.movements:
        grant = log.grants[move.grant_id]
        if grant.state != LIVE or move.remaining < 0 or move.reserved:
            return Misfit(Cause.GRANT, f"grant {grant.grant_id} cannot take a refund")
        if grant.remaining + grant.reserved + move.remaining > grant.amount:
            return Misfit(Cause.GRANT, f"grant {grant.grant_id} is refunded above its amount")
    return _unless_zero(entry)


def _tells_target(details: str) -> bool:
    try:
        checked_account(json.loads(details)["to"])
    except (ValueError, TypeError, KeyError, RecursionError, InvalidArgumentError):
        return False
    return True


def _check_sent(log: QuotaLog, entry: Entry) -> Misfit | None:
    if not _tells_target(entry.details):
        return Misfit(Cause.TERMS, f"it does not tell for which account: {entry.details:.80}")
    if sum(part[0] for part in arriving_parts(entry.terms) or ()) != entry.amount:
        return Misfit(Cause.TERMS, f"not the parts of {entry.amount} units: {entry.terms!r}")
    if entry.delta != -entry.amount or entry.debt != log.debt or entry.shortfall:
        return Misfit(Cause.BALANCE, f"{-entry.delta} left of {entry.amount}")
    if any(move.remaining > 0 or move.reserved for move in entry.movements):
        return Misfit(Cause.MOVEMENTS, "what leaves is remaining, and not held")
    return _unless_zero(entry)


def _check_arrived(log: QuotaLog, entry: Entry) -> Misfit | None:
    parts = arriving_parts(entry.terms) or []
    if sum(part[0] for part in parts) != entry.amount:
        return Misfit(Cause.TERMS, f"not the parts of {entry.amount} units: {entry.terms!r}")
    if entry.delta != entry.amount:
        return Misfit(Cause.BALANCE, f"{entry.delta} arrived of {entry.amount}")
    made = [f"{entry.operation_id}:{number}" for number in range(1, len(parts) + 1)]
    if [move.grant_id for move in entry.movements] != made:
        return Misfit(Cause.MOVEMENTS, "each part arrives as a grant of its own")
    for move, part in zip(entry.movements, parts, strict=True):
        if not 0 <= move.remaining <= part[0] or move.reserved:
            return Misfit(Cause.MOVEMENTS, f"{move.remaining} arrived of a part of {part[0]}")
        grant = log.grants.get(move.grant_id)
        if grant is not None and grant.state != INTENT and grant.counts:
            return Misfit(Cause.GRANT, f"grant {move.grant_id} is there already")
    return _unless_zero(entry)


def _arrive(log: QuotaLog, entry: Entry) -> None:
    parts = arriving_parts(entry.terms) or []
    for move, (units, priority, expires_at_ms) in zip(entry.movements, parts, strict=True):
        log.grants[move.grant_id] = Grant(
            grant_id=move.grant_id,
            state=LIVE,
            fingerprint=entry.fingerprint,
            amount=units,
            remaining=0,
            reserved=0,
            priority=priority,
            starts_at_ms=entry.at_ms,
            expires_at_ms=expires_at_ms,
            created_at_ms=entry.at_ms,
            applied_version=entry.version,
            issued_by=entry,
        )


def _unless_zero(entry: Entry) -> Misfit | None:
    if entry.held_delta != 0:
        return Misfit(Cause.HELD, f"{entry.kind} {entry.flags} changes held".replace("  ", " "))
    return None


def _check_limit(_: QuotaLog, entry: Entry) -> Misfit | None:
    if entry.terms != UNLIMITED and _integers(entry.terms, 1) is None:
        return Misfit(Cause.TERMS, f"not an overdraft limit: {entry.terms!r}")
    return Misfit(Cause.BALANCE, "a limit changes no sum") if entry.delta else None


def _check_recorded(_: QuotaLog, entry: Entry) -> Misfit | None:
    if entry.amount or entry.delta or entry.held_delta or entry.movements:
        return Misfit(Cause.BALANCE, "a record of usage changes no sum")
    return None


def _check_repaired(_: QuotaLog, entry: Entry) -> Misfit | None:
    if entry.amount or entry.delta or entry.held_delta or entry.movements:
        return Misfit(Cause.BALANCE, "a repair changes no sum: what was missing has its own entry")
    return None


def _check_cancelled(_: QuotaLog, entry: Entry) -> Misfit | None:
    if entry.fingerprint != CANCELLED:
        return Misfit(Cause.TERMS, f"not the mark of a cancelled one: {entry.fingerprint!r}")
    if entry.amount or entry.delta or entry.held_delta or entry.movements:
        return Misfit(Cause.BALANCE, "what was cancelled changes no sum")
    return None


def _set_limit(log: QuotaLog, entry: Entry) -> None:
    log.overdraft_limit = None if entry.terms == UNLIMITED else int(entry.terms)


def _nothing_more(_: QuotaLog, __: Entry) -> None:
    """Change nothing beside the sums and the movements."""


#: What each kind requires of the log before it, and what it changes beside sums and movements.
_RULES: dict[str, tuple[Rule, Change]] = {
    events.GRANT_ISSUED: (_check_issued, _issue),
    events.GRANT_STARTED: (_check_started, _start),
    events.GRANT_EXPIRED: (_check_ended, _end(EXPIRED)),
    events.GRANT_VOIDED: (_check_ended, _end(VOIDED)),
    events.HOLD_PLACED: (_check_placed, _place),
    events.HOLD_EXTENDED: (_check_extended, _extend),
    events.HOLD_CAPTURED: (_check_captured, _capture),
    events.HOLD_RELEASED: (_check_closed, _close(RELEASED)),
    events.HOLD_EXPIRED: (_check_closed, _close(EXPIRED)),
    events.QUOTA_DEBITED: (_check_debited, _nothing_more),
    events.QUOTA_REFUNDED: (_check_refunded, _nothing_more),
    events.QUOTA_TRANSFERRED_OUT: (_check_sent, _nothing_more),
    events.QUOTA_TRANSFERRED_IN: (_check_arrived, _arrive),
    events.OVERDRAFT_LIMIT_SET: (_check_limit, _set_limit),
    events.LIMIT_SET: (counting.check_limits, counting.set_limits),
    events.USAGE_RECORDED: (_check_recorded, _nothing_more),
    events.QUOTA_REPAIRED: (_check_repaired, _nothing_more),
    events.OPERATION_CANCELLED: (_check_cancelled, _nothing_more),
}
