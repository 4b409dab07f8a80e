"""The tables of alerts, beside the ledger's in the same metadata."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Numeric,
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


def _of_alert() -> ForeignKey:
    """Return what lets a row go with its alert, should somebody delete that."""
    return ForeignKey("alerts.alert_id", ondelete="CASCADE")


#: Who changed which rule or channel, when, why, and what it says since. ``revision`` orders the
#: changes of all rules and channels: they are made one after the other.
alert_changes = Table(
    "alert_changes",
    metadata,
    Column("revision", BigInteger, Identity(always=True), primary_key=True),
    Column("at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Column("what", Text, nullable=False),
    Column("name", _name(), nullable=False),
    Column("action", Text, nullable=False),
    Column("terms", JSON, nullable=False),
    Column("operator", Text),
    Column("remark", Text),
    Index("alert_changes_of", "what", "name"),
)

#: A rule as it is: see ``quota_engine.alerts.AlertRule``. ``revision``: of its last change;
#: ``scanned``: the revision for which all that was there already has been looked at.
alert_rules = Table(
    "alert_rules",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("account", _name()),
    Column("subtree", Boolean, nullable=False),
    Column("quota_type", _name()),
    Column("warning", Text),
    Column("critical", Text),
    Column("period", Text),
    Column("currency", _name()),
    Column("provider", _name()),
    Column("each", Boolean, nullable=False),
    Column("channels", ARRAY(Text)),
    Column("revision", BigInteger, nullable=False),
    Column("scanned", BigInteger, nullable=False, server_default=text("0")),
    Column("changed_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Column("changed_by", Text),
)

#: One row per alert. While ``recovered_at`` is null no other of its rule and subject can be: two
#: processes that see one crossing make one. ``value`` and ``threshold``: when it fired or
#: escalated. ``sequence``: how many transitions it had.
alerts = Table(
    "alerts",
    metadata,
    Column("alert_id", _name(), primary_key=True),
    Column("rule", _name(), nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", _name(), nullable=False),
    Column("account", _name()),
    Column("quota_type", _name()),
    Column("period", Text),
    Column("currency", Text),
    Column("severity", Text, nullable=False),
    Column("value", Numeric, nullable=False),
    Column("threshold", Numeric),
    Column("sequence", Integer, nullable=False),
    Column("opened_at", _instant(), nullable=False),
    Column("acknowledged_at", _instant()),
    Column("acknowledged_by", Text),
    Column("resolved_at", _instant()),
    Column("resolved_by", Text),
    Column("recovered_at", _instant()),
    CheckConstraint("severity IN ('warning', 'critical')", name="alerts_severity"),
    Index(
        "alerts_once",
        "rule",
        "subject",
        unique=True,
        postgresql_where=text("recovered_at IS NULL"),
    ),
    Index("alerts_of_subject", "subject", postgresql_where=text("recovered_at IS NULL")),
    Index("alerts_open", "severity", postgresql_where=text("resolved_at IS NULL")),
    Index("alerts_opened", "opened_at"),
    Index("alerts_of_account", "account", "opened_at"),
)

#: The transitions of alerts: fired, escalated, acknowledged, resolved. ``at``: of the entry that
#: crossed, by Redis' clock, where an entry did.
alert_steps = Table(
    "alert_steps",
    metadata,
    Column("alert_id", _name(), _of_alert(), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("action", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("value", Numeric),
    Column("threshold", Numeric),
    Column("at", _instant(), nullable=False),
    Column("recorded_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Column("operator", Text),
    Column("remark", Text),
)

#: Where alerts are told. ``target`` and ``secret`` are shown to nobody. ``window_at`` and
#: ``window_count``: since when messages are counted, and how many that were.
alert_channels = Table(
    "alert_channels",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("secret", Text),
    Column("per_minute", Integer, nullable=False),
    Column("created_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Column("window_at", _instant()),
    Column("window_count", Integer, nullable=False, server_default=text("0")),
)

#: Messages on their way, written in the transaction of what they tell. ``due_at``: when somebody
#: may attempt it; who does moves it behind the end of the attempt, and counts ``attempts`` up.
#: ``joined_to``: the message that tells of this one, too.
alert_deliveries = Table(
    "alert_deliveries",
    metadata,
    Column("delivery_id", _name(), primary_key=True),
    Column("channel", _name(), nullable=False),
    Column("alert_id", _name(), _of_alert()),
    Column("sequence", Integer),
    Column("action", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("created_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Column("due_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Column("ended_at", _instant()),
    Column("error", Text),
    Column("joined_to", _name()),
    CheckConstraint(
        "state IN ('pending', 'delivered', 'dead', 'joined')", name="alert_deliveries_state"
    ),
    Index(
        "alert_deliveries_pending",
        "channel",
        "due_at",
        postgresql_where=text("state = 'pending'"),
    ),
    Index("alert_deliveries_dead", "channel", postgresql_where=text("state = 'dead'")),
    Index("alert_deliveries_of_alert", "alert_id"),
    Index(
        "alert_deliveries_joined",
        "joined_to",
        postgresql_where=text("joined_to IS NOT NULL"),
    ),
)
