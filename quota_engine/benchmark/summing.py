"""
How long daily sums take: of 1,000,000 usage records, from nothing, bit by bit, and for a month.

    python -m quota_engine.benchmark.summing 1000000

Servers of its own. Records are made by SQL: 1,000 accounts in 20 teams, 6 models, 30 days, two
currencies.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from sqlalchemy import text

from quota_engine.benchmark.servers import Lab
from quota_engine.ledger import Ledger
from quota_engine.ledger.reports import ReportTables
from quota_engine.reporting import checked_report_query, usage_report

FIRST = date(2026, 1, 1)
RECORDS = """
INSERT INTO usage_records (account, quota_type, version, operation_id, amount, shortfall, late,
    usage, at_ms, recorded_at, usage_type, status, quality, provider, model, input_tokens,
    cached_input_tokens, output_tokens, cost, currency, held, latency_ms)
SELECT format('acme/team-%s/user-%s', n % 20, n % 1000), 'text_token', :first + n, 'op' || n,
    100 + n % 900, 0, false, '{}', 1767225600000 + (n * 2592000000::bigint / :all),
    now(), 'text_generation', CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'success' END, 'exact',
    'provider-' || n % 2, 'model-' || n % 6, 80 + n % 800, n % 80, 20 + n % 100,
    0.000001 * (n % 977), CASE WHEN n % 2 = 0 THEN 'USD' ELSE 'CNY' END, 300 + n % 900,
    50 + (n * 7919) % 20000
FROM generate_series(1, CAST(:records AS bigint)) AS n
"""


def timed(what: str, act: Callable[[], Any]) -> Any:
    """Do something, and print how long it took."""
    began = time.perf_counter()
    result = act()
    print(f"{what:58} {time.perf_counter() - began:8.2f} s  {result}")
    return result


def insert(ledger: Ledger, first: int, records: int) -> int:
    """Insert records of 30 days, and return how many that was."""
    with ledger.transaction() as sql:
        sql.execute(text(RECORDS), {"first": first, "records": records, "all": records})
    return records


def report(reports: ReportTables, **asked: Any) -> str:
    """Ask for a report, and return what is shown of it."""
    query = checked_report_query(**asked)
    made = usage_report(query, *reports.read_sums(query))
    return f"{len(made.rows)} rows, {made.total.calls} calls, {made.total.costs}"


def measure_sums(records: int) -> None:
    """Print every figure."""
    lab = Lab()
    try:
        with lab.deployment() as deployment:
            _measure(deployment.ledger, records)
    finally:
        lab.close()


def _measure(ledger: Ledger, records: int) -> None:
    reports = ReportTables(ledger)
    rollups = reports.rollups
    month = {"since": FIRST, "until": FIRST + timedelta(days=31)}
    timed("insert records, trigger included", lambda: insert(ledger, 0, records))
    timed("sum all of it (days of accounts)", rollups.roll_up_all)
    timed("nothing new", rollups.roll_up_all)
    timed("insert 2,000 more, of 1,000 accounts", lambda: insert(ledger, records, 2_000))
    timed("sum these", rollups.roll_up_all)
    timed("a month by model", lambda: report(reports, by="model", **month))
    timed("a month by team and day", lambda: report(reports, by=("team", "day"), **month))
    top = {"by": "account", "order_by": "cost", "unit": "USD", "limit": 10, **month}
    timed("a month's top ten of accounts", lambda: report(reports, **top))
    one = {"by": "day", "account": "acme/team-7/user-7", **month}
    timed("a month of one account by day", lambda: report(reports, **one))
    timed("rebuild all (lines)", lambda: sum(dict(rollups.rebuild(None, None)).values()))
    timed("check all (wrong days)", lambda: sum(bool(a) for _, a in rollups.check(None, None)))


if __name__ == "__main__":
    measure_sums(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
