"""
Reminders of grants that end soon: a row and a line of the log for each, once.

A line of the log may be missed, when this process dies between the row and the line: who must not
miss one takes them from the table (``engine.deliver_reminders``).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

from quota_engine.instants import to_ms
from quota_engine.jobs.deployed import Deployed
from quota_engine.ledger.reminders import DAY_MS, PAGE, ReminderTables
from quota_engine.reminders import Reminder

log = logging.getLogger("quota_engine.reminders")

#: After this a run ends; the next one goes on.
SECONDS_MAX = 20.0


HOUR_MS = 3_600_000


class Reminding:
    """
    Reminds often, and cheaply: only each hour it looks at all grants that end soon.

    In between it looks at those that crossed a threshold within the last two hours. What becomes
    due later than its threshold, since a refund filled it or it was transferred, waits an hour.
    """

    def __init__(self, deployment: Deployed) -> None:
        self._deployment = deployment
        self._looked_at_all_ms: int | None = None

    def run(self, now_ms: int) -> int:
        """Make the reminders that are due by ``now_ms``; return how many that was."""
        before = self._looked_at_all_ms
        if before is not None and before <= now_ms < before + HOUR_MS:
            return remind(self._deployment, now_ms, look_back_ms=2 * HOUR_MS)
        made = remind(self._deployment, now_ms)
        self._looked_at_all_ms = now_ms
        return made


def remind(deployment: Deployed, now_ms: int, *, look_back_ms: int | None = None) -> int:
    """
    Make the reminders that are due by ``now_ms``; return how many that was.

    Running it twice, late, or beside another, makes each once. ``look_back_ms``: only of grants
    that crossed a threshold so shortly ago; None: of all.
    """
    store = ReminderTables(deployment.ledger)
    made, until = 0, time.monotonic() + SECONDS_MAX
    first_ms = now_ms + 1
    for days in sorted(deployment.settings.reminder_days):
        last_ms = now_ms + days * DAY_MS
        if look_back_ms is not None:
            first_ms = max(first_ms, last_ms - look_back_ms)
        for page in _pages(store, now_ms, days, first_ms, last_ms):
            for reminder in page:
                log.info("reminder %s", json.dumps(reminder.told(), ensure_ascii=False))
            made += len(page)
            if time.monotonic() > until:
                return made
        first_ms = last_ms + 1
    return made


def _pages(
    store: ReminderTables, now_ms: int, days: int, first_ms: int, last_ms: int
) -> Iterator[list[Reminder]]:
    """Yield the reminders of one threshold: those whose ends no smaller one has reached."""
    while True:
        page = store.remind(now_ms, days, first_ms, last_ms)
        yield page
        if len(page) < PAGE:
            return
        first_ms = to_ms(page[-1].expires_at, name="expires_at")
