"""
Load the quotas that were used last, in the background, after Redis was opened again.

A wiped Redis fills by hydration, one quota at a time as callers ask. Whoever has opened it loads a
bounded number ahead of them, through the same bounded door, and stops at the first trouble.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

from quota_engine.commands import HydrateQuota, Snapshot
from quota_engine.commands.loading import LOADED
from quota_engine.errors import QuotaError
from quota_engine.jobs.gate import Opened
from quota_engine.jobs.running import run_commands
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from quota_engine.ledger.idle import used_last
from quota_engine.ledger.ledger import Ledger

log = logging.getLogger("quota_engine.prewarm")

SECONDS_MAX = 60.0
PAGE = 50


def prewarm(
    client: redis.Redis,
    ledger: Ledger,
    opened: Opened,
    *,
    limit: int,
    read: Callable[[QuotaName], Snapshot],
    stopping: threading.Event,
) -> int:
    """
    Load at most ``limit`` quotas that Redis lacks, the latest used first; return how many.

    ``read`` reads one from the ledger, within the process's limit. Never raises.
    """
    loaded, until = 0, time.monotonic() + SECONDS_MAX
    try:
        with ledger.transaction() as sql:
            names = used_last(sql, limit)
        for start in range(0, len(names), PAGE):
            page = _absent(client, opened, names[start : start + PAGE])
            commands = []
            for name in page:
                if stopping.is_set() or time.monotonic() > until:
                    return loaded
                commands.append(HydrateQuota(snapshot=read(name)))
            results = run_commands(client, opened, commands) if commands else []
            loaded += results.count(LOADED)
            if any(isinstance(result, QuotaError) for result in results):
                break  # another epoch has begun, or Redis takes no more
        log.info("%d of the quotas used last were loaded ahead", loaded)
    except (QuotaError, redis.RedisError, OSError) as error:
        log.info("quotas are not loaded ahead any more: %s", error)
    except Exception:
        if not stopping.is_set():
            log.exception("loading quotas ahead is broken")
    return loaded


def _absent(client: redis.Redis, opened: Opened, names: Sequence[QuotaName]) -> list[QuotaName]:
    pipeline: Any = client.pipeline(transaction=False)
    for name in names:
        keys = ShardKeys(shard_of(name.account, opened.shards))
        pipeline.exists(keys.quota(str(name)))
    return [name for name, there in zip(names, pipeline.execute(), strict=True) if not there]
