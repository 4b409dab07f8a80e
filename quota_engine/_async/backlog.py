"""A look at the outbox now and then: too much that waits is told before it is refused."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from redis import exceptions as redis_errors

from quota_engine.keys import ShardKeys
from quota_engine.settings import Settings

log = logging.getLogger("quota_engine.client")


async def look_at_outbox(
    ask: Callable[..., Awaitable[Any]], keys: ShardKeys, pressed: set[int], settings: Settings
) -> None:
    """Warn when too much waits in a shard's outbox, and when that is over. ``ask`` asks Redis."""
    limit = settings.outbox_soft_limit
    try:
        waiting = int(await ask("XLEN", keys.outbox))
        if waiting >= limit:
            noted = await ask("HGET", keys.versions, "@persisted")
            waiting -= int(noted or 0)
    except (redis_errors.RedisError, OSError):
        return
    is_known = keys.shard in pressed
    if waiting >= limit and not is_known:
        pressed.add(keys.shard)
        log.warning(
            "shard %d: %d entries wait to be persisted, %d are many: is a worker running, and"
            " does PostgreSQL answer? From %d on new holds, debits and grants are refused",
            *(keys.shard, waiting, limit, settings.outbox_hard_limit),
        )
    elif waiting < limit and is_known:
        pressed.discard(keys.shard)
        log.warning("shard %d: %d entries wait to be persisted", keys.shard, waiting)
