"""
Rollups: the daily sums of usage records, made again wherever records came.

A sum is never added to. Records are inserted in transactions of many persisters, which may commit
in any order and late; each of them notes its days of accounts in ``usage_changes``. Whoever sums
takes notes away in one statement, and reads all the records of those days in a later one: records
and their note are seen together or not at all, so what is not summed now has left its note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta

from sqlalchemy import text

from quota_engine.latencies import EDGES
from quota_engine.ledger.ledger import Ledger
from quota_engine.ledger.locks import lock_named
from quota_engine.reporting import COUNTED, SUMMED, USED

#: Days of accounts that one transaction sums.
PAGE = 2_000
#: Who sums holds it, one at a time: an older sum must not replace a newer one.
LOCK = "daily_costs"
DAY_MS = 86_400_000
EPOCH = date(1970, 1, 1)

NAMES = ("quota_type", "provider", "model", "usage_type", "status", "currency")
_HELD = "u.held IS NOT NULL AND u.corrects IS NULL AND u.status = 'success'"
_COUNTED = {
    "calls": "u.corrects IS NULL",
    "corrections": "u.corrects IS NOT NULL",
    "estimated_calls": "u.corrects IS NULL AND u.quality = 'estimated'",
    "late_calls": "u.corrects IS NULL AND u.late",
    "unbilled_calls": "u.corrects IS NULL AND u.unbilled IS NOT NULL",
    "unpriced_calls": "u.corrects IS NULL AND u.unpriced IS NOT NULL",
    "held_calls": _HELD,
}
_SUMMED = {
    **{name: f"sum(u.{name})" for name in (*USED, "cost", "shortfall")},
    "consumed": "sum(u.amount)",
    "held": f"sum(u.held) FILTER (WHERE {_HELD})",
    "captured": f"sum(u.amount) FILTER (WHERE {_HELD})",
}
_MEASURES = ", ".join(
    [f"count(*) FILTER (WHERE {_COUNTED[name]}) AS {name}" for name in COUNTED]
    + [f"coalesce({_SUMMED[name]}, 0) AS {name}" for name in SUMMED]
)
_TOLD = ", ".join(
    [f'u.{NAMES[0]} COLLATE "C" AS {NAMES[0]}']
    + [f"coalesce(u.{name}, '') COLLATE \"C\" AS {name}" for name in NAMES[1:]]
)
_COLUMNS = ", ".join(("day", "account", "line", *NAMES, *COUNTED, *SUMMED, "latencies"))
_GROUP = ", ".join(("day", "account", *NAMES))

# Sums of sums are exact, and so the buckets need one pass over the records only.
_LINES = f"""
WITH parts AS (
    SELECT DATE '1970-01-01' + (u.at_ms / {DAY_MS})::integer AS day, u.account, {_TOLD},
        width_bucket(u.latency_ms, CAST(:edges AS bigint[])) AS bucket, {_MEASURES}
    FROM usage_records u {{source}}
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, bucket
), lines AS (
    SELECT {_GROUP}, {", ".join(f"sum({name}) AS {name}" for name in (*COUNTED, *SUMMED))},
        coalesce(
            jsonb_object_agg(bucket, calls) FILTER (WHERE bucket IS NOT NULL AND calls > 0),
            '{{{{}}}}'
        ) AS latencies
    FROM parts
    GROUP BY {_GROUP}
), numbered AS (
    SELECT *, (row_number() OVER (PARTITION BY day, account ORDER BY {", ".join(NAMES)}))::integer
        AS line
    FROM lines
)
"""
_OF_ACCOUNTS = """
JOIN unnest(CAST(:accounts AS text[]), CAST(:days AS date[])) AS asked (asked_account, asked_day)
    ON u.account = asked_account COLLATE "C"
    AND u.at_ms >= (asked_day - DATE '1970-01-01') * CAST(86400000 AS bigint)
    AND u.at_ms < (asked_day - DATE '1970-01-01' + 1) * CAST(86400000 AS bigint)
"""
_OF_DAY = "WHERE u.at_ms >= :from_ms AND u.at_ms < :to_ms"

_INSERT = f"{_LINES} INSERT INTO daily_costs ({_COLUMNS}) SELECT {_COLUMNS} FROM numbered"
_SUM_ACCOUNTS = text(_INSERT.format(source=_OF_ACCOUNTS))
_SUM_DAY = text(_INSERT.format(source=_OF_DAY))

_TAKE = text("""
WITH asked AS (
    SELECT DISTINCT account, day FROM (
        SELECT account, day FROM usage_changes ORDER BY id LIMIT :limit
    ) AS oldest
), taken AS (
    DELETE FROM usage_changes c USING asked
    WHERE c.account = asked.account AND c.day = asked.day
)
SELECT account, day FROM asked
""")
_LAST_CHANGE = text("SELECT max(id) FROM usage_changes")
_IS_DONE = text("SELECT NOT EXISTS (SELECT 1 FROM usage_changes WHERE id <= :last)")
_FORGET = text("""
DELETE FROM daily_costs d
USING unnest(CAST(:accounts AS text[]), CAST(:days AS date[])) AS asked (account, day)
WHERE d.account = asked.account COLLATE "C" AND d.day = asked.day
""")
_FORGET_DAY = text("""
WITH taken AS (DELETE FROM usage_changes WHERE day = :day)
DELETE FROM daily_costs WHERE day = :day
""")

# What waits to be summed is not wrong yet.
_DIFFERENT = text(
    f"""
{_LINES.format(source=_OF_DAY)}, stored AS (
    SELECT {_COLUMNS} FROM daily_costs WHERE day = :day
), different AS (
    (SELECT {_COLUMNS} FROM numbered EXCEPT ALL SELECT {_COLUMNS} FROM stored)
    UNION ALL
    (SELECT {_COLUMNS} FROM stored EXCEPT ALL SELECT {_COLUMNS} FROM numbered)
)
SELECT DISTINCT account FROM different
WHERE NOT EXISTS (
    SELECT 1 FROM usage_changes c WHERE c.account = different.account AND c.day = :day
)
ORDER BY account
"""
)
_RANGE = text(f"""
SELECT least(min(first), (SELECT min(day) FROM daily_costs)),
    greatest(max(last), (SELECT max(day) FROM daily_costs))
FROM (
    SELECT DATE '1970-01-01' + (min(at_ms) / {DAY_MS})::integer AS first,
        DATE '1970-01-01' + (max(at_ms) / {DAY_MS})::integer AS last
    FROM usage_records
) AS ends
""")

Reach = Callable[[str], None]


class Rollups:
    """The daily sums of one ledger. Safe to share between threads, and beside other processes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def roll_up(self, reach: Reach | None = None, *, page: int = PAGE) -> int:
        """
        Sum the days of accounts where records came, a page of them; return how many that was.

        One transaction: all of it or nothing. Waits for whoever does the same now.
        """
        with self._ledger.transaction() as connection:
            lock_named(connection, LOCK)
            taken = connection.execute(_TAKE, {"limit": page}).all()
            if taken:  # a later statement: it sees every record whose note was taken
                asked = {
                    "accounts": [row.account for row in taken],
                    "days": [row.day for row in taken],
                }
                connection.execute(_FORGET, asked)
                connection.execute(_SUM_ACCOUNTS, {**asked, "edges": list(EDGES)})
                if reach is not None:
                    reach("before_sums_commit")
        return len(taken)

    def roll_up_all(self) -> int:
        """
        Sum all that waits now; return how many days of accounts that was.

        What comes meanwhile may wait on, so this ends however quickly records come.
        """
        with self._ledger.transaction() as connection:
            last = connection.execute(_LAST_CHANGE).scalar_one()
        count = 0
        while last is not None:
            count += self.roll_up()
            with self._ledger.transaction() as connection:
                if connection.execute(_IS_DONE, {"last": last}).scalar_one():
                    break
        return count

    def rebuild(self, since: date | None, until: date | None) -> Iterator[tuple[date, int]]:
        """Sum the days of a range again, oldest first; yield each with its number of lines."""
        for day in self.days(since, until):
            yield day, self.rebuild_day(day)

    def rebuild_day(self, day: date) -> int:
        """Sum a whole day again; return its number of lines. Calls and workers go on."""
        with self._ledger.transaction() as connection:
            lock_named(connection, LOCK)
            connection.execute(_FORGET_DAY, {"day": day})
            made = connection.execute(_SUM_DAY, {**_day(day), "edges": list(EDGES)})
        return made.rowcount

    def check(self, since: date | None, until: date | None) -> Iterator[tuple[date, list[str]]]:
        """Yield each day with the accounts whose sums are not those of the records."""
        for day in self.days(since, until):
            yield day, self.wrong_on(day)

    def wrong_on(self, day: date) -> list[str]:
        """Return the accounts whose sums of a day are wrong, as of one instant."""
        with self._ledger.transaction() as connection:
            asked = {**_day(day), "day": day, "edges": list(EDGES)}
            return list(connection.execute(_DIFFERENT, asked).scalars())

    def days(self, since: date | None, until: date | None) -> list[date]:
        """
        Return the days of a range, as far as there is anything to sum.

        ``since`` counts, ``until`` does not; None: from the first record, to the last.
        """
        with self._ledger.transaction() as connection:
            first, last = connection.execute(_RANGE).one()
        if first is None:
            return []
        begin = first if since is None else max(since, first)
        end = last + timedelta(days=1) if until is None else min(until, last + timedelta(days=1))
        return [begin + timedelta(days=number) for number in range(max((end - begin).days, 0))]


def _day(day: date) -> dict[str, int]:
    from_ms = (day - EPOCH).days * DAY_MS
    return {"from_ms": from_ms, "to_ms": from_ms + DAY_MS}
