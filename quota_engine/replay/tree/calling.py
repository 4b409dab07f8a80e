"""
A client process of a tree: it goes through simulated time, in which its calls last.

Each call is a hold at its instant and a capture when its answer has ended, so holds are open at
once whatever the number of processes. Processes keep within half a minute of each other.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from quota_engine.engine import QuotaEngine
from quota_engine.errors import (
    BackpressureError,
    LimitExceededError,
    QuotaFrozenError,
    QuotaInsufficientError,
)
from quota_engine.instants import from_ms
from quota_engine.replay.clients import (
    HOLD_TTL_SECONDS,
    QUOTA_TYPE,
    Told,
    grant,
    hold_id_of,
    insist,
    record_of,
)
from quota_engine.replay.costs import model_of
from quota_engine.replay.signals import Signals
from quota_engine.replay.timeline import SimulatedClock
from quota_engine.replay.trace import Call
from quota_engine.replay.tree.planning import LEVELS, Node, Pace, lasts_ms, words_of

APART_MS = 30_000
#: Grants and limits are there so long before the first call.
BEFORE = timedelta(minutes=1)
#: What a client does next that has nothing left to do.
NEVER_MS = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeShare:
    """What one client process of a tree is told to do."""

    number: int
    redis_url: str
    database_url: str
    nodes: Sequence[Node]
    calls: Sequence[tuple[Call, str]]
    output_limit: int
    models: Sequence[str]
    pace: Pace


@dataclass(slots=True)
class TreeTold(Told):
    """What one client was told; refusals by level and by what refused."""

    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)


def make_tree_share(share: TreeShare, signals: Signals) -> TreeTold:
    """Give a share's accounts what is planned, then make its calls at their instants."""
    clock = SimulatedClock(share.pace.starts_at - BEFORE)
    with QuotaEngine.open(share.redis_url, share.database_url, clock=clock) as engine:
        for node in share.nodes:
            _give(engine, node, clock)
        client = _Client(engine, clock, share)
        signals.say_next(share.number, client.next_ms)
        signals.begin(share.number)
        while (at_ms := client.next_ms) < NEVER_MS:
            signals.wait_for_others(share.number, at_ms, APART_MS)
            client.go_on(at_ms)
            signals.tell(share.number, client.made, client.told.refused.total())
        signals.say_next(share.number, NEVER_MS)
        return client.told


def _give(engine: QuotaEngine, node: Node, clock: SimulatedClock) -> None:
    grant(engine, node.user, clock.now)
    for number, limit in enumerate(node.limits):
        setting = partial(
            engine.limits.set,
            node.account,
            QUOTA_TYPE,
            limit.amount,
            of=limit.of,
            per=limit.per,
            window=limit.window,
            time_zone=limit.time_zone,
            operation_id=f"limit-{number}",
        )
        insist(setting)


class _Client:
    """Calls to come, and those that are open, by the instants at which they begin and end."""

    def __init__(self, engine: QuotaEngine, clock: SimulatedClock, share: TreeShare) -> None:
        self._engine, self._clock, self._share = engine, clock, share
        self._open: list[tuple[int, int, Call, Any]] = []
        self.made = 0
        self.told = TreeTold()

    @property
    def next_ms(self) -> int:
        """The instant of what comes next: the end of a call comes before another's begin."""
        ends_ms = self._open[0][0] if self._open else NEVER_MS
        if self.made == len(self._share.calls):
            return ends_ms
        return min(ends_ms, self._share.pace.ms_of(self._share.calls[self.made][0]))

    def go_on(self, at_ms: int) -> None:
        """Do what comes next, at its instant."""
        self._clock.now = from_ms(at_ms)
        if self._open and self._open[0][0] == at_ms:
            _, _, call, hold = heapq.heappop(self._open)
            self._end(call, hold)
            return
        call, account = self._share.calls[self.made]
        self.made += 1
        hold = self._begin(call, account)
        if hold is not None:
            heapq.heappush(self._open, (at_ms + lasts_ms(call), call.number, call, hold))

    def _begin(self, call: Call, account: str) -> Any:
        wanted = call.context_tokens + self._share.output_limit
        try:
            return insist(
                lambda: self._engine.place_hold(
                    account,
                    QUOTA_TYPE,
                    wanted,
                    operation_id=hold_id_of(call),
                    ttl=HOLD_TTL_SECONDS,
                )
            )
        except (QuotaInsufficientError, BackpressureError, QuotaFrozenError) as error:
            level, why = _told_by(error)
            self.told.refused[why] += 1
            self.told.refusals[level, why] += 1
            return None

    def _end(self, call: Call, hold: Any) -> None:
        model = model_of(call, self._share.models)
        record = record_of(self._engine, call, model, hold.amount)
        used = call.context_tokens + call.generated_tokens
        captured = insist(lambda: self._engine.capture_hold(hold, used, usage=record))
        self.told.captured[call.number] = (captured.amount, captured.shortfall)


def _told_by(
    error: QuotaInsufficientError | BackpressureError | QuotaFrozenError,
) -> tuple[str, str]:
    """Return which level refused, and why."""
    if isinstance(error, LimitExceededError):
        limit = error.limit
        return _level_of(error.account), words_of(limit.of, limit.per, limit.window)
    if isinstance(error, QuotaInsufficientError):
        return _level_of(error.account), "insufficient"
    return "", "backpressure" if isinstance(error, BackpressureError) else "frozen"


def _level_of(account: str) -> str:
    return LEVELS[account.count("/")]
