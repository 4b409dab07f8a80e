"""
What usage records tell, in columns: whatever a caller wrote, the shard goes on and nothing lies.

Method: usages that nobody should write, sent by the persister, by the migration and by the rules;
all three must make the same columns of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, text

from quota_engine import Usage
from quota_engine.jobs.persist import persist_batch
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.ledger import migrate
from quota_engine.ledger.connection import open_engine
from quota_engine.prices.cost import cost_of
from quota_engine.prices.price import Price, PricingType, Unit
from quota_engine.recorded import READERS, recorded_call, told_by
from tests.entries import LogWriter
from tests.odd_usage import ODD
from tests.outboxes import OutboxWriter, opened_world

NAME = QuotaName("user:1", "text_token")
INSERT = text(
    "INSERT INTO usage_records (account, quota_type, version, operation_id, amount, shortfall,"
    " late, usage, at_ms, recorded_at) VALUES ('a', 'text_token', :version, 'op', 0, 0, false,"
    " :usage, 0, now())"
)


@pytest.fixture
def outbox(redis_url: str, database_url: str) -> Iterator[OutboxWriter]:
    with opened_world(redis_url, database_url) as opened:
        yield opened


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Engine]:
    engine = open_engine(empty_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def postgres_engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


def columns_in(engine: Engine) -> list[dict[str, Any]]:
    """Return the columns that each record fills, in the order of the entries."""
    names = ", ".join(READERS)
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT {names} FROM usage_records ORDER BY version"))
        return [
            {name: value for name, value in row._mapping.items() if value is not None}
            for row in rows
        ]


OBJECTS = {"anomaly", "metadata"}
EXPECTED = [columns for _, columns in ODD]


def test_whatever_a_caller_wrote_the_shard_goes_on(outbox: OutboxWriter) -> None:
    writer = LogWriter(NAME)
    entries = [writer.issue_grant("g", 100)]
    for number, (usage, _) in enumerate(ODD):
        details = json.dumps({"usage": usage})
        entries.append(writer.debit(f"d{number}", 1, details=details))
    outbox.send(*entries)
    outcome = persist_batch(outbox.client, outbox.ledger, 0)
    assert (outcome.status, outcome.quarantined) == ("persisted", 0)
    assert columns_in(outbox.ledger.engine) == EXPECTED
    assert list(verify(outbox.ledger)) == []


def test_details_too_deep_to_read_stop_no_shard(outbox: OutboxWriter) -> None:
    writer = LogWriter(NAME)
    deep = '{"usage":{"metadata":' + '{"a":' * 50_000 + "1" + "}" * 50_002
    outbox.send(writer.issue_grant("g", 100), writer.debit("d", 1, details=deep))
    assert persist_batch(outbox.client, outbox.ledger, 0).quarantined == 0
    assert len(outbox.ledger.history(NAME)) == 2


def test_the_migration_makes_the_same_columns(empty: Engine, empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    migrate.downgrade(empty_database_url, "0003")
    with empty.begin() as connection:
        for number, (usage, _) in enumerate(ODD):
            connection.execute(INSERT, {"version": number, "usage": json.dumps(usage)})
    migrate.upgrade(empty_database_url)
    assert columns_in(empty) == EXPECTED
    migrate.downgrade(empty_database_url, "0003")
    with empty.connect() as connection:
        kept = connection.execute(text("SELECT usage FROM usage_records ORDER BY version"))
        assert [usage for (usage,) in kept] == [usage for usage, _ in ODD]


@pytest.mark.parametrize(("usage", "columns"), ODD)
def test_a_reader_sees_the_same(usage: Any, columns: dict[str, Any]) -> None:
    told = dict(zip(READERS, told_by(usage), strict=True))
    found = {name: value for name, value in told.items() if value is not None}
    if "price_ids" in found:
        found["price_ids"] = list(found["price_ids"])
    assert found == {**columns, **{name: usage[name] for name in OBJECTS & columns.keys()}}
    call = recorded_call(
        usage,
        at_ms=0,
        recorded_at=None,
        **{"account": "a", "quota_type": "text_token", "version": 1, "operation_id": "o"},
        **{"amount": 0, "shortfall": 0, "late": False},
    )
    assert call.cost == columns.get("cost")
    assert call.usage is not None
    assert call.usage.input_tokens == columns.get("input_tokens", 0)
    assert isinstance(call.cost, Decimal | None)


def test_a_million_recorded_costs_sum_exactly(postgres_engine: Engine) -> None:
    """Each row has the cost that one token at 0.0003 per 1K was priced at."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    price = Price(
        price_id="price_1",
        provider="p",
        model="m",
        pricing_type=PricingType.INPUT_TOKEN,
        unit=Unit.PER_1K_TOKENS,
        price=Decimal("0.0003"),
        currency="CNY",
        effective_at=at,
    )
    cost = cost_of(Usage(input_tokens=1), [price], provider="p", model="m", at=at)
    rows = "INSERT INTO costs SELECT :cost FROM generate_series(1, 1000000)"
    with postgres_engine.begin() as connection:
        made = "CREATE TEMP TABLE costs AS SELECT cost FROM usage_records WHERE false"
        connection.execute(text(made))  # the column as it is
        connection.execute(text(rows), {"cost": cost.amount})
        count, total = connection.execute(text("SELECT count(cost), sum(cost) FROM costs")).one()
    assert (count, total) == (1_000_000, Decimal("0.3"))
