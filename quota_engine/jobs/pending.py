"""
What waits in an outbox, by quota: read forward once, however many quotas are asked about.

Read it after Redis was looked at and before the ledger is: what has left the outbox by then had
been persisted, so the ledger shows it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from quota_engine.drift import Sums
from quota_engine.events import (
    Event,
    EventId,
    MalformedEntryError,
    UnknownFormatError,
    next_chain,
    parse_entry,
)
from quota_engine.keys import QuotaName
from quota_engine.outbox import Outbox, quota_line


@dataclass(frozen=True, slots=True)
class Continuation:
    """How pending entries continue a log: where it ends, how many there are, and what is wrong."""

    last: Sums
    count: int
    unfit: str = ""


class Pending:
    """The entries of one outbox that were after a cursor when they were read."""

    def __init__(self, outbox: Outbox, cursor: EventId) -> None:
        self._outbox = outbox
        self._read_until = cursor
        self._order: deque[tuple[EventId, bytes]] = deque()
        self._by_quota: dict[bytes, deque[Event]] = {}

    def read_until(self, last_id: EventId) -> None:
        """Read on, up to an id."""
        if last_id <= self._read_until:
            return
        for event in self._outbox.walk(self._read_until, until=last_id):
            name = None if event.is_marker else quota_line(event.entry)
            if name is not None:
                self._order.append((event.event_id, name))
                self._by_quota.setdefault(name, deque()).append(event)
        self._read_until = last_id

    def forget(self, cursor: EventId) -> None:
        """Let go of what the ledger has."""
        while self._order and self._order[0][0] <= cursor:
            _, name = self._order.popleft()
            events = self._by_quota[name]
            events.popleft()
            if not events:
                del self._by_quota[name]

    def continued(self, quota: QuotaName, head: Sums, last_id: EventId) -> Continuation:
        """Return how a quota's entries up to ``last_id`` continue its log after ``head``."""
        last, count = head, 0
        for event in self._by_quota.get(str(quota).encode(), ()):
            if event.event_id > last_id:
                break
            try:
                text = event.entry.decode()
                entry = parse_entry(text)
            except (UnicodeDecodeError, MalformedEntryError, UnknownFormatError) as error:
                return Continuation(last, count, f"{event.event_id}: {error}")
            if entry.version <= head.version:
                continue
            chain = event.chain.decode(errors="replace")
            if entry.version != last.version + 1 or next_chain(last.chain, text) != chain:
                reason = f"{event.event_id}: version {entry.version} does not follow"
                return Continuation(last, count, f"{reason} {last.version}")
            last = Sums(entry.version, chain, entry.balance, entry.held, entry.debt)
            count += 1
        return Continuation(last, count)
