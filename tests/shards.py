"""
One shard opened by hand, without PostgreSQL: scripts are called raw and answer raw.

Every answer is counted by its script and row (the first word of a reply or of an error), and
whatever writes nothing by its row is seen to write nothing.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import redis

from quota_engine.commands import (
    Command,
    Context,
    GrantState,
    HoldState,
    Operation,
    Snapshot,
    WindowCount,
)
from quota_engine.commands.loading import changes_of, hold_record, quota_fields
from quota_engine.events import Entry, movements_text, next_chain, parse_entry
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.limits import HOLDS, limits_text
from quota_engine.quotas import Quota
from quota_engine.scripts import ScriptSpec, load_scripts

EPOCH = 3
#: An instant near which tests happen; milliseconds.
NOON_MS = 1_767_268_800_000
HORIZON_MS = 900_000

#: Rows after which something was written. All others leave every key as it was.
WRITING_ROWS = frozenset(
    {"PLACED", "EXTENDED", "CAPTURED", "RELEASED", "DEBITED", "ISSUED", "VOIDED", "LIMITED", "SET"}
    | {"RECORDED", "REFUNDED", "CAUGHT_UP", "LOADED", "UNLOADED", "MARKED", "TRIMMED", "DROPPED"}
    | {"NOTED", "CANCELLED", "SENT", "ARRIVED", "TRANSFERRED", "SET"}
)
READ_ONLY = frozenset({"read_balance", "read_limits", "snapshot_quota", "read_accounts"})

#: How often each row of each script's header was met by this process.
rows_met: Counter[tuple[str, str]] = Counter()

Raw = list[Any]


class Shard:
    """Shard 7, opened in epoch 3, with its scripts loaded."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, decode_responses=True, protocol=2)
        self.bytes = redis.Redis.from_url(url, protocol=2)
        self.keys = ShardKeys(7)
        self.now_ms: int | None = NOON_MS
        self.open()

    def open(self, epoch: int = EPOCH) -> None:
        """Empty the server, and open the shard as the gate does."""
        self.epoch = epoch
        self.client.flushall()
        self.client.xadd(self.keys.outbox, {"marker": "{}"}, id=f"{epoch}-0")
        self.client.hset(self.keys.versions, "@epoch", epoch)
        self.scripts: dict[str, ScriptSpec] = load_scripts()
        for spec in self.scripts.values():
            assert self.client.script_load(spec.source) == spec.sha

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        self.bytes.close()

    def dump(self) -> dict[str, Any]:
        """Return everything that is stored."""
        return _dump(self.client, self.bytes)

    def call(self, command: Command[Any], **context: Any) -> Raw:
        """Return what a script replies; an error as its code alone."""
        given = {"epoch": self.epoch, "now_ms": self.now_ms, "horizon_ms": HORIZON_MS, **context}
        made = Context(self.keys, **given)
        keys, argv = command.keys(self.keys), command.argv(made)
        reply = self.evalsha(command.script, keys, argv)
        if isinstance(reply, redis.ResponseError):
            return [code_of(reply)]
        if reply[0] == "DENIED" and reply[1:-2] == [str(command.quota)]:  # it alone gates
            assert int(reply[2]) > int(reply[3]) >= 0
            return [reply[0], reply[3]]
        return reply

    def evalsha(self, script: str, keys: Any, argv: Any) -> Any:
        """Call a script; count its row, and look that what should write nothing does not."""
        before = self.dump()
        try:
            reply = self.client.execute_command(  # type: ignore[no-untyped-call]
                "EVALSHA", self.scripts[script].sha, len(keys), *keys, *argv
            )
        except redis.ResponseError as error:
            reply = error
        row = code_of(reply) if isinstance(reply, redis.ResponseError) else reply[0]
        rows_met[script, row] += 1
        if row not in WRITING_ROWS:
            after, now_ms = self.dump(), time.time() * 1000
            for key, (_, ends_ms, _) in [*before.items(), *after.items()]:
                if 0 < ends_ms <= now_ms:  # its time came meanwhile
                    before.pop(key, None)
                    after.pop(key, None)
            assert after == before, f"{script} answered {row} and wrote"
        return reply

    def entries(self) -> list[Entry]:
        """Return every entry of the outbox, each one's chain and place verified."""
        found: list[Entry] = []
        chains: dict[str, str] = {}
        events: Any = self.client.xrange(self.keys.outbox)
        for place, (event_id, fields) in enumerate(events):
            assert event_id == f"{self.epoch}-{place}", "ids are dense"
            if "marker" in fields:
                continue
            entry = parse_entry(fields["entry"])
            if entry.quota in chains:
                before = chains[entry.quota]
                assert next_chain(before, fields["entry"]) == fields["chain"]
            chains[entry.quota] = fields["chain"]
            found.append(entry)
        return found

    def hash_of(self, key: str) -> dict[str, str]:
        """Return a hash."""
        found: Any = self.client.hgetall(key)
        return dict(found)


def dumped(url: str) -> dict[str, Any]:
    """Return everything that a server stores."""
    with (
        redis.Redis.from_url(url, decode_responses=True, protocol=2) as client,
        redis.Redis.from_url(url, protocol=2) as exact,
    ):
        return _dump(client, exact)


def _dump(client: redis.Redis, exact: redis.Redis) -> dict[str, Any]:
    """Return everything that is stored; streams and strings by their exact bytes."""
    names: Any = sorted(client.keys("*"))
    pipeline: Any = client.pipeline(transaction=False)
    for name in names:
        pipeline.type(name)
        pipeline.pexpiretime(name)
    told = pipeline.execute()
    reading: Any = exact.pipeline(transaction=False)
    for name, kind in zip(names, told[::2], strict=True):
        if kind == "hash":  # the bytes of a big one change as it is read
            reading.hgetall(name)
        elif kind == "zset":
            reading.zrange(name, 0, -1, withscores=True)
        else:
            reading.dump(name)
    found = zip(told[::2], told[1::2], reading.execute(), strict=True)
    return dict(zip(names, found, strict=True))


def code_of(error: redis.ResponseError) -> str:
    """Return the first word of an error; redis-py takes OOM off."""
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return "OOM"
    return str(error).split(" ", 1)[0]


def snapshot_of(
    quota: Quota, *, epoch: int = EPOCH, operations: list[str] | None = None
) -> Snapshot:
    """Return a quota as the ledger would tell it; with only some of its operations, if given."""
    known = quota.operations if operations is None else operations
    return Snapshot(
        quota=QuotaName.parse(quota.name),
        epoch=epoch,
        version=quota.version,
        chain=quota.chain,
        debt=quota.debt,
        overdraft_limit=quota.overdraft_limit,
        limits=limits_text(quota.limits),
        last_count_ms=quota.last_count_ms,
        counts=tuple(
            WindowCount(*place, counted) for place, counted in quota.kept_counts().items()
        ),
        frozen=quota.frozen,
        is_granted=quota.is_granted,
        grants=tuple(
            GrantState(
                grant.grant_id,
                grant.remaining,
                grant.reserved,
                grant.priority,
                grant.starts_at_ms,
                grant.expires_at_ms,
                grant.created_at_ms,
                grant.state,
            )
            for grant in quota.grants.values()
        ),
        holds=tuple(
            HoldState(
                hold.hold_id,
                hold.amount,
                hold.expires_at_ms,
                tuple(hold.parts),
                hold.counts_at_ms,
                hold.is_counted,
                hold.paid_by,
            )
            for hold in quota.holds.values()
        ),
        operations=tuple(operation_of(quota.operations[name]) for name in known),
    )


def operation_of(entry: Entry) -> Operation:
    """Return what is remembered of an entry."""
    return Operation(
        entry.operation_id,
        entry.fingerprint,
        entry.version,
        entry.amount,
        entry.shortfall,
        entry.balance,
        entry.held,
        entry.debt,
        entry.flags,
        entry.terms,
        entry.movements,
    )


def check_state(shard: Shard, quota: Quota) -> None:
    """Compare everything that Redis keeps of a quota with what the model says."""
    keys, name = shard.keys, quota.name
    snapshot = snapshot_of(quota)
    stored = shard.hash_of(keys.quota(name))
    expected = quota_fields(snapshot)
    next_change_at, soonest = int(stored["next_change_at"]), int(expected["next_change_at"])
    assert next_change_at <= soonest, "nothing changes before next_change_at"
    check_windows(stored, quota)
    assert _beside_windows(stored) == {
        **_beside_windows(expected),
        "next_change_at": stored["next_change_at"],
    }
    assert shard.hash_of(keys.holds(name)) == {
        hold.hold_id: hold_record(hold) for hold in snapshot.holds
    }
    changes: Any = shard.client.zrange(keys.changes(name), 0, -1, withscores=True)
    assert {member: int(at) for member, at in changes} == {
        member: at for at, member in changes_of(snapshot)
    }
    due: Any = shard.client.zscore(keys.due, name)
    assert due == (None if next_change_at == 2**53 - 1 else next_change_at)
    remembered = shard.hash_of(keys.ops0(name)) | shard.hash_of(keys.ops1(name))
    assert remembered == {name: answer_of(entry) for name, entry in quota.operations.items()}


def _beside_windows(fields: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name == "w:at" or name[:2] != "w:"}


def check_windows(stored: dict[str, str], quota: Quota) -> None:
    """Compare what Redis keeps of a quota's limits with what the model has counted."""
    names = {name.rpartition(":")[0] for name in stored if re.match(r"w:\w+:\w+:\w+:\d+$", name)}
    assert names <= {f"w:{limit.key}" for limit in quota.limits if limit.is_sliding}
    for limit in quota.limits:
        head = [int(word) for word in stored.get(f"w:{limit.key}", "").split()]
        if limit.of == HOLDS or not head:
            assert not head
            assert limit.of == HOLDS or quota.used(limit, quota.last_count_ms) == 0
            continue
        steps = {head[1]: head[2]} | {
            int(name.rpartition(":")[2]): int(value)
            for name, value in stored.items()
            if name.startswith(f"w:{limit.key}:")
        }
        if limit.is_sliding:
            assert sum(steps.values()) == head[4]
            assert head[3] <= min(steps)
        floor = limit.floor_of(quota.last_count_ms)
        counted = sum(units for place, units in steps.items() if place >= floor)
        assert counted == quota.used(limit, quota.last_count_ms), (limit, stored)


def answer_of(entry: Entry) -> str:
    """Return the remembered first answer, as docs/format.md says it."""
    lines: tuple[object, ...] = (
        *(entry.fingerprint, entry.version, entry.amount, entry.shortfall, entry.balance),
        *(entry.held, entry.debt, entry.flags, entry.terms, movements_text(entry.movements)),
    )
    return "\n".join(map(str, lines))
