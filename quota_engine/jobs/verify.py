"""
Verify the ledger: compute everything again from its rows, and say where they disagree.

Each quota's log is replayed from nothing: numbers, chain, sums, grants, holds; then it is compared
with what the tables say. Beside that, all that was ever issued is added up once more, by other
lines of the entries (``verify_sums``). The log and the tables are read side by side, ordered by
quota, in one snapshot of the database, so memory is bounded by the open holds and the grants of
one quota. It only reads, and it trusts no constraint: rows may have been edited by somebody who
could.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, Table, func, select, text

from quota_engine import kinds
from quota_engine.chain import INTENT, OPEN, PENDING, Cause, Hold, QuotaLog
from quota_engine.counting import forget_old
from quota_engine.events import (
    HOLD_PLACED,
    TELL_USAGE,
    Entry,
    MalformedEntryError,
    UnknownFormatError,
    parse_entry,
)
from quota_engine.jobs.verify_sums import LedgerSums
from quota_engine.keys import QuotaName, shard_of
from quota_engine.ledger import Ledger, tables
from quota_engine.ledger.daily_charges import daily_charges
from quota_engine.ledger.history import recorded_entry
from quota_engine.ledger.incoming import details_of
from quota_engine.ledger.shards import read_deployment, read_shards
from quota_engine.ledger.window_counts import window_counts
from quota_engine.limits import limits_text

PAGE = 1_000

#: Told how many entries have been verified.
Progress = Callable[[int], None]
Rows = Iterator[Row[Any]]


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One disagreement. ``version``: the entry where it shows, None where it is about no entry;
    ``quota`` None: it is about a shard.
    """

    quota: QuotaName | None
    cause: Cause
    detail: str
    version: int | None = None


def verify(
    ledger: Ledger, progress: Progress | None = None, *, prefix: str = ""
) -> Iterator[Finding]:
    """
    Yield every disagreement in the ledger, quota by quota. Reads each row once.

    ``prefix``: only of accounts that begin with it.
    """
    with ledger.transaction() as connection:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        yield from _verify(connection, progress or (lambda count: None), prefix)


def _verify(connection: Connection, progress: Progress, prefix: str) -> Iterator[Finding]:
    streams = [
        _by_quota(_stream(connection, prefix, tables.ledger_entries, "version")),
        _by_quota(_stream(connection, prefix, tables.quotas)),
        _by_quota(_stream(connection, prefix, tables.grants, "grant_id")),
        _by_quota(_stream(connection, prefix, tables.holds, "hold_id")),
        _by_quota(_stream(connection, prefix, tables.usage_records, "version")),
        _by_quota(_stream(connection, prefix, window_counts, "limit_key")),
        _by_quota(_stream(connection, prefix, daily_charges, "day")),
    ]
    count, shards = 0, _shard_count(connection)
    by_shard: Counter[tuple[int, str]] = Counter()
    for name, parts in _side_by_side(streams):
        entries, heads, grants, holds, usage, counts, charges = parts
        replay, sums = _Replay(name, usage), LedgerSums()
        for row in sums.entries(entries):
            yield from replay.take(row)
            by_shard[shard_of(name.account, shards), row.event_id.partition("-")[0]] += 1
            count += 1
            if count % PAGE == 0:
                progress(count)
        yield from replay.end()
        yield from _head_findings(replay.log, head := list(heads))
        yield from _grant_findings(replay.log, sums.grants(grants))
        yield from _hold_findings(replay, sums.holds(holds))
        yield from _count_findings(replay.log, counts)
        for unequal in sums.unequal(head[0].debt if head else 0, charges):
            yield Finding(name, Cause.SUMS, unequal)
    progress(count)
    yield from _duplicate_findings(connection, prefix)
    if not prefix:
        yield from _cursor_findings(connection, by_shard)
        yield from _forgotten_findings(connection)


def _stream(connection: Connection, prefix: str, table: Table, *order: str) -> Rows:
    """Return a table's rows in the order of their quotas, fetched page by page."""
    query = select(table).order_by(
        table.c.account, table.c.quota_type, *(table.c[name] for name in order)
    )
    if prefix:
        query = query.where(table.c.account.startswith(prefix, autoescape=True))
    result = connection.execution_options(yield_per=PAGE).execute(query)
    return iter(result)


def _by_quota(rows: Rows) -> Iterator[tuple[QuotaName, Rows]]:
    return groupby(rows, key=lambda row: QuotaName(row.account, row.quota_type))


def _side_by_side(
    streams: list[Iterator[tuple[QuotaName, Rows]]],
) -> Iterator[tuple[QuotaName, list[Rows]]]:
    """Yield each quota that any stream has, with its rows in every stream, in order."""
    nothing: tuple[None, Rows] = (None, iter(()))
    heads: list[tuple[QuotaName | None, Rows]] = [next(stream, nothing) for stream in streams]
    while names := [name for name, _ in heads if name is not None]:
        least = min(names, key=lambda name: (name.account, name.quota_type))
        yield least, [rows if name == least else iter(()) for name, rows in heads]
        heads = [
            next(stream, nothing) if head[0] == least else head
            for stream, head in zip(streams, heads, strict=True)
        ]


class _Replay:
    """One quota's log, replayed from its rows. Closed holds are only counted and summed up."""

    def __init__(self, name: QuotaName, usage: Rows) -> None:
        self.log = QuotaLog(name=name)
        self.closed_holds = 0
        self.closed_sum = 0
        #: Whether a hold's id came back after it was closed: then the table keeps the later one.
        self.has_reopened = False
        self._usage = usage
        self._next_usage = next(usage, None)

    def take(self, row: Row[Any]) -> Iterator[Finding]:
        """Check the next row, and go on from what it says, whether or not it fits."""
        log = self.log
        try:
            entry = recorded_entry(row).entry
            written = entry.text()
            parse_entry(written)
        except (MalformedEntryError, UnknownFormatError, ValueError) as error:
            yield Finding(log.name, Cause.MALFORMED, str(error), row.version)
            return
        misfit = kinds.misfit(log, entry, written, row.chain)
        if misfit is None:
            kinds.apply(log, entry, row.chain)
            if len(log.counts) > PAGE:
                forget_old(log)
        else:
            yield Finding(log.name, misfit.cause, misfit.reason, entry.version)
            self._follow(entry, row.chain)
        self.has_reopened |= entry.kind == HOLD_PLACED and row.duplicate_of is not None
        self._close(entry.subject)
        yield from self._usage_findings(entry, details_of(entry).usage)

    def end(self) -> Iterator[Finding]:
        """Check what must hold after the last entry."""
        log = self.log
        live = [grant for grant in log.grants.values() if grant.state != PENDING]
        total = sum(grant.remaining + grant.reserved for grant in live) - log.debt
        if total != log.balance:
            detail = f"grants less debt make {total}, the balance is {log.balance}"
            yield Finding(log.name, Cause.BALANCE, detail, log.version)
        held = sum(hold.held for hold in log.holds.values())
        if held != log.held:
            detail = f"open holds make {held}, held is {log.held}"
            yield Finding(log.name, Cause.HELD, detail, log.version)
        yield from self._usage_before(None)

    def _follow(self, entry: Entry, chain: str) -> None:
        """Take over what an entry says that does not fit, so that it is reported once."""
        log = self.log
        with suppress(KeyError, ValueError):
            kinds.apply(log, entry, chain)
        log.version, log.chain = entry.version, chain
        log.balance, log.held, log.debt = entry.balance, entry.held, entry.debt

    def _close(self, hold_id: str) -> None:
        hold = self.log.holds.get(hold_id)
        if hold is not None and hold.state != OPEN:
            self.closed_holds += 1
            self.closed_sum += hash(_hold_facts(hold))
            del self.log.holds[hold_id]

    def _usage_before(self, version: int | None) -> Iterator[Finding]:
        """Yield the usage records that no entry came for, up to ``version`` or the end."""
        while self._next_usage and (version is None or self._next_usage.version < version):
            detail = "a usage record without its entry"
            yield Finding(self.log.name, Cause.USAGE, detail, self._next_usage.version)
            self._next_usage = next(self._usage, None)

    def _usage_findings(self, entry: Entry, usage: str | None) -> Iterator[Finding]:
        yield from self._usage_before(entry.version)
        record = None
        if self._next_usage and self._next_usage.version == entry.version:
            record, self._next_usage = self._next_usage, next(self._usage, None)
        tells_usage = entry.kind in TELL_USAGE
        if (usage is not None and tells_usage) != (record is not None):
            detail = "no usage record" if record is None else "a usage record without usage"
            yield Finding(self.log.name, Cause.USAGE, detail, entry.version)
        elif record is not None and record.amount != entry.charged:
            detail = f"the usage record says {record.amount}, the entry {entry.charged}"
            yield Finding(self.log.name, Cause.USAGE, detail, entry.version)


def _head_findings(log: QuotaLog, heads: list[Row[Any]]) -> Iterator[Finding]:
    if not heads:
        if log.version:
            yield Finding(log.name, Cause.HEAD, "the quota has entries but no head")
        return
    head = heads[0]
    for field in ("version", "chain", "balance", "held", "debt", "overdraft_limit"):
        said, found = getattr(head, field), getattr(log, field)
        if said != found:
            yield Finding(log.name, Cause.HEAD, f"{field} is {said}, its log makes {found}")
    said, found = (head.limits, head.last_count_ms), (limits_text(log.limits), log.last_count_ms)
    if said != found:
        yield Finding(log.name, Cause.LIMITS, f"limits are {said}, its log makes {found}")


def _count_findings(log: QuotaLog, rows: Rows) -> Iterator[Finding]:
    forget_old(log)
    found = {place: units for place, units in log.counts.items() if units}
    said = {(row.limit_key, row.since_ms, row.starts_at_ms): row.counted for row in rows}
    said = {place: units for place, units in said.items() if units}
    for place in sorted(found.keys() | said.keys()):
        if said.get(place) != found.get(place):
            detail = f"limit {place[0]} at {place[2]}: {said.get(place)} is counted, its log"
            yield Finding(log.name, Cause.LIMITS, f"{detail} makes {found.get(place)}")


def _grant_findings(log: QuotaLog, rows: Iterable[Row[Any]]) -> Iterator[Finding]:
    expected = dict(log.grants)
    for row in rows:
        grant = expected.pop(row.grant_id, None)
        if grant is None:
            if row.state != INTENT:
                yield Finding(log.name, Cause.GRANT, f"grant {row.grant_id} was never issued")
            continue
        for field in _GRANT_FIELDS:
            said, found = getattr(row, field), getattr(grant, field)
            if said != found:
                detail = f"grant {row.grant_id}: {field} is {said}, its log makes {found}"
                yield Finding(log.name, Cause.GRANT, detail)
    for grant_id in expected:
        yield Finding(log.name, Cause.GRANT, f"grant {grant_id} is missing")


_GRANT_FIELDS = (
    "state",
    "amount",
    "remaining",
    "reserved",
    "priority",
    "starts_at_ms",
    "expires_at_ms",
    "created_at_ms",
    "applied_version",
)


def _hold_findings(replay: _Replay, rows: Iterable[Row[Any]]) -> Iterator[Finding]:
    log = replay.log
    expected = dict(log.holds)
    closed = closed_sum = 0
    for row in rows:
        pairs = [(grant_id, units) for grant_id, units in row.allocations]
        said = Hold(
            row.hold_id,
            row.state,
            row.amount,
            pairs,
            row.expires_at_ms,
            row.placed_version,
            row.closed_version,
            row.counts_at_ms,
            row.is_counted,
            row.paid_by,
        )
        if row.state != OPEN:
            closed += 1
            closed_sum += hash(_hold_facts(said))
        elif said != (found := expected.pop(row.hold_id, None)):
            detail = (
                "its log knows no such open hold" if found is None else f"its log says {found}"
            )
            yield Finding(log.name, Cause.HOLD, f"hold {row.hold_id}: {detail}")
    for hold_id in expected:
        yield Finding(log.name, Cause.HOLD, f"hold {hold_id} is open, but not in the table")
    if replay.has_reopened:
        return
    if (closed, closed_sum) != (replay.closed_holds, replay.closed_sum):
        detail = f"its log closes {replay.closed_holds} holds, the table has {closed}"
        if closed == replay.closed_holds:
            detail += ", of which some differ"
        yield Finding(log.name, Cause.HOLD, detail)


def _hold_facts(hold: Hold) -> tuple[object, ...]:
    return (
        hold.hold_id,
        hold.state,
        hold.amount,
        tuple(hold.allocations),
        hold.expires_at_ms,
        hold.placed_version,
        hold.closed_version,
        hold.counts_at_ms,
        hold.is_counted,
        hold.paid_by,
    )


def _duplicate_findings(connection: Connection, prefix: str) -> Iterator[Finding]:
    """Yield operation ids that two entries claim to have used first."""
    table = tables.ledger_entries
    key = (table.c.account, table.c.quota_type, table.c.operation_id)
    repeated = (
        select(*key, func.max(table.c.version).label("version"))
        .where(table.c.duplicate_of.is_(None), table.c.account.startswith(prefix, autoescape=True))
        .group_by(*key)
        .having(func.count() > 1)
    )
    for row in connection.execution_options(yield_per=PAGE).execute(repeated):
        detail = f"operation {row.operation_id} is there more than once, unmarked"
        yield Finding(QuotaName(row.account, row.quota_type), Cause.DUPLICATE, detail, row.version)


def _shard_count(connection: Connection) -> int:
    recorded = read_deployment(connection)
    return 1 if recorded is None else recorded.shards


def _cursor_findings(
    connection: Connection, recorded: Counter[tuple[int, str]]
) -> Iterator[Finding]:
    """
    Yield shards of which not every event up to the cursor is somewhere.

    Ids of an epoch are dense, and each event is recorded or quarantined, once.
    """
    quarantined = {
        (row.shard, row.epoch): row.events for row in connection.execute(_QUARANTINED_BY_EPOCH)
    }
    for state in read_shards(connection):
        place = (state.shard, str(state.cursor.epoch))
        entries, kept = recorded[place], quarantined.get(place, 0)
        if state.cursor.epoch == state.epoch and entries + kept != state.cursor.n:
            detail = (
                f"shard {state.shard}, epoch {state.epoch}: {entries} entries and {kept} in"
                f" quarantine, but {state.cursor.n} events were persisted"
            )
            yield Finding(None, Cause.CURSOR, detail)


_QUARANTINED_BY_EPOCH = text("""
SELECT shard, split_part(event_id, '-', 1) AS epoch, count(*) AS events
FROM quarantine GROUP BY 1, 2
""")


def _forgotten_findings(connection: Connection) -> Iterator[Finding]:
    """Yield quotas with unresolved entries that are neither frozen nor being mended."""
    for row in connection.execute(_FORGOTTEN):
        detail = f"{row.entries} entries are in quarantine, unresolved, and it is not frozen"
        yield Finding(QuotaName.parse(row.quota), Cause.FROZEN, detail)


_FORGOTTEN = text("""
SELECT w.quota, count(*) AS entries
FROM quarantine w
LEFT JOIN quotas q ON w.quota = q.account || '|' || q.quota_type
LEFT JOIN repairs r ON w.quota = r.account || '|' || r.quota_type
    AND r.repair_id = w.repair_id AND r.finished_at IS NULL
WHERE w.quota IS NOT NULL AND w.resolved_at IS NULL AND r.repair_id IS NULL
    AND coalesce(q.frozen, '') = ''
GROUP BY w.quota
""")
