"""Replay the spool: bring what waits in it to Redis, once, by whoever comes first."""

from __future__ import annotations

import logging
import time

from quota_engine._async.spooling import AsyncSpooling
from quota_engine._async.transport import AsyncTransport
from quota_engine.errors import (
    BackpressureError,
    EngineUnavailableError,
    HoldNotFoundError,
    IdempotencyConflictError,
    InvalidArgumentError,
    QuotaError,
)
from quota_engine.settings import Settings
from quota_engine.spool import Claimed
from quota_engine.spool.spool import CLAIM_MS
from quota_engine.spooled import SpoolReplay, replayed
from quota_engine.waiting import in_thread

log = logging.getLogger("quota_engine.spool")

#: Errors that say: not now. Nothing more is tried then.
NOT_NOW = (EngineUnavailableError, BackpressureError)
#: Errors that will not go away by waiting.
NEVER = (HoldNotFoundError, IdempotencyConflictError, InvalidArgumentError)


class AsyncReplayer:
    """Replays one spool through one client."""

    def __init__(
        self, spooling: AsyncSpooling, transport: AsyncTransport, settings: Settings
    ) -> None:
        self._spooling = spooling
        self._transport = transport
        self._settings = settings

    async def replay(self) -> SpoolReplay:
        """Replay all that nobody else replays now, until Redis does not answer."""
        spool = self._spooling.spool
        done = refused = 0
        error: str | None = None
        while not error:
            claimed = await in_thread(spool.claim, self._spooling.now_ms())
            if not claimed:
                break
            outcome = await self._replay(claimed)
            done, refused, error = done + outcome[0], refused + outcome[1], outcome[2]
        waiting = await in_thread(spool.waiting)
        if done:
            log.warning("%d spooled operations were replayed, %d wait", done, waiting)
        return SpoolReplay(replayed=done, refused=refused, waiting=waiting, error=error)

    async def _replay(self, claimed: list[Claimed]) -> tuple[int, int, str | None]:
        """Replay what was claimed, while the claim lasts; say what came of each."""
        until = time.monotonic() + CLAIM_MS / 2000
        done: list[Claimed] = []
        refused: dict[int, str] = {}
        put_back = {one.row_id for one in claimed}
        failed: dict[int, str] = {}
        failure: str | None = None
        try:
            for one in claimed:
                if time.monotonic() > until:
                    break
                try:
                    await self._transport.drive(replayed(one.operation, is_old=self._is_old(one)))
                except NOT_NOW as error:
                    failure = failed[one.row_id] = str(error)
                    break
                except NEVER as error:
                    refused[one.row_id] = str(error)
                    log.error("%s will never be replayed: %s", one.operation, error)
                except QuotaError as error:  # tried again when the claim is over
                    failed[one.row_id] = str(error)
                    log.error("%s could not be replayed: %s", one.operation, error)
                else:
                    done.append(one)
                put_back.discard(one.row_id)
        finally:  # also when it is cancelled: what was brought to Redis is done
            now_ms = self._spooling.now_ms()
            self._spooling.spool.settle(
                done=done, refused=refused, failed=failed, put_back=put_back, now_ms=now_ms
            )
        return len(done), len(refused), failure

    def _is_old(self, one: Claimed) -> bool:
        """Whether Redis may have forgotten the operation; clocks are not trusted far."""
        age_ms = self._spooling.now_ms() - one.operation.noted_ms
        return not 0 <= age_ms < self._settings.horizon_ms / 2
