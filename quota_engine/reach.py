"""
Reach: whether Redis is known to be away, so that not every call must find it out.

A call that finds no Redis waits for it up to its call timeout, because Redis may be restarting.
When one call has waited in vain, Redis is away: from then on each call tries once, one at a time,
and fails at once, until one is answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from quota_engine.errors import RedisAwayError

#: How long a call waits for a Redis that is known to be away.
AWAY_SECONDS = 0.25
#: How the driver says that every connection is in use: nothing is known of Redis then.
POOL_EXHAUSTED = "No connection available."
#: No try takes longer; one that ended without saying so counts as over by then.
TRY_SECONDS_MAX = 20.0


class Reach:
    """What one client knows of its Redis. Free while all is well: one flag to look at."""

    def __init__(self) -> None:
        self.is_away = False
        self._tried_until = 0.0
        #: Called once when an answer comes again.
        self.on_return: Callable[[], None] | None = None

    def may_try(self) -> bool:
        """Whether a call may try now: not while another one does. It must then let go."""
        now = time.monotonic()
        if now < self._tried_until:
            return False
        self._tried_until = now + TRY_SECONDS_MAX
        return True

    def deadline(self, deadline: float) -> float:
        """Return until when a call waits for a Redis that does not answer."""
        return min(deadline, time.monotonic() + AWAY_SECONDS) if self.is_away else deadline

    def away(self, failure: str) -> RedisAwayError:
        """Note that Redis is away, and return what to raise."""
        self.is_away = True
        return RedisAwayError(
            f"Redis does not answer: {failure}. The outcome is unknown: retry with the same id, or"
            " run `quota-engine doctor`."
        )

    def let_go(self) -> None:
        """End a try, however it went."""
        self._tried_until = 0.0

    def answered(self) -> None:
        """Redis is there."""
        if self.is_away:
            self.is_away = False
            if self.on_return is not None:
                self.on_return()
