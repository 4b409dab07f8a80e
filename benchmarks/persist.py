"""
How many entries one persister moves from an outbox into the ledger in a second.

    ./run python -m benchmarks.persist REDIS_URL DATABASE_URL [ENTRIES]

Both must be empty; the tables are made, and stay. Two hundred quotas, each turn a hold, its
capture and a debit with usage.
"""

from __future__ import annotations

import sys
import time

import redis

from quota_engine.jobs.persist import drain
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger, migrate
from tests.entries import LogWriter, OutboxWriter, Written

QUOTAS = 200
USAGE = '{"usage":{"input_tokens":1000,"output_tokens":200}}'


def entries(count: int) -> list[Written]:
    """Return about ``count`` entries, spread over the quotas."""
    logs = [LogWriter(QuotaName(f"user:{number}", "text_token")) for number in range(QUOTAS)]
    written = [log.issue_grant("grant", 10**9) for log in logs]
    for turn in range(count // QUOTAS // 3):
        for log in logs:
            written.append(log.place_hold(f"hold-{turn}", 100))
            written.append(log.capture_hold(f"hold-{turn}", 60))
            written.append(log.debit(f"debit-{turn}", 10, details=USAGE))
    return written


def main() -> None:
    """Fill an outbox, drain it, and print the rate."""
    redis_url, database_url = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 50_000
    migrate.upgrade(database_url)
    with Ledger.open(database_url) as ledger, redis.Redis.from_url(redis_url) as client:
        ledger.create_deployment("dep_benchmark", 1)
        OutboxWriter(client, ledger).open().send_many(entries(count))
        started = time.perf_counter()
        persisted = drain(client, ledger, [0])
        seconds = time.perf_counter() - started
    print(f"{persisted} entries in {seconds:.2f} s: {persisted / seconds:,.0f}/s")


if __name__ == "__main__":
    main()
