"""What gives back a charge."""

from __future__ import annotations

from quota_engine import events
from quota_engine.amounts import AMOUNT_MAX
from quota_engine.events import NEVER_MS
from quota_engine.quotas.deciding import DUE_MAX, Deciding, all_or_nothing
from quota_engine.quotas.log import Answer, answered
from quota_engine.quotas.parts import LIVE, Grant, Refused

#: A grant, its units, priority, start, end and making: what paid a part of a charge.
Part = tuple[str, int, int, int, int, int]

#: The priority of a grant that a refund makes.
PRIORITY = 50


class Refunding(Deciding):
    """A quota to which charges are given back."""

    @all_or_nothing
    def refund(
        self,
        now_ms: int,
        refund_id: str,
        fingerprint: str,
        amount: int,
        *,
        charge_id: str,
        parts: tuple[Part, ...] = (),
        grace_ms: int = 0,
        grant_details: str = "",
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Give back units of a charge, to debt and to the grants that paid it."""
        if repeated := self._repeated(refund_id, fingerprint):
            return repeated
        self._refuse_if_frozen()
        self._bring_up(now_ms, due_max)
        # what does not come back says why in place of a grant's id
        flags, unreturned = parts[0][:2] if parts and " " in parts[0][0] else ("", 0)
        if self.remaining + self.covered + self.pending + amount - unreturned > AMOUNT_MAX:
            raise Refused("AMOUNT_OVERFLOW")
        owed = amount - sum(part[1] for part in parts)
        paid = min(self.debt, owed)
        self.debt -= paid
        ended = 0
        for part in parts:
            if grant := self._living(part, now_ms):
                self._flow_in(grant, part[1])
            else:
                ended += part[1]
        grace = ended - unreturned if grace_ms else 0
        entry = self._write(
            events.QUOTA_REFUNDED,
            now_ms,
            refund_id,
            amount=amount,
            fingerprint=fingerprint,
            subject=charge_id,
            flags=flags,
            terms=f"{ended - grace} {owed - paid + grace}",
            details=details,
        )
        self._regrant(now_ms, f"{refund_id}:rest", owed - paid, NEVER_MS, grant_details)
        self._regrant(now_ms, f"{refund_id}:grace", grace, now_ms + grace_ms, grant_details)
        return answered("REFUNDED", entry)

    def _living(self, part: Part, now_ms: int) -> Grant | None:
        """Return the live grant of a part, made anew if it was used up; None if it has ended."""
        grant_id, _, priority, starts_at_ms, expires_at_ms, created_at_ms = part
        if grant := self.grants.get(grant_id):
            return grant if grant.state == LIVE else None
        if expires_at_ms <= now_ms or self._happened(f"{grant_id}:void"):
            return None
        grant = Grant(grant_id, priority, starts_at_ms, expires_at_ms, created_at_ms)
        self.grants[grant_id] = grant
        return grant

    def _regrant(
        self, now_ms: int, grant_id: str, units: int, expires_at_ms: int, details: str
    ) -> None:
        """Make a grant of what has no grant to go back to."""
        if not units:
            return
        grant = Grant(grant_id, PRIORITY, now_ms, expires_at_ms, now_ms)
        self.grants[grant_id] = grant
        self.is_granted = True
        self._flow_in(grant, units)
        self._write(
            events.GRANT_ISSUED,
            now_ms,
            grant_id,
            amount=units,
            subject=grant_id,
            terms=f"{PRIORITY} {now_ms} {expires_at_ms} {now_ms}",
            details=details,
        )
