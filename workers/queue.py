"""
The RQ queue of one deployment, which may live in a Redis of its own.

Its name carries the deployment's id: several deployments may share that Redis. Jobs are JSON, so
nobody who can write to it can make a worker unpickle anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from quota_engine.settings import Settings
from quota_engine.stores import redis_client

DRAIN = "quota_engine.workers.jobs.drain"
#: A job that outlives its slice by this much is broken off; whatever it does is safe to break off.
JOB_GRACE_SECONDS = 60
FAILURE_SECONDS = 600


def queue_name(deployment_id: str) -> str:
    """Return the name of a deployment's queue."""
    return f"quota-engine:{deployment_id}"


def open_queue(name: str, redis_url: str, settings: Settings) -> Queue:
    """Return the queue, with a client of its own that doesn't retry. Nothing connects yet."""
    return Queue(
        name,
        connection=redis_client(settings.rq_redis_url or redis_url, settings),
        serializer=JSONSerializer,
    )


def enqueue_drain(queue: Queue, shards: Iterable[int], seconds: float) -> None:
    """
    Ask for a drain of these shards. Raises ``redis.RedisError`` when RQ's Redis does not take it.

    A result is not kept: the ledger tells what was done.
    """
    queue.enqueue_call(
        DRAIN,
        args=(sorted(shards),),
        timeout=round(seconds) + JOB_GRACE_SECONDS,
        result_ttl=0,
        failure_ttl=FAILURE_SECONDS,
    )


def has_waiting_job(queue: Queue) -> bool:
    """Return whether a job waits for a worker."""
    return bool(queue.connection.llen(queue.key))


def has_running_job(queue: Queue) -> bool:
    """Return whether some worker seems to be at it; a killed one seems so for a minute or two."""
    registry = queue.started_job_registry
    return bool(queue.connection.zcount(registry.key, time.time(), "+inf"))


def is_reachable(queue: Queue) -> bool:
    """Return whether RQ's Redis answers."""
    try:
        return bool(queue.connection.ping())
    except redis.RedisError:
        return False
