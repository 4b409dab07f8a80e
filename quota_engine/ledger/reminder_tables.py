"""The table of reminders, beside the ledger's in the same metadata."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, Table, Text, text

from quota_engine.ledger.tables import metadata


def _name() -> Text:
    return Text(collation="C")


def _instant() -> DateTime:
    return DateTime(timezone=True)


#: One row per grant and threshold in days, made when it was crossed. ``remaining`` and
#: ``expires_at`` are the grant's, then. ``claimed_at``: when somebody began to deliver it;
#: ``delivered_at``: when a callback had taken it.
reminders = Table(
    "reminders",
    metadata,
    Column("account", _name(), primary_key=True),
    Column("quota_type", _name(), primary_key=True),
    Column("grant_id", _name(), primary_key=True),
    Column("days", Integer, primary_key=True, autoincrement=False),
    Column("remaining", BigInteger, nullable=False),
    Column("source", Text),
    Column("reference", Text),
    Column("expires_at", _instant(), nullable=False),
    Column("reminded_at", _instant(), nullable=False),
    Column("claimed_at", _instant()),
    Column("delivered_at", _instant()),
    Index("reminders_made", "reminded_at"),
    Index(
        "reminders_undelivered",
        "reminded_at",
        postgresql_where=text("delivered_at IS NULL"),
    ),
)
