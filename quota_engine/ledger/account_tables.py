"""The tables of account policies, beside the ledger's in the same metadata."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Table,
    Text,
    func,
    text,
)

from quota_engine.ledger.tables import metadata


def _name() -> Text:
    return Text(collation="C")


def _instant() -> DateTime:
    return DateTime(timezone=True)


#: What is said of accounts now. ``revision`` counts their changes; Redis was told the one of
#: ``sent_revision``. ``since``: when it came into its ``state``, ``reason``: why.
accounts = Table(
    "accounts",
    metadata,
    Column("account", _name(), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("since", _instant()),
    Column("reason", Text),
    Column("changed_by", Text),
    Column("changed_at", _instant(), nullable=False),
    Column("sent_revision", BigInteger, nullable=False, server_default=text("0")),
    CheckConstraint("state IN ('active', 'suspended', 'closed')", name="accounts_state"),
    Index("accounts_unsent", "account", postgresql_where=text("sent_revision < revision")),
    Index("accounts_of_state", "state", "account", postgresql_where=text("state <> 'active'")),
)

#: Every change of them, append-only. ``before`` and ``after``: the policy in words.
account_changes = Table(
    "account_changes",
    metadata,
    Column("operation_id", _name(), primary_key=True),
    Column("account", _name(), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("operator", Text),
    Column("reason", Text),
    Column("at", _instant(), nullable=False),
    Column("recorded_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Index("account_changes_of_account", "account", "recorded_at"),
)
