"""
One RQ worker: the process that does drain jobs. The keeper starts it, and it ends with the keeper.

    python -m quota_engine.workers.child QUEUE [--json]

Its standard input is the lifeline: when that ends, so does the process, after the transaction that
it is in. Jobs run in the process itself (a fork for each would cost more than the job), and RQ's
signal handlers are left out: they raise wherever the process happens to be.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import Any

import redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer

from quota_engine.errors import QuotaError
from quota_engine.workers.jobs import deployment, stopping
from quota_engine.workers.logs import begin_logging
from quota_engine.workers.queue import JOB_GRACE_SECONDS, open_queue

log = logging.getLogger("quota_engine.worker")

#: RQ believes in a silent worker for so long; it blocks on the queue for 15 s less.
WORKER_TTL_SECONDS = 20
#: While RQ's Redis or a store does not answer.
PAUSE_SECONDS = 1.0


class SliceWorker(SimpleWorker):
    """An RQ worker that ends when it is told to; one that was killed is soon known to be dead."""

    max_connection_wait_time = 2.0
    log_job_description = False

    def __init__(self, queue: Queue) -> None:
        super().__init__(
            [queue],
            connection=queue.connection,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_SECONDS,
            maintenance_interval=JOB_GRACE_SECONDS,
        )

    def _install_signal_handlers(self) -> None:
        """Leave the signals to the process."""

    def subscribe(self) -> None:
        """Do not listen for RQ's remote commands: they cost a thread and a connection."""

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return for how long a job counts as running: no longer than it may."""
        return int(job.timeout or JOB_GRACE_SECONDS)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a job, looking once a second whether the process is to end."""
        while not stopping.is_set():
            found: tuple[Job, Queue] | None = super().dequeue_job_and_maintain_ttl(timeout, 1)
            if found is not None:
                return found
        return None


def main() -> None:
    """Do jobs until the lifeline ends or SIGTERM comes."""
    begin_logging(as_json="--json" in sys.argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the keeper, too
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threading.Thread(target=_hold_lifeline, daemon=True).start()
    trouble = ""
    while not stopping.is_set():
        try:
            _work(sys.argv[1])
            trouble = ""
        except (QuotaError, redis.RedisError, OSError) as error:
            if not trouble:
                log.warning("this worker process waits: %s", error)
            trouble = str(error)
        stopping.wait(PAUSE_SECONDS)


def _work(queue_name: str) -> None:
    """Do jobs until RQ gives up, or the process is to end."""
    here = deployment()
    queue: Any = open_queue(queue_name, here.redis_url, here.settings)
    try:
        SliceWorker(queue).work()
    finally:
        queue.connection.close()


def _hold_lifeline() -> None:
    """Wait until the keeper lets go of the other end."""
    while os.read(0, 1):
        pass
    stopping.set()


if __name__ == "__main__":
    main()
