"""
The outbox of a shard, read: entries on their way to the ledger, as the bytes they are.

Reading has no consumer group and no memory: whoever reads says after which id. What the bytes mean
is the reader's to judge, so junk survives to the quarantine. This module must not know PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import redis

from quota_engine.errors import EngineFault, EngineUnavailableError
from quota_engine.events import (
    Event,
    EventId,
    MalformedEntryError,
    UnknownFormatError,
    parse_entry,
)
from quota_engine.keys import QuotaName, ShardKeys

#: Messages fetched at once by whoever walks through a whole outbox.
PAGE = 2_000
#: Messages fetched at once to complete what one call did to several quotas.
CALL_PAGE = 100
#: Words of a message that is an entry: ``entry``, ``chain``, and ``more`` if another follows.
ENTRY_WORDS = (4, 6)
#: Before the first id of any epoch.
START = EventId(0, 0)


@dataclass(frozen=True, slots=True)
class OutboxPage:
    """
    Messages after an id, and what was true of the outbox in the same instant.

    ``last_id`` is the last id ever generated, None when there is no outbox.
    """

    events: tuple[Event, ...]
    last_id: EventId | None
    length: int
    #: ``run_id:master_replid`` of the server that answered.
    incarnation: str
    #: Up to where a persister has told the server that the ledger has everything; None: never.
    noted: EventId | None = None


class Outbox:
    """One shard's outbox. ``client`` must not decode replies: entries are bytes."""

    def __init__(self, client: redis.Redis, shard: int) -> None:
        if client.get_encoder().decode_responses:
            raise EngineFault("the outbox must be read by a client with decode_responses=False")
        self.shard = shard
        self.key = ShardKeys(shard).outbox
        self._client = client

    def read(self, after: EventId, count: int) -> OutboxPage:
        """Return at most ``count`` messages after an id, with the outbox's end and its server."""
        pipeline: Any = self._client.pipeline(transaction=True)
        pipeline.execute_command("INFO", "server", "replication")
        pipeline.execute_command("XRANGE", self.key, f"({after}", "+", "COUNT", count)
        pipeline.execute_command("XLEN", self.key)
        pipeline.execute_command("XINFO STREAM", self.key)
        pipeline.execute_command("HGET", ShardKeys(self.shard).versions, "@cursor")
        try:
            info, messages, length, about, noted = pipeline.execute(raise_on_error=False)
        except redis.RedisError as error:
            raise EngineUnavailableError(f"Redis does not answer: {error}") from error
        for reply in (info, messages, length, noted):
            if isinstance(reply, Exception):
                raise EngineUnavailableError(f"Redis refused: {reply}") from reply
        return OutboxPage(
            events=tuple(_event(*message) for message in messages),
            last_id=_last_id(about),
            length=length,
            incarnation=_incarnation(info),
            noted=None if noted is None else EventId.parse(noted),
        )

    def read_calls(self, after: EventId, count: int) -> OutboxPage:
        """Return about ``count`` messages after an id: of what one call did all, or nothing."""
        page = self.read(after, count)
        while page.events and page.events[-1].is_followed:
            more = self.read(page.events[-1].event_id, CALL_PAGE)
            if not more.events:
                break
            ends = (place for place, event in enumerate(more.events) if not event.is_followed)
            end = next(ends, len(more.events) - 1)
            page = replace(more, events=(*page.events, *more.events[: end + 1]))
        return page

    def walk(self, after: EventId, *, until: EventId | None = None) -> Iterator[Event]:
        """Yield the messages after an id, page by page, up to ``until`` if given."""
        while True:
            page = self.read(after, PAGE).events
            for event in page:
                if until is not None and event.event_id > until:
                    return
                yield event
            if len(page) < PAGE:
                return
            after = page[-1].event_id

    def pending_of(self, quota: QuotaName, after: EventId) -> list[Event]:
        """
        Return one quota's messages after an id, oldest first.

        Costs a walk through everything that is pending. Up to the end as it is at the start.
        """
        name = str(quota).encode()
        return self._pending(lambda line: line == name, after)

    def pending_of_account(self, account: str, after: EventId) -> list[Event]:
        """Return the messages of all of an account's quotas after an id: see ``pending_of``."""
        name = account.encode()
        return self._pending(lambda line: line.rpartition(b"|")[0] == name, after)

    def _pending(self, is_wanted: Callable[[bytes], bool], after: EventId) -> list[Event]:
        last_id = self.last_id()
        if last_id is None:
            return []
        return [
            event
            for event in self.walk(after, until=last_id)
            if not event.is_marker and is_wanted(quota_line(event.entry) or b"")
        ]

    def last_id(self) -> EventId | None:
        """Return the last id ever generated, None when there is no outbox."""
        return self.read(START, 1).last_id

    def first_id(self) -> EventId | None:
        """Return the id of the oldest message that is still there."""
        page = self.read(START, 1)
        return page.events[0].event_id if page.events else None

    def length(self) -> int:
        """Return how many messages there are, persisted ones included."""
        return self.read(START, 1).length

    def oldest_pending_ms(self, after: EventId) -> int | None:
        """
        Return the instant of the oldest entry after an id, None when nothing is pending.

        It is the instant that the entry says, so a client's own clock counts where it has one.
        """
        for event in self.walk(after):
            if event.is_marker:
                continue
            try:
                return parse_entry(event.entry.decode()).at_ms
            except (UnicodeDecodeError, MalformedEntryError, UnknownFormatError):
                continue
        return None


def ends_of(client: redis.Redis, shards: int) -> tuple[str, list[EventId | None]]:
    """
    Return the incarnation that answers, and the last id that each outbox ever generated.

    One round trip for all shards; None where there is no outbox.
    """
    pipeline: Any = client.pipeline(transaction=False)
    pipeline.execute_command("INFO", "server", "replication")
    for shard in range(shards):
        pipeline.execute_command("XINFO STREAM", ShardKeys(shard).outbox)
    try:
        info, *about = pipeline.execute(raise_on_error=False)
    except redis.RedisError as error:
        raise EngineUnavailableError(f"Redis does not answer: {error}") from error
    if isinstance(info, Exception):
        raise EngineUnavailableError(f"Redis refused: {info}") from info
    return _incarnation(info), [_last_id(one) for one in about]


@dataclass(frozen=True, slots=True)
class Pressure:
    """How much one outbox holds, and up to where a persister has told that the ledger has it."""

    length: int
    last_id: EventId | None
    noted: EventId | None
    #: The oldest entry after that, None when nothing waits.
    oldest: bytes | None


def pressures_of(client: redis.Redis, shards: int) -> list[Pressure]:
    """Return how much waits in every outbox: two round trips, and no need of the ledger."""
    pipeline: Any = client.pipeline(transaction=False)
    for shard in range(shards):
        keys = ShardKeys(shard)
        pipeline.execute_command("XLEN", keys.outbox)
        pipeline.execute_command("XINFO STREAM", keys.outbox)
        pipeline.execute_command("HGET", keys.versions, "@cursor")
    replies = _answers(pipeline)
    lengths, about = replies[::3], replies[1::3]
    noted = [None if cursor is None else EventId.parse(cursor) for cursor in replies[2::3]]
    pipeline = client.pipeline(transaction=False)
    for shard, cursor in enumerate(noted):
        after = cursor or START
        key = ShardKeys(shard).outbox
        pipeline.execute_command("XRANGE", key, f"({after}", "+", "COUNT", 2)
    waiting = [[_event(*message) for message in page] for page in _answers(pipeline)]
    entries = [[event.entry for event in events if not event.is_marker] for events in waiting]
    return [
        Pressure(lengths[shard], _last_id(about[shard]), noted[shard], next(iter(found), None))
        for shard, found in enumerate(entries)
    ]


def _answers(pipeline: Any) -> list[Any]:
    """Return a pipeline's replies; an absent stream's is an error among them."""
    try:
        replies: list[Any] = pipeline.execute(raise_on_error=False)
    except redis.RedisError as error:
        raise EngineUnavailableError(f"Redis does not answer: {error}") from error
    for reply in replies:
        if isinstance(reply, Exception) and "no such key" not in str(reply):
            raise EngineUnavailableError(f"Redis refused: {reply}") from reply
    return replies


def age_seconds(entry: bytes | None, now_seconds: float) -> float:
    """Return how long ago an entry was made; 0 for none, and for bytes that are none."""
    if entry is None:
        return 0.0
    try:
        made_ms = parse_entry(entry.decode()).at_ms
    except (UnicodeDecodeError, MalformedEntryError, UnknownFormatError):
        return 0.0
    return max(0.0, now_seconds - made_ms / 1000)


def quota_line(entry: bytes) -> bytes | None:
    """Return the line of an entry that names its quota, None where there is none."""
    lines = entry.split(b"\n", 3)
    return lines[2] if len(lines) > 3 else None


def _incarnation(info: dict[str, Any]) -> str:
    return f"{info.get('run_id', '')}:{info.get('master_replid', '')}"


def _event(message_id: bytes, fields: dict[bytes, bytes] | list[bytes] | None) -> Event:
    event_id = EventId.parse(message_id)
    named = _named(fields)
    if named.keys() == {b"marker"}:
        return Event(event_id, entry=named[b"marker"], chain=b"", is_marker=True)
    if named.keys() == {b"entry", b"chain"}:
        return Event(event_id, entry=named[b"entry"], chain=named[b"chain"])
    if named.keys() == {b"entry", b"chain", b"more"}:
        return Event(event_id, named[b"entry"], named[b"chain"], is_followed=True)
    words = [word for pair in named.items() for word in pair]
    return Event(event_id, entry=b"\n".join(words), chain=b"")


def _named(fields: dict[bytes, bytes] | list[bytes] | None) -> dict[bytes, bytes]:
    """Return a message's fields, however the client's protocol gives them."""
    if isinstance(fields, dict):
        return fields
    words = fields or []
    return dict(zip(words[::2], words[1::2], strict=True))


def _last_id(about: Any) -> EventId | None:
    """Return the last generated id that XINFO STREAM tells of, None when it found no stream."""
    if isinstance(about, redis.ResponseError):
        if "no such key" in str(about):
            return None
        raise EngineUnavailableError(f"Redis refused: {about}") from about
    found = about.get("last-generated-id", about.get(b"last-generated-id"))
    return EventId.parse(found)
