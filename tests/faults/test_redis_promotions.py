"""
A replica takes over: one that lagged behind, one of two masters, one that was the master before.

Goal: nobody writes on two histories of a quota, and what is lost is only what neither the replica
nor the ledger had. Method: real replication through a proxy that drops bytes, since a stopped
replica would still get what the kernel has buffered.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from quota_engine.embedded import ValkeyServer
from tests.faults.conftest import MakeWorld
from tests.faults.history import Window
from tests.faults.named import check_named
from tests.faults.world import World
from tests.proxy import Proxy
from tests.servers import TestServers
from tests.workers import wait_until

SETTINGS = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}


@dataclass
class Pair:
    """A world whose clients come through ``front``, and a replica behind ``link``."""

    world: World
    replica: ValkeyServer
    front: Proxy
    #: Between the replica and its master.
    link: Proxy

    def follow(self, server: ValkeyServer, master: ValkeyServer) -> None:
        """Make ``server`` a replica of ``master`` through the link; return when it is in step."""
        assert master.port is not None
        self.link.retarget(("127.0.0.1", master.port))
        with redis.Redis.from_url(server.url) as client:
            client.replicaof("127.0.0.1", str(self.link.port))
            wait_until(
                lambda: (
                    told(client)["role"] == "slave" and told(client)["master_link_status"] == "up"
                ),
                "the replica is in step",
            )

    def promote(self, server: ValkeyServer) -> None:
        """Make ``server`` the master, and lead the clients to it."""
        with redis.Redis.from_url(server.url) as client:
            client.replicaof("NO", "ONE")
        self.front.retarget(server.url)
        self.front.cut()
        self.world.move_to(server)

    def lag(self) -> float:
        """
        Let the replica get nothing any more, without noticing.

        Returns an instant: what was answered before it has reached the replica.
        """
        since = time.monotonic()
        steps = self.world.admin.pipeline(transaction=False)
        steps.set("mark", "here")
        steps.wait(1, 20_000)
        assert steps.execute()[1] == 1
        self.link.drops_replies = True
        return since

    def catch_up(self) -> None:
        """Let replication pass again, on new connections."""
        self.link.drops_replies = self.link.drops_requests = False
        self.link.cut()


def told(client: redis.Redis) -> dict[str, Any]:
    found: Any = client.info("replication")
    return dict(found)


@pytest.fixture
def pair(make_world: MakeWorld, servers: TestServers) -> Iterator[Pair]:
    proxies: list[Proxy] = []

    def behind(server: ValkeyServer) -> str:
        proxies.append(Proxy(server.url))
        return proxies[0].url

    world = make_world(port=0, settings=SETTINGS, url_of=behind, resend_seconds=60)
    replica = servers.valkey(port=0, appendfsync="everysec", settings=SETTINGS)
    link = Proxy(("127.0.0.1", world.server.port or 0))
    made = Pair(world, replica, proxies[0], link)
    made.follow(replica, world.server)
    yield made
    for proxy in (made.front, made.link):
        proxy.close()
    replica.kill()


@pytest.mark.row(
    12,
    injection="the replica gets no bytes, the tail is persisted, the replica is promoted",
    outcome="what the replica lacks is dropped there and loaded from the ledger; nothing is lost",
)
def test_a_lagging_replica_gives_nothing_back(pair: Pair) -> None:
    world, master = pair.world, pair.world.server
    with world.writing() as writers:
        writers.wait_for(80)
        pair.lag()
        writers.wait_for(60)
        since = world.drain()
        writers.wait_for(20)
        with world.fault():
            master.kill()
        until = time.monotonic()
        pair.promote(pair.replica)
        writers.wait_for(80)
    check_named(world, world.check(writers=[writers], may_lose=Window(since, until)))


@pytest.mark.fault_slow
@pytest.mark.row(
    12,
    injection="the same, and nothing waits when the master dies",
    outcome="nothing is lost",
)
def test_a_lagging_replica_loses_nothing_that_was_persisted(pair: Pair) -> None:
    world, master = pair.world, pair.world.server
    with world.writing() as writers:
        writers.wait_for(80)
        world.drain()
        pair.lag()
        writers.wait_for(60)
        with world.fault():
            pair.front.refuses = True
            pair.front.cut()
        writers.wait_until_stuck()
        drain_at(world, master)
        master.kill()
        pair.front.refuses = False
        pair.promote(pair.replica)
        writers.wait_for(80)
    world.check(writers=[writers])


def drain_at(world: World, server: ValkeyServer) -> None:
    """Persist what a server's outboxes hold, past the proxy."""
    world.open_engine(server.url).drain()


@pytest.mark.fault_slow
@pytest.mark.row(
    13,
    injection="the replica gets no bytes, nothing is persisted, the replica is promoted",
    outcome="clients that still run bring back what was answered since the replica lagged",
)
def test_a_tail_that_nobody_has_is_sent_again(pair: Pair) -> None:
    world, master = pair.world, pair.world.server
    with world.writing() as writers:
        writers.wait_for(80)
        since = pair.lag()
        writers.wait_for(80)
        with world.fault():
            master.kill()
        until = time.monotonic()
        pair.promote(pair.replica)
        writers.wait_for(80)
    verdict = world.check(writers=[writers], may_lose=Window(since, until))
    assert verdict.lost == verdict.denied_and_after
    assert verdict.restored != []


@pytest.mark.fault_slow
@pytest.mark.row(
    14,
    injection="master and replica lose each other, the replica is promoted, some clients stay",
    outcome="the old master stops by min-replicas; no quota has two histories",
)
def test_of_two_masters_the_old_one_stops(pair: Pair) -> None:
    world, master = pair.world, pair.world.server
    world.admin.config_set("min-replicas-max-lag", 1)
    world.admin.config_set("min-replicas-to-write", 1)
    staying = [world.open_engine(master.url) for _ in range(2)]
    with world.writing() as writers, world.writing(4, engines=staying) as others:
        writers.wait_for(100)
        since = world.drain()
        writers.wait_for(40)
        with world.fault():
            pair.link.drops_replies = pair.link.drops_requests = True
            pair.promote(pair.replica)
        others.wait_until_stuck()
        until = time.monotonic()
        writers.wait_for(60)
        pair.link.retarget(pair.replica.url)
        pair.catch_up()
        with redis.Redis.from_url(master.url) as client:
            client.replicaof("127.0.0.1", str(pair.link.port))
        others.engine_of[:] = [writers.engine_of[0]] * len(others.engine_of)
        writers.wait_for(60)
    world.check(writers=[writers, others], may_lose=Window(since, until))


@pytest.mark.row(
    63,
    injection="the master is demoted, follows, lags, and is promoted again: the same process",
    outcome="its scripts are there, but each new connection notices; no entry is in conflict",
)
def test_a_failback_is_noticed_although_the_scripts_are_there(pair: Pair) -> None:
    world, master = pair.world, pair.world.server
    pair.link.close()
    pair.link = Proxy(("127.0.0.1", pair.replica.port or 0))
    with world.writing() as writers:
        writers.wait_for(60)
        since = world.drain()
        writers.wait_for(20)
        with world.fault():
            pair.promote(pair.replica)
            pair.follow(master, pair.replica)
        writers.wait_for(60)
        pair.lag()
        writers.wait_for(40)
        before = world.epochs()
        with world.fault(), suppress(redis.ConnectionError):
            pair.promote(master)
        until = time.monotonic()
        writers.wait_for(60)
        assert all(after > old for after, old in zip(world.epochs(), before, strict=True))
    world.check(writers=[writers], may_lose=Window(since, until))
