"""
Refused calls, counted and reported by account, quota type, model, day and reason. Pure.

A refused call leaves no usage record, for it was never made. So the client that refused it counts
it, and a report puts these counts beside the calls that were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from quota_engine import errors
from quota_engine.errors import InvalidArgumentError
from quota_engine.reporting import (
    ReportQuery,
    ReportRow,
    UsageReport,
    checked_report_query,
    ratio,
)

#: What a report of refusals can be asked by.
DIMENSIONS = ("day", "month", "account", "team", "provider", "model", "quota_type")
#: Why a call is not admitted. Other errors are a caller's mistakes, and no refusals.
REASONS: Mapping[type[errors.QuotaError], str] = {
    errors.LimitExceededError: "limited",
    errors.QuotaInsufficientError: "insufficient",
    errors.AccountSuspendedError: "suspended",
    errors.AccountClosedError: "closed",
    errors.QuotaFrozenError: "frozen",
    errors.BackpressureError: "backpressure",
    errors.EngineUnavailableError: "unavailable",
    errors.ModelDisabledError: "disabled",
    errors.PoolEmptyError: "pool_empty",
    errors.PricingNotFoundError: "unpriced",
}
#: What stands before the reason of a call that was let through, for its quota is in the shadow.
SHADOW = "shadow_"
DAY_MS = 86_400_000
EPOCH = date(1970, 1, 1)
#: Longer names are cut: they are part of a key.
NAME_LENGTH_MAX = 200


class Refused(NamedTuple):
    """
    What is counted together. ``day``: since 1970, UTC; a name that nobody told is empty.

    ``account`` is empty where more was refused at once than is counted apart.
    """

    day: int
    account: str
    quota_type: str
    provider: str
    model: str
    reason: str

    @property
    def date(self) -> date:
        """The day as a date."""
        return EPOCH + timedelta(days=self.day)


def reason_of(error: errors.QuotaError) -> str | None:
    """Return why a call was refused; None where the error is no refusal."""
    return next((REASONS[kind] for kind in type(error).__mro__ if kind in REASONS), None)


def counted_name(name: object) -> str:
    """Return a model's or provider's name as PostgreSQL takes it, whatever a caller said."""
    if not isinstance(name, str):
        return ""
    kept = name[:NAME_LENGTH_MAX].replace("\x00", "\ufffd")
    return kept.encode(errors="replace").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalRow:
    """
    Calls that were made and that were refused. What the report is not asked by is None.

    ``refused``: how often, a caller's own repetitions included; ``would_be_refused``: calls that
    were made because their quotas are in the shadow; ``reasons``: of both, by reason.
    ``refusal_rate``: refused / (calls + refused). ``failed``: of the calls, those that failed,
    timed out or were cancelled; ``error_rate``: failed / calls.
    """

    day: date | None = None
    month: str | None = None
    account: str | None = None
    team: str | None = None
    provider: str | None = None
    model: str | None = None
    quota_type: str | None = None
    calls: int = 0
    refused: int = 0
    would_be_refused: int = 0
    refusal_rate: Decimal | None = None
    failed: int = 0
    error_rate: Decimal | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalReport:
    """Rows by what was asked, and the ``total`` of all."""

    by: tuple[str, ...]
    since: date | None
    until: date | None
    rows: tuple[RefusalRow, ...]
    total: RefusalRow


@dataclass(frozen=True, slots=True)
class RefusalPiece:
    """How often calls of the same names were refused for a reason, read from the ledger."""

    names: tuple[Any, ...]
    reason: str
    refused: int


def checked_refusal_query(**asked: Any) -> ReportQuery:
    """Return what is asked for; raise ``InvalidArgumentError`` for what no refusal has."""
    query = checked_report_query(**asked)
    if wrong := [name for name in query.by if name not in DIMENSIONS]:
        raise InvalidArgumentError(
            f"refusals are reported by {', '.join(DIMENSIONS)}, not by {wrong[0]}"
        )
    for name in ("usage_type", "status", "currency", "order_by", "limit"):
        if getattr(query, name) is not None:
            raise InvalidArgumentError(f"a report of refusals knows no {name}")
    return query


def refusal_report(usage: UsageReport, pieces: Iterable[RefusalPiece]) -> RefusalReport:
    """Put the calls that were made and those that were refused side by side."""
    made = {tuple(getattr(row, name) for name in usage.by): row for row in usage.rows}
    refused: dict[tuple[Any, ...], dict[str, int]] = {}
    total: dict[str, int] = {}
    for piece in pieces:
        names = tuple(name or None for name in piece.names)
        for sums in (refused.setdefault(names, {}), total):
            sums[piece.reason] = sums.get(piece.reason, 0) + piece.refused
    places = sorted(
        {*made, *refused},
        key=lambda names: tuple((name is None, str(name)) for name in names),
    )
    nothing = ReportRow()
    return RefusalReport(
        by=usage.by,
        since=usage.since,
        until=usage.until,
        rows=tuple(
            _row(
                dict(zip(usage.by, names, strict=True)),
                made.get(names, nothing),
                refused.get(names, {}),
            )
            for names in places
        ),
        total=_row({}, usage.total, total),
    )


def _row(names: Mapping[str, Any], made: ReportRow, reasons: Mapping[str, int]) -> RefusalRow:
    would_be = sum(count for reason, count in reasons.items() if reason.startswith(SHADOW))
    refused = sum(reasons.values()) - would_be
    return RefusalRow(
        **names,
        calls=made.calls,
        refused=refused,
        would_be_refused=would_be,
        refusal_rate=ratio(refused, made.calls + refused),
        failed=made.failed + made.timed_out + made.cancelled,
        error_rate=made.error_rate,
        reasons={reason: reasons[reason] for reason in sorted(reasons)},
    )
