"""
Statements: what an account had of a quota type, what came and went in a period, and what it has.

Which column an entry's kind belongs to is told in one table, here; the statement, the verifier's
equation and the tests read it. Pure: it must not know where entries are kept.

``opening + granted + refunded + transferred_in − used − expired − voided − transferred_out =
closing``, to the unit. Opening and closing are balances: what is left in live grants, open holds
included, less debt. So a grant counts when it begins to count in the balance: a pending one when
it starts, not when it is issued.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from quota_engine import events
from quota_engine.errors import InvalidArgumentError
from quota_engine.instants import to_ms
from quota_engine.keys import QuotaName


class Column(StrEnum):
    """What brings units or takes them; a statement has a column for each."""

    GRANTED = "granted"
    USED = "used"
    EXPIRED = "expired"
    VOIDED = "voided"
    REFUNDED = "refunded"
    TRANSFERRED_IN = "transferred_in"
    TRANSFERRED_OUT = "transferred_out"


#: Columns that bring units; the others take them.
BRINGING = frozenset({Column.GRANTED, Column.REFUNDED, Column.TRANSFERRED_IN})


class Lines(Protocol):
    """Those lines of an entry that tell units: an ``Entry``, or its row in the ledger."""

    @property
    def amount(self) -> int: ...
    @property
    def shortfall(self) -> int: ...
    @property
    def terms(self) -> str: ...
    @property
    def flags(self) -> str: ...


def _amount(lines: Lines) -> int:
    return lines.amount


def _collected(lines: Lines) -> int:
    return 0 if events.COUNTED in lines.flags else lines.amount - lines.shortfall


def _returned(lines: Lines) -> int:
    """Return what a refund gave back: not what it forfeited, nor what became a grant."""
    return lines.amount - sum(int(word) for word in lines.terms.split(" "))


def _nothing(_: Lines) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Belongs:
    """
    Where entries of a kind belong. ``column`` None: they change no balance.

    ``units``: what such an entry brings or takes by its own lines, whenever it begins to count: of
    a pending grant all is told by its issue, nothing by its start.
    """

    column: Column | None
    units: Callable[[Lines], int]


#: Every kind of entry. A new kind must be told here, or a test fails.
COLUMNS: Mapping[str, Belongs] = {
    events.GRANT_ISSUED: Belongs(Column.GRANTED, _amount),
    events.GRANT_STARTED: Belongs(Column.GRANTED, _nothing),
    events.GRANT_EXPIRED: Belongs(Column.EXPIRED, _amount),
    events.GRANT_VOIDED: Belongs(Column.VOIDED, _amount),
    events.HOLD_PLACED: Belongs(None, _nothing),
    events.HOLD_EXTENDED: Belongs(None, _nothing),
    events.HOLD_CAPTURED: Belongs(Column.USED, _collected),
    events.HOLD_RELEASED: Belongs(None, _nothing),
    events.HOLD_EXPIRED: Belongs(None, _nothing),
    events.QUOTA_DEBITED: Belongs(Column.USED, _collected),
    events.QUOTA_REFUNDED: Belongs(Column.REFUNDED, _returned),
    events.QUOTA_TRANSFERRED_OUT: Belongs(Column.TRANSFERRED_OUT, _amount),
    events.QUOTA_TRANSFERRED_IN: Belongs(Column.TRANSFERRED_IN, _amount),
    events.OVERDRAFT_LIMIT_SET: Belongs(None, _nothing),
    events.LIMIT_SET: Belongs(None, _nothing),
    events.USAGE_RECORDED: Belongs(None, _nothing),
    events.QUOTA_REPAIRED: Belongs(None, _nothing),
    events.OPERATION_CANCELLED: Belongs(None, _nothing),
}

#: Grants of these sources belong to another column: a refund makes one of what has no grant to go
#: back to.
SOURCES: Mapping[str, Column] = {"refund": Column.REFUNDED}


def column_of(kind: str, source: str | None) -> Column | None:
    """Return the column of a kind of entry; ``source``: of the grant, where one begins."""
    column = COLUMNS[kind].column
    return SOURCES.get(source or "", column) if column is Column.GRANTED else column


@dataclass(frozen=True, slots=True)
class Period:
    """From an instant on, it included, until another, not included. None: no bound."""

    since_ms: int | None
    until_ms: int | None


def checked_period(since: datetime | None, until: datetime | None) -> Period:
    """Return a period; raise ``InvalidArgumentError`` for one that ends before it starts."""
    since_ms = None if since is None else to_ms(since, name="since")
    until_ms = None if until is None else to_ms(until, name="until")
    if since_ms is not None and until_ms is not None and until_ms < since_ms:
        raise InvalidArgumentError(f"a statement must not end before it starts: {since}, {until}")
    return Period(since_ms, until_ms)


@dataclass(frozen=True, slots=True)
class Place:
    """What a quota had at one place of its log. ``pending``: issued, but to start later."""

    balance: int = 0
    held: int = 0
    debt: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True)
class Sum:
    """The entries of one kind within a period. ``source``: of the grants that began."""

    kind: str
    source: str | None
    entries: int
    delta: int
    shortfall: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """
    One quota over a period: ``since`` counts, ``until`` does not; None: from the first entry.

    ``opening`` and ``closing`` are balances, debt taken off, holds not: ``closing_held`` of it is
    in open holds, and without ``closing_debt`` it would be higher. ``used`` is what was collected;
    ``shortfall`` was used beside it, and is never collected. ``granted``: grants that began to
    count; ``pending``: those that at the end had yet to start, in no balance. ``refunded``: given
    back to grants, to debt or as a grant; what a refund forfeits is in no column. All in units.
    """

    account: str
    quota_type: str
    since: datetime | None
    until: datetime
    opening: int
    granted: int
    used: int
    expired: int
    voided: int
    refunded: int
    transferred_in: int
    transferred_out: int
    closing: int
    shortfall: int
    opening_held: int
    closing_held: int
    opening_debt: int
    closing_debt: int
    pending: int
    entries: int

    @property
    def difference(self) -> int:
        """What the columns do not explain of the closing balance: 0, or the ledger was edited."""
        moved = sum(getattr(self, column) * (1 if column in BRINGING else -1) for column in Column)
        return int(self.closing - self.opening - moved)


def statement_of(
    quota: QuotaName,
    between: tuple[datetime | None, datetime],
    ends: tuple[Place, Place],
    sums: Iterable[Sum],
) -> Statement:
    """Return the statement of a period, from what the ledger has at its ends and between them."""
    columns = dict.fromkeys(Column, 0)
    shortfall = entries = 0
    for part in sums:
        shortfall += part.shortfall
        entries += part.entries
        column = column_of(part.kind, part.source)
        if column is not None:
            columns[column] += part.delta if column in BRINGING else -part.delta
    opening, closing = ends
    figures: dict[str, Any] = {column.value: units for column, units in columns.items()}
    return Statement(
        account=quota.account,
        quota_type=quota.quota_type,
        since=between[0],
        until=between[1],
        opening=opening.balance,
        closing=closing.balance,
        shortfall=shortfall,
        opening_held=opening.held,
        closing_held=closing.held,
        opening_debt=opening.debt,
        closing_debt=closing.debt,
        pending=closing.pending,
        entries=entries,
        **figures,
    )
