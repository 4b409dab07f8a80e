"""
The keeper: sees to it that somebody drains, and does what is due by the clock.

It trusts nothing that says who drains; it looks whether entries wait. Where they do it enqueues a
job; when nobody takes that, or RQ's Redis does not, it drains here and now.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

import redis

from quota_engine.delivering import POLL_SECONDS, Deliverer
from quota_engine.deployment import Deployment
from quota_engine.errors import QuotaError
from quota_engine.jobs.draining import Drainer
from quota_engine.jobs.lookout import Look, Lookout
from quota_engine.jobs.respool import SpoolDuty
from quota_engine.jobs.schedule import DUTIES, Duty, Scheduler
from quota_engine.workers.queue import (
    enqueue_drain,
    has_running_job,
    has_waiting_job,
    open_queue,
    queue_name,
)

log = logging.getLogger("quota_engine.worker")

LOOK_SECONDS = 1.0
#: Entries that wait this long: those who drain have not taken their shard up by themselves.
BEHIND_SECONDS = 3.0
#: Entries that wait this long: nobody has taken the job.
FORSAKEN_SECONDS = 6.0
#: How long the keeper drains before it looks again.
OWN_SLICE_SECONDS = 3.0
#: A worker process that lived less than this is started again later and later.
STEADY_SECONDS = 60.0
RESTART_PAUSE_MAX_SECONDS = 30.0
STOP_SECONDS = 8.0
SPOOL_SECONDS = 5.0
#: Duties that take long have a thread of their own, and so have those that must be quick.
LONG_DUTIES = {"unload", "reports", "reconcile"}
QUICK_DUTIES = {"alerts"}
QUICK_LOOK_SECONDS = 0.25


def named(names: set[str]) -> list[Duty]:
    """Return duties by their names."""
    return [duty for duty in DUTIES if duty.name in names]


class Child:
    """One worker process, started again when it ends."""

    def __init__(self, arguments: list[str]) -> None:
        self._command = [sys.executable, "-m", "quota_engine.workers.child", *arguments]
        self._deaths = 0
        self._start_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> bool:
        """Start the process unless it runs; return whether it has just been found dead."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at:
                self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)
                self._started_at = now
            return False
        code = self._process.poll()
        if code is None:
            return False
        self._close_lifeline(self._process)
        self._process = None
        self._deaths = 1 if now - self._started_at > STEADY_SECONDS else self._deaths + 1
        pause = min(0.5 * 2 ** (self._deaths - 1), RESTART_PAUSE_MAX_SECONDS)
        self._start_at = now + (0 if self._deaths == 1 else pause)
        log.error("a worker process ended with %d; another starts", code)
        return True

    def let_go(self) -> None:
        """Tell the process to end."""
        if self._process is not None:
            self._close_lifeline(self._process)

    def wait(self, until: float) -> None:
        """Wait for the end of the process, and end it at ``until``."""
        if self._process is None:
            return
        try:
            self._process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            log.error("worker process %d does not end and is killed", self._process.pid)
            self._process.kill()
            self._process.wait()

    @staticmethod
    def _close_lifeline(process: subprocess.Popen[bytes]) -> None:
        if process.stdin is not None:
            process.stdin.close()


class Keeper:
    """Keeps one deployment's shards drained and its duties done, until it is stopped."""

    def __init__(
        self, deployment: Deployment, *, processes: int, stopping: threading.Event, as_json: bool
    ) -> None:
        self._deployment = deployment
        self._stopping = stopping
        self._lookout = Lookout(deployment)
        name = queue_name(deployment.opened.deployment_id)
        self._queue = open_queue(name, deployment.redis_url, deployment.settings)
        arguments = [name, "--json"] if as_json else [name]
        self._children = [Child(arguments) for _ in range(processes)]
        self._enqueued_at = 0.0
        self._troubles: dict[str, str] = {}
        others = {duty.name for duty in DUTIES} - LONG_DUTIES - QUICK_DUTIES
        tasks = (
            partial(self._do_duties, named(others), LOOK_SECONDS),
            partial(self._do_duties, named(LONG_DUTIES), LOOK_SECONDS),
            partial(self._do_duties, named(QUICK_DUTIES), QUICK_LOOK_SECONDS),
            self._replay_spool,
            self._deliver_alerts,
        )
        self._threads = [threading.Thread(target=task, daemon=True) for task in tasks]

    def run(self) -> bool:
        """
        Keep everything going until it is stopped; return whether all has ended in time.

        After False some duty is still at it in a thread; it may be broken off.
        """
        for thread in self._threads:
            thread.start()
        while not self._stopping.is_set():
            died = [child.keep() for child in self._children]
            self._try("the look", partial(self._look_after_shards, somebody_died=any(died)))
            self._stopping.wait(LOOK_SECONDS)
        return self._end()

    def _end(self) -> bool:
        until = time.monotonic() + STOP_SECONDS
        for child in self._children:
            child.let_go()
        for child in self._children:
            child.wait(until)
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))
        self._queue.connection.close()
        return not any(thread.is_alive() for thread in self._threads)

    # -- the shards

    def _look_after_shards(self, *, somebody_died: bool) -> None:
        look = self._lookout.look()
        if look.why_gate:
            self._deployment.reopen(self._deployment.opened)
            look = self._lookout.look()
        pressed = look.pressed(self._deployment.settings.outbox_soft_limit)
        self._note("outbox", f"many entries wait, by shard: {pressed}" if pressed else "")
        behind = self._waiting(look, BEHIND_SECONDS)
        try:
            self._enqueue(look, behind, at_once=somebody_died)
        except redis.RedisError as error:
            self._note("queue", f"RQ's Redis takes no job, the keeper drains by itself: {error}")
            self._drain(look.rows)
            return
        self._note("queue", "")
        forsaken = self._waiting(look, FORSAKEN_SECONDS)
        self._note("backlog", f"the keeper drains, too: shards {forsaken}" if forsaken else "")
        self._drain(forsaken)

    def _waiting(self, look: Look, seconds: float) -> set[int]:
        """Return the shards with entries that wait so long, but for no other reason."""
        behind = self._lookout.behind(seconds)
        return {shard for shard in behind if not look.rows[shard].stopped}

    def _enqueue(self, look: Look, behind: set[int], *, at_once: bool) -> None:
        """Enqueue a job for the shards that nobody drains: those behind, or all when none runs."""
        now = time.monotonic()
        if has_waiting_job(self._queue):
            return
        if behind and now - self._enqueued_at >= BEHIND_SECONDS:
            shards = behind
        elif at_once or self._enqueued_at == 0 or not has_running_job(self._queue):
            shards = set(look.rows)
        else:
            return
        enqueue_drain(self._queue, shards, self._deployment.settings.drain_slice_seconds)
        self._enqueued_at = now

    def _drain(self, shards: Iterable[int]) -> None:
        Drainer(self._deployment, shards, self._stopping).run(OWN_SLICE_SECONDS)

    # -- the duties

    def _do_duties(self, lane: list[Duty], pause: float) -> None:
        scheduler = Scheduler(self._deployment)
        due_at = {duty.name: 0.0 for duty in lane}
        while not self._stopping.is_set():
            for duty in lane:
                now = time.monotonic()
                if now < due_at[duty.name] or self._stopping.is_set():
                    continue
                due_at[duty.name] = now + scheduler.seconds_between(duty)
                self._try(f"the duty {duty.name}", partial(scheduler.run_if_due, duty))
            self._stopping.wait(pause)
        scheduler.close()

    def _replay_spool(self) -> None:
        """Replay what processes of this machine have spooled and did not live to replay."""
        duty = SpoolDuty(self._deployment)
        while not self._stopping.is_set():
            self._try("the spool", duty.run)
            self._stopping.wait(SPOOL_SECONDS)
        duty.close()

    def _deliver_alerts(self) -> None:
        """Tell what is due of alerts, within a fraction of a second."""
        messages = self._deployment.statement_store.alerts.deliveries
        deliverer = Deliverer(messages, self._deployment.settings, self._stopping)
        while not self._stopping.is_set():
            self._try("alerts", deliverer.begin)
            self._stopping.wait(POLL_SECONDS)
        deliverer.close()

    def _try(self, what: str, act: Callable[[], object]) -> None:
        """Do something; its failure is logged once, and it is tried again at its next turn."""
        try:
            act()
        except QuotaError as error:
            self._note(what, str(error))
        except Exception as error:
            if not self._troubles.get(what):
                log.exception("%s is broken", what)
            self._troubles[what] = str(error) or type(error).__name__
        else:
            self._note(what, "")

    def _note(self, what: str, trouble: str) -> None:
        """Log a trouble when it begins and when it is over."""
        before = self._troubles.get(what, "")
        self._troubles[what] = trouble
        if trouble and not before:
            log.warning("%s: %s", what, trouble)
        elif before and not trouble:
            log.warning("%s: it works again", what)
