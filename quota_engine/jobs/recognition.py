"""
Which messages of an outbox the ledger, or the quarantine, already has.

After a restart nearly all are known, and there may be hundreds of thousands. So they are
recognised by a few of their lines, and of chained entries only the last is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from quota_engine.events import Event, EventId, next_chain
from quota_engine.keys import QuotaName
from quota_engine.ledger import epochs
from quota_engine.ledger.epochs import Clue

_VERSION_MAX = 2**63 - 1


@dataclass(slots=True)
class _Trace:
    """An entry, as far as it must be read to be recognised."""

    event: Event
    text: str
    clue: Clue
    #: The entry of the same quota that is chained to this one: if it is recorded, so is this.
    next: _Trace | None = None
    answer: str | None = None


def unknown_events(
    sql: Connection, shard: int, cursor: EventId, events: Iterable[Event]
) -> list[Event]:
    """
    Return, of a page of an outbox, what neither the ledger nor the quarantine has.

    Up to the cursor an entry is known by its operation, too: it is the other telling of two
    histories. What comes after the cursor is not, for there it is a late duplicate to be kept.
    """
    events = list(events)
    traces = [trace for event in events if (trace := _trace(event)) is not None]
    _link(traces)
    _ask(sql, [trace for trace in traces if trace.next is None])
    for trace in reversed(traces):
        if trace.next is not None and trace.next.answer == epochs.RECORDED:
            trace.answer = epochs.RECORDED
    _ask(sql, [trace for trace in traces if trace.answer is None])
    known = {
        trace.event.event_id
        for trace in traces
        if trace.answer == epochs.RECORDED
        or (trace.answer == epochs.OPERATION_KNOWN and trace.event.event_id <= cursor)
    }
    rest = [event for event in events if event.event_id not in known]
    quarantined = epochs.quarantined(sql, shard, rest)
    return [event for event in rest if event.event_id not in quarantined]


def _trace(event: Event) -> _Trace | None:
    """Return what an entry is recognised by, None for bytes that cannot be asked for."""
    try:
        text, chain = event.entry.decode(), event.chain.decode("ascii")
    except UnicodeDecodeError:
        return None
    lines = text.split("\n", 6)
    if len(lines) < 7 or "\0" in text or "\0" in chain:
        return None
    name, number, operation_id = lines[2], lines[3], lines[5]
    if not (number.isascii() and number.isdecimal()) or int(number) > _VERSION_MAX:
        return None
    return _Trace(event, text, Clue(QuotaName.parse(name), int(number), operation_id, chain))


def _link(traces: list[_Trace]) -> None:
    """Tie each entry to the one that is chained to it."""
    last: dict[QuotaName, _Trace] = {}
    for trace in traces:
        clue, before = trace.clue, last.get(trace.clue.quota)
        if (
            before is not None
            and clue.version == before.clue.version + 1
            and clue.chain == next_chain(before.clue.chain, trace.text)
        ):
            before.next = trace
        last[clue.quota] = trace


def _ask(sql: Connection, traces: list[_Trace]) -> None:
    """Ask the ledger for entries one by one."""
    if traces:
        answers = epochs.known(sql, [trace.clue for trace in traces])
        for trace, answer in zip(traces, answers, strict=True):
            trace.answer = answer
