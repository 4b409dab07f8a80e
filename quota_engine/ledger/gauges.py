"""Numbers of the ledger for a monitor. Runs in the caller's transaction; few rows are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, text, tuple_

from quota_engine.keys import QuotaName
from quota_engine.ledger import tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What was promised of one kind and not seen to be kept."""

    kind: str
    count: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSums:
    """A quota as the ledger has it. ``overdraft_limit`` None: unlimited."""

    quota: QuotaName
    balance: int
    held: int
    overdraft_limit: int | None


@dataclass(frozen=True, slots=True)
class AlertCounts:
    """Open alerts by severity; messages that wait, and that no attempt could deliver."""

    warning: int
    critical: int
    waiting: int
    dead: int


_OF_ONE_KIND = """
SELECT '{kind}' AS kind, count(*) AS promises,
    coalesce(greatest(extract(epoch FROM clock_timestamp() - min({since})), 0), 0) AS seconds
FROM {table} WHERE {condition}
"""
_PROMISES = text(
    " UNION ALL ".join(
        _OF_ONE_KIND.format(kind=kind, table=table, since=since, condition=condition)
        for kind, table, since, condition in (
            ("grant", "grants", "intended_at", "state = 'intent'"),
            ("refund", "refunds", "intended_at", "applied_version IS NULL"),
            ("transfer", "transfers", "sent_at", "state = 'open'"),
            ("repair", "repairs", "begun_at", "finished_at IS NULL"),
        )
    )
)
_ATTENTION = text("""
SELECT
    (SELECT count(*) FROM quotas WHERE frozen <> '') AS frozen,
    (SELECT count(*) FROM quarantine WHERE resolved_at IS NULL) AS quarantined
""")

_ALERTS = text("""
SELECT
    (SELECT count(*) FROM alerts WHERE resolved_at IS NULL AND severity = 'warning'),
    (SELECT count(*) FROM alerts WHERE resolved_at IS NULL AND severity = 'critical'),
    (SELECT count(*) FROM alert_deliveries WHERE state = 'pending'),
    (SELECT count(*) FROM alert_deliveries WHERE state = 'dead')
""")


def bound_statements(connection: Connection, wait_ms: int) -> None:
    """Let the server end each statement of this transaction after so long."""
    connection.execute(
        text("SELECT set_config('statement_timeout', :wait, true)"), {"wait": f"{wait_ms}ms"}
    )


def open_promises(connection: Connection) -> list[Promises]:
    """Return how many promises of each kind are open, and since when."""
    return [
        Promises(kind=row.kind, count=row.promises, oldest_seconds=float(row.seconds))
        for row in connection.execute(_PROMISES)
    ]


def count_in_doubt(connection: Connection) -> tuple[int, int]:
    """Return how many quotas are frozen, and how many entries wait in quarantine."""
    row = connection.execute(_ATTENTION).one()
    return row.frozen, row.quarantined


def alert_counts(connection: Connection) -> AlertCounts:
    """Return how many alerts are open, and how many messages wait or were given up."""
    return AlertCounts(*connection.execute(_ALERTS).one())


def sums_of(connection: Connection, quotas: Sequence[QuotaName]) -> list[QuotaSums]:
    """Return the sums of those quotas that the ledger knows."""
    table = tables.quotas
    names = [(quota.account, quota.quota_type) for quota in quotas]
    rows = connection.execute(
        select(table).where(tuple_(table.c.account, table.c.quota_type).in_(names))
    )
    return [
        QuotaSums(
            quota=QuotaName(row.account, row.quota_type),
            balance=row.balance,
            held=row.held,
            overdraft_limit=row.overdraft_limit,
        )
        for row in rows
    ]
