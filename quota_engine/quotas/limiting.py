"""What changes the limits of a quota."""

from __future__ import annotations

from dataclasses import replace

from quota_engine import events
from quota_engine.limits import Limit, limits_text
from quota_engine.quotas.deciding import DUE_MAX, Deciding, all_or_nothing
from quota_engine.quotas.log import Answer, answered
from quota_engine.quotas.parts import Refused

LIMITS_MAX = 16


class Limiting(Deciding):
    """A quota whose limits are changed one by one."""

    @all_or_nothing
    def set_limit(
        self,
        now_ms: int,
        operation_id: str,
        fingerprint: str,
        action: str,
        limit: Limit,
        *,
        details: str = "",
        due_max: int = DUE_MAX,
    ) -> Answer:
        """Set, raise, renew or remove one limit; ``limit.marks`` are around now."""
        if repeated := self._repeated(operation_id, fingerprint):
            return repeated
        self._refuse_if_frozen()
        self._bring_up(now_ms, due_max)
        listed = {one.key: one for one in self.limits}
        before = listed.get(limit.key)
        is_renewed_elsewhere = before is not None and before.time_zone != limit.time_zone
        if action != "set" and (before is None or (action == "renew" and is_renewed_elsewhere)):
            raise Refused("LIMIT_NOT_FOUND")
        if before is None and len(listed) >= LIMITS_MAX:
            raise Refused("TOO_MANY_LIMITS")
        at_ms = self.counting_ms(now_ms)
        is_told = not limit.is_marked or limit.marks[0] <= at_ms < limit.marks[-1]
        if action in {"set", "renew"} and not is_told:
            raise Refused("PERIODS_OVER")
        if action == "remove":
            del listed[limit.key]
        elif action == "raise":
            assert before is not None
            listed[limit.key] = replace(
                before, raised_to=limit.raised_to, raised_until_ms=limit.raised_until_ms
            )
        elif before is not None and not is_renewed_elsewhere:
            changed = limit if action == "set" else before
            marks = self._marks_after(before, limit.marks, at_ms)
            listed[limit.key] = replace(changed, since_ms=before.since_ms, marks=marks)
        else:
            listed[limit.key] = replace(limit, since_ms=at_ms)
            self.last_count_ms = at_ms + 1
        self.anew = {
            key: told
            for key, told in self.anew.items()
            if key in listed and (key != limit.key or listed[key].since_ms != at_ms)
        }
        self.limits = tuple(listed.values())
        entry = self._write(
            events.LIMIT_SET,
            now_ms,
            operation_id,
            fingerprint=fingerprint,
            terms=limits_text(self.limits),
            details=details,
        )
        return answered("SET", entry)

    def _marks_after(self, before: Limit, marks: tuple[int, ...], at_ms: int) -> tuple[int, ...]:
        """Return new marks; what counted after the last known one counts in the period of now."""
        if not before.is_marked:
            return marks
        last = before.marks[-1]
        later = (one for one in self.counted if one.at_ms >= max(last, before.since_ms + 1))
        if not any(one.amount_of(before.of) > 0 for one in later if not one.is_correction):
            return marks
        return (last, *(mark for mark in marks if mark > at_ms))
