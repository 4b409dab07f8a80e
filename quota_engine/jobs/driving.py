"""
Drive flows from jobs: hydrate, catch up and wait as an engine does, on a plain client.

Unlike the engines' transports it does not ask the gate: when the server is recovered meanwhile
the job ends with ``EngineUnavailableError``, and is run again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

from quota_engine.commands import (
    AwaitDrain,
    Command,
    FindHold,
    Flow,
    FreezeQuota,
    PersistTail,
    ReadSnapshot,
    Step,
)
from quota_engine.commands.replies import FencedError
from quota_engine.errors import EngineFault, EngineUnavailableError, QuotaError
from quota_engine.jobs.gate import Opened
from quota_engine.jobs.persist import drain
from quota_engine.jobs.running import HORIZON_MS, run_command
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger

T = TypeVar("T")

TIMEOUT_S = 30.0
RECOVERED = "the server was recovered meanwhile; try again"


@dataclass(frozen=True, slots=True)
class Driver:
    """What a job needs to act on quotas of one open deployment. ``client`` must not decode."""

    client: redis.Redis
    ledger: Ledger
    opened: Opened
    horizon_ms: int = HORIZON_MS
    #: The longest that one flow may take.
    timeout_s: float = TIMEOUT_S

    def drive(self, flow: Flow[T]) -> T:
        """Take each step of a flow until it returns, or ``timeout_s`` are over."""
        until = time.monotonic() + self.timeout_s
        try:
            step = next(flow)
            while True:
                if time.monotonic() > until:
                    raise EngineUnavailableError(
                        f"not done within {self.timeout_s:g} s; try again"
                    )
                try:
                    answer = self._take(step)
                except QuotaError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome
        except FencedError as error:
            raise EngineUnavailableError(
                "the server was recovered meanwhile; try again"
            ) from error

    def run(self, command: Command[T]) -> T:
        """Send one command, once."""
        return run_command(self.client, self.opened, command, horizon_ms=self.horizon_ms)

    def drain(self, quota: QuotaName) -> None:
        """Persist all that the quota's outbox holds now."""
        drain(self.client, self.ledger, [self.ledger.shard_of(quota)], self.freeze)

    def freeze(self, quota: QuotaName, reason: str) -> None:
        """Mark a quota as frozen in Redis, or with an empty reason as thawed, if it is loaded."""
        self.run(FreezeQuota(quota=quota, reason=reason))

    def _send(self, command: Command[T]) -> T:
        return run_command(self.client, self.opened, command, horizon_ms=self.horizon_ms)

    def _take(self, step: Step) -> Any:
        match step:
            case Command():
                return self._send(step)
            case ReadSnapshot(quota):
                return self.ledger.read_snapshot(quota, self.horizon_ms)
            case FindHold(quota, hold_id):
                return self.ledger.find_hold(quota, hold_id)
            case AwaitDrain(quota) | PersistTail(quota):
                return self.drain(quota)
        raise EngineFault(f"a job takes no step {type(step).__name__}")
