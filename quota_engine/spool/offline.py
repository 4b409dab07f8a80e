"""Holds that were admitted while Redis was away: they live in the file, within its allowance."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from quota_engine.errors import (
    HoldClosedError,
    IdempotencyConflictError,
    InvalidAmountError,
    RedisAwayError,
)
from quota_engine.keys import QuotaName
from quota_engine.spool.rows import units_in_use
from quota_engine.spooled import CAPTURE, RELEASE, SpooledOperation

OPEN, CAPTURED, RELEASED = "open", "captured", "released"
#: Closed and expired holds are remembered so long, to answer who asks again.
REMEMBERED_MS = 86_400_000

_WHERE = "WHERE account = ? AND quota_type = ? AND hold_id = ?"


@dataclass(frozen=True, slots=True)
class OfflineHold:
    """A hold in the file. ``amount`` is what is still held, ``placed_amount`` what was asked."""

    quota: QuotaName
    hold_id: str
    placed_amount: int
    amount: int
    expires_ms: int
    state: str
    fingerprint: str

    @property
    def place(self) -> tuple[str, str, str]:
        """Its primary key."""
        return (self.quota.account, self.quota.quota_type, self.hold_id)


def find(sql: sqlite3.Connection, quota: QuotaName, hold_id: str) -> OfflineHold | None:
    """Return a hold, or None when it was not admitted here."""
    query = f"SELECT placed_amount, amount, expires_ms, state, fingerprint FROM holds {_WHERE}"
    row = sql.execute(query, (quota.account, quota.quota_type, hold_id)).fetchone()
    return None if row is None else OfflineHold(quota, hold_id, *row)


def admit(
    sql: sqlite3.Connection, quota: QuotaName, amount: int, allowance: int, now_ms: int
) -> None:
    """Return when so many more units keep the allowance; raise ``RedisAwayError`` when not."""
    used = units_in_use(sql, quota, now_ms)
    if used + amount > allowance:
        raise RedisAwayError(
            f"Redis is away, and of the {allowance} {quota.quota_type} that {quota.account} may"
            f" use on this machine meanwhile {max(allowance - used, 0)} are left, {amount}"
            " required: try again when Redis is back"
        )


def place(
    sql: sqlite3.Connection,
    hold: OfflineHold,
    *,
    allowance: int,
    now_ms: int,
) -> tuple[OfflineHold, bool]:
    """Admit a hold; return it as it is kept, and whether it was there before."""
    known = find(sql, hold.quota, hold.hold_id)
    if known is not None:
        if known.fingerprint != hold.fingerprint:
            raise IdempotencyConflictError(
                f"operation id {hold.hold_id} was used before with other arguments"
            )
        return known, True
    admit(sql, hold.quota, hold.amount, allowance, now_ms)
    values = (*hold.place, hold.placed_amount, hold.amount, hold.expires_ms, OPEN)
    sql.execute(
        "INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, hold.fingerprint, now_ms),
    )
    return hold, False


def extend(
    sql: sqlite3.Connection,
    hold: OfflineHold,
    *,
    amount: int,
    expires_ms: int,
    allowance: int,
    now_ms: int,
) -> tuple[int, int]:
    """Let a hold grow to a total, or live longer (0: as it is); return its amount and expiry."""
    if hold.state != OPEN or hold.expires_ms <= now_ms:
        raise HoldClosedError(f"hold {hold.hold_id} was captured, released or has expired")
    if amount and amount < hold.amount:
        raise InvalidAmountError(f"an extended hold can only grow: {hold.amount} are held")
    amount, expires_ms = amount or hold.amount, expires_ms or hold.expires_ms
    if amount > hold.amount:
        admit(sql, hold.quota, amount - hold.amount, allowance, now_ms)
    query = f"UPDATE holds SET amount = ?, expires_ms = ?, changed_ms = ? {_WHERE}"
    sql.execute(query, (amount, expires_ms, now_ms, *hold.place))
    return amount, expires_ms


def close(sql: sqlite3.Connection, hold: OfflineHold, operation: SpooledOperation) -> bool:
    """
    Capture, capture in part or release a hold; return False when that had been done before.

    The operation then counts towards the allowance in the hold's place.
    """
    if operation.kind == RELEASE:
        if hold.state != OPEN:
            return False
        state, amount = RELEASED, 0
    elif not operation.is_final:
        state, amount = hold.state, max(hold.amount - operation.amount, 0)
    elif hold.state == CAPTURED:
        if hold.fingerprint != operation.fingerprint:
            raise IdempotencyConflictError(
                f"hold {hold.hold_id} was captured before with other arguments"
            )
        return False
    else:
        state, amount = CAPTURED, 0
    is_end = operation.kind == CAPTURE and operation.is_final
    print_ = operation.fingerprint if is_end else hold.fingerprint
    query = f"UPDATE holds SET state = ?, amount = ?, fingerprint = ?, changed_ms = ? {_WHERE}"
    sql.execute(query, (state, amount, print_, operation.noted_ms, *hold.place))
    return True


def forget_old(sql: sqlite3.Connection, now_ms: int) -> None:
    """Forget holds that ended long ago."""
    sql.execute(
        "DELETE FROM holds WHERE max(changed_ms, expires_ms) < ?", (now_ms - REMEMBERED_MS,)
    )
