"""
Transfers between accounts, as the ledger knows them: what left, and whether it has arrived.

The persister adds a row with the entry of what left, in one transaction; so the row is there when,
and only when, the units have left. It is closed by what the ledger has of their arrival or return.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy import BigInteger, Column, Connection, DateTime, Index, Table, Text, func, select
from sqlalchemy import text as sql_text

from quota_engine.commands.transfers import Transfer, transfer_of
from quota_engine.events import Entry
from quota_engine.keys import QuotaName
from quota_engine.ledger.arrays import columns
from quota_engine.ledger.tables import metadata

OPEN = "open"


def _id() -> Text:
    return Text(collation="C")


#: What left one account for another. ``arrival_id``: the operation by which it arrives. ``state``:
#: open until the ledger has seen it ``arrived``, or ``returned`` to the account it left.
transfers = Table(
    "transfers",
    metadata,
    Column("account", _id(), primary_key=True),
    Column("quota_type", _id(), primary_key=True),
    Column("transfer_id", _id(), primary_key=True),
    Column("to_account", _id(), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("arrival_id", _id(), nullable=False),
    Column("details", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("sent_at", DateTime(timezone=True), nullable=False),
    Index("transfers_open", "sent_at", postgresql_where=sql_text("state = 'open'")),
    Index("transfers_to", "to_account", "quota_type"),
)

_SENT = """
INSERT INTO transfers (
    account, quota_type, transfer_id, to_account, amount, arrival_id, details, state, sent_at
)
SELECT n.*, 'open', %s
FROM unnest(
    %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[]
) AS n
ON CONFLICT DO NOTHING
"""

_SEEN = """EXISTS (
    SELECT FROM ledger_entries e
    WHERE e.account = {account} AND e.quota_type = t.quota_type AND e.operation_id = {operation}
        AND e.duplicate_of IS NULL AND e.kind = 'quota.transferred_in'
)"""
_HAS_ARRIVED = _SEEN.format(account="t.to_account", operation="t.arrival_id")
_IS_BACK = _SEEN.format(account="t.account", operation=r"(t.transfer_id || '\:back')")
_CLOSE = sql_text(f"""
UPDATE transfers t SET state = CASE WHEN {_HAS_ARRIVED} THEN 'arrived' ELSE 'returned' END
WHERE t.state = 'open' AND ({_HAS_ARRIVED} OR {_IS_BACK})
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTransfer:
    """A transfer as the ledger knows it, since ``sent_at``."""

    transfer: Transfer
    state: str
    sent_at: datetime


def write_transfers(
    cursor: psycopg.Cursor[Any], sent: Iterable[Entry], recorded_at: datetime
) -> None:
    """Keep what left, as open."""
    rows = [_row(entry) for entry in sent]
    if rows:
        cursor.execute(_SENT, (recorded_at, *columns(rows, 7)))


def _row(entry: Entry) -> tuple[Any, ...]:
    transfer = transfer_of(entry.name, entry.operation_id, entry.amount, entry.details)
    source = transfer.source
    return (
        *(source.account, source.quota_type, transfer.transfer_id, transfer.target.account),
        *(transfer.amount, transfer.arrival_id, entry.details),
    )


def close_transfers(connection: Connection) -> int:
    """Close transfers of which the ledger has the arrival or the return; return how many."""
    return connection.execute(_CLOSE).rowcount


def open_transfers(
    connection: Connection, older_than: timedelta, limit: int
) -> list[RecordedTransfer]:
    """Return transfers that left at least ``older_than`` ago and are open, oldest first."""
    rows = connection.execute(
        select(transfers)
        .where(transfers.c.state == OPEN, transfers.c.sent_at <= func.now() - older_than)
        .order_by(transfers.c.sent_at)
        .limit(limit)
    )
    return [
        RecordedTransfer(
            transfer=transfer_of(
                QuotaName(row.account, row.quota_type), row.transfer_id, row.amount, row.details
            ),
            state=row.state,
            sent_at=row.sent_at,
        )
        for row in rows
    ]
