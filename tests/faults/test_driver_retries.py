"""What the driver does by itself: nothing in the engine's clients, no harm in anybody else's."""

from __future__ import annotations

import pytest
import redis

from quota_engine.commands import Debit
from quota_engine.jobs.running import run_command
from quota_engine.keys import QuotaName
from tests.faults.world import HOT, World
from tests.proxy import Proxy


@pytest.mark.row(
    18,
    injection="a client with redis-py's defaults, which sends again by itself; replies are cut",
    outcome="one entry each; the engine's own clients never send anything again by themselves",
)
def test_a_driver_that_sends_again_has_one_effect(world: World) -> None:
    proxy = Proxy(world.server.url)
    opened = world.engine.deployment.opened
    quota = QuotaName(HOT[0], "text_token")
    names = [f"default-{number}" for number in range(60)]
    sent = calls_of(world)
    database = int(proxy.url.rpartition("/")[2])
    with redis.Redis(host="127.0.0.1", port=proxy.port, db=database, protocol=2) as client:
        proxy.cut_replies_to("EVALSHA", 1 / 4, world.seed)
        answers = [
            run_command(client, opened, Debit(quota=quota, operation_id=name, amount=1))
            for name in names
        ]
    proxy.close()
    assert proxy.cuts > 5
    assert calls_of(world) - sent >= len(names) + proxy.cuts
    assert any(answer.replayed for answer in answers)
    entries = world.engine.history(quota.account, quota.quota_type)
    made = [entry.operation_id for entry in entries]
    assert [made.count(name) for name in names] == [1] * len(names)
    own = world.engine.deployment.client.connection_pool.connection_kwargs
    assert own["retry"].get_retries() == 0


def calls_of(world: World) -> int:
    """Return how often the server has run scripts."""
    stats = world.admin.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))
