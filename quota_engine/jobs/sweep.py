"""
Sweep: apply what has come due to quotas that nobody uses.

Every call brings its quota up to now before it decides, so nothing depends on this: it lets the
ledger, and what is told from it, know of starts and expiries in time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import redis

from quota_engine import flows
from quota_engine._sync.transport import Transport
from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.jobs.deployed import Deployed
from quota_engine.keys import QuotaName, ShardKeys

log = logging.getLogger("quota_engine.sweep")

#: Quotas that are asked for at once.
PAGE = 500
#: After this a sweep ends; the next one goes on where there is something due.
SECONDS_MAX = 20.0


@dataclass(slots=True)
class Swept:
    """How many quotas were looked at, how many changes were applied, and how many failed."""

    quotas: int = 0
    changes: int = 0
    failed: int = 0


def sweep(deployment: Deployed, transport: Transport, now_ms: int) -> Swept:
    """
    Apply what is due by ``now_ms``, to quotas in Redis and to those that only the ledger has.

    Running it twice, or beside another, applies everything once. Raises
    ``EngineUnavailableError`` when a store does not answer.
    """
    swept = Swept()
    until = time.monotonic() + SECONDS_MAX
    for quota in _due(deployment, now_ms):
        swept.quotas += 1
        try:
            swept.changes += transport.drive(flows.caught_up(quota))
        except EngineUnavailableError:
            raise
        except QuotaError as error:
            swept.failed += 1
            log.error("%s cannot be brought up to now: %s", quota, error)
        if time.monotonic() > until:
            break
    return swept


def _due(deployment: Deployed, now_ms: int) -> Iterator[QuotaName]:
    """Yield each quota that has something due, once."""
    met: set[QuotaName] = set()
    for shard in range(deployment.opened.shards):
        while page := _new(_due_in_redis(deployment.client, shard, now_ms), met):
            yield from page
    while page := _new(deployment.ledger.quotas_with_due_changes(now_ms, PAGE), met):
        yield from page


def _new(found: Iterable[QuotaName], met: set[QuotaName]) -> list[QuotaName]:
    """Return what was not met before, and remember it."""
    new = [quota for quota in found if quota not in met]
    met.update(new)
    return new


def _due_in_redis(client: redis.Redis, shard: int, now_ms: int) -> list[QuotaName]:
    try:
        names: list[bytes] = client.zrangebyscore(  # type: ignore[assignment]
            ShardKeys(shard).due, "-inf", now_ms, start=0, num=PAGE
        )
    except redis.RedisError as error:
        raise EngineUnavailableError(f"Redis does not answer: {error}") from error
    return [QuotaName.parse(name.decode(errors="surrogateescape")) for name in names]
