"""A quota's log as a caller reads it: entries with aware instants and the caller's own words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from quota_engine.commands import Allocation
from quota_engine.commands.quotas import allocations_of
from quota_engine.events import Entry
from quota_engine.instants import from_ms
from quota_engine.payers import payer_in


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """
    One numbered line of a quota's log. Amounts in units.

    ``recorded_at`` is None while the entry is pending: in Redis, not yet in the ledger.
    ``duplicate_of`` is the version that used the same operation id first.
    """

    account: str
    quota_type: str
    version: int
    kind: str
    operation_id: str
    amount: int
    delta: int
    balance_after: int
    held_delta: int
    held_after: int
    debt_after: int
    shortfall: int
    hold_id: str | None
    grant_id: str | None
    late: bool
    #: The account that paid in place of the quota, which then moves nothing; None: none did.
    paid_by: str | None
    allocations: tuple[Allocation, ...]
    details: dict[str, Any]
    occurred_at: datetime
    recorded_at: datetime | None
    chain: str
    duplicate_of: int | None = None

    @property
    def is_pending(self) -> bool:
        """Whether the entry is still on its way to the ledger."""
        return self.recorded_at is None

    @property
    def reference(self) -> str | None:
        """What the caller said it was for."""
        return self.details.get("reference")

    @property
    def description(self) -> str | None:
        """How the caller described it."""
        return self.details.get("description")

    @property
    def source(self) -> str | None:
        """Where a grant came from."""
        return self.details.get("source")


def history_entry(
    entry: Entry, chain: str, *, recorded_at: datetime | None, duplicate_of: int | None = None
) -> HistoryEntry:
    """Return an entry of the log as its readers see it."""
    name = entry.name
    is_hold = entry.kind.startswith("hold.")
    is_grant = entry.kind.startswith("grant.")
    charges = entry.kind in ("hold.captured", "quota.debited")
    return HistoryEntry(
        account=name.account,
        quota_type=name.quota_type,
        version=entry.version,
        kind=entry.kind,
        operation_id=entry.operation_id,
        amount=entry.amount,
        delta=entry.delta,
        balance_after=entry.balance,
        held_delta=entry.held_delta,
        held_after=entry.held,
        debt_after=entry.debt,
        shortfall=entry.shortfall,
        hold_id=entry.subject if is_hold else None,
        grant_id=entry.subject if is_grant else None,
        late="late" in entry.flags.split(),
        paid_by=payer_in(entry.flags),
        allocations=allocations_of(entry.movements) if charges else (),
        details=json.loads(entry.details) if entry.details else {},
        occurred_at=from_ms(entry.at_ms),
        recorded_at=recorded_at,
        chain=chain,
        duplicate_of=duplicate_of,
    )
