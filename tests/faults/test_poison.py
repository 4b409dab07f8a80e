"""
Something wrong is written into Redis or the ledger by hand.

Goal: what does not fit is kept as bytes and freezes its quota, all others go on; an edit is found,
with traffic and without. Method: an administrator's command under load, then the whole oracle; of
a frozen quota it asks that everything answered is in the ledger or in the quarantine.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from quota_engine import EngineUnavailableError, QuotaFrozenError
from quota_engine.drift import Cause
from quota_engine.events import next_chain, parse_entry
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from quota_engine.ledger import incoming
from quota_engine.ledger.incoming import Incoming
from quota_engine.outbox import Outbox
from tests.faults.history import Window
from tests.faults.world import HOT, SHARDS, World
from tests.faults.writers import QUOTA_TYPE, debit, issue_grant

VICTIM = HOT[0]
NAME = QuotaName(VICTIM, QUOTA_TYPE)
SHARD = shard_of(VICTIM, SHARDS)
KEYS = ShardKeys(SHARD)
QUOTA_KEY = KEYS.quota(str(NAME))


def send(world: World, entry: bytes, chain: bytes) -> None:
    """Append bytes to the victim's outbox, numbered as any entry."""
    world.admin.xadd(
        KEYS.outbox, {"entry": entry, "chain": chain}, id=f"{world.epochs()[SHARD]}-*"
    )


def newest_of_victim(world: World) -> tuple[bytes, bytes, bytes]:
    """Return id, text and chain of the victim's newest entry in the outbox."""
    for event_id, fields in world.admin.xrevrange(KEYS.outbox):
        if f"\n{NAME}\n".encode() in fields.get(b"entry", b""):
            return event_id, fields[b"entry"], fields[b"chain"]
    raise AssertionError("the victim has no entry there")


def frozen(world: World) -> dict[str, str]:
    """Return which accounts are frozen, and why."""
    with world.engine.deployment.ledger.transaction() as sql:
        rows = sql.execute(text("SELECT account, frozen FROM quotas WHERE frozen <> ''"))
        return {row.account: row.frozen for row in rows}


def check_only_the_victim_is_frozen(world: World, reason: str) -> None:
    """Check that it is, and why; that nobody else noticed; and that it is told to callers."""
    assert list(frozen(world)) == [VICTIM]
    assert reason in frozen(world)[VICTIM]
    _, method = debit(VICTIM, "after", 1)
    with pytest.raises(QuotaFrozenError):
        method(world.engine)


@pytest.mark.row(
    43,
    injection="XADD of bytes that are no entry, one naming a quota, one naming none",
    outcome="both are kept byte for byte, the named quota is frozen, the others go on",
)
def test_bytes_that_are_no_entry_stop_only_their_quota(world: World) -> None:
    junk = b"1\nquota.debited\n" + str(NAME).encode() + b"\nno number\n\xff\x00"
    with world.writing() as writers:
        writers.wait_for(60)
        with world.fault():
            send(world, junk, b"junk")
            send(world, b"\x00\xffnothing", b"")
        writers.wait_for(60)
        world.drain()
        writers.wait_for(60)
    world.check(writers=[writers], excepting={"I12"})
    check_only_the_victim_is_frozen(world, "malformed")
    with world.engine.deployment.ledger.transaction() as sql:
        kept = {
            bytes(raw) for raw in sql.execute(text("SELECT raw_entry FROM quarantine")).scalars()
        }
    assert {junk, b"\x00\xffnothing"} <= kept


@pytest.mark.row(
    44,
    injection="the next entry of a quota is in a newer release's format (the stream is rewritten)",
    outcome="who does not know it stops before it; who does goes on, nothing is lost",
)
def test_an_unknown_format_waits_for_who_knows_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.writing() as writers:
        writers.wait_for(60)
        world.drain()
        writers.wait_for(40)
        with world.fault():
            newer = give_newer_format(world)
        writers.wait_for(60)
        for _ in range(2):
            with pytest.raises(EngineUnavailableError, match="entry format 2"):
                world.engine.drain()
        row = world.engine.deployment.ledger.read_shards()[SHARD]
        assert "entry format 2" in (row.stopped or "")
        # what one call does to several quotas is persisted in one piece, so none of it is
        following = Outbox(world.engine.deployment.client, SHARD).read(row.cursor, 4).events
        assert newer in [one.entry for one in following], "the cursor stands before it"
        # a release that knows format 2 goes on where this one has stopped
        known = incoming.parse_entry
        monkeypatch.setattr(
            incoming,
            "parse_entry",
            lambda told: known("1\n" + told[2:] if told.encode() == newer else told),
        )
        monkeypatch.setattr(incoming, "Incoming", partial(as_first_format, newer=newer))
        world.drain()
        writers.wait_for(40)
    world.check(writers=[writers])


def as_first_format(*given: Any, newer: bytes, **named: Any) -> Any:
    """Make what the newer release would: the entry that it understands, in its own text."""
    values = [
        "1\n" + value[2:] if isinstance(value, str) and value.encode() == newer else value
        for value in given
    ]
    return Incoming(*values, **named)


#: In one step, since clients go on: the stream anew, its last entry in format 2.
REWRITE = """
local messages, newer = redis.call("XRANGE", KEYS[1], "-", "+"), nil
redis.call("DEL", KEYS[1])
for place, message in ipairs(messages) do
  if place == #messages then
    newer = "2\\n" .. string.sub(message[2][2], 3)
    message[2][2] = newer
  end
  redis.call("XADD", KEYS[1], message[1], unpack(message[2]))
end
return newer
"""


def give_newer_format(world: World) -> bytes:
    """Rewrite the victim's outbox so that its last entry says format 2; return that text."""
    newer: bytes = world.admin.eval(REWRITE, 1, KEYS.outbox)
    return newer


@pytest.mark.row(
    45,
    injection="XDEL of an entry that waits; later a restart, by which the gate reads on",
    outcome="the shard stops before the gap and says so; the gate freezes only the gap's quota",
)
def test_a_missing_entry_stops_the_shard_and_is_never_skipped(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(60)
        world.drain()
        since = time.monotonic()
        writers.wait_for(60)
        event_id, entry, _ = newest_of_victim(world)
        writers.wait_for(60)
        with world.fault():
            assert world.admin.xdel(KEYS.outbox, event_id) == 1
        for _ in range(2):
            with pytest.raises(EngineUnavailableError, match="gap"):
                world.engine.drain()
        row = world.engine.deployment.ledger.read_shards()[SHARD]
        assert "gap" in (row.stopped or "")
        assert row.cursor.n == int(event_id.split(b"-")[1]) - 1, "not skipped"
        until = time.monotonic()
        world.restart()
        writers.wait_for(60)
    # the missing entry may be a grant's: its promise waits until the quota is thawed
    lost = {"may_lose": Window(since, until), "may_lose_promises": True}
    verdict = world.check(writers=[writers], excepting={"I12", "I13"}, **lost)
    assert [call.operation_id for call in verdict.lost] == [
        parse_entry(entry.decode()).operation_id
    ]
    assert {call.operation_id for call in verdict.torn} <= {verdict.lost[0].operation_id}
    assert list(frozen(world)) == [VICTIM]


@pytest.mark.row(
    46,
    injection="XADD of an entry with a version that another has, chained to another history",
    outcome="it is kept as bytes and its quota frozen; the others go on",
)
def test_a_forged_fork_is_kept_apart(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(60)
        with world.fault():
            _, entry, chain = newest_of_victim(world)
            forged = replace(parse_entry(entry.decode()), operation_id="forged").text()
            send(world, forged.encode(), next_chain(chain.decode(), forged).encode())
        writers.wait_for(60)
        world.drain()
        writers.wait_for(60)
    world.check(writers=[writers], excepting={"I12"})
    check_only_the_victim_is_frozen(world, "")
    assert (VICTIM, QUOTA_TYPE, "forged") in world.quarantined()


@pytest.mark.fault_slow
@pytest.mark.row(
    47,
    injection="1,000 units are added to a busy quota's hash by hand",
    outcome="the next entry does not fit its log, and freezes the quota",
)
def test_an_edited_balance_freezes_a_busy_quota(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(60)
        with world.fault():
            world.admin.hincrby(QUOTA_KEY, "remaining", 1_000)
        writers.wait_for(60)
        world.drain()
        writers.wait_for(60)
    world.check(writers=[writers], excepting={"I12"})
    check_only_the_victim_is_frozen(world, "")


@pytest.mark.row(
    47,
    injection="the same to an idle quota, others under load",
    outcome="reconciliation finds it without traffic, and repairs it from the ledger",
)
def test_an_edited_balance_of_an_idle_quota_is_found_and_mended(world: World) -> None:
    idle = QuotaName("idle", QUOTA_TYPE)
    keys = ShardKeys(shard_of("idle", SHARDS))
    world.ask(issue_grant("idle", "idle-grant", 500))
    with world.writing() as writers:
        writers.wait_for(60)
        with world.fault():
            world.admin.hincrby(keys.quota(str(idle)), "remaining", 1_000)
        (drift,) = world.engine.reconcile().drifts
        assert (drift.account, drift.cause) == ("idle", Cause.BALANCE_EDITED)
        report = world.engine.reconcile(repair=True)
        assert report.repaired == 1
        writers.wait_for(30)
    assert world.engine.read_balance("idle", QUOTA_TYPE).balance == 500
    world.check(writers=[writers])


@pytest.mark.row(
    48,
    injection="UPDATE of a ledger row, its trigger disabled",
    outcome="`ledger verify` names the row",
)
def test_an_edited_row_breaks_the_chain(world: World) -> None:
    edit = text(
        "UPDATE ledger_entries SET amount = amount + :more"
        " WHERE account = :account AND version = 3"
    )
    ledger = world.engine.deployment.ledger

    def change(more: int) -> None:
        with ledger.transaction() as sql:
            sql.execute(text("SET LOCAL session_replication_role = replica"))
            assert sql.execute(edit, {"more": more, "account": VICTIM}).rowcount == 1

    with world.writing() as writers:
        writers.wait_for(80)
        world.drain()
        writers.wait_for(30)
        assert list(verify(ledger)) == []
        with world.fault():
            change(1)
        findings = list(verify(ledger))
        assert {(one.quota, one.version) for one in findings[:1]} == {(NAME, 3)}
        writers.wait_for(30)
        change(-1)
    world.check(writers=[writers])
