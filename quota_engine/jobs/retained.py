"""
Read a whole retained outbox at a few microseconds an entry: up to where does the ledger have it?

After a restart nearly all of it is known, and there may be hundreds of thousands. A chain commits
to everything before it, so of entries that are chained to each other only the last is asked for,
and what is asked for is asked for at once. What is not known so is left to ``recognition``, which
looks at each message. It works on raw replies, and makes no object per entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any

from sqlalchemy import Connection

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import EventId
from quota_engine.jobs.pinned import PinnedConnection
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.ledger import epochs
from quota_engine.ledger.epochs import Clue
from quota_engine.outbox import ENTRY_WORDS

PAGE = 5_000
ASKED_AT_ONCE = 5_000
_VERSION_DIGITS_MAX = 16
_LAST_N = 2**64 - 1

Message = tuple[bytes, Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Gap:
    """Entries that were in the outbox after ``after`` and are not there before ``before``."""

    shard: int
    after: EventId
    before: EventId

    def __str__(self) -> str:
        return f"shard {self.shard}: between {self.after} and {self.before} entries are missing"


@dataclass(slots=True)
class Retained:
    """What one outbox holds. Up to ``known_until`` the ledger has all of it."""

    known_until: EventId
    entries: int = 0
    #: Entries that were never persisted and are in the outbox no more.
    gaps: list[Gap] = field(default_factory=list)


@dataclass(slots=True)
class _Run:
    """Entries of one quota, each chained to the one before."""

    first_id: bytes
    version: int
    chain: bytes
    operation_id: bytes


class _Scan:
    """One reading of one outbox, with its runs and the first message that cannot be in one."""

    def __init__(self, shard: int, cursor: EventId) -> None:
        self.found = Retained(cursor)
        self._shard = shard
        self._cursor = cursor
        self._reached = cursor
        self._runs: dict[bytes, _Run] = {}
        self._ended: list[tuple[bytes, _Run]] = []
        self._unknown: list[bytes] = []

    def take(self, page: Sequence[Message]) -> None:
        """Read on."""
        is_beyond = EventId.parse(page[-1][0]) > self._cursor
        for message_id, fields in page:
            if is_beyond:
                self._place(message_id, fields)
            if len(fields) in ENTRY_WORDS and fields[0] == b"entry" and fields[2] == b"chain":
                self._trace(message_id, fields[1], fields[3])
            elif not _is_marker(fields):
                self._unknown.append(message_id)
        self.found.entries += len(page)

    def _place(self, message_id: bytes, fields: Sequence[bytes]) -> None:
        """See whether entries are missing between the last one and this one."""
        here, reached = EventId.parse(message_id), self._reached
        if here <= self._cursor:
            return
        if reached == self._cursor:
            self._end_runs()  # what comes after the cursor is seldom known, what is before is
        if _is_marker(fields):
            expected = _end_before(fields[1])
            is_missing = expected is not None and expected > reached
        else:
            is_missing = here != EventId(reached.epoch, reached.n + 1)
        if is_missing:
            self.found.gaps.append(Gap(self._shard, reached, here))
        self._reached = here

    def end(self, top: EventId | None) -> None:
        """End the reading; ``top`` is the last id that the outbox ever made."""
        if top is not None and top > self._reached:
            after = EventId(top.epoch, top.n + 1)
            self.found.gaps.append(Gap(self._shard, self._reached, after))
        self._end_runs()

    def _trace(self, message_id: bytes, entry: bytes, chain: bytes) -> None:
        lines = entry.split(b"\n", 6)
        if len(lines) < 7 or not lines[3].isdigit() or len(lines[3]) > _VERSION_DIGITS_MAX:
            self._unknown.append(message_id)
            return
        name, version = lines[2], int(lines[3])
        run = self._runs.get(name)
        if (
            run is not None
            and run.version + 1 == version
            and sha1(run.chain + b"\n" + entry, usedforsecurity=False).hexdigest().encode()
            == chain
        ):
            run.version, run.chain, run.operation_id = version, chain, lines[5]
            return
        if run is not None:
            self._ended.append((name, run))
        self._runs[name] = _Run(message_id, version, chain, lines[5])

    def _end_runs(self) -> None:
        self._ended += self._runs.items()
        self._runs = {}

    def ask(self, sql: Connection, until: EventId) -> None:
        """Ask the ledger for the end of each run, and say up to where all is known."""
        asked = []
        for name, run in self._ended:
            clue = _clue(name, run)
            if clue is None:
                self._unknown.append(run.first_id)
            else:
                asked.append((run.first_id, clue))
        for start in range(0, len(asked), ASKED_AT_ONCE):
            some = asked[start : start + ASKED_AT_ONCE]
            answers = epochs.known(sql, [clue for _, clue in some])
            self._unknown += [
                first_id
                for (first_id, _), answer in zip(some, answers, strict=True)
                if answer != epochs.RECORDED
            ]
        first = min(map(EventId.parse, self._unknown), default=until)
        self.found.known_until = (
            EventId(first.epoch, first.n - 1) if first.n else EventId(first.epoch - 1, _LAST_N)
        )


def scan(
    connection: PinnedConnection,
    sql: Connection,
    shard: int,
    *,
    cursor: EventId,
    top: EventId | None,
    until: EventId,
    advance: Callable[[int], None],
) -> Retained:
    """
    Read a shard's outbox before ``until``, the new epoch's marker, and ask the ledger about it.

    ``top``: the outbox's last id before that marker. ``advance`` is told how many were read.
    """
    reading = _Scan(shard, cursor)
    for page in _pages(connection, ShardKeys(shard).outbox, until):
        reading.take(page)
        advance(len(page))
    reading.end(top)
    reading.ask(sql, until)
    return reading.found


def _pages(connection: PinnedConnection, key: str, until: EventId) -> Iterator[Sequence[Message]]:
    after = "-"
    while page := connection.execute("XRANGE", key, after, f"({until}", "COUNT", PAGE):
        yield page
        after = f"({page[-1][0].decode()}"
    if not connection.execute("XRANGE", key, str(until), str(until)):
        raise EngineUnavailableError(f"the outbox {key} was lost; try again")


def _is_marker(fields: Sequence[bytes]) -> bool:
    return len(fields) == 2 and fields[0] == b"marker"


def _end_before(marker: bytes) -> EventId | None:
    """Return the last id before a marker, as it tells; None where it does not."""
    try:
        told: Any = json.loads(marker).get("after")
        return None if told is None else EventId.parse(told)
    except (ValueError, AttributeError):
        return None


def _clue(name: bytes, run: _Run) -> Clue | None:
    """Return what a run's last entry is asked by; None for bytes that SQL cannot be asked for."""
    try:
        words = name.decode(), run.operation_id.decode(), run.chain.decode("ascii")
    except UnicodeDecodeError:
        return None
    if any("\0" in word for word in words):
        return None
    quota, operation_id, chain = words
    return Clue(QuotaName.parse(quota), run.version, operation_id, chain)
