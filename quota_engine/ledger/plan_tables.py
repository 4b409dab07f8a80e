"""The tables of plans and subscriptions, beside the ledger's in the same metadata."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)

from quota_engine.ledger.tables import metadata


def _name() -> Text:
    return Text(collation="C")


def _instant() -> DateTime:
    return DateTime(timezone=True)


#: Every version of every plan. Terms are never changed; ``is_active`` is that of all versions.
plans = Table(
    "plans",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("period", Text, nullable=False),
    Column("amounts", JSON, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("rollover", JSON, nullable=False),
    Column("debt", Text, nullable=False),
    Column("extras", JSON, nullable=False),
    Column("trial_period", Text),
    Column("trial_amounts", JSON, nullable=False),
    Column("description", Text),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    Column("created_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("debt IN ('carry', 'forgive')", name="plans_debt"),
)

#: Subscriptions as they stand: see ``quota_engine.subscriptions.Standing``. ``period``: the
#: running one when they were looked at last; ``due_at``: when they are to be looked at next, null:
#: never. ``fingerprint``: of the arguments of who subscribed.
subscriptions = Table(
    "subscriptions",
    metadata,
    Column("subscription_id", _name(), primary_key=True),
    Column("account", _name(), nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("phases", JSON, nullable=False),
    Column("starts_at", _instant(), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("ends_at", _instant()),
    Column("paused_until", _instant()),
    Column("period", Integer, nullable=False, server_default=text("0")),
    Column("due_at", _instant()),
    Column("fingerprint", Text, nullable=False),
    Column("created_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    CheckConstraint("state IN ('active', 'paused', 'ended')", name="subscriptions_state"),
    Index("subscriptions_of_account", "account"),
    Index("subscriptions_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
)

#: What was done to subscriptions, by whom; an operation is done once. ``at``: the instant that it
#: was decided for; ``effective_at``: from when on it counts.
subscription_changes = Table(
    "subscription_changes",
    metadata,
    Column("subscription_id", _name(), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("operation_id", _name(), nullable=False),
    Column("verb", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("plan", _name(), nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", _instant(), nullable=False),
    Column("effective_at", _instant(), nullable=False),
    Column("actor", Text),
    Column("reference", Text),
    Column("recorded_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    UniqueConstraint("subscription_id", "operation_id", name="subscription_changes_once"),
)

#: Every grant that a subscription promised. ``state``: promised, then voiding while its remainder
#: is to be voided, and voided, with how much that was. ``rollover_at``, ``forgive_at``: when its
#: rest is to be rolled over, and what it paid of debts to be made up for; ``returns_at``: since
#: when it is looked at what open holds give back of it, after a change has replaced it. Null: no.
subscription_grants = Table(
    "subscription_grants",
    metadata,
    Column("subscription_id", _name(), primary_key=True),
    Column("grant_id", _name(), primary_key=True),
    Column("account", _name(), nullable=False),
    Column("quota_type", _name(), nullable=False),
    Column("kind", Text, nullable=False),
    Column("period", Integer, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("starts_at", _instant(), nullable=False),
    Column("ends_at", _instant()),
    Column("plan", _name(), nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("voided", BigInteger),
    Column("rollover_at", _instant()),
    Column("forgive_at", _instant()),
    Column("returns_at", _instant()),
    CheckConstraint(
        "state IN ('promised', 'voiding', 'voided')", name="subscription_grants_state"
    ),
    Index(
        "subscription_grants_voiding",
        "subscription_id",
        postgresql_where=text("state = 'voiding'"),
    ),
    Index(
        "subscription_grants_rollover",
        "rollover_at",
        postgresql_where=text("rollover_at IS NOT NULL"),
    ),
    Index(
        "subscription_grants_forgive",
        "forgive_at",
        postgresql_where=text("forgive_at IS NOT NULL"),
    ),
    Index(
        "subscription_grants_returns",
        "returns_at",
        postgresql_where=text("returns_at IS NOT NULL"),
    ),
)
