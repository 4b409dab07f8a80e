"""What can be done to a quota, operation by operation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

from quota_engine import events
from quota_engine.amounts import AMOUNT_MAX
from quota_engine.events import NEVER_MS, UNLIMITED
from quota_engine.quotas.log import Answer, QuotaLog, answered
from quota_engine.quotas.parts import EXPIRED, PENDING, VOIDED, Grant, Hold, Refused

P = ParamSpec("P")

#: Changes that one operation applies on its way, and grants that a quota may have.
DUE_MAX = 32
GRANTS_MAX = 5_000


def _all_or_nothing(
    operation: Callable[Concatenate[Quota, P], Answer],
) -> Callable[Concatenate[Quota, P], Answer]:
    """Make an operation work on a copy of the quota, which counts only if it is not refused."""

    @functools.wraps(operation)
    def decided(quota: Quota, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        draft = quota.copied()
        answer = operation(draft, *args, **kwargs)
        quota.__dict__.update(draft.__dict__)
        return answer

    return decided


class Quota(QuotaLog):
    """What one account has of one quota type, by its rules."""

    # -- what every operation begins with

    def _repeated(self, operation_id: str, fingerprint: str) -> Answer | None:
        """Return the first answer if the operation came before; refuse it with other arguments."""
        entry = self.operations.get(operation_id)
        if entry is None:
            return None
        if entry.fingerprint != fingerprint:
            raise Refused("IDEMPOTENCY_CONFLICT")
        return answered("REPLAYED", entry)

    def _refuse_if_frozen(self) -> None:
        if self.frozen:
            raise Refused("QUOTA_FROZEN")

    def _bring_up(self, now_ms: int, due_max: int) -> None:
        if self._due_count(now_ms) > due_max:
            raise Refused("CATCH_UP")
        while self._due_count(now_ms):
            self._apply(self.changes()[0])

    def _admit(self, amount: int) -> None:
        if amount > self.spendable:
            raise Refused("DENIED", max(self.spendable, 0))

    # -- operations

    @_all_or_nothing
    def catch_up(self, now_ms: int, due_max: int) -> Answer:
        """Apply at most ``due_max`` of the changes that are due."""
        before, more = self.version, self._due_count(now_ms) > due_max
        for _ in range(min(due_max, self._due_count(now_ms))):
            if self._due_count(now_ms):
                self._apply(self.changes()[0])
        return ("CAUGHT_UP", str(self.version - before), "1" if more else "0")

    @_all_or_nothing
    def issue_grant(
        self,
        now_ms: int,
        grant_id: str,
        fingerprint: str,
        amount: int,
        *,
        priority: int = 50,
        starts_at_ms: int = 0,
        expires_at_ms: int = NEVER_MS,
        grants_max: int = GRANTS_MAX,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Put quota in, live from ``starts_at_ms`` (0: now) until ``expires_at_ms``."""
        if repeated := self._repeated(grant_id, fingerprint):
            return repeated
        self._refuse_if_frozen()
        grants_before = len(self.grants)
        self._bring_up(now_ms, due_max)
        starts_at_ms = starts_at_ms or now_ms
        if expires_at_ms <= max(starts_at_ms, now_ms):
            raise Refused("GRANT_ENDED")
        if grant_id in self.grants:
            raise Refused("GRANT_EXISTS")
        if grants_before >= grants_max:
            raise Refused("TOO_MANY_GRANTS")
        if self.remaining + self.covered + self.pending + amount > AMOUNT_MAX:
            raise Refused("AMOUNT_OVERFLOW")
        grant = Grant(grant_id, priority, starts_at_ms, expires_at_ms, now_ms)
        self.grants[grant_id] = grant
        if starts_at_ms > now_ms:
            grant.state, grant.remaining = PENDING, amount
        else:
            self._flow_in(grant, amount)
        entry = self._write(
            events.GRANT_ISSUED,
            now_ms,
            grant_id,
            amount=amount,
            fingerprint=fingerprint,
            subject=grant_id,
            terms=f"{priority} {starts_at_ms} {expires_at_ms} {now_ms}",
            details=details,
        )
        return answered("ISSUED", entry)

    @_all_or_nothing
    def void_grant(
        self,
        now_ms: int,
        operation_id: str,
        fingerprint: str,
        grant_id: str,
        *,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Cancel what remains of a grant; what holds have of it stays with them."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        self._refuse_if_frozen()
        self._bring_up(now_ms, due_max)
        grant = self.grants.get(grant_id)
        if grant is None or grant.state in (EXPIRED, VOIDED):
            raise Refused("GRANT_NOT_FOUND")
        entry = self._write(
            events.GRANT_VOIDED,
            now_ms,
            operation_id,
            amount=self._end(grant, VOIDED),
            fingerprint=fingerprint,
            subject=grant_id,
            details=details,
        )
        return answered("VOIDED", entry)

    @_all_or_nothing
    def place_hold(
        self,
        now_ms: int,
        hold_id: str,
        fingerprint: str,
        amount: int,
        ttl_ms: int,
        *,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Set quota aside for a while."""
        if repeated := self._repeated(hold_id, fingerprint):
            return repeated
        if hold_id in self.holds:
            raise Refused("IDEMPOTENCY_CONFLICT")
        self._refuse_if_frozen()
        self._bring_up(now_ms, due_max)
        self._admit(amount)
        parts = self._take(amount, for_hold=True)
        self.holds[hold_id] = Hold(hold_id, amount, now_ms + ttl_ms, parts)
        entry = self._write(
            events.HOLD_PLACED,
            now_ms,
            hold_id,
            amount=amount,
            fingerprint=fingerprint,
            subject=hold_id,
            terms=str(now_ms + ttl_ms),
            details=details,
        )
        return answered("PLACED", entry)

    @_all_or_nothing
    def extend_hold(
        self,
        now_ms: int,
        hold_id: str,
        operation_id: str,
        fingerprint: str,
        *,
        amount: int = 0,
        ttl_ms: int = 0,
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Let a hold grow to a new total, or live ``ttl_ms`` from now; 0 keeps what it has."""
        repeated = self._repeated(operation_id, fingerprint)
        self._bring_up(now_ms, due_max)
        hold = self.holds.get(hold_id)
        if hold is None:
            was_open = hold_id in self.operations or f"{hold_id}:expire" in self.operations
            raise Refused("HOLD_CLOSED" if was_open else "HOLD_NOT_FOUND")
        growth = 0 if repeated or not amount else amount - hold.amount
        if growth < 0:
            raise Refused("HOLD_SHRINKS")
        if growth:
            self._refuse_if_frozen()
            if growth > self.spendable:
                raise Refused("DENIED", hold.amount + max(self.spendable, 0))
            hold.parts = hold.parts + self._take(growth, for_hold=True)
            hold.amount = amount
        if ttl_ms:
            hold.expires_at_ms = now_ms + ttl_ms
        if growth:
            self._write(
                events.HOLD_EXTENDED,
                now_ms,
                operation_id,
                amount=amount,
                fingerprint=fingerprint,
                subject=hold_id,
                terms=str(hold.expires_at_ms),
            )
        return ("EXTENDED", str(hold.amount), str(hold.expires_at_ms))

    @_all_or_nothing
    def capture_hold(
        self,
        now_ms: int,
        hold_id: str,
        operation_id: str,
        fingerprint: str,
        amount: int,
        *,
        is_final: bool = True,
        is_known: bool = False,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Charge what was used of a hold, or of one that was open once; never denied."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        self._bring_up(now_ms, due_max)
        hold = self.holds.get(hold_id)
        traces = (hold_id, f"{hold_id}:release", f"{hold_id}:expire")
        if hold is None and not is_known and not self.operations.keys() & {*traces}:
            raise Refused("HOLD_NOT_FOUND")
        rest, flags = amount, "late"
        if hold is not None:
            flags = "" if is_final else "part"
            if is_final:
                self._give_up_ended(hold, amount, now_ms)
            rest -= self._use(hold, amount)
            if is_final:
                self._close(hold)
            else:
                hold.amount -= min(amount, hold.amount)
        shortfall = self._charge(rest)
        entry = self._write(
            events.HOLD_CAPTURED,
            now_ms,
            operation_id,
            amount=amount,
            shortfall=shortfall,
            fingerprint=fingerprint,
            subject=hold_id,
            flags=flags,
            details=details,
        )
        return answered("CAPTURED", entry)

    @_all_or_nothing
    def release_hold(
        self,
        now_ms: int,
        hold_id: str,
        operation_id: str,
        fingerprint: str,
        *,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Give a hold back unused."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        self._bring_up(now_ms, due_max)
        hold = self.holds.get(hold_id)
        if hold is None:
            traces = {hold_id, f"{hold_id}:capture", f"{hold_id}:expire"}
            if self.operations.keys() & traces:
                raise Refused("CLOSED")
            raise Refused("HOLD_NOT_FOUND")
        self._give_up_ended(hold, 0, now_ms)
        self._close(hold)
        entry = self._write(
            events.HOLD_RELEASED,
            now_ms,
            operation_id,
            amount=hold.amount,
            fingerprint=fingerprint,
            subject=hold_id,
            details=details,
        )
        return answered("RELEASED", entry)

    @_all_or_nothing
    def debit(
        self,
        now_ms: int,
        operation_id: str,
        fingerprint: str,
        amount: int,
        *,
        already_used: bool = False,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Take units at once, or with ``already_used`` charge what can be paid."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        if not already_used:
            self._refuse_if_frozen()
        self._bring_up(now_ms, due_max)
        if not already_used:
            self._admit(amount)
        shortfall = self._charge(amount)
        entry = self._write(
            events.QUOTA_DEBITED,
            now_ms,
            operation_id,
            amount=amount,
            shortfall=shortfall,
            fingerprint=fingerprint,
            flags="used" if already_used else "",
            details=details,
        )
        return answered("DEBITED", entry)

    @_all_or_nothing
    def set_overdraft_limit(
        self,
        now_ms: int,
        operation_id: str,
        fingerprint: str,
        limit: int | None,
        *,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Say how far below zero the quota may go. None: unlimited."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        self._refuse_if_frozen()
        self._bring_up(now_ms, due_max)
        self.overdraft_limit = limit
        entry = self._write(
            events.OVERDRAFT_LIMIT_SET,
            now_ms,
            operation_id,
            fingerprint=fingerprint,
            terms=UNLIMITED if limit is None else str(limit),
            details=details,
        )
        return answered("LIMITED", entry)

    @_all_or_nothing
    def record_usage(
        self,
        now_ms: int,
        operation_id: str,
        fingerprint: str,
        *,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Keep a record of a call that charges nothing."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        self._bring_up(now_ms, due_max)
        entry = self._write(
            events.USAGE_RECORDED, now_ms, operation_id, fingerprint=fingerprint, details=details
        )
        return answered("RECORDED", entry)
