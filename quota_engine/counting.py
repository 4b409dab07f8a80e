"""
What an entry counts in the limits of its quota, and where, as ``lua/lib/windows`` counts.

Only of windows that the ledger keeps. A log's ``counts`` are added to; whoever loaded the log
knows what was there before. This module must not know where entries come from, nor a clock.
"""

from __future__ import annotations

from quota_engine import events
from quota_engine.chain import Cause, Hold, Misfit, QuotaLog
from quota_engine.events import Entry
from quota_engine.limits import CALLS, UNITS, Limit, parse_limits
from quota_engine.payers import payer_in


def count(log: QuotaLog, entry: Entry) -> None:
    """Count the next entry, whose kind has not been applied yet."""
    if not log.limits:
        return
    hold = log.holds.get(entry.subject)
    if entry.kind in {events.HOLD_PLACED, events.QUOTA_DEBITED}:
        _now(log, entry, calls=1)
    elif entry.kind == events.HOLD_CAPTURED:
        flags = entry.flags.split()
        if "late" in flags:
            _now(log, entry)
        elif hold is not None:
            given_up = min(entry.amount, hold.amount) if "part" in flags else hold.amount
            _correct(log, hold, entry.amount - given_up)
    elif hold is None:
        return
    elif entry.kind == events.HOLD_EXTENDED:
        _correct(log, hold, -hold.amount)
        _now(log, entry)
    elif entry.kind in {events.HOLD_RELEASED, events.HOLD_EXPIRED}:
        _correct(log, hold, -hold.amount)


def misfit(log: QuotaLog, entry: Entry) -> Misfit | None:
    """Return why an entry cannot count in limits alone."""
    if not log.limits and payer_in(entry.flags) is None:
        return Misfit(
            Cause.LIMITS,
            f"{entry.kind} is counted, but the quota has no limits, and nobody else paid",
        )
    if entry.delta or entry.shortfall or entry.movements:
        return Misfit(Cause.BALANCE, "what is counted changes no sum")
    return None


def check_limits(_: QuotaLog, entry: Entry) -> Misfit | None:
    """Return why an entry ``limit.set`` is none."""
    try:
        parse_limits(entry.terms)
    except ValueError as error:
        return Misfit(Cause.TERMS, str(error))
    if entry.amount or entry.delta or entry.held_delta or entry.movements:
        return Misfit(Cause.BALANCE, "a limit changes no sum")
    return None


def set_limits(log: QuotaLog, entry: Entry) -> None:
    """Let the limits of an entry ``limit.set`` hold from now on; forget what no other counts."""
    log.limits = parse_limits(entry.terms)
    begun = (limit.since_ms + 1 for limit in log.limits)
    log.last_count_ms = max(log.last_count_ms, *begun, 0)
    live = {(limit.key, limit.since_ms) for limit in log.limits}
    log.counts = {place: units for place, units in log.counts.items() if place[:2] in live}


def counts_at(log: QuotaLog) -> int | None:
    """Return where a hold counts that was placed or has grown by the entry counted last."""
    return log.last_count_ms if log.limits else None


def forget_old(log: QuotaLog) -> None:
    """Forget counts that count in no window any more."""
    first = floors(log)
    log.counts = {
        place: units for place, units in log.counts.items() if place[2] >= first[place[:2]]
    }


def floors(log: QuotaLog) -> dict[tuple[str, int], int]:
    """Return for each limit that the ledger keeps the first place that counts still."""
    return {
        (limit.key, limit.since_ms): limit.floor_of(log.last_count_ms)
        for limit in log.limits
        if limit.is_kept
    }


def _now(log: QuotaLog, entry: Entry, *, calls: int = 0) -> None:
    at_ms = log.last_count_ms = max(log.last_count_ms, entry.at_ms)
    for limit in log.limits:
        if limit.of == UNITS:
            _add(log, limit, at_ms, entry.amount)
        elif limit.of == CALLS:
            _add(log, limit, at_ms, calls)


def _correct(log: QuotaLog, hold: Hold, units: int) -> None:
    at_ms = hold.counts_at_ms
    for limit in log.limits:
        if limit.of == UNITS and at_ms is not None and at_ms > limit.since_ms:
            _add(log, limit, at_ms, units)


def _add(log: QuotaLog, limit: Limit, at_ms: int, amount: int) -> None:
    start = limit.place_of(at_ms)
    if limit.is_kept and amount and start is not None:
        place = (limit.key, limit.since_ms, start)
        log.counts[place] = log.counts.get(place, 0) + amount
