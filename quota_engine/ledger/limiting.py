"""Who changed the limits of a quota, when and why, from the ledger's entries."""

from __future__ import annotations

from sqlalchemy import select

from quota_engine.events import LIMIT_SET
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from quota_engine.ledger.history import recorded_entry
from quota_engine.ledger.ledger import Ledger
from quota_engine.limiting import LimitChange, change_of


class LimitTables:
    """Changes of limits in one ledger. Safe to share between threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def changes(self, quota: QuotaName) -> list[LimitChange]:
        """Return what was done to a quota's limits, oldest first; no renewals."""
        table = tables.ledger_entries
        query = (
            select(table)
            .where(
                table.c.account == quota.account,
                table.c.quota_type == quota.quota_type,
                table.c.kind == LIMIT_SET,
            )
            .order_by(table.c.version)
        )
        with self._ledger.transaction() as connection:
            entries = [recorded_entry(row).entry for row in connection.execute(query)]
        found = (change_of(entry) for entry in entries)
        return [change for change in found if change is not None]
