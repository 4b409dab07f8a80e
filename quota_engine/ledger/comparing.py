"""
What the reconciler asks of the ledger: pages of quotas with all that Redis would hold of them.

Each page is one statement, so a head, its grants and its holds are as of one instant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Row, text

from quota_engine.commands.snapshots import GrantState, HoldState
from quota_engine.drift import Sums
from quota_engine.events import GENESIS, EventId
from quota_engine.facts import NO_LIMITS, LimitFacts, limit_facts_of_rows
from quota_engine.keys import QuotaName
from quota_engine.ledger.history import QuotaHead, quota_head
from quota_engine.ledger.snapshots import hold_state
from quota_engine.ledger.window_counts import COUNTS

#: How many entries of one quota can be persisted between a look at Redis and one at the ledger.
LATER_MAX = 5_000
#: Where no outbox id can be read: earlier than any.
_NO_ID = EventId(0, 0)


@dataclass(frozen=True, slots=True)
class KnownQuota:
    """A quota in the ledger: its head, the outbox id of that entry, its grants and open holds."""

    head: QuotaHead
    event_id: EventId
    grants: tuple[GrantState, ...]
    holds: tuple[HoldState, ...]
    limits: LimitFacts = NO_LIMITS

    @property
    def sums(self) -> Sums:
        """The head as it is compared."""
        head = self.head
        return Sums(head.version, head.chain, head.balance, head.held, head.debt)


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """The shard's cursor, and those quotas of a page that the ledger knows."""

    cursor: EventId
    quotas: dict[QuotaName, KnownQuota]


_PAGE = text(f"""
SELECT s.cursor_epoch, s.cursor_n, q.*, e.event_id AS head_event_id,
    (
        SELECT json_agg(json_build_array(
            g.grant_id, g.remaining, g.reserved, g.priority,
            g.starts_at_ms, g.expires_at_ms, g.created_at_ms, g.state
        ))
        FROM grants g
        WHERE g.account = q.account AND g.quota_type = q.quota_type AND g.state <> 'intent'
            AND (g.state = 'pending' OR g.remaining > 0 OR g.reserved > 0)
    ) AS grants,
    (
        SELECT json_agg(json_build_array(
            h.hold_id, h.amount, h.expires_at_ms, h.allocations, h.counts_at_ms, h.is_counted,
            h.paid_by
        ))
        FROM holds h
        WHERE h.account = q.account AND h.quota_type = q.quota_type AND h.state = 'open'
    ) AS holds,
    {COUNTS} AS counts
FROM shards s
LEFT JOIN (
    unnest(CAST(:accounts AS text[]), CAST(:quota_types AS text[])) AS w(account, quota_type)
    JOIN quotas q USING (account, quota_type)
) ON true
LEFT JOIN ledger_entries e ON e.account = q.account AND e.quota_type = q.quota_type
    AND e.version = q.version
WHERE s.shard = :shard
""")

_LATER = text("""
SELECT version, chain, balance_after, held_after, debt_after, event_id
FROM ledger_entries
WHERE account = :account AND quota_type = :quota_type AND version >= :version
ORDER BY version DESC
LIMIT :limit
""")

_FREEZE = text("""
INSERT INTO quotas (
    account, quota_type, shard, version, balance, held, debt, chain, frozen, updated_at
)
VALUES (:account, :quota_type, :shard, 0, 0, 0, 0, :genesis, :reason, clock_timestamp())
ON CONFLICT (account, quota_type) DO UPDATE SET frozen = excluded.frozen
WHERE quotas.frozen = ''
""")


def read_page(connection: Connection, shard: int, quotas: Sequence[QuotaName]) -> LedgerPage:
    """Return what the ledger knows of these quotas of one shard, and the shard's cursor."""
    asked = {
        "shard": shard,
        "accounts": [name.account for name in quotas],
        "quota_types": [name.quota_type for name in quotas],
    }
    rows = connection.execute(_PAGE, asked).all()
    known = (_known(row) for row in rows if row.account is not None)
    cursor = EventId(rows[0].cursor_epoch, rows[0].cursor_n)
    return LedgerPage(cursor, {quota.head.quota: quota for quota in known})


def sums_as_of(
    connection: Connection, quota: QuotaName, last_id: EventId, version: int
) -> Sums | None:
    """
    Return a quota's log after its last entry up to ``last_id``, from ``version`` on.

    None when every entry from ``version`` on is later.
    """
    asked = {**asdict(quota), "version": version, "limit": LATER_MAX}
    for row in connection.execute(_LATER, asked):
        if _event_id(row.event_id) <= last_id:
            sums = (row.version, row.chain, row.balance_after, row.held_after, row.debt_after)
            return Sums(*sums)
    return None


def freeze(connection: Connection, quota: QuotaName, shard: int, reason: str) -> bool:
    """
    Mark a quota of ``shard`` as frozen; return False if it was before.

    One that the ledger does not know yet begins frozen.
    """
    asked = {**asdict(quota), "shard": shard, "genesis": GENESIS, "reason": reason}
    return connection.execute(_FREEZE, asked).rowcount > 0


def pages(items: Iterator[QuotaName], size: int) -> Iterator[list[QuotaName]]:
    """Yield lists of at most ``size`` names."""
    page: list[QuotaName] = []
    for item in items:
        page.append(item)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page


def _known(row: Row[tuple[object, ...]]) -> KnownQuota:
    return KnownQuota(
        quota_head(row),
        _event_id(row.head_event_id),
        tuple(GrantState(*values) for values in row.grants or ()),
        tuple(hold_state(values) for values in row.holds or ()),
        limit_facts_of_rows(row.limits, row.last_count_ms, map(tuple, row.counts or ())),
    )


def _event_id(stored: str | None) -> EventId:
    try:
        return EventId.parse(stored or "")
    except ValueError:
        return _NO_ID
