"""
How long entries have been waiting in the outboxes: what tells that a shard has nobody, or too few.

No worker is registered anywhere. A drained shard is one whose cursor passes, in a few seconds, the
end that its outbox had; whoever sees that it does not may drain it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from quota_engine.events import EventId
from quota_engine.jobs.deployed import Deployed
from quota_engine.jobs.persist import reason_to_stop
from quota_engine.ledger.shards import ShardState
from quota_engine.outbox import OutboxPage, ends_of

#: Looks older than this are forgotten.
MEMORY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Look:
    """The shards at one moment."""

    at: float
    rows: Mapping[int, ShardState]
    #: The last id that each outbox ever generated.
    ends: Mapping[int, EventId | None]
    #: Why nothing may be persisted until the gate has looked; empty when all is well.
    why_gate: str

    def pressed(self, limit: int) -> dict[int, int]:
        """Return how many entries wait in those shards where that many or more do."""
        waiting = {
            shard: end.n - row.cursor.n
            for shard, row in self.rows.items()
            if (end := self.ends[shard]) is not None and end.epoch == row.cursor.epoch
        }
        return {shard: count for shard, count in waiting.items() if count >= limit}


class Lookout:
    """Looks at all shards of a deployment, and remembers the last looks."""

    def __init__(self, deployment: Deployed) -> None:
        self._deployment = deployment
        self._looks: deque[Look] = deque()

    def look(self) -> Look:
        """Look once: one statement and one round trip."""
        deployment = self._deployment
        rows = {row.shard: row for row in deployment.ledger.read_shards()}
        incarnation, found = ends_of(deployment.client, len(rows))
        ends = dict(enumerate(found))
        reasons = (
            reason_to_stop(row, OutboxPage((), ends[shard], 0, incarnation))
            for shard, row in rows.items()
        )
        why_gate = next((reason for reason in reasons if reason), "")
        look = Look(time.monotonic(), rows, ends, why_gate)
        self._looks.append(look)
        while look.at - self._looks[0].at > MEMORY_SECONDS:
            self._looks.popleft()
        return look

    def behind(self, seconds: float) -> set[int]:
        """Return the shards with an entry that has waited at least so long, at the last look."""
        if not self._looks:
            return set()
        last = self._looks[-1]
        earlier = [look for look in self._looks if last.at - look.at >= seconds]
        if not earlier:
            return set()
        ends = earlier[-1].ends
        return {shard for shard, row in last.rows.items() if _is_before(row.cursor, ends[shard])}


def _is_before(cursor: EventId, end: EventId | None) -> bool:
    return end is not None and cursor < end
