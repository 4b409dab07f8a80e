"""The sums of usage records, by day and by provider pool, kept up to date by the clock."""

from __future__ import annotations

import time

from quota_engine.jobs import crash_points
from quota_engine.ledger import Ledger
from quota_engine.ledger.pooling import PAGE, PoolTables
from quota_engine.ledger.rollups import Rollups

#: After this a run ends; the next one goes on.
SECONDS_MAX = 20.0


def sum_days(ledger: Ledger) -> tuple[int, bool]:
    """
    Sum the days of accounts where records came; return how many, and whether none waits.

    Running it twice, late, or beside another, or dying anywhere in it, leaves the same sums.
    """
    rollups, until, count = Rollups(ledger), time.monotonic() + SECONDS_MAX, 0
    while summed := rollups.roll_up(crash_points.reach):
        count += summed
        if time.monotonic() > until:
            return count, False
    return count, True


def sum_pools(ledger: Ledger) -> int:
    """
    Take up what was noted of provider pools; return how many notes that was.

    Balances are right without it: it keeps reading them cheap. Notes that come meanwhile may wait.
    """
    pools, until, count = PoolTables(ledger), time.monotonic() + SECONDS_MAX, 0
    while taken := pools.take_up():
        count += taken
        if time.monotonic() > until or taken < PAGE:
            break
    return count
