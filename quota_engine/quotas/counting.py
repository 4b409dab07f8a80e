"""What a quota's limits have let through: every count kept, and added up when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from quota_engine.amounts import AMOUNT_MAX
from quota_engine.limits import CALLS, HOLDS, LENGTHS_MS, STEPS_MS, UNITS, Limit
from quota_engine.quotas.log import QuotaLog
from quota_engine.quotas.parts import Refused


@dataclass(frozen=True, slots=True)
class Asking:
    """What a call asks of limits: units in all, ``kept`` of them held before; calls, holds."""

    units: int
    calls: int = 0
    holds: int = 0
    kept: int = 0
    kept_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Refusing:
    """A limit that refuses, and when it would not if nothing else happens; 0: nobody knows."""

    limit: Limit
    cap: int
    required: int
    left: int
    relief_ms: int

    def words(self, name: str, now_ms: int) -> list[str]:
        """Return what a refused call is told of it."""
        limit, relief = self.limit, self.relief_ms
        wait = relief - now_ms if 0 < relief < AMOUNT_MAX else ""
        words = (limit.of, limit.per, limit.window, limit.time_zone)
        return [name, *words, *map(str, (self.cap, self.required, self.left, wait))]


class Counting(QuotaLog):
    """A quota that has limits, or none."""

    def counting_ms(self, now_ms: int) -> int:
        """Return when anything counts that happens now: never before what counted last."""
        return max(now_ms, self.last_count_ms)

    def used(self, limit: Limit, now_ms: int) -> int:
        """Return how much a limit has let through that counts at an instant."""
        if limit.of == HOLDS:
            return len(self.holds)
        forgotten, from_ms = self.anew.get(limit.key, (0, limit.since_ms))
        return sum(
            one.amount_of(limit.of)
            for one in self.counted[forgotten:]
            if one.at_ms > limit.since_ms
            and not (one.is_correction and one.at_ms <= from_ms)
            and _counts(limit, one.at_ms, now_ms)
        )

    def kept_counts(self) -> dict[tuple[str, int, int], int]:
        """Return what the ledger keeps of it, by limit, since and place."""
        found: dict[tuple[str, int, int], int] = {}
        for limit in self.limits:
            for one in self.counted if limit.is_kept else ():
                place = limit.place_of(one.at_ms)
                if one.at_ms > limit.since_ms and (place or 0) >= limit.floor_of(
                    self.last_count_ms
                ):
                    key = (limit.key, limit.since_ms, place or 0)
                    found[key] = found.get(key, 0) + one.amount_of(limit.of)
        return {key: units for key, units in found.items() if units}

    def loaded_anew(self) -> None:
        """Forget what Redis forgets when a quota is loaded: what short windows have counted."""
        self.anew = {
            limit.key: (len(self.counted), self.last_count_ms)
            for limit in self.limits
            if limit.of != HOLDS and not limit.is_kept
        }

    def headroom(self, now_ms: int, asking: Asking) -> int:
        """Return how many units its limits let through."""
        left = [AMOUNT_MAX]
        for limit in self.limits:
            room = max(self._cap(limit, now_ms) - self._used_beside(limit, now_ms, asking), 0)
            if limit.of == UNITS:
                left.append(room)
            elif _required(limit, asking) > room:
                left.append(0)
        return min(left)

    def refusing(self, now_ms: int, asking: Asking) -> Refusing | None:
        """Return the limit that refuses longest, None where none does."""
        found: Refusing | None = None
        for limit in self.limits:
            cap, required = self._cap(limit, now_ms), _required(limit, asking)
            left = max(cap - self._used_beside(limit, now_ms, asking), 0)
            if required > left:
                relief = self._relief(limit, required, now_ms, asking)
                if found is None or relief > found.relief_ms:
                    found = Refusing(limit, cap, required, left, relief)
        return found

    def are_over(self, now_ms: int) -> bool:
        """Return whether a limit knows of no period now."""
        at_ms = self.counting_ms(now_ms)
        return any(limit.is_marked and at_ms >= limit.marks[-1] for limit in self.limits)

    def _refuse_beyond_limits(self, now_ms: int, asking: Asking) -> None:
        if self.are_over(now_ms):
            raise Refused("PERIODS_OVER")
        refusing = self.refusing(now_ms, asking)
        if refusing is not None:
            available = min(max(self.spendable, 0) + asking.kept, self.headroom(now_ms, asking))
            words = refusing.words(self.name, now_ms)
            raise Refused("EXCEEDED", told=(*words, self.name, str(asking.units), str(available)))

    def _cap(self, limit: Limit, now_ms: int) -> int:
        return limit.cap_at(self.counting_ms(now_ms))

    def _used_beside(self, limit: Limit, now_ms: int, asking: Asking) -> int:
        """Return what a limit has let through beside what the call asks for anew."""
        at_ms = self.counting_ms(now_ms)
        used = self.used(limit, at_ms)
        return used - asking.kept if self._has(limit, asking.kept_at_ms, at_ms) else used

    def _has(self, limit: Limit, counts_at_ms: int | None, now_ms: int) -> bool:
        """Return whether what counted at an instant counts in a limit now."""
        if limit.of != UNITS or counts_at_ms is None or counts_at_ms <= limit.since_ms:
            return False
        forgotten = self.anew.get(limit.key, (0, 0))[1]
        return counts_at_ms > forgotten and _counts(limit, counts_at_ms, now_ms)

    def _relief(self, limit: Limit, required: int, now_ms: int, asking: Asking) -> int:
        at_ms = self.counting_ms(now_ms)
        if limit.of == HOLDS:
            return 0
        if not limit.is_sliding:
            ends = limit.end_of(limit.place_of(at_ms) or 0)
            return ends if required <= limit.cap_at(ends) else AMOUNT_MAX
        step = STEPS_MS[limit.per]
        first = limit.floor_of(at_ms)
        for place in range(first, at_ms + 1, step):
            leaves = place + LENGTHS_MS[limit.per] + step
            used = self.used(limit, leaves)
            if self._has(limit, asking.kept_at_ms, leaves):
                used -= asking.kept
            if used + required <= limit.cap_at(leaves):
                return leaves
        return AMOUNT_MAX

    def _count(self, now_ms: int, units: int, calls: int) -> int | None:
        """Let units and calls count now; return when they do."""
        if not self.limits:
            return None
        self.last_count_ms = self.counting_ms(now_ms)
        self._note_count(self.last_count_ms, units, calls, is_correction=False)
        return self.last_count_ms


def _counts(limit: Limit, at_ms: int, now_ms: int) -> bool:
    """Return whether what counted at an instant counts in a limit's window now."""
    if not limit.is_sliding:
        return limit.place_of(at_ms) == limit.place_of(now_ms)
    step = STEPS_MS[limit.per]
    return at_ms // step * step >= now_ms // step * step - LENGTHS_MS[limit.per]


def _required(limit: Limit, asking: Asking) -> int:
    if limit.of == UNITS:
        return asking.units
    return asking.calls if limit.of == CALLS else asking.holds
