"""
Reminders of grants that end soon: a row and a line of the log for each, once.

A line of the log may be missed, when this process dies between the row and the line: who must not
miss one takes them from the table (``engine.deliver_reminders``).
"""

from __future__ import annotations

import json
import logging
import time

from quota_engine.jobs.deployed import Deployed
from quota_engine.ledger.reminders import PAGE, ReminderTables

log = logging.getLogger("quota_engine.reminders")

#: After this a run ends; the next one goes on.
SECONDS_MAX = 20.0


def remind(deployment: Deployed, now_ms: int) -> int:
    """
    Make the reminders that are due by ``now_ms``; return how many that was.

    Running it twice, late, or beside another, makes each once.
    """
    store = ReminderTables(deployment.ledger)
    made, until = 0, time.monotonic() + SECONDS_MAX
    while True:
        page = store.remind(now_ms, deployment.settings.reminder_days)
        for reminder in page:
            log.info("reminder %s", json.dumps(reminder.told(), ensure_ascii=False))
        made += len(page)
        if len(page) < PAGE or time.monotonic() > until:
            return made
