"""The one RQ job: a slice of draining. Any RQ worker of the queue can do it."""

from __future__ import annotations

import logging
import threading
from functools import cache

import redis
from rq import get_current_job

from quota_engine.deployment import Deployment
from quota_engine.jobs.draining import Drainer
from quota_engine.settings import Settings
from quota_engine.workers.queue import enqueue_drain, open_queue

log = logging.getLogger("quota_engine.worker")

FAILURE_PAUSE_SECONDS = 10.0
#: Set when this process is to end: the slice under way then ends after its transaction.
stopping = threading.Event()


@cache
def deployment() -> Deployment:
    """Return this process's hold on the deployment that its environment names."""
    return Deployment(Settings())


def drain(shards: list[int]) -> None:
    """
    Drain shards for a slice of time, then enqueue a successor for those that nobody else took.

    Safe to run twice, late, beside others, and to be killed. Without a successor, because this
    process ends or RQ's Redis does not answer, the keepers see entries wait and enqueue one.
    """
    here = deployment()
    drainer = Drainer(here, shards, stopping)
    try:
        drainer.run(here.settings.drain_slice_seconds)
    except Exception:
        log.exception("a drain failed")
        stopping.wait(FAILURE_PAUSE_SECONDS)  # what failed once may fail again at once
        raise
    job = get_current_job()
    if job is None or not drainer.followed:
        return
    queue = open_queue(job.origin, here.redis_url, here.settings)
    try:
        enqueue_drain(queue, drainer.followed, here.settings.drain_slice_seconds)
    except redis.RedisError as error:
        log.info("no successor could be enqueued: %s", error)
    finally:
        queue.connection.close()
