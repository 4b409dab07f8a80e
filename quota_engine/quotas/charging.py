"""What sets quota aside and charges it."""

from __future__ import annotations

from quota_engine import events
from quota_engine.quotas.counting import Asking
from quota_engine.quotas.deciding import DUE_MAX, Deciding, all_or_nothing, flags_of
from quota_engine.quotas.log import Answer, answered
from quota_engine.quotas.parts import Hold, Refused


class Charging(Deciding):
    """A quota that is held and used."""

    @all_or_nothing
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
        is_counted: bool = False,
        is_in_shadow: bool = False,
        paid_by: str = "",
    ) -> Answer:
        """
        Set quota aside for a while; with ``is_counted`` it only counts in limits.

        ``paid_by``: the account that pays in its place, percent-encoded.
        """
        if repeated := self._repeated(hold_id, fingerprint):
            return repeated
        if hold_id in self.holds:
            raise Refused("IDEMPOTENCY_CONFLICT")
        self._refuse_if_frozen()
        self._bring_up(now_ms, due_max)
        modes = {"is_counted": is_counted, "is_in_shadow": is_in_shadow}
        shadowed = self._admit(now_ms, Asking(amount, calls=1, holds=1), **modes)
        parts = [] if is_counted else self._take(amount, for_hold=True)
        at_ms = self._count(now_ms, amount, calls=1)
        ends = now_ms + ttl_ms
        self.holds[hold_id] = Hold(hold_id, amount, ends, parts, at_ms, is_counted, paid_by)
        entry = self._write(
            events.HOLD_PLACED,
            now_ms,
            hold_id,
            amount=amount,
            fingerprint=fingerprint,
            subject=hold_id,
            flags=flags_of(is_counted=is_counted, paid_by=paid_by, shadowed=shadowed),
            terms=str(now_ms + ttl_ms),
            details=details,
        )
        return answered("PLACED", entry)

    @all_or_nothing
    def extend_hold(
        self,
        now_ms: int,
        hold_id: str,
        operation_id: str,
        fingerprint: str,
        *,
        amount: int = 0,
        ttl_ms: int = 0,
        details: str = "",
        due_max: int = DUE_MAX,
        is_in_shadow: bool = False,
    ) -> Answer:
        """Let a hold grow to a new total, or live ``ttl_ms`` from now; 0 keeps what it has."""
        if repeated := self._repeated(operation_id, fingerprint):
            later = self.copied()
            later._bring_up(now_ms, due_max)
            if hold_id not in later.holds:  # its first answer; what is due is not written
                return ("EXTENDED", repeated[3], repeated[9])
        self._bring_up(now_ms, due_max)
        hold = self.holds.get(hold_id)
        if hold is None:
            if repeated:
                return ("EXTENDED", repeated[3], repeated[9])
            was_open = self._happened(hold_id, f"{hold_id}:expire")
            raise Refused("HOLD_CLOSED" if was_open else "HOLD_NOT_FOUND")
        growth, shadowed = 0 if repeated or not amount else amount - hold.amount, ""
        if growth < 0:
            raise Refused("HOLD_SHRINKS")
        if growth:
            self._refuse_if_frozen()
            asking = Asking(amount, kept=hold.amount, kept_at_ms=hold.counts_at_ms)
            modes = {"is_counted": hold.is_counted, "is_in_shadow": is_in_shadow}
            shadowed = self._admit(now_ms, asking, **modes)
            if not hold.is_counted:
                hold.parts = hold.parts + self._take(growth, for_hold=True)
            if self.limits:
                self._correct(hold, -hold.amount)
                hold.counts_at_ms = self._count(now_ms, amount, calls=0)
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
                flags=flags_of(
                    is_counted=hold.is_counted, paid_by=hold.paid_by, shadowed=shadowed
                ),
                terms=str(hold.expires_at_ms),
                details=details,
            )
        told = (self.name, shadowed) if shadowed else ()
        return ("EXTENDED", str(hold.amount), str(hold.expires_at_ms), *told)

    @all_or_nothing
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
        is_counted: bool = False,
        paid_by: str = "",
    ) -> Answer:
        """Charge what was used of a hold, or of one that was open once; never denied."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        self._bring_up(now_ms, due_max)
        hold = self.holds.get(hold_id)
        traces = (hold_id, f"{hold_id}:release", f"{hold_id}:expire")
        if hold is None and not is_known and not self._happened(*traces):
            raise Refused("HOLD_NOT_FOUND")
        rest, flags = amount, "late"
        if hold is None:
            self._count(now_ms, amount, calls=0)
        else:
            is_counted, paid_by = is_counted and hold.is_counted, hold.paid_by
            flags = "" if is_final else "part"
            if is_final:
                self._give_up_ended(hold, amount, now_ms)
            rest -= self._use(hold, amount)
            if is_final:
                self._close(hold, amount)
            else:
                part = min(amount, hold.amount)
                self._correct(hold, amount - part)
                hold.amount -= part
        shortfall = 0 if is_counted else self._charge(rest)
        flags = flags_of(flags, is_counted=is_counted, paid_by=paid_by)
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

    @all_or_nothing
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
            if self._happened(hold_id, f"{hold_id}:capture", f"{hold_id}:expire"):
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
            flags=events.COUNTED if hold.is_counted else "",
            details=details,
        )
        return answered("RELEASED", entry)

    @all_or_nothing
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
        is_counted: bool = False,
        is_in_shadow: bool = False,
        paid_by: str = "",
    ) -> Answer:
        """Take units at once, or with ``already_used`` charge what can be paid."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        if not already_used:
            self._refuse_if_frozen()
        self._bring_up(now_ms, due_max)
        shadowed = ""
        if not already_used:
            modes = {"is_counted": is_counted, "is_in_shadow": is_in_shadow}
            shadowed = self._admit(now_ms, Asking(amount, calls=1), **modes)
        shortfall = 0 if is_counted else self._charge(amount)
        self._count(now_ms, amount, calls=1)
        used = "used" if already_used else ""
        entry = self._write(
            events.QUOTA_DEBITED,
            now_ms,
            operation_id,
            amount=amount,
            shortfall=shortfall,
            fingerprint=fingerprint,
            flags=flags_of(used, is_counted=is_counted, paid_by=paid_by, shadowed=shadowed),
            details=details,
        )
        return answered("DEBITED", entry)

    @all_or_nothing
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

    @all_or_nothing
    def record_repair(
        self,
        now_ms: int,
        operation_id: str,
        fingerprint: str,
        cause: str,
        *,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Write down that the quota was mended."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        self._bring_up(now_ms, due_max)
        entry = self._write(
            events.QUOTA_REPAIRED,
            now_ms,
            operation_id,
            fingerprint=fingerprint,
            terms=cause,
            details=details,
        )
        return answered("RECORDED", entry)

    @all_or_nothing
    def cancel_operation(
        self,
        now_ms: int,
        operation_id: str,
        *,
        is_absent: bool = True,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Tell what an operation was answered, or see to it that it never happens."""
        entry = self.operations.get(operation_id)
        if entry is not None:
            is_tombstone = entry.kind == events.OPERATION_CANCELLED
            return answered("REPLAYED" if is_tombstone else "APPLIED", entry)
        if not is_absent:
            return ("ABSENT", str(self.version))
        self._bring_up(now_ms, due_max)
        entry = self._write(
            events.OPERATION_CANCELLED,
            now_ms,
            operation_id,
            fingerprint=events.CANCELLED,
            details=details,
        )
        return answered("CANCELLED", entry)
