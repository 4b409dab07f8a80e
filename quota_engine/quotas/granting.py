"""What puts quota in, takes it back, and lets time pass."""

from __future__ import annotations

from quota_engine import events
from quota_engine.amounts import AMOUNT_MAX
from quota_engine.events import NEVER_MS, UNLIMITED
from quota_engine.quotas.deciding import DUE_MAX, Deciding, all_or_nothing
from quota_engine.quotas.log import Answer, answered
from quota_engine.quotas.parts import EXPIRED, PENDING, VOIDED, Grant, Refused

#: Grants that a quota may have.
GRANTS_MAX = 5_000


class Granting(Deciding):
    """A quota whose grants come and go."""

    @all_or_nothing
    def catch_up(self, now_ms: int, due_max: int) -> Answer:
        """Apply at most ``due_max`` of the changes that are due."""
        before, more = self.version, self._due_count(now_ms) > due_max
        for _ in range(min(due_max, self._due_count(now_ms))):
            if self._due_count(now_ms):
                self._apply(self.changes()[0])
        return ("CAUGHT_UP", str(self.version - before), "1" if more else "0")

    @all_or_nothing
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
        self.is_granted = True
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

    @all_or_nothing
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

    @all_or_nothing
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
