"""How units move in a quota, and the log that is written of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Self, TypeAlias

from quota_engine import events
from quota_engine.amounts import AMOUNT_MAX
from quota_engine.events import GENESIS, NEVER_MS, Entry, Movement
from quota_engine.limits import Limit
from quota_engine.quotas.parts import (
    EXPIRED,
    GRANT_EXPIRES,
    GRANT_STARTS,
    HOLD_EXPIRES,
    LIVE,
    PENDING,
    VOIDED,
    Change,
    Counted,
    Grant,
    Hold,
)

#: What a script replies: its outcome, then texts.
Answer: TypeAlias = tuple[str, ...]


def answered(outcome: str, entry: Entry) -> Answer:
    """Return the answer to the operation that an entry tells of."""
    numbers = (entry.version, entry.amount, entry.shortfall, entry.balance, entry.held, entry.debt)
    moved = events.movements_text(entry.movements)
    texts = (*map(str, numbers), entry.flags, entry.terms, moved)
    return (outcome, entry.fingerprint, *texts)


class QuotaLog:
    """A quota's grants, holds and log: how units move, and how each move is written down."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 0
        self.chain = GENESIS
        self.debt = 0
        self.overdraft_limit: int | None = 0
        self.frozen = ""
        #: Whether it has ever had a grant.
        self.is_granted = False
        self.limits: tuple[Limit, ...] = ()
        self.last_count_ms = 0
        self.counted: tuple[Counted, ...] = ()
        #: Limits that began anew when the quota was loaded: from which count, and which instant.
        self.anew: dict[str, tuple[int, int]] = {}
        self.grants: dict[str, Grant] = {}
        self.holds: dict[str, Hold] = {}
        #: The entry of each remembered operation, by its id.
        self.operations: dict[str, Entry] = {}
        self.log: tuple[Entry, ...] = ()
        self._moved: dict[str, tuple[int, int]] = {}
        self._logged = (0, 0)

    def copied(self) -> Self:
        """Return a quota of its own that is equal to this one."""
        other = copy.copy(self)
        other.grants = {name: copy.copy(grant) for name, grant in self.grants.items()}
        other.holds = {name: copy.copy(hold) for name, hold in self.holds.items()}
        other.operations = dict(self.operations)
        other._moved = dict(self._moved)
        return other

    # -- sums

    @property
    def remaining(self) -> int:
        """What live grants have left."""
        return sum(grant.remaining for grant in self.grants.values() if grant.state == LIVE)

    @property
    def covered(self) -> int:
        """What grants have set aside for open holds."""
        return sum(grant.reserved for grant in self.grants.values())

    @property
    def pending(self) -> int:
        """What grants will bring that have not started."""
        return sum(grant.remaining for grant in self.grants.values() if grant.state == PENDING)

    @property
    def held(self) -> int:
        """The sum of the open holds."""
        return sum(hold.amount for hold in self.holds.values() if not hold.is_counted)

    @property
    def balance(self) -> int:
        """What the account has: remaining and covered, less debt."""
        return self.remaining + self.covered - self.debt

    @property
    def spendable(self) -> int:
        """What a hold or debit may take at most: never so much that held would lose digits."""
        room = AMOUNT_MAX - self.held
        if self.overdraft_limit is None:
            return room - self.debt
        return min(self.balance - self.held + self.overdraft_limit, room)

    # -- time

    def changes(self) -> list[Change]:
        """Return what is known to begin or end, in order."""
        return sorted(self._changes())

    def _changes(self) -> Iterator[Change]:
        for hold in self.holds.values():
            yield Change(hold.expires_at_ms, HOLD_EXPIRES, hold.hold_id.encode())
        for grant in self.grants.values():
            if grant.state == PENDING:
                yield Change(grant.starts_at_ms, GRANT_STARTS, grant.grant_id.encode())
            if grant.state in (PENDING, LIVE) and grant.expires_at_ms < NEVER_MS:
                yield Change(grant.expires_at_ms, GRANT_EXPIRES, grant.grant_id.encode())

    def _due_count(self, now_ms: int) -> int:
        return sum(change.at_ms <= now_ms for change in self._changes())

    def _apply(self, change: Change) -> None:
        subject, at_ms = change.subject.decode(), change.at_ms
        if change.rank == HOLD_EXPIRES:
            hold = self.holds[subject]
            self._give_up_ended(hold, 0, at_ms)
            self._close(hold)
            self._write(
                events.HOLD_EXPIRED,
                at_ms,
                f"{subject}:expire",
                amount=hold.amount,
                subject=subject,
                flags=events.COUNTED if hold.is_counted else "",
            )
            return
        grant = self.grants[subject]
        if change.rank == GRANT_STARTS:
            amount, grant.state, grant.remaining = grant.remaining, LIVE, 0
            self._flow_in(grant, amount)
            kind, operation_id = events.GRANT_STARTED, f"{subject}:start"
        else:
            amount = self._end(grant, EXPIRED)
            kind, operation_id = events.GRANT_EXPIRED, f"{subject}:expire"
        self._write(kind, at_ms, operation_id, amount=amount, subject=subject, is_remembered=False)

    # -- what counts in limits

    def _correct(self, hold: Hold, units: int) -> None:
        """Let so many units more or less count where a hold counts."""
        if hold.counts_at_ms is not None:
            self._note_count(hold.counts_at_ms, units, 0, is_correction=True)

    def _note_count(self, at_ms: int, units: int, calls: int, *, is_correction: bool) -> None:
        self.counted = (*self.counted, Counted(at_ms, units, calls, is_correction))

    # -- the log

    def _write(
        self,
        kind: str,
        at_ms: int,
        operation_id: str,
        *,
        amount: int = 0,
        shortfall: int = 0,
        fingerprint: str = "",
        subject: str = "",
        flags: str = "",
        terms: str = "",
        details: str = "",
        is_remembered: bool = True,
    ) -> Entry:
        """Write down what has happened since the last entry."""
        self.version += 1
        balance, held = self._logged
        entry = Entry(
            format=events.FORMAT,
            kind=kind,
            quota=self.name,
            version=self.version,
            at_ms=at_ms,
            operation_id=operation_id,
            fingerprint=fingerprint,
            amount=amount,
            delta=self.balance - balance,
            held_delta=self.held - held,
            balance=self.balance,
            held=self.held,
            debt=self.debt,
            shortfall=shortfall,
            subject=subject,
            flags=flags,
            terms=terms,
            movements=tuple(Movement(name, *units) for name, units in self._moved.items()),
            details=details,
        )
        self.chain = events.next_chain(self.chain, entry.text())
        self.log = (*self.log, entry)
        self._moved, self._logged = {}, (self.balance, self.held)
        if is_remembered:
            self.operations[operation_id] = entry
        used_up = [
            name
            for name, grant in self.grants.items()
            if grant.state != PENDING and not grant.remaining and not grant.reserved
        ]
        for name in used_up:
            del self.grants[name]
        return entry

    # -- what moves between grants, holds and debt

    def _move(self, grant: Grant, remaining: int, reserved: int) -> None:
        """Change a grant, and note it for the entry that is about to be written."""
        before = self._moved.get(grant.grant_id, (0, 0))
        self._moved[grant.grant_id] = (before[0] + remaining, before[1] + reserved)
        grant.remaining += remaining
        grant.reserved += reserved

    def _flow_in(self, grant: Grant, amount: int, freed: int = 0) -> None:
        """Let units into a live grant, debt first; ``freed`` of them were reserved for a hold."""
        paid = min(self.debt, amount)
        self.debt -= paid
        self._move(grant, amount - paid, -freed)

    def _take(self, amount: int, *, for_hold: bool) -> list[tuple[str, int]]:
        """Take units from live grants in burn-down order, as far as they go."""
        taken: list[tuple[str, int]] = []
        for grant in sorted(self.grants.values(), key=lambda grant: grant.order):
            units = min(amount, grant.remaining) if grant.state == LIVE else 0
            if units:
                self._move(grant, -units, units if for_hold else 0)
                taken.append((grant.grant_id, units))
                amount -= units
        return taken

    def _end(self, grant: Grant, state: str) -> int:
        """End a grant; return what was left of it, which is lost."""
        lost = grant.remaining
        if grant.state == PENDING:
            grant.remaining = 0
        elif lost:
            self._move(grant, -lost, 0)
        grant.state = state
        return lost

    def _charge(self, amount: int) -> int:
        """Charge for what was used: grants, then debt. Return what cannot be collected."""
        collectable = min(amount, max(self.spendable, 0))
        paid = sum(units for _, units in self._take(collectable, for_hold=False))
        self.debt += collectable - paid
        return amount - collectable

    def _use(self, hold: Hold, amount: int) -> int:
        """Use up to ``amount`` of the covered part, first taken first; return how much it was."""
        used, rest = 0, []
        for grant_id, units in hold.parts:
            part = min(amount - used, units)
            if part:
                self._move(self.grants[grant_id], 0, -part)
                used += part
            if units > part:
                rest.append((grant_id, units - part))
        hold.parts = rest
        return used

    def _give_up_ended(self, hold: Hold, spare: int, at_ms: int) -> None:
        """Of all but the first ``spare`` units, what belongs to ended grants ends with them."""
        kept: list[tuple[str, int]] = []
        lost: dict[str, int] = {}
        for grant_id, units in hold.parts:
            used = min(spare, units)
            spare -= used
            rest = units - used
            if rest and self.grants[grant_id].state in (EXPIRED, VOIDED):
                lost[grant_id] = lost.get(grant_id, 0) + rest
                rest = 0
            if used + rest:
                kept.append((grant_id, used + rest))
        hold.parts = kept
        for grant_id, units in lost.items():
            grant = self.grants[grant_id]
            is_expired = grant.state == EXPIRED
            self._move(grant, 0, -units)
            self._write(
                events.GRANT_EXPIRED if is_expired else events.GRANT_VOIDED,
                at_ms,
                f"{grant_id}:{'expire' if is_expired else 'void'}:{hold.hold_id}",
                amount=units,
                subject=grant_id,
                is_remembered=False,
            )

    def _close(self, hold: Hold, used: int = 0) -> None:
        """Give the rest of a hold back, last taken first, and forget the hold."""
        self._correct(hold, used - hold.amount)
        for grant_id, units in reversed(hold.parts):
            self._flow_in(self.grants[grant_id], units, freed=units)
        del self.holds[hold.hold_id]
