"""
The ledger's tables as SQLAlchemy sees them, and what each means. A test compares them with the
migrations, which alone create them.

Instants that the engine decides by are kept as whole milliseconds (``_ms``), exactly as Redis has
them; the TIMESTAMPTZ beside each is computed by PostgreSQL, for people and reports. Instants that
only PostgreSQL knows (``recorded_at`` ...) are TIMESTAMPTZ alone. Amounts are units of the quota
type. This module must not know a query.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)

metadata = MetaData()


def _id() -> Text:
    """Return the type of ids: compared byte by byte, so SQL and Python sort them alike."""
    return Text(collation="C")


_LOG = ("account", "quota_type", "version")


def _instant() -> DateTime:
    return DateTime(timezone=True)


def _quota_key() -> tuple[Column[str], Column[str]]:
    return (
        Column("account", _id(), primary_key=True),
        Column("quota_type", _id(), primary_key=True),
    )


def _shown(name: str, source: str) -> Column[object]:
    """Return a TIMESTAMPTZ that PostgreSQL computes from the milliseconds in ``source``."""
    return Column(name, _instant(), Computed(f"to_timestamp({source} / 1000.0)", persisted=True))


#: One row: which deployment these tables belong to, and its number of shards, fixed for good.
deployment = Table(
    "deployment",
    metadata,
    Column("is_single", Boolean, primary_key=True, server_default=text("true")),
    Column("deployment_id", Text, nullable=False),
    Column("shards", Integer, nullable=False),
    Column("created_at", _instant(), nullable=False, server_default=func.now()),
    CheckConstraint("is_single", name="deployment_is_single"),
    CheckConstraint("shards > 0", name="deployment_has_shards"),
)

#: One row per shard. Its row lock is the right to persist. ``cursor``: the outbox id persisted
#: last. ``incarnation``: the Redis (run_id master_replid) that the epoch was opened for.
#: ``stopped``: why the last attempt to persist could not go on; empty again when it can.
#: ``trim_mark``: everything up to this id was committed before ``trim_mark_at``.
#: ``rules_revision``: the newest change of alert rules that whoever persists must know.
shards = Table(
    "shards",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("cursor_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("cursor_n", BigInteger, nullable=False, server_default=text("0")),
    Column("incarnation", Text, nullable=False, server_default=""),
    Column("opened_at", _instant()),
    Column("stopped", Text),
    Column("last_drain_at", _instant()),
    #: The outbox's end as the persister saw it last, and the time of the last entry that it
    #: recorded, by Redis' clock: what a Redis that comes back without them has lost.
    Column("seen_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("seen_n", BigInteger, nullable=False, server_default=text("0")),
    Column("entry_at_ms", BigInteger),
    Column("trim_mark_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("trim_mark_n", BigInteger, nullable=False, server_default=text("0")),
    Column("trim_mark_at", _instant()),
    Column("rules_revision", BigInteger, nullable=False, server_default=text("0")),
)

#: Redis incarnations that another has replaced: never opened again unless it is meant.
superseded_incarnations = Table(
    "superseded_incarnations",
    metadata,
    Column("incarnation", _id(), primary_key=True),
    Column("superseded_at", _instant(), nullable=False, server_default=func.now()),
)

#: The head of each quota's log. ``overdraft_limit`` null: unlimited. ``frozen``: why, or empty.
#: ``limits``: all of them as one line; ``last_count_ms``: the latest instant that counts in them.
quotas = Table(
    "quotas",
    metadata,
    *_quota_key(),
    Column("shard", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in ("balance", "held", "debt")),
    Column("chain", Text, nullable=False),
    Column("overdraft_limit", BigInteger, server_default=text("0")),
    Column("frozen", Text, nullable=False, server_default=""),
    Column("limits", Text, nullable=False, server_default=""),
    Column("last_count_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("updated_at", _instant(), nullable=False),
    Index("quotas_by_shard", "shard", "account", "quota_type"),
    Index("quotas_frozen", "account", "quota_type", postgresql_where=text("frozen <> ''")),
)

#: The log itself, append-only: every line of every entry, so that its exact text and chain can be
#: computed again. ``duplicate_of``: the version that used the same operation id first.
#: ``recorded_at`` is later than the entry's making, by PostgreSQL's clock.
ledger_entries = Table(
    "ledger_entries",
    metadata,
    *_quota_key(),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("format", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("operation_id", _id(), nullable=False),
    Column("fingerprint", Text, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in ("amount", "delta", "held_delta")),
    *(Column(name, BigInteger, nullable=False) for name in ("balance_after", "held_after")),
    *(Column(name, BigInteger, nullable=False) for name in ("debt_after", "shortfall")),
    Column("subject", Text, nullable=False),
    Column("flags", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("movements", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("chain", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("duplicate_of", BigInteger),
    Column("late", Boolean, nullable=False),
    Column("reference", Text),
    _shown("occurred_at", "at_ms"),
    Column("recorded_at", _instant(), nullable=False),
    Index(
        "ledger_entries_operation",
        "account",
        "quota_type",
        "operation_id",
        unique=True,
        postgresql_where=text("duplicate_of IS NULL"),
    ),
    Index("ledger_entries_recorded", "account", "quota_type", "recorded_at"),
    Index("ledger_entries_limits", *_LOG, postgresql_where=text("kind = 'limit.set'")),
    postgresql_partition_by="HASH (account)",
)

#: Every hold ever placed. ``allocations``: JSON pairs [grant id, units] in the order they were
#: taken; empty once it is closed. ``paid_by``: who pays in its place, percent-encoded.
#: ``counts_at_ms``: where it counts in limits, null in none; ``is_counted``: it does nothing else.
holds = Table(
    "holds",
    metadata,
    *_quota_key(),
    Column("hold_id", _id(), primary_key=True),
    Column("state", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("allocations", JSON, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("placed_version", BigInteger, nullable=False),
    Column("closed_version", BigInteger),
    Column("counts_at_ms", BigInteger),
    Column("is_counted", Boolean, nullable=False, server_default=text("false")),
    Column("paid_by", Text, nullable=False, server_default=""),
    _shown("expires_at", "expires_at_ms"),
    CheckConstraint("state IN ('open', 'captured', 'released', 'expired')", name="holds_state"),
    Index("holds_open", "expires_at_ms", postgresql_where=text("state = 'open'")),
    Index(
        "holds_open_of_quota",
        "account",
        "quota_type",
        "expires_at_ms",
        postgresql_where=text("state = 'open'"),
    ),
)

#: Every grant, also those that are still an intent: promised here, not yet applied in Redis.
#: ``fingerprint``: hash of the terms. ``remaining`` of a pending grant is its amount, and counts
#: in no balance; an exhausted grant is a live one of which nothing remains. ``details``: the
#: intent's JSON, which goes into the entry. Of an intent, ``starts_at_ms`` 0 means: when applied.
grants = Table(
    "grants",
    metadata,
    *_quota_key(),
    Column("grant_id", _id(), primary_key=True),
    Column("state", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in ("amount", "remaining", "reserved")),
    Column("priority", BigInteger, nullable=False),
    Column("starts_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("source", Text),
    Column("reference", Text),
    Column("description", Text),
    Column("details", Text, nullable=False, server_default=""),
    Column("intended_at", _instant()),
    Column("applied_version", BigInteger),
    _shown("starts_at", "starts_at_ms"),
    Column(
        "expires_at",
        _instant(),
        Computed(
            "CASE WHEN expires_at_ms < 9007199254740991"
            " THEN to_timestamp(expires_at_ms / 1000.0) END",
            persisted=True,
        ),
    ),
    CheckConstraint(
        "state IN ('intent', 'pending', 'live', 'expired', 'voided')", name="grants_state"
    ),
    Index("grants_intended", "intended_at", postgresql_where=text("state = 'intent'")),
    Index("grants_starting", "starts_at_ms", postgresql_where=text("state = 'pending'")),
    Index(
        "grants_ending",
        "expires_at_ms",
        postgresql_where=text("state = 'live' AND (remaining > 0 OR reserved > 0)"),
    ),
    Index(
        "grants_counting",
        "account",
        "quota_type",
        "priority",
        "expires_at_ms",
        postgresql_where=text("state = 'pending' OR remaining > 0 OR reserved > 0"),
    ),
)

#: Units of a charge that are given back, from the moment they were promised. ``operation_id``: of
#: the charge. ``parts``: JSON, the grants they go to, with units and terms, as the script is told.
refunds = Table(
    "refunds",
    metadata,
    *_quota_key(),
    Column("refund_id", _id(), primary_key=True),
    Column("operation_id", _id(), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("parts", Text, nullable=False),
    Column("grace_ms", BigInteger, nullable=False),
    Column("details", Text, nullable=False, server_default=""),
    Column("intended_at", _instant(), nullable=False),
    Column("applied_version", BigInteger),
    Index("refunds_of_charge", "account", "quota_type", "operation_id"),
    Index("refunds_intended", "intended_at", postgresql_where=text("applied_version IS NULL")),
)

#: Bytes from an outbox that did not fit, as they were. ``cause`` is one of
#: quota_engine.chain.Cause, ``reason`` says it in words; ``quota`` is null where no quota can be
#: recognised, ``kind`` and ``operation_id`` where the bytes are no entry. ``resolution``: what
#: became of it, in words; ``repair_id``: the repair that took it up, and resolves it.
quarantine = Table(
    "quarantine",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("quota", Text),
    Column("raw_entry", LargeBinary, nullable=False),
    Column("raw_chain", LargeBinary, nullable=False),
    Column("cause", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", _instant(), nullable=False),
    Column("resolved_at", _instant()),
    Column("kind", Text),
    Column("operation_id", _id()),
    *(Column(name, Text) for name in ("repair_id", "resolution", "resolved_by")),
    Index("quarantine_unresolved", "quota", "id", postgresql_where=text("resolved_at IS NULL")),
    Index(
        "quarantine_operation",
        "quota",
        "operation_id",
        postgresql_where=text("operation_id IS NOT NULL"),
    ),
)

#: Every mending of a quota: begun here before anything is changed, and finished when its entry
#: ``quota.repaired``, of the operation id ``repair_id``, is written. ``cause``: one of
#: quota_engine.chain.Cause or quota_engine.drift.Cause, or ``operator``. ``details``: JSON of what
#: Redis and the ledger said.
repairs = Table(
    "repairs",
    metadata,
    *_quota_key(),
    Column("repair_id", _id(), primary_key=True),
    Column("cause", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("begun_at", _instant(), nullable=False, server_default=text("clock_timestamp()")),
    Column("finished_at", _instant()),
    Index("repairs_open", "begun_at", postgresql_where=text("finished_at IS NULL")),
)

#: What a model call used and cost, one row per entry that tells it. ``usage`` is what was told,
#: word for word; the columns from ``usage_type`` to ``metadata`` are made from it, and null where
#: it tells no such thing (``quota_engine.recorded``). ``cost`` is in ``currency``.
usage_records = Table(
    "usage_records",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("account", _id(), nullable=False),
    Column("quota_type", _id(), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("operation_id", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("shortfall", BigInteger, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("usage", JSON, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    _shown("occurred_at", "at_ms"),
    Column("recorded_at", _instant(), nullable=False),
    *(Column(name, Text) for name in ("usage_type", "status", "quality", "provider", "model")),
    *(Column(name, BigInteger) for name in ("input_tokens", "cached_input_tokens")),
    *(Column(name, BigInteger) for name in ("cache_write_tokens", "cache_write_1h_tokens")),
    *(Column(name, BigInteger) for name in ("output_tokens", "reasoning_tokens")),
    *(Column(name, BigInteger) for name in ("images", "characters")),
    *(Column(name, Numeric) for name in ("audio_seconds", "video_seconds")),
    Column("resolution", Text),
    Column("requests", BigInteger),
    Column("cost", Numeric(48, 12)),
    Column("currency", Text),
    Column("price_ids", ARRAY(Text)),
    *(Column(name, Text) for name in ("unbilled", "unpriced")),
    Column("anomaly", JSON(none_as_null=True)),
    Column("error", Text),
    *(Column(name, BigInteger) for name in ("held", "latency_ms", "first_token_ms")),
    Column("request_id", Text),
    Column("metadata", JSON(none_as_null=True)),
    *(Column(name, Text) for name in ("service_tier", "corrects")),
    UniqueConstraint("account", "quota_type", "version", name="usage_records_entry"),
    Index("usage_records_occurred", "at_ms"),
    Index("usage_records_of_account", "account", "at_ms"),
    Index(
        "usage_records_of_model",
        "provider",
        "model",
        "at_ms",
        postgresql_where=text("provider IS NOT NULL"),
    ),
    Index("usage_records_operation", "operation_id"),
)

#: What workers do by the clock, one row per duty: who takes it up first writes ``claimed_at``, and
#: the others leave it alone until it is due again. ``outcome``: what came of the last run that
#: ended, in words; ``is_ok``: whether it needs nobody's attention.
duties = Table(
    "duties",
    metadata,
    Column("duty", _id(), primary_key=True),
    Column("claimed_at", _instant(), nullable=False),
    Column("finished_at", _instant()),
    Column("outcome", Text, nullable=False, server_default=""),
    Column("is_ok", Boolean, nullable=False, server_default=text("true")),
)

#: One row per recovery of Redis, first starts left out. ``gaps``: entries that were in no store
#: any more, in words; ``lost``: the quotas that were frozen for it; ``accepted_by``: who said that
#: it may go on without them, and why. ``losses``: shards that came back older than the ledger, and
#: from where on nothing is known. ``appended``, ``quarantined``: entries that only the outboxes
#: had; ``dropped``: loaded quotas that were not as the ledger has them; ``last_entry_at``: when
#: the newest entry of either store was made, by Redis' clock.
recoveries = Table(
    "recoveries",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("opened_at", _instant(), nullable=False, server_default=func.clock_timestamp()),
    Column("epoch", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("incarnation", Text, nullable=False),
    Column("accepted_by", Text),
    Column("entries", BigInteger, nullable=False),
    Column("gaps", JSON, nullable=False),
    Column("lost", JSON, nullable=False),
    Column("losses", JSON, nullable=False, server_default="[]"),
    Column("appended", BigInteger, nullable=False, server_default=text("0")),
    Column("quarantined", BigInteger, nullable=False, server_default=text("0")),
    Column("dropped", BigInteger, nullable=False, server_default=text("0")),
    Column("last_entry_at", _instant()),
)
