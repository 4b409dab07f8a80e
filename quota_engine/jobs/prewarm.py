"""
Load the busiest quotas, in the background, after Redis was opened again.

A wiped Redis fills by hydration, one quota at a time as callers ask. Whoever has opened it loads a
bounded number ahead of them, through the same bounded door, and stops at the first trouble.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from quota_engine.commands import HydrateQuota, Snapshot
from quota_engine.commands.loading import LOADED, PRESENT
from quota_engine.errors import QuotaError
from quota_engine.jobs.gate import Opened
from quota_engine.jobs.running import run_commands
from quota_engine.keys import QuotaName, ShardKeys, shard_of
from quota_engine.ledger.gauges import bound_statements
from quota_engine.ledger.idle import busiest
from quota_engine.ledger.ledger import Ledger

log = logging.getLogger("quota_engine.prewarm")

SECONDS_MAX = 60.0
PAGE = 50
#: To find out which they are, of these seconds.
ASK_SECONDS_MAX = 15.0


@dataclass(slots=True)
class Warming:
    """How far one loading is; whoever waits for it reads it."""

    #: How many quotas are to be in Redis, of which some may be there already.
    wanted: int = 0
    #: How many of them are there.
    loaded: int = 0
    #: Why it ended before all were; empty: it did not.
    trouble: str = ""
    ended: threading.Event = field(default_factory=threading.Event)


def prewarm(
    client: redis.Redis,
    ledger: Ledger,
    opened: Opened,
    *,
    limit: int,
    read: Callable[[QuotaName], Snapshot],
    stopping: threading.Event,
    warming: Warming,
) -> None:
    """
    See that Redis has the ``limit`` busiest quotas, the busiest first; tell ``warming`` how far.

    ``read`` reads one from the ledger, within the process's limit. Takes a minute at most, and
    never raises.
    """
    until = time.monotonic() + SECONDS_MAX
    try:
        with ledger.transaction() as sql:
            bound_statements(sql, round(ASK_SECONDS_MAX * 1000))
            names = busiest(sql, limit)
        warming.wanted = len(names)
        for start in range(0, len(names), PAGE):
            page = names[start : start + PAGE]
            absent = _absent(client, opened, page)
            warming.loaded += len(page) - len(absent)
            commands = []
            for name in absent:
                if stopping.is_set() or time.monotonic() > until:
                    warming.trouble = "its time was over"
                    return
                commands.append(HydrateQuota(snapshot=read(name)))
            for result in run_commands(client, opened, commands) if commands else []:
                if isinstance(result, QuotaError):
                    raise result  # another epoch has begun, or Redis takes no more
                warming.loaded += result in (LOADED, PRESENT)
        log.info("%d of the busiest quotas were loaded ahead", warming.loaded)
    except (QuotaError, redis.RedisError, OSError) as error:
        warming.trouble = str(error)
        log.info("quotas are not loaded ahead any more: %s", error)
    except Exception as error:
        warming.trouble = str(error)
        if not stopping.is_set():
            log.exception("loading quotas ahead is broken")
    finally:
        warming.ended.set()


def _absent(client: redis.Redis, opened: Opened, names: Sequence[QuotaName]) -> list[QuotaName]:
    pipeline: Any = client.pipeline(transaction=False)
    for name in names:
        keys = ShardKeys(shard_of(name.account, opened.shards))
        pipeline.exists(keys.quota(str(name)))
    return [name for name, there in zip(names, pipeline.execute(), strict=True) if not there]
