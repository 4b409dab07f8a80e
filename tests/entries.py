"""
Hand-made entries: valid ones of every kind.

A plain model of its own, so that the ledger's tests need neither the scripts nor the engine.
Grants pay in the order they were issued.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from quota_engine import events
from quota_engine.events import GENESIS, NEVER_MS, Entry, Event, EventId, Movement, next_chain
from quota_engine.keys import QuotaName
from quota_engine.limits import CALLS, SLIDING, Limit, limits_text

AT_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Written:
    """An entry with its text and chain, as an outbox carries it."""

    entry: Entry
    text: str
    chain: str

    def event(self, event_id: EventId) -> Event:
        return Event(event_id, self.text.encode(), self.chain.encode())


@dataclass
class _Hold:
    amount: int
    allocations: list[tuple[str, int]]


@dataclass
class LogWriter:
    """One quota's log in the making: each method returns its next entry."""

    name: QuotaName
    version: int = 0
    chain: str = GENESIS
    balance: int = 0
    held: int = 0
    debt: int = 0
    remaining: dict[str, int] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    holds: dict[str, _Hold] = field(default_factory=dict)

    def write(
        self,
        kind: str,
        *,
        operation_id: str,
        amount: int = 0,
        held_delta: int = 0,
        debt_delta: int = 0,
        moves: dict[str, tuple[int, int]] | None = None,
        **lines: Any,
    ) -> Written:
        """Return the next entry; its sums follow from the moves."""
        movements = tuple(Movement(id_, *units) for id_, units in (moves or {}).items())
        for move in movements:
            self.remaining[move.grant_id] = self.remaining.get(move.grant_id, 0) + move.remaining
        delta = sum(move.remaining + move.reserved for move in movements) - debt_delta
        self.balance += delta
        self.held += held_delta
        self.debt += debt_delta
        self.version += 1
        plain = {"fingerprint": "print", "shortfall": 0, "subject": "", "flags": "", "terms": ""}
        entry = Entry(
            **(
                {
                    "format": "1",
                    "kind": kind,
                    "quota": str(self.name),
                    "version": self.version,
                    "at_ms": AT_MS + self.version,
                    "operation_id": operation_id,
                    "amount": amount,
                    "delta": delta,
                    "held_delta": held_delta,
                    "balance": self.balance,
                    "held": self.held,
                    "debt": self.debt,
                    "movements": movements,
                    "details": "",
                }
                | plain
                | lines
            )
        )
        return self.chained(entry)

    def chained(self, entry: Entry) -> Written:
        """Return any entry, chained to the last one."""
        text = entry.text()
        self.chain = next_chain(self.chain, text)
        return Written(entry, text, self.chain)

    def issue_grant(self, grant_id: str, amount: int, **terms: Any) -> Written:
        starts_at = terms.get("starts_at_ms", AT_MS)
        expires_at = terms.get("expires_at_ms", NEVER_MS)
        is_pending = starts_at > AT_MS
        paid = 0 if is_pending else min(self.debt, amount)
        if is_pending:
            self.pending[grant_id] = amount
        return self.write(
            events.GRANT_ISSUED,
            operation_id=grant_id,
            amount=amount,
            debt_delta=-paid,
            moves={} if is_pending else {grant_id: (amount - paid, 0)},
            subject=grant_id,
            terms=f"50 {starts_at} {expires_at} {AT_MS}",
            fingerprint=terms.get("fingerprint", "print"),
            details=terms.get("details", ""),
        )

    def start_grant(self, grant_id: str) -> Written:
        amount = self.pending.pop(grant_id)
        paid = min(self.debt, amount)
        return self.write(
            events.GRANT_STARTED,
            operation_id=f"{grant_id}:start",
            amount=amount,
            debt_delta=-paid,
            moves={grant_id: (amount - paid, 0)},
            subject=grant_id,
            fingerprint="",
        )

    def end_grant(self, grant_id: str, kind: str = events.GRANT_EXPIRED) -> Written:
        lost = self.pending.pop(grant_id, None)
        verb = "expire" if kind == events.GRANT_EXPIRED else "void"
        left = self.remaining.get(grant_id, 0)
        return self.write(
            kind,
            operation_id=f"{grant_id}:{verb}",
            amount=left if lost is None else lost,
            moves={grant_id: (-left, 0)} if lost is None and left else {},
            subject=grant_id,
        )

    def end_rest(self, grant_id: str, hold_id: str, units: int) -> Written:
        """What an ended grant does not get back from a closing hold."""
        hold = self.holds[hold_id]
        hold.allocations = [pair for pair in hold.allocations if pair[0] != grant_id]
        return self.write(
            events.GRANT_EXPIRED,
            operation_id=f"{grant_id}:expire:{hold_id}",
            amount=units,
            moves={grant_id: (0, -units)},
            subject=grant_id,
        )

    def place_hold(
        self, hold_id: str, amount: int, expires_at_ms: int = AT_MS + 120_000
    ) -> Written:
        taken = self._take(amount)
        self.holds[hold_id] = _Hold(amount, list(taken.items()))
        return self.write(
            events.HOLD_PLACED,
            operation_id=hold_id,
            amount=amount,
            held_delta=amount,
            moves={id_: (-units, units) for id_, units in taken.items()},
            subject=hold_id,
            terms=str(expires_at_ms),
        )

    def extend_hold(
        self, hold_id: str, total: int, expires_at_ms: int = AT_MS + 240_000
    ) -> Written:
        hold = self.holds[hold_id]
        growth, hold.amount = total - hold.amount, total
        taken = self._take(growth)
        hold.allocations.extend(taken.items())
        return self.write(
            events.HOLD_EXTENDED,
            operation_id=f"{hold_id}:extend:{total}",
            amount=total,
            held_delta=growth,
            moves={id_: (-units, units) for id_, units in taken.items()},
            subject=hold_id,
            terms=str(expires_at_ms),
        )

    def capture_hold(self, hold_id: str, amount: int, **lines: Any) -> Written:
        """Capture at most what the hold covers, finally."""
        hold = self.holds.pop(hold_id)
        moves: dict[str, tuple[int, int]] = {}
        rest = amount
        for grant_id, units in hold.allocations:
            used = min(units, rest)
            rest -= used
            back, kept = moves.get(grant_id, (0, 0))
            moves[grant_id] = (back + units - used, kept - units)
        return self.write(
            events.HOLD_CAPTURED,
            operation_id=f"{hold_id}:capture",
            amount=amount,
            shortfall=rest,
            held_delta=-hold.amount,
            moves=moves,
            subject=hold_id,
            **lines,
        )

    def capture_part(self, hold_id: str, amount: int, operation_id: str) -> Written:
        """Capture a part, covered, and keep the rest held."""
        hold = self.holds[hold_id]
        hold.amount -= amount
        rest, left, used = amount, [], {}
        for grant_id, units in hold.allocations:
            part = min(units, rest)
            rest -= part
            if part:
                used[grant_id] = used.get(grant_id, 0) + part
            if units > part:
                left.append((grant_id, units - part))
        hold.allocations = left
        return self.write(
            events.HOLD_CAPTURED,
            operation_id=operation_id,
            amount=amount,
            held_delta=-amount,
            moves={grant_id: (0, -units) for grant_id, units in used.items()},
            subject=hold_id,
            flags="part",
        )

    def capture_late(self, hold_id: str, amount: int) -> Written:
        return self.write(
            events.HOLD_CAPTURED,
            operation_id=f"{hold_id}:capture",
            amount=amount,
            moves={id_: (-units, 0) for id_, units in self._take(amount).items()},
            subject=hold_id,
            flags="late",
        )

    def close_hold(self, hold_id: str, kind: str = events.HOLD_RELEASED) -> Written:
        hold = self.holds.pop(hold_id)
        moves: dict[str, tuple[int, int]] = {}
        for grant_id, units in reversed(hold.allocations):
            back, kept = moves.get(grant_id, (0, 0))
            moves[grant_id] = (back + units, kept - units)
        return self.write(
            kind,
            operation_id=f"{hold_id}:{'release' if kind == events.HOLD_RELEASED else 'expire'}",
            amount=hold.amount,
            held_delta=-hold.amount,
            moves=moves,
            subject=hold_id,
        )

    def debit(self, operation_id: str, amount: int, *, debt: int = 0, **lines: Any) -> Written:
        """Debit: ``debt`` of it is not covered, the grants pay the rest."""
        return self.write(
            events.QUOTA_DEBITED,
            operation_id=operation_id,
            amount=amount,
            debt_delta=debt,
            moves={id_: (-units, 0) for id_, units in self._take(amount - debt).items()},
            **lines,
        )

    def refund(
        self, refund_id: str, charge_id: str, parts: dict[str, int], forfeited: int = 0
    ) -> Written:
        return self.write(
            events.QUOTA_REFUNDED,
            operation_id=refund_id,
            amount=sum(parts.values()) + forfeited,
            moves={grant_id: (units, 0) for grant_id, units in parts.items()},
            subject=charge_id,
            terms=f"{forfeited} 0",
        )

    def transfer_out(self, transfer_id: str, amount: int) -> Written:
        taken = self._take(amount)
        return self.write(
            events.QUOTA_TRANSFERRED_OUT,
            operation_id=transfer_id,
            amount=amount,
            moves={id_: (-units, 0) for id_, units in taken.items()},
            subject=transfer_id,
            terms=f"{amount} 50 {NEVER_MS}",
            details=json.dumps({"to": "user:7"}),
        )

    def transfer_in(self, arrival_id: str, *parts: int) -> Written:
        return self.write(
            events.QUOTA_TRANSFERRED_IN,
            operation_id=arrival_id,
            amount=sum(parts),
            moves={f"{arrival_id}:{place}": (part, 0) for place, part in enumerate(parts, 1)},
            subject="t",
            terms=" ".join(f"{part} {place} {NEVER_MS}" for place, part in enumerate(parts)),
            details=json.dumps({"source": "transfer", "from": "user:7"}),
        )

    def set_limit(self, operation_id: str, limit: int | None) -> Written:
        terms = events.UNLIMITED if limit is None else str(limit)
        return self.write(events.OVERDRAFT_LIMIT_SET, operation_id=operation_id, terms=terms)

    def set_limits(self, operation_id: str, *limits: Limit) -> Written:
        terms = limits_text(limits)
        return self.write(events.LIMIT_SET, operation_id=operation_id, terms=terms)

    def record_usage(self, operation_id: str, details: str) -> Written:
        return self.write(events.USAGE_RECORDED, operation_id=operation_id, details=details)

    def record_repair(self, operation_id: str, cause: str) -> Written:
        return self.write(events.QUOTA_REPAIRED, operation_id=operation_id, terms=cause)

    def cancel(self, operation_id: str) -> Written:
        return self.write(
            events.OPERATION_CANCELLED, operation_id=operation_id, fingerprint=events.CANCELLED
        )

    def _take(self, amount: int) -> dict[str, int]:
        taken = {}
        for grant_id, left in self.remaining.items():
            part = min(left, amount)
            if part > 0:
                taken[grant_id] = part
                amount -= part
        return taken


def altered(written: Written, **lines: Any) -> Entry:
    """Return an entry with other lines: no longer what it was."""
    return replace(written.entry, **lines)


def whole_life(name: QuotaName) -> tuple[LogWriter, list[Written]]:
    """Return a log in which every kind of entry occurs."""
    log = LogWriter(name)
    usage = json.dumps({"reference": "call:7", "usage": {"input_tokens": 3}})
    details = json.dumps({"source": "purchase", "reference": "order:1", "description": "会员"})
    written = [
        log.issue_grant("g1", 100, details=details),
        log.issue_grant("g2", 50, starts_at_ms=AT_MS + 5),
        log.start_grant("g2"),
        log.issue_grant("g3", 7, starts_at_ms=AT_MS + 50),
        log.end_grant("g3", events.GRANT_VOIDED),
        log.place_hold("h1", 90),
        log.extend_hold("h1", 120),
        log.capture_part("h1", 95, "part-1"),
        log.capture_hold("h1", 20, details=usage),
        log.place_hold("h2", 10),
        log.close_hold("h2"),
        log.place_hold("h3", 10),
        log.end_grant("g2"),
        log.end_rest("g2", "h3", 10),
        log.close_hold("h3", events.HOLD_EXPIRED),
        log.set_limit("limit-1", 40),
        log.debit("d1", 30, debt=30, details=usage),
        log.issue_grant("g4", 100),
        log.capture_late("h2", 5),
        log.place_hold("h4", 8),
        log.set_limit("limit-2", None),
        log.record_usage("u1", usage),
        log.record_repair("repair:balance:22", "balance"),
        log.cancel("d2"),
        log.debit("d3", 4),
        log.refund("r1", "d3", {"g4": 3}, forfeited=1),
        log.transfer_out("t1", 6),
        log.transfer_in("t2:in", 4, 5),
        log.set_limits("limit-3", Limit(of=CALLS, per="hour", window=SLIDING, amount=9)),
        log.debit("d4", 1),
    ]
    return log, written
