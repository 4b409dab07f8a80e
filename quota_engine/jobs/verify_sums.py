"""
The equation that every quota must meet, added up from its entries' amounts and the tables alone.

issued + refunded + transferred in + debt = remaining + held + used + expired + voided +
transferred out. It looks at no chain, no balance and no delta, so it is a second opinion: a replay
that is wrong in the same way as the log it replays would still disagree with it. Debt is apart,
for it is what was used and no grant has paid yet; shortfall is no part of it, for it was never
collected. Held: what open holds have of grants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row

from quota_engine.chain import INTENT, OPEN
from quota_engine.ledger.daily_charges import DAY_MS, charged_by, wrong_days
from quota_engine.statements import BRINGING, COLUMNS

Rows = Iterator[Row[Any]]


class LedgerSums:
    """Adds up one quota, row by row, while somebody else reads the same rows."""

    def __init__(self) -> None:
        self._moved: Counter[str] = Counter()
        self._remaining = 0
        self._held = 0
        # by days since 1970: what the quota's daily charges should be
        self._charged: dict[int, tuple[int, ...]] = {}

    def entries(self, rows: Rows) -> Rows:
        """Yield the rows of entries, each added to its column."""
        for row in rows:
            belongs = COLUMNS.get(row.kind)
            if belongs is not None and belongs.column is not None:
                self._moved[belongs.column] += _units(belongs.units, row)
            added = charged_by(row) if row.duplicate_of is None else (0, 0, 0)
            if added[0]:
                day = row.at_ms // DAY_MS
                sums = self._charged.get(day, (0, 0, 0))
                self._charged[day] = tuple(map(sum, zip(sums, added, strict=True)))
            yield row

    def grants(self, rows: Rows) -> Rows:
        """Yield the rows of grants, with what is left of each added up; pending ones count."""
        for row in rows:
            if row.state != INTENT:
                self._remaining += row.remaining
            yield row

    def holds(self, rows: Rows) -> Rows:
        """Yield the rows of holds, with what the open ones have of grants added up."""
        for row in rows:
            if row.state == OPEN:
                self._held += sum(units for _, units in row.allocations)
            yield row

    def unequal(self, debt: int, charges: Rows) -> Iterator[str]:
        """Say what differs, in words. ``charges``: the quota's daily charges."""
        brought = {column: units for column, units in self._moved.items() if column in BRINGING}
        taken = {column: units for column, units in self._moved.items() if column not in BRINGING}
        came: dict[str, int] = {**brought, "debt": debt}
        went: dict[str, int] = {"remaining": self._remaining, "held": self._held, **taken}
        ins, outs = sum(came.values()), sum(went.values())
        if ins != outs:
            yield f"{_told(came)} make {ins}, but {_told(went)} {outs}"
        yield from wrong_days(self._charged, charges)


def _units(units: Any, row: Row[Any]) -> int:
    try:
        return int(units(row))
    except ValueError:  # terms that say no numbers: the replay tells
        return 0


def _told(figures: dict[str, int]) -> str:
    return " + ".join(f"{name.replace('_', ' ')} {units}" for name, units in figures.items())
