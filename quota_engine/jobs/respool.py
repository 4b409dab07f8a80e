"""
Replaying the spool in the background of a process: soon, then less and less often, until nothing
waits. A process that has nothing in the spool has no thread for it.
"""

from __future__ import annotations

import logging
import weakref
from typing import Protocol

from quota_engine._sync.calls import Calls
from quota_engine._sync.transport import Transport
from quota_engine.background import BACKGROUND, Job
from quota_engine.errors import QuotaError
from quota_engine.jobs.deployed import Deployed
from quota_engine.spooled import SpoolReplay

log = logging.getLogger("quota_engine.spool")

FIRST_SECONDS, PAUSE_SECONDS_MAX = 0.5, 15.0


class Replaying(Protocol):
    """An engine: it lends sync calls to the background."""

    def for_renewals(self) -> Calls: ...


def replay_soon(engine: Replaying) -> None:
    """Replay the engine's spool in the background until nothing waits, or the engine is gone."""
    BACKGROUND.do_by(_key(engine), _replay(weakref.ref(engine)), after=FIRST_SECONDS)


def replay_no_more(engine: Replaying) -> None:
    """Leave what waits to another engine."""
    BACKGROUND.forget(_key(engine))


class SpoolDuty:
    """Replays this machine's spool for a worker, which has no engine."""

    def __init__(self, deployment: Deployed) -> None:
        settings = deployment.settings
        self._transport = Transport(deployment.redis_url, deployment, settings, None)
        self._calls = Calls(self._transport, deployment, settings)

    def run(self) -> SpoolReplay | None:
        """Replay what waits; None when nothing was ever spooled here. Raises ``QuotaError``."""
        return self._calls.replay_spool() if self._calls.spool.exists() else None

    def close(self) -> None:
        """Close the connections and the file."""
        self._transport.close()
        self._calls.spool.close()


def _key(engine: Replaying) -> object:
    return ("spool", id(engine))


def _replay(reference: weakref.ref[Replaying]) -> Job:
    pause = FIRST_SECONDS

    def job() -> float | None:
        nonlocal pause
        engine = reference()
        if engine is None:
            return None
        try:
            if not engine.for_renewals().replay_spool().waiting:
                return None
        except QuotaError as error:
            log.warning("the spool could not be replayed: %s", error)
        pause = min(2 * pause, PAUSE_SECONDS_MAX)
        return pause

    return job
