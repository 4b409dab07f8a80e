"""The tables of what is sold, beside the ledger's in the same metadata: packages and purchases."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    Interval,
    Numeric,
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


#: Every version of every package. Terms are never changed; ``is_active`` is that of all versions.
token_packages = Table(
    "token_packages",
    metadata,
    Column("name", _name(), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("quota_type", _name(), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("bonus", BigInteger, nullable=False),
    Column("price", Numeric, nullable=False),
    Column("currency", Text, nullable=False),
    Column("original_price", Numeric),
    Column("valid_for", Interval),
    Column("per_user_limit", BigInteger),
    Column("priority", Integer, nullable=False),
    Column("sort_order", Integer, nullable=False),
    Column("description", Text),
    Column("is_active", Boolean, nullable=False, server_default=text("true")),
    Column("created_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
)

#: The lines of orders, each for one package as it was ordered. The lines of an order are in one
#: state. ``expires_at``: of the grant that the payment made. ``refund_begun_at``: since when it is
#: given back, on whose word, and why.
purchases = Table(
    "purchases",
    metadata,
    Column("order_id", _name(), primary_key=True),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("account", _name(), nullable=False),
    Column("package", _name(), nullable=False),
    Column("version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("ordered_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Column("paid_at", _instant()),
    Column("expires_at", _instant()),
    Column("refund_begun_at", _instant()),
    Column("refund_actor", Text),
    Column("refund_reason", Text),
    Column("refunded_at", _instant()),
    ForeignKeyConstraint(
        ["package", "version"],
        ["token_packages.name", "token_packages.version"],
        name="purchases_of_a_package",
    ),
    CheckConstraint(
        "state IN ('pending', 'paid', 'refunded', 'cancelled')", name="purchases_state"
    ),
    Index("purchases_of_account", "account", "package"),
    Index(
        "purchases_being_refunded",
        "refund_begun_at",
        postgresql_where=text("state = 'paid' AND refund_begun_at IS NOT NULL"),
    ),
)

#: Redemption codes, by the SHA-256 of their letters. ``version``: of the package, kept from the
#: making. Of one that was redeemed, the order is ``code:<code_id>``.
redemption_codes = Table(
    "redemption_codes",
    metadata,
    Column("code_hash", _name(), primary_key=True),
    Column("code_id", _name(), nullable=False),
    Column("batch_id", _name(), nullable=False),
    Column("package", _name(), nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", _instant(), nullable=False),
    Column("expires_at", _instant()),
    Column("redeemed_by", _name()),
    Column("redeemed_at", _instant()),
    Column("revoked_at", _instant()),
    UniqueConstraint("code_id", name="redemption_codes_id"),
    ForeignKeyConstraint(
        ["package", "version"],
        ["token_packages.name", "token_packages.version"],
        name="redemption_codes_of_a_package",
    ),
    CheckConstraint("redeemed_by IS NULL OR revoked_at IS NULL", name="redemption_codes_end_once"),
    Index("redemption_codes_batch", "batch_id"),
    Index(
        "redemption_codes_account",
        "redeemed_by",
        postgresql_where=text("redeemed_by IS NOT NULL"),
    ),
)
