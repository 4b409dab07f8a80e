"""
Every kind of entry has its place in a statement, and its lines say what it moves.

Method: hand-made entries of every kind; the columns by amounts (the verifier's way) are compared
with the changes of the balance (the statement's way).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from quota_engine import events, kinds
from quota_engine.errors import InvalidArgumentError
from quota_engine.keys import QuotaName
from quota_engine.statements import (
    BRINGING,
    COLUMNS,
    SOURCES,
    Column,
    Place,
    Sum,
    checked_period,
    column_of,
    statement_of,
)
from tests.entries import whole_life

NAME = QuotaName("user:42", "text_token")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_every_kind_of_entry_has_its_place_in_a_statement() -> None:
    assert set(COLUMNS) == set(kinds._RULES) == events.KINDS


def test_an_entrys_lines_tell_what_it_changes_of_the_balance() -> None:
    """But for pending grants: told when they are issued, counted when they start."""
    pending = 0
    for written in whole_life(NAME)[1]:
        entry = written.entry
        column, units = COLUMNS[entry.kind].column, COLUMNS[entry.kind].units(entry)
        if column is None:
            assert (entry.delta, units) == (0, 0)
            continue
        change = units if column in BRINGING else -units
        if change != entry.delta:
            pending += change - entry.delta
        assert change == entry.delta or entry.kind.startswith("grant.")
    assert pending == 0


def test_what_a_refund_makes_a_grant_of_was_refunded_and_not_granted() -> None:
    assert column_of(events.GRANT_ISSUED, "refund") is Column.REFUNDED
    assert column_of(events.GRANT_ISSUED, "purchase") is Column.GRANTED
    assert column_of(events.GRANT_EXPIRED, "refund") is Column.EXPIRED
    assert set(SOURCES.values()) <= BRINGING


def test_a_statement_adds_up_or_says_by_how_much_it_does_not() -> None:
    sums = [
        Sum(events.GRANT_ISSUED, "purchase", 1, 100, 0),
        Sum(events.GRANT_ISSUED, "refund", 1, 7, 0),
        Sum(events.QUOTA_DEBITED, None, 2, -30, 4),
        Sum(events.GRANT_EXPIRED, None, 1, -5, 0),
        Sum(events.GRANT_VOIDED, None, 1, -6, 0),
        Sum(events.HOLD_PLACED, None, 3, 0, 0),
    ]
    ends = (Place(balance=10, held=1), Place(balance=76, held=9, debt=2, pending=50))
    made = statement_of(NAME, (None, NOON), ends, sums)
    assert (made.granted, made.refunded, made.used, made.expired, made.voided) == (
        100,
        7,
        30,
        5,
        6,
    )
    assert (made.opening, made.closing, made.shortfall, made.entries) == (10, 76, 4, 9)
    assert (made.closing_held, made.closing_debt, made.pending, made.difference) == (9, 2, 50, 0)
    assert statement_of(NAME, (None, NOON), (ends[1], ends[0]), sums).difference == -132


def test_a_period_must_not_end_before_it_starts() -> None:
    assert checked_period(NOON, NOON).since_ms == checked_period(NOON, NOON).until_ms
    assert checked_period(None, NOON).since_ms is None
    with pytest.raises(InvalidArgumentError, match="before it starts"):
        checked_period(NOON, NOON - timedelta(seconds=1))
    with pytest.raises(InvalidArgumentError, match="time zone"):
        checked_period(datetime(2026, 1, 1), None)
