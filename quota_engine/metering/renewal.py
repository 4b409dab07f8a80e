"""
Renewal: while a call runs, its hold is renewed at a third of its life.

One thread serves all holds of a process. A process that dies stops renewing, so its holds expire
by themselves; so does the hold of a call that nobody knows any more.
"""

from __future__ import annotations

import logging
import weakref
from typing import Any

from quota_engine.background import BACKGROUND, Job
from quota_engine.errors import HoldClosedError, HoldNotFoundError, QuotaError

log = logging.getLogger("quota_engine.metering")


def renew(call: Any, engine: Any, ttl: float) -> None:
    """Renew the hold of ``call``, by a sync engine, until it is settled or forgotten."""
    BACKGROUND.do(call.hold.hold_id, _renewal(weakref.ref(call), engine, ttl), after=ttl / 3)


def stop_renewing(call: Any) -> None:
    """Let the hold of ``call`` be: it is about to be settled."""
    if call.hold is not None:
        BACKGROUND.forget(call.hold.hold_id)


def _renewal(reference: weakref.ref[Any], engine: Any, ttl: float) -> Job:
    def job() -> float | None:
        call = reference()
        if call is None or call.is_settled:
            return None
        try:
            engine.extend_hold(call.hold, ttl=ttl)
        except (HoldClosedError, HoldNotFoundError) as error:
            if not call.is_settled:
                log.warning("hold %s is no longer renewed: %s", call.hold.hold_id, error)
            return None
        except QuotaError as error:
            log.warning("hold %s could not be renewed: %s", call.hold.hold_id, error)
        return ttl / 3

    return job
