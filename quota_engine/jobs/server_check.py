"""
What a Redis server says about itself: which incarnation it is, and whether it may keep balances.

Everything is read from INFO, which managed servers answer even where they hide CONFIG; but for
when syncs were late last, which workers note.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import redis

from quota_engine.instants import from_ms
from quota_engine.jobs.late_syncs import count_of, late_at_ms, next_note
from quota_engine.jobs.pinned import PinnedConnection, checked, pairs, text_of
from quota_engine.keys import LATE_SYNCS_KEY

REDIS_FLOOR = (7, 0)
VALKEY_FLOOR = (7, 2)

Info = Mapping[str, str]

#: What must be looked at, although the gate lets it pass.
_ALARMING = frozenset({"aof_failing", "has_evicted", "slow_disk"})


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing about a server that its operator should know. ``fix`` says what to do.

    ``is_fatal``: the gate refuses such a server.
    """

    code: str
    is_fatal: bool
    message: str
    fix: str

    @property
    def is_alarm(self) -> bool:
        """Whether somebody must look at it now: something may be lost, or writes are refused."""
        return self.is_fatal or self.code in _ALARMING


def check_server(client: redis.Redis, *, is_durable_elsewhere: bool = False) -> list[Finding]:
    """
    Return what is wrong with a server, the fatal first; empty when all is well.

    ``is_durable_elsewhere``: its operator declares that it keeps its data without an AOF.
    """
    with PinnedConnection(client) as connection:
        info = read_info(connection)
        shown = connection.execute_all([("CONFIG", "GET", "appendfsync")])[0]
        note, now_ms = _noted(connection)
    found = findings_in(info, is_durable_elsewhere=is_durable_elsewhere)
    late_ms = late_at_ms(info, note, now_ms)
    if late_ms is not None:
        message = (
            f"syncing the append-only file was late {count_of(info)} times since the server"
            f" started, last seen at {from_ms(late_ms):%Y-%m-%d %H:%M:%S %Z}: a power cut then"
            " loses more than a second"
        )
        fix = "give the append-only file a faster disk; this goes an hour after the last late one"
        found.append(Finding("slow_disk", False, message, fix))
    if isinstance(shown, redis.ResponseError) or not shown:
        found.append(
            Finding(
                "config_hidden",
                False,
                "the server hides CONFIG: how often it syncs its AOF cannot be seen",
                "make sure that appendfsync is everysec or always",
            )
        )
    elif text_of(pairs(shown).get("appendfsync")) == "no" and not is_durable_elsewhere:
        found.append(
            Finding(
                "seldom_synced",
                False,
                "appendfsync is no: a power cut loses what the system had not written yet",
                "CONFIG SET appendfsync everysec",
            )
        )
    return sorted(found, key=lambda finding: not finding.is_fatal)


def note_late_syncs(client: redis.Redis) -> None:
    """Note in Redis that more syncs of its append-only file were late; a full one does not."""
    with PinnedConnection(client) as connection:
        note, now_ms = _noted(connection)
        now_noted = next_note(read_info(connection), note, now_ms)
        if now_noted is not None:
            connection.execute_all([("SET", LATE_SYNCS_KEY, now_noted)])


def _noted(connection: PinnedConnection) -> tuple[str, int]:
    """Return what was noted of late syncs, and the server's clock in milliseconds."""
    note, (seconds, microseconds) = connection.execute_all([("GET", LATE_SYNCS_KEY), ("TIME",)])
    told = text_of(note) if isinstance(note, bytes) else None
    return told or "", int(seconds) * 1000 + int(microseconds) // 1000


def read_incarnation(client: redis.Redis) -> str:
    """Return which incarnation of a server answers: its run id and its replication id."""
    with PinnedConnection(client) as connection:
        return incarnation_of(read_info(connection))


def read_info(connection: PinnedConnection) -> dict[str, str]:
    """Return INFO as names and values."""
    return parse_info(checked(connection.execute("INFO")))


def parse_info(reply: bytes) -> dict[str, str]:
    """Return the names and values of an INFO reply, of whichever sections."""
    lines = reply.decode(errors="replace").splitlines()
    rows = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {name: value for name, colon, value in rows if colon}


def incarnation_of(info: Info) -> str:
    """Return the incarnation that INFO's sections ``server`` and ``replication`` tell."""
    return f"{info.get('run_id', '')}:{info.get('master_replid', '')}"


def findings_in(info: Info, *, is_durable_elsewhere: bool) -> list[Finding]:
    """Return what INFO says is wrong with a server."""
    found: list[Finding] = []

    def note(code: str, message: str, fix: str, *, is_fatal: bool = False) -> None:
        found.append(Finding(code, is_fatal, message, fix))

    role = info.get("role", "unknown")
    if role != "master":
        fix = "give the URL of the master"
        note("not_master", f"the server is no master but a {role}", fix, is_fatal=True)
    if too_old := _too_old(info):
        note("too_old", too_old, "run Redis 7.0 or Valkey 7.2, or newer", is_fatal=True)
    if info.get("arch_bits", "64") != "64":
        fix = "run a 64-bit server: the scripts write numbers as C longs"
        note("not_64_bit", "the server cannot write amounts beyond 2^31", fix, is_fatal=True)
    policy = info.get("maxmemory_policy", "unknown")
    if policy != "noeviction":
        note(
            "evicts",
            f"maxmemory-policy is {policy}: keys that carry money could vanish",
            "CONFIG SET maxmemory-policy noeviction, and the same in its settings file",
            is_fatal=True,
        )
    if info.get("aof_enabled") != "1":
        note(
            "not_durable",
            "the append-only file is off: a restart would lose what is not persisted yet",
            "CONFIG SET appendonly yes, and the same in its settings file; or declare that the"
            " server is durable by other means",
            is_fatal=not is_durable_elsewhere,
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        fix = "free its disk; it refuses writes until then"
        note("aof_failing", "the server cannot write its append-only file", fix)
    if (evicted := info.get("evicted_keys", "0")) != "0":
        fix = "quota-engine reconcile; then CONFIG RESETSTAT"
        note("has_evicted", f"the server has evicted {evicted} keys since it started", fix)
    return found


def _too_old(info: Info) -> str:
    """Return why the server's version is below the floor, or nothing."""
    name, floor = ("valkey", VALKEY_FLOOR) if "valkey_version" in info else ("redis", REDIS_FLOOR)
    version = info.get(f"{name}_version", "")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers >= floor:
        return ""
    return f"the server is {name.capitalize()} {version or 'of an unknown version'}"
