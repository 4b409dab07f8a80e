"""Go on with moves of accounts, whoever began them; bring after them what came back later."""

from __future__ import annotations

import logging
import time

from quota_engine._sync.account_moving import AccountMover
from quota_engine._sync.transport import Transport
from quota_engine.errors import EngineUnavailableError, QuotaError
from quota_engine.jobs.deployed import Deployed
from quota_engine.keys import QuotaName

log = logging.getLogger("quota_engine.accounts")

#: Moves, and quotas with something that came back, that one run takes up.
PAGE = 100
#: What could not follow its account is tried again so late.
RETRY_SECONDS = 600.0


class MoveDuty:
    """Moves what is told to move, as far as it goes."""

    def __init__(self, deployment: Deployed, transport: Transport) -> None:
        self._store = deployment.move_store
        self._mover = AccountMover(transport, deployment, deployment.settings)
        self._retry_at: dict[QuotaName, float] = {}

    def run(self) -> tuple[int, int]:
        """
        Go on; return how many moves are finished by it, and how many wait.

        Those with open holds wait for their end. Safe beside the caller of a move.
        """
        finished = waiting = 0
        for move in self._store.unfinished(PAGE):
            try:
                done = self._mover.advance(move).finished_at is not None
            except EngineUnavailableError:
                raise
            except QuotaError as error:
                log.error("the move of %s to %s waits: %s", move.account, move.target, error)
                done = False
            finished, waiting = finished + done, waiting + (not done)
        self._follow()
        return finished, waiting

    def _follow(self) -> None:
        now = time.monotonic()
        for move, stray in self._store.strays(PAGE):
            if now < self._retry_at.get(stray.source, 0.0):
                continue
            try:
                self._mover.follow(stray.source, stray.target, move)
            except EngineUnavailableError:
                raise
            except QuotaError as error:  # each try leaves entries
                self._retry_at[stray.source] = now + RETRY_SECONDS
                log.error("%s cannot follow to %s: %s", stray.source, stray.target, error)
