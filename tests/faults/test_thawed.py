"""
A quota freezes under load and is thawed while others go on: the union of what was told remains.

Goal: after `quarantine resolve` every invariant holds again, and no charge that a client was told
of is lost or there twice; only what set quota aside may be gone. Method: clients, a fault, the
operator's thaw beside clients of other quotas, clients again, the whole oracle.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import redis

from quota_engine.commands import Context, Debit
from quota_engine.events import next_chain, parse_entry
from quota_engine.jobs.thaw import Order
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from quota_engine.scripts import load_scripts
from tests.faults.history import Call, Verdict, Window
from tests.faults.world import ACCOUNTS, HOT, SHARDS, World
from tests.faults.writers import QUOTA_TYPE

VICTIM = QuotaName(HOT[0], QUOTA_TYPE)
SHARD = shard_of(VICTIM.account, SHARDS)
KEYS = ShardKeys(SHARD)
OTHERS = tuple(account for account in ACCOUNTS if account != VICTIM.account)
#: What thawing may leave out: it takes nothing from anybody.
MAY_BE_LOST = {"place_hold", "release_hold"}


def forge(world: World) -> None:
    """Append an entry of the victim's newest version, of another history."""
    for _, fields in world.admin.xrevrange(KEYS.outbox):
        if f"\n{VICTIM}\n".encode() in fields.get(b"entry", b""):
            entry = parse_entry(fields[b"entry"].decode())
            text = replace(entry, fingerprint="", operation_id="forged").text()
            told = {"entry": text, "chain": next_chain("0" * 40, text)}
            world.admin.xadd(KEYS.outbox, told, id=f"{world.epochs()[SHARD]}-*")
            return
    raise AssertionError("the victim has no entry there")


def fail_after_the_first_write(world: World) -> None:
    """Run a debit whose script sends its entry, and dies before it writes the quota."""
    source = load_scripts()["debit"].source
    half = source.replace('redis.call("HSET", state.keys.quota, unpack(fields))', "error('x')")
    assert half != source
    call = Call("debit", VICTIM.account, "half", 1, started=time.monotonic(), scopes=())
    world.calls.append(call)
    command = Debit(quota=VICTIM, operation_id="half", amount=1)
    keys = command.keys(KEYS)
    argv = command.argv(Context(KEYS, world.epochs()[SHARD]))
    with pytest.raises(redis.ResponseError):
        world.admin.eval(half, len(keys), *keys, *argv)


def thawed(world: World, since: float) -> Verdict:
    """Thaw the victim beside the others' clients; let all go on; return the oracle's verdict."""
    with world.writing(accounts=OTHERS) as writers:
        writers.wait_for(30)
        report = world.engine.deployment.thaw(VICTIM, Order("王芳", "ticket:7"))
        until = time.monotonic()
        writers.wait_for(30)
    assert report.version is not None
    assert report.refused == ()
    with world.writing() as after:
        after.wait_for(80)
    window = Window(since, until)
    verdict = world.check(writers=[writers, after], may_lose=window, excepting={"I13"})
    assert {call.verb for call in (*verdict.lost, *verdict.torn)} <= MAY_BE_LOST
    assert all(call.account == VICTIM.account for call in (*verdict.lost, *verdict.restored))
    return verdict


@pytest.mark.fault_slow
@pytest.mark.row(
    46,
    injection="the same; then `quarantine resolve` beside clients of other quotas",
    outcome="the quota goes on, with every charge that was told, once; the others never notice",
)
def test_a_forked_quota_is_thawed_under_load(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(60)
        since = world.drain()
        writers.wait_for(60)
        with world.fault():
            forge(world)
        writers.wait_for(60)
        world.drain()
        writers.wait_for(60)
    assert thawed(world, since).restored


@pytest.mark.fault_slow
@pytest.mark.row(
    30,
    injection="a build of a script that fails between its entry and the quota's hash",
    outcome="the next entry forks, and freezes the quota; thawed, it has every charge once",
)
def test_a_script_that_fails_after_its_first_write_freezes_its_quota(world: World) -> None:
    with world.writing() as writers:
        writers.wait_for(60)
        since = world.drain()
        writers.wait_for(30)
        with world.fault():
            fail_after_the_first_write(world)
        writers.wait_for(60)
        world.drain()
        writers.wait_for(60)
    found = {one.quota: one.cause for one in world.engine.deployment.in_doubt()}
    assert found == {VICTIM: "fork_or_rollback"}
    thawed(world, since)
