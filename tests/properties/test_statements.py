"""
Whatever happened to a quota, its statements add up to the unit, wherever time is cut.

Random histories of the model, with holds, overdrafts, refunds, transfers, pending grants and a
clock that goes back, are persisted and stated in SQL; a plain sum over the entries is the oracle.
The verifier's equation must hold for each.
"""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime
from itertools import pairwise

import pytest
from sqlalchemy import func, select

from quota_engine.events import Entry
from quota_engine.instants import from_ms
from quota_engine.jobs.persist import drain
from quota_engine.jobs.verify import verify
from quota_engine.ledger import tables
from quota_engine.ledger.statements import StatementTables
from quota_engine.statements import BRINGING, Column, Statement, checked_period, column_of
from tests.outboxes import OutboxWriter, opened_world
from tests.properties.alone import history
from tests.properties.walking import NAME

ACTS, CUTS = 160, 12


def check(entries: list[Entry], made: Statement) -> None:
    """Compare a statement with a plain sum over the entries of its period."""
    since_ms = 0 if made.since is None else round(made.since.timestamp() * 1000)
    until_ms = round(made.until.timestamp() * 1000)
    wanted: Counter[Column] = Counter()
    latest_ms = shortfall = balance = 0
    for entry in entries:
        latest_ms = max(latest_ms, entry.at_ms)
        if latest_ms < until_ms:
            balance = entry.balance
        if since_ms <= latest_ms < until_ms:
            shortfall += entry.shortfall
            column = column_of(entry.kind, "refund" if '"refund"' in entry.details else None)
            if column is not None:
                wanted[column] += entry.delta if column in BRINGING else -entry.delta
    assert {column: getattr(made, column) for column in Column} == {
        column: wanted[column] for column in Column
    }
    assert (made.closing, made.shortfall, made.difference) == (balance, shortfall, 0)


def stated(world: OutboxWriter, since: datetime | None, until: datetime | None) -> Statement:
    store = StatementTables(world.ledger)
    return store.read_statement(NAME, checked_period(since, until))


def pending_units(world: OutboxWriter) -> int:
    """Return what has yet to start, as the table of grants has it."""
    table = tables.grants
    query = select(func.coalesce(func.sum(table.c.remaining), 0))
    with world.ledger.transaction() as connection:
        return int(connection.execute(query.where(table.c.state == "pending")).scalar_one())


@pytest.mark.parametrize("seed", range(4))
def test_statements_add_up_wherever_time_is_cut(
    redis_url: str, database_url: str, seed: int
) -> None:
    written = history(seed, ACTS)
    entries = [one.entry for one in written]
    with opened_world(redis_url, database_url) as world:
        world.send_many(written)
        drain(world.client, world.ledger, [0])
        assert list(verify(world.ledger)) == []
        whole = stated(world, None, None)
        assert (whole.opening, whole.closing) == (0, entries[-1].balance)
        assert (whole.entries, whole.closing_held) == (len(entries), entries[-1].held)
        assert whole.pending == pending_units(world)
        check(entries, whole)
        chance = random.Random(seed)
        instants = sorted(chance.choices([entry.at_ms for entry in entries], k=CUTS))
        cuts = sorted(from_ms(at_ms + chance.choice([0, 0, 1])) for at_ms in instants)
        parts = [stated(world, *pair) for pair in pairwise([None, *cuts, None])]
    for part in parts:
        check(entries, part)
    for before, after in pairwise(parts):
        assert (before.closing, before.closing_held, before.closing_debt) == (
            *(after.opening, after.opening_held, after.opening_debt),
        )
    for column in (*Column, "shortfall", "entries"):
        assert sum(getattr(part, column) for part in parts) == getattr(whole, column)


def test_the_histories_meet_every_column_and_a_clock_that_goes_back() -> None:
    """Else the test above would prove less than it says."""
    histories = [[one.entry for one in history(seed, ACTS)] for seed in range(4)]
    entries = [entry for one in histories for entry in one]
    assert {column_of(entry.kind, None) for entry in entries if entry.delta} >= set(Column)
    assert any(entry.debt for entry in entries)
    assert any(entry.shortfall for entry in entries)
    for one in histories:
        assert any(after.at_ms < before.at_ms for before, after in pairwise(one))
