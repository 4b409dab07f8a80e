"""What moves units between two quotas."""

from __future__ import annotations

from quota_engine import events
from quota_engine.amounts import AMOUNT_MAX
from quota_engine.quotas.deciding import DUE_MAX, Deciding, all_or_nothing
from quota_engine.quotas.granting import GRANTS_MAX
from quota_engine.quotas.log import Answer, answered
from quota_engine.quotas.parts import EXPIRED, Grant, Refused

PARTS_MAX = 100


class Transferring(Deciding):
    """A quota that units leave, and in which they arrive."""

    @property
    def transferable(self) -> int:
        """What may leave: what is available, and never what only an overdraft limit admits."""
        return max(min(self.balance - self.held, self.spendable), 0)

    @all_or_nothing
    def transfer_out(
        self,
        now_ms: int,
        transfer_id: str,
        fingerprint: str,
        amount: int,
        *,
        parts_max: int = PARTS_MAX,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Let units leave; the entry's terms tell how they arrive."""
        if repeated := self._repeated(transfer_id, fingerprint):
            return repeated
        self._refuse_if_frozen()
        self._bring_up(now_ms, due_max)
        if amount > self.transferable:
            raise Refused("DENIED", self.transferable)
        parts: list[list[int]] = []
        for grant_id, units in self._take(amount, for_hold=False):
            grant = self.grants[grant_id]
            if parts and parts[-1][1:] == [grant.priority, grant.expires_at_ms]:
                parts[-1][0] += units
            else:
                parts.append([units, grant.priority, grant.expires_at_ms])
        if len(parts) > parts_max:
            raise Refused("TOO_MANY_PARTS")
        entry = self._write(
            events.QUOTA_TRANSFERRED_OUT,
            now_ms,
            transfer_id,
            amount=amount,
            fingerprint=fingerprint,
            subject=transfer_id,
            terms=" ".join(str(word) for part in parts for word in part),
            details=details,
        )
        return answered("SENT", entry)

    @all_or_nothing
    def transfer_in(
        self,
        now_ms: int,
        arrival_id: str,
        fingerprint: str,
        amount: int,
        terms: str,
        *,
        transfer_id: str,
        grants_max: int = GRANTS_MAX,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Let units arrive as grants of the parts that ``terms`` tell."""
        if repeated := self._repeated(arrival_id, fingerprint):
            return repeated
        self._refuse_if_frozen()
        grants_before = len(self.grants)
        self._bring_up(now_ms, due_max)
        parts = events.arriving_parts(terms) or []
        numbered = [(f"{arrival_id}:{number}", *part) for number, part in enumerate(parts, 1)]
        if any(grant_id in self.grants for grant_id, *_ in numbered):
            raise Refused("GRANT_EXISTS")
        if grants_before + len(parts) > grants_max:
            raise Refused("TOO_MANY_GRANTS")
        if self.remaining + self.covered + self.pending + amount > AMOUNT_MAX:
            raise Refused("AMOUNT_OVERFLOW")
        ended = []
        for grant_id, units, priority, expires_at_ms in numbered:
            grant = Grant(grant_id, priority, now_ms, expires_at_ms, now_ms)
            self.grants[grant_id] = grant
            self.is_granted = True
            if expires_at_ms <= now_ms:
                self._move(grant, units, 0)
                ended.append(grant)
            else:
                self._flow_in(grant, units)
        entry = self._write(
            events.QUOTA_TRANSFERRED_IN,
            now_ms,
            arrival_id,
            amount=amount,
            fingerprint=fingerprint,
            subject=transfer_id,
            terms=terms,
            details=details,
        )
        for grant in ended:
            self._write(
                events.GRANT_EXPIRED,
                now_ms,
                f"{grant.grant_id}:expire",
                amount=self._end(grant, EXPIRED),
                subject=grant.grant_id,
                is_remembered=False,
            )
        return answered("ARRIVED", entry)
