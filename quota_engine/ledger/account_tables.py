"""The tables of account policies, beside the ledger's in the same metadata."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
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
#: ``sent_revision``. ``since``: when it came into its ``state``, ``reason``: why; ``moved_to``:
#: where it is instead. ``enforcement``: words such as ``text_token=shadow``, or nothing;
#: ``pays_after`` in the same way, ``text_token=acme/pool,acme``.
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
    Column("moved_to", _name()),
    Column("enforcement", Text, nullable=False, server_default=""),
    Column("pays_after", Text, nullable=False, server_default=""),
    CheckConstraint("state IN ('active', 'suspended', 'closed')", name="accounts_state"),
    Index("accounts_unsent", "account", postgresql_where=text("sent_revision < revision")),
    Index("accounts_of_state", "state", "account", postgresql_where=text("state <> 'active'")),
    Index("accounts_moved", "account", postgresql_where=text("moved_to IS NOT NULL")),
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

#: Accounts that went to another place. ``was``: the old policy as Redis had it. ``planned_at``:
#: when what points to the account was turned to the new place.
account_moves = Table(
    "account_moves",
    metadata,
    Column("operation_id", _name(), primary_key=True),
    Column("account", _name(), nullable=False),
    Column("target", _name(), nullable=False),
    Column("operator", Text),
    Column("reason", Text),
    Column("was", Text, nullable=False),
    Column("begun_at", _instant(), nullable=False),
    Column("planned_at", _instant()),
    Column("finished_at", _instant()),
    Index("account_moves_of_account", "account"),
    Index("account_moves_open", "begun_at", postgresql_where=text("finished_at IS NULL")),
)

#: The grants of a move that keep their ids, by their old place. ``issued``: units of them that are
#: promised at the new one, in so many ``pieces``: what holds gave back late comes apart.
account_move_grants = Table(
    "account_move_grants",
    metadata,
    Column("operation_id", _name(), primary_key=True),
    Column("account", _name(), primary_key=True),
    Column("quota_type", _name(), primary_key=True),
    Column("grant_id", _name(), primary_key=True),
    Column("is_voided", Boolean, nullable=False, server_default=text("false")),
    Column("issued", BigInteger, nullable=False, server_default=text("0")),
    Column("pieces", Integer, nullable=False, server_default=text("0")),
)
