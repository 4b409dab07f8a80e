"""
Drain for a while: follow outboxes, and persist whatever comes.

Many may do so at once, without knowing of each other. Who finds a shard drained by somebody else
a few times in a row leaves it; who sees entries wait takes it up. So the shards spread over those
who drain, a dead one's are taken up within seconds, and there is no lease to expire: what makes it
safe is the lock of the shard's row alone.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable
from typing import Any

import redis

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import EventId
from quota_engine.jobs.deployed import Deployed
from quota_engine.jobs.lookout import Lookout
from quota_engine.jobs.persist import PersistOutcome, persist_batch
from quota_engine.keys import ShardKeys
from quota_engine.outbox import START

log = logging.getLogger("quota_engine.drain")

LOOK_SECONDS = 1.0
#: An entry that waits this long has nobody.
BEHIND_SECONDS = 2.0
#: Another had it so many times in a row: it is the other's.
LOSSES_MAX = 4
#: After a round, time for more to come: as long as the round took, within these bounds.
PAUSE_SECONDS = 0.02
PAUSE_MAX_SECONDS = 0.25
LOCKED_PAUSE_SECONDS = 0.1
STOPPED_PAUSE_SECONDS = 5.0
#: While a store does not answer: the first pause; it doubles up to the longest.
TROUBLE_PAUSE_SECONDS = 0.1
TROUBLE_PAUSE_MAX_SECONDS = 2.0


class Drainer:
    """Drains shards of one deployment until a time is over, or it is told to stop."""

    def __init__(
        self, deployment: Deployed, shards: Iterable[int], stopping: threading.Event
    ) -> None:
        self.followed = set(shards)
        self.events = 0
        self._deployment = deployment
        self._stopping = stopping
        self._lookout = Lookout(deployment)
        self._look_at = 0.0
        self._cursors: dict[int, EventId] = {}
        self._losses: dict[int, int] = {}
        self._rests_until: dict[int, float] = {}
        self._stopped: dict[int, str] = {}
        self._trouble = ""
        self._trouble_pause = TROUBLE_PAUSE_SECONDS

    def run(self, seconds: float) -> int:
        """
        Drain for ``seconds``; return how many entries were persisted.

        Ends early when others have taken every shard. ``followed`` then tells which are left.
        A store that does not answer is waited for.
        """
        until = time.monotonic() + seconds
        while self.followed and time.monotonic() < until and not self._stopping.is_set():
            try:
                self._turn(until)
            except EngineUnavailableError as error:
                self._wait_out(error)
            else:
                self._go_on()
        return self.events

    def _turn(self, until: float) -> None:
        if time.monotonic() >= self._look_at:
            self._look()
        woken = self._wait_for_news(min(until, self._look_at) - time.monotonic())
        if not woken:
            return
        started = time.monotonic()
        is_more = [self._persist(shard) for shard in random.sample(woken, len(woken))]
        if not any(is_more):
            took = time.monotonic() - started
            self._stopping.wait(min(max(took, PAUSE_SECONDS), PAUSE_MAX_SECONDS))

    def _look(self) -> None:
        """See what others have done, whether the gate must run, and who has nobody."""
        look = self._lookout.look()
        if look.why_gate:
            self._deployment.reopen(self._deployment.opened)
            self._rests_until.clear()
            look = self._lookout.look()
        self._cursors = {shard: row.cursor for shard, row in look.rows.items()}
        for shard in self._lookout.behind(BEHIND_SECONDS) - self.followed:
            log.info("shard %d has nobody; it is drained here", shard)
            self.followed.add(shard)
            self._losses.pop(shard, None)
        self._look_at = time.monotonic() + LOOK_SECONDS

    def _wait_for_news(self, seconds: float) -> list[int]:
        """Return the followed shards that have something after their cursors, or wait for one."""
        now = time.monotonic()
        shards = [shard for shard in self.followed if self._rests_until.get(shard, 0) <= now]
        block = min(seconds, self._deployment.settings.socket_timeout_seconds / 2)
        if not shards:
            self._stopping.wait(min(max(block, 0), LOCKED_PAUSE_SECONDS))
            return []
        keys = {ShardKeys(shard).outbox: shard for shard in shards}
        if len(shards) < len(self.followed):  # one that rests must be looked at soon
            block = min(block, LOCKED_PAUSE_SECONDS)
        ids = {key: str(self._cursors.get(shard, START)) for key, shard in keys.items()}
        client: Any = self._deployment.client
        try:
            found = client.xread(ids, count=1, block=max(round(block * 1000), 1)) or []
        except redis.RedisError as error:
            raise EngineUnavailableError(f"Redis does not answer: {error}") from error
        names = found if isinstance(found, dict) else [stream for stream, _ in found]
        return [keys[name.decode()] for name in names]

    def _persist(self, shard: int) -> bool:
        """Persist one batch of a shard; return whether more waits."""
        deployment = self._deployment
        outcome = persist_batch(
            deployment.client,
            deployment.ledger,
            shard,
            batch_max=deployment.settings.persist_batch_max,
            on_freeze=deployment.freeze,
        )
        self.events += outcome.events
        if outcome.quarantined or outcome.duplicates:
            log.error(
                "shard %d: %d entries were quarantined, %d repeat an older operation",
                *(shard, outcome.quarantined, outcome.duplicates),
            )
        if outcome.cursor > self._cursors.get(shard, START):
            self._cursors[shard] = outcome.cursor
        if outcome.status == "stopped":
            self._note_stopped(outcome)
            return False
        if outcome.status == "locked":
            self._rests_until[shard] = time.monotonic() + LOCKED_PAUSE_SECONDS
        if outcome.status == "persisted":
            self._losses.pop(shard, None)
            if self._stopped.pop(shard, None):
                log.warning("shard %d is drained again", shard)
            return outcome.is_more
        self._lose(shard)
        return False

    def _note_stopped(self, outcome: PersistOutcome) -> None:
        shard = outcome.shard
        self._rests_until[shard] = time.monotonic() + STOPPED_PAUSE_SECONDS
        self._look_at = 0.0  # the gate may know
        if self._stopped.get(shard) != outcome.reason:
            self._stopped[shard] = outcome.reason
            log.error("shard %d is stopped, nothing of it is lost: %s", shard, outcome.reason)

    def _lose(self, shard: int) -> None:
        """Count that another was faster, and leave the shard to it in the end."""
        self._losses[shard] = self._losses.get(shard, 0) + 1
        if self._losses[shard] >= LOSSES_MAX:
            self.followed.discard(shard)
            self._losses.pop(shard)

    def _wait_out(self, error: EngineUnavailableError) -> None:
        """Pause after a failure, and say so once."""
        if not self._trouble:
            log.warning("the drain waits: %s", error)
        self._trouble = str(error)
        self._look_at = 0.0
        self._stopping.wait(self._trouble_pause)
        self._trouble_pause = min(2 * self._trouble_pause, TROUBLE_PAUSE_MAX_SECONDS)

    def _go_on(self) -> None:
        if self._trouble:
            log.warning("the drain goes on")
            self._trouble = ""
            self._trouble_pause = TROUBLE_PAUSE_SECONDS
