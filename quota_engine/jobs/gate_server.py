"""
What the recovery gate asks of a server and does to it, always on the one connection it was given.

It must not know PostgreSQL, nor when each of these steps is due.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain

import redis

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import EventId, MalformedEntryError, UnknownFormatError, parse_entry
from quota_engine.jobs.gate_rules import ServerState, ShardOnServer
from quota_engine.jobs.pinned import PinnedConnection, Reply, checked, pairs, text_of
from quota_engine.jobs.server_check import incarnation_of, parse_info
from quota_engine.keys import DEPLOYMENT_KEY, ShardKeys, is_quota_name
from quota_engine.outbox import ENTRY_WORDS
from quota_engine.policies import MARK
from quota_engine.scripts import load_scripts

POLL_S = 0.01
SCAN_PAGE = 1_000
#: Markers without an entry between them, after so many recoveries of an idle shard.
MARKERS_PASSED = 20


def read_server(connection: PinnedConnection, shards: int) -> ServerState:
    """Return the state of the server, in one round trip."""
    scripts = list(load_scripts().values())
    commands: list[Sequence[str]] = [
        ("INFO", "server"),
        ("INFO", "replication"),
        ("GET", DEPLOYMENT_KEY),
        ("SCRIPT", "EXISTS", *(script.sha for script in scripts)),
    ]
    for keys in map(ShardKeys, range(shards)):
        commands.append(("HGET", keys.versions, "@epoch"))
        commands.append(("XINFO", "STREAM", keys.outbox))
        commands.append(("EXISTS", keys.versions, keys.outbox, keys.due))
    server, replication, deployment, loaded, *rest = connection.execute_all(commands)
    info = parse_info(checked(server)) | parse_info(checked(replication))
    return ServerState(
        incarnation=incarnation_of(info),
        role=info.get("role", "unknown"),
        deployment=text_of(checked(deployment)),
        shards=tuple(
            ShardOnServer(_epoch(checked(epoch)), _top(outbox), bool(checked(exists)))
            for epoch, outbox, exists in zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        ),
        missing_scripts=frozenset(
            script.name
            for script, is_loaded in zip(scripts, checked(loaded), strict=True)
            if not is_loaded
        ),
    )


def _epoch(reply: bytes | None) -> int | None:
    return int(reply) if reply is not None and reply.isdigit() else None


def _top(reply: Reply) -> EventId | None:
    if isinstance(reply, redis.ResponseError) and "no such key" in str(reply):
        return None
    return EventId.parse(pairs(checked(reply))["last-generated-id"])


def load_missing_scripts(connection: PinnedConnection, incarnation: str) -> None:
    """
    Load the scripts that the server lacks, if it still is that incarnation.

    A server that becomes a replica and then a master again replaces its keys: the watched one
    breaks the transaction, so scripts never reach data that no gate has seen.
    """
    scripts = list(load_scripts().values())
    _, server, replication, loaded = connection.execute_all(
        [
            ("WATCH", DEPLOYMENT_KEY),
            ("INFO", "server"),
            ("INFO", "replication"),
            ("SCRIPT", "EXISTS", *(script.sha for script in scripts)),
        ]
    )
    info = parse_info(checked(server)) | parse_info(checked(replication))
    loads = [
        ("SCRIPT", "LOAD", script.source)
        for script, is_loaded in zip(scripts, checked(loaded), strict=True)
        if not is_loaded
    ]
    if incarnation_of(info) != incarnation or info.get("role") != "master":
        raise server_changed()
    if loads and connection.transaction(loads) is None:
        raise server_changed()


def server_changed() -> EngineUnavailableError:
    """Return what is raised when the server is not the one that the gate began with."""
    return EngineUnavailableError("the Redis server changed during its recovery; try again")


def rewrite_aof(
    connection: PinnedConnection,
    wait_seconds: float,
    waiting: Callable[[float], None] = lambda seconds: None,
) -> None:
    """
    Have the server write a new append-only file, unless it has since it started.

    A power cut can leave half a transaction at the old file's end. The server ignores it when it
    starts, but appends behind it, so the next start could replay half a script. ``waiting`` is
    told for how many seconds it has taken.
    """
    started = time.monotonic()
    deadline = started + wait_seconds
    info = _persistence(connection)
    if _is_rewritten(info):
        return
    if not _is_rewriting(info):
        checked(connection.execute("BGREWRITEAOF"))
        info = _persistence(connection)
    while _is_rewriting(info):
        if time.monotonic() > deadline:
            raise EngineUnavailableError(
                f"Redis has been rewriting its append-only file for {wait_seconds:.0f} s; the"
                " recovery goes on when it is done, so try again"
            )
        waiting(time.monotonic() - started)
        time.sleep(POLL_S)
        info = _persistence(connection)
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        raise EngineUnavailableError(
            "Redis failed to rewrite its append-only file; its log says why (disk, memory)"
        )


def _persistence(connection: PinnedConnection) -> dict[str, str]:
    server, persistence = connection.execute_all([("INFO", "stats"), ("INFO", "persistence")])
    return parse_info(checked(server)) | parse_info(checked(persistence))


def _is_rewriting(info: Mapping[str, str]) -> bool:
    return "1" in (info.get("aof_rewrite_in_progress"), info.get("aof_rewrite_scheduled"))


def _is_rewritten(info: Mapping[str, str]) -> bool:
    return (
        int(info.get("aof_rewrites", "0")) > 0
        and not _is_rewriting(info)
        and info.get("aof_last_bgrewrite_status") == "ok"
    )


def place_markers(
    connection: PinnedConnection,
    epochs: Mapping[int, int],
    *,
    deployment: str,
    incarnation: str,
    reason: str,
    tops: Mapping[int, EventId | None],
) -> None:
    """
    Begin each shard's epoch in its outbox, and take ``@epoch`` away: old writers stop.

    A marker tells the last id before it, so entries that are missing there are missed.
    """
    commands: list[Sequence[str]] = [("SET", DEPLOYMENT_KEY, deployment)]
    for shard, epoch in epochs.items():
        keys, top = ShardKeys(shard), tops[shard]
        facts = {"reason": reason, "incarnation": incarnation, "after": top and str(top)}
        marker = json.dumps(facts)
        commands.append(("XADD", keys.outbox, f"{epoch}-0", "marker", marker))
        commands.append(("HDEL", keys.versions, "@epoch"))
    connection.transaction(commands)


def open_epochs(
    connection: PinnedConnection,
    epochs: Mapping[int, int],
    policies: Mapping[int, Mapping[str, str]],
) -> None:
    """
    Set ``@epoch`` everywhere, if every marker is the newest entry.

    Of ``versions`` nothing stays; ``policies``, fields and values by shard, are there from the
    first call on.
    """
    outboxes = [ShardKeys(shard).outbox for shard in epochs]
    watched, *tops = connection.execute_all(
        [("WATCH", *outboxes), *(("XINFO", "STREAM", outbox) for outbox in outboxes)]
    )
    checked(watched)
    if [_top(top) for top in tops] != [EventId(epoch, 0) for epoch in epochs.values()]:
        raise _overtaken()
    commands: list[Sequence[str | int]] = []
    for (shard, epoch), about in zip(epochs.items(), tops, strict=True):
        versions = ShardKeys(shard).versions
        persisted = ("@persisted", pairs(about)["length"], "@cursor", f"{epoch}-0")
        commands.append(("DEL", versions))
        said = chain.from_iterable(policies.get(shard, {}).items())
        commands.append(("HSET", versions, "@epoch", epoch, *persisted, *said))
    if connection.transaction(commands) is None:
        raise _overtaken()


def _overtaken() -> EngineUnavailableError:
    return EngineUnavailableError("another recovery has begun a newer epoch; try again")


def newest_entries(connection: PinnedConnection, shards: int) -> list[int]:
    """Return when each outbox's newest entry was made, in ms; one without entries has none."""
    outboxes = [ShardKeys(shard).outbox for shard in range(shards)]
    commands = [("XREVRANGE", outbox, "+", "-", "COUNT", MARKERS_PASSED) for outbox in outboxes]
    made = (_made_ms(reply) for reply in connection.execute_all(commands))
    return [at_ms for at_ms in made if at_ms is not None]


def _made_ms(page: Reply) -> int | None:
    for _, fields in checked(page):
        if len(fields) in ENTRY_WORDS:
            with suppress(UnicodeDecodeError, MalformedEntryError, UnknownFormatError):
                return parse_entry(fields[1].decode()).at_ms
    return None


def outbox_lengths(connection: PinnedConnection, shards: int) -> int:
    """Return how many messages all outboxes hold."""
    outboxes = [ShardKeys(shard).outbox for shard in range(shards)]
    replies = connection.execute_all([("XLEN", outbox) for outbox in outboxes])
    return sum(int(checked(reply)) for reply in replies)


def issued_versions(connection: PinnedConnection, shard: int) -> Iterator[dict[str, int]]:
    """Yield pages of quota names with the last version that Redis issued."""
    position: Reply = "0"
    while True:
        position, found = connection.execute(
            "HSCAN", ShardKeys(shard).versions, position, "COUNT", SCAN_PAGE
        )
        page = {
            name: int(version)
            for name, version in zip(map(_legible, found[::2]), found[1::2], strict=True)
            if name is not None and is_quota_name(name) and version.isdigit()
        }
        if page:
            yield page
        if int(position) == 0:
            return


def loaded_quotas(connection: PinnedConnection) -> Iterator[list[tuple[int, str]]]:
    """Yield pages of the quotas that the server holds: shard and name. A few may come twice."""
    position: Reply = "0"
    while True:
        position, found = connection.execute(
            "SCAN", position, "MATCH", "{qe:*}:quota:*", "COUNT", SCAN_PAGE
        )
        page = [name for name in map(_quota_of, found) if name is not None]
        if page:
            yield page
        if int(position) == 0:
            return


def known_names(connection: PinnedConnection, shards: int) -> Iterator[list[str]]:
    """Yield pages of the quotas that the server holds or has issued versions of, some twice."""
    for page in loaded_quotas(connection):
        yield [name for _, name in page]
    for keys in map(ShardKeys, range(shards)):
        position: Reply = "0"
        while True:
            position, found = connection.execute(
                "HSCAN", keys.versions, position, "COUNT", SCAN_PAGE
            )
            names = [_legible(name) for name in found[::2]]
            yield [name for name in names if name is not None and is_quota_name(name)]
            if int(position) == 0:
                break


def account_records(connection: PinnedConnection, shard: int) -> dict[str, str]:
    """Return the records of accounts that a shard has, and the mark that there are some."""
    versions, position, told = ShardKeys(shard).versions, "0", {}
    mark = text_of(connection.execute("HGET", versions, MARK))
    while True:
        position, found = connection.execute(
            "HSCAN", versions, position, "MATCH", "*|", "COUNT", SCAN_PAGE
        )
        for name, record in zip(found[::2], found[1::2], strict=True):
            told[str(text_of(name))] = str(text_of(record))
        if int(position) == 0:
            return told if mark is None else {**told, MARK: mark}


def _legible(name: bytes) -> str | None:
    """Return a name that SQL can be asked for, or None."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _quota_of(key: bytes) -> tuple[int, str] | None:
    """Return shard and name of the quota whose key this is."""
    base, _, name = (_legible(key) or "").partition("}:quota:")
    shard = base.removeprefix("{qe:")
    return (int(shard), name) if shard.isdecimal() else None


def read_heads(
    connection: PinnedConnection, page: Sequence[tuple[int, str]]
) -> list[tuple[str | None, str | None]]:
    """Return version and chain of each quota; None where the key holds no such thing."""
    replies = connection.execute_all(
        [("HMGET", ShardKeys(shard).quota(name), "version", "chain") for shard, name in page]
    )
    return [
        (None, None)
        if isinstance(reply, redis.ResponseError)
        else (text_of(reply[0]), text_of(reply[1]))
        for reply in replies
    ]


def drop_quotas(connection: PinnedConnection, page: Sequence[tuple[int, str]]) -> None:
    """Delete all that the server holds of these quotas."""
    commands: list[Sequence[str]] = []
    for shard, name in page:
        keys = ShardKeys(shard)
        own = (keys.quota, keys.holds, keys.changes, keys.ops0, keys.ops1)
        commands.append(("DEL", *(key(name) for key in own)))
        commands.append(("ZREM", keys.due, name))
    for reply in connection.execute_all(commands):
        checked(reply)


def mark_frozen(connection: PinnedConnection, frozen: Mapping[tuple[int, str], str]) -> None:
    """Mark loaded quotas as frozen, each with its reason."""
    replies = connection.execute_all(
        [
            ("HSET", ShardKeys(shard).quota(name), "frozen", reason)
            for (shard, name), reason in frozen.items()
        ]
    )
    for reply in replies:
        checked(reply)
