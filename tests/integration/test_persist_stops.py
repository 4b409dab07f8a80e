"""A shard stops where its outbox is not the one the ledger knows, and loses nothing by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import update

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import EventId
from quota_engine.jobs.persist import PersistOutcome, drain, persist_batch
from quota_engine.keys import QuotaName
from quota_engine.ledger import tables
from tests.entries import LogWriter
from tests.outboxes import OutboxWriter, opened_world

NAME = QuotaName("user:42", "text_token")


@pytest.fixture
def outbox(redis_url: str, database_url: str) -> Iterator[OutboxWriter]:
    with opened_world(redis_url, database_url) as world:
        yield world


def persist(outbox: OutboxWriter) -> PersistOutcome:
    return persist_batch(outbox.client, outbox.ledger, outbox.shard)


def record(outbox: OutboxWriter, **values: Any) -> None:
    with outbox.ledger.transaction() as connection:
        connection.execute(update(tables.shards).values(**values))


def assert_stopped(outbox: OutboxWriter, told: str, *, recorded: int) -> None:
    """The shard is stopped for this reason, twice alike, and so much is in the ledger."""
    for _ in range(2):
        outcome = persist(outbox)
        assert outcome.status == "stopped"
        assert told in outcome.reason
    [shard] = outbox.ledger.read_shards()
    assert shard.stopped == outcome.reason
    assert len(outbox.ledger.history(NAME)) == recorded
    with pytest.raises(EngineUnavailableError, match="could not be drained"):
        drain(outbox.client, outbox.ledger, [0])


def three_entries(outbox: OutboxWriter) -> None:
    writer = LogWriter(NAME)
    outbox.send(writer.issue_grant("g", 100), writer.debit("d1", 1), writer.debit("d2", 1))


def test_a_gap_stops_the_shard_before_it(outbox: OutboxWriter) -> None:
    three_entries(outbox)
    outbox.client.xdel(outbox.keys.outbox, "1-2")
    assert_stopped(outbox, "gap: 1-3 comes after 1-1", recorded=1)
    assert outbox.ledger.read_shards()[0].cursor == EventId(1, 1)


def test_a_lost_end_stops_the_shard(outbox: OutboxWriter) -> None:
    three_entries(outbox)
    outbox.client.xdel(outbox.keys.outbox, "1-1", "1-2", "1-3")
    assert_stopped(outbox, "gap: nothing is left between 1-0 and 1-3", recorded=0)


def test_a_missing_outbox_stops_the_shard(outbox: OutboxWriter) -> None:
    outbox.client.delete(outbox.keys.outbox)
    assert_stopped(outbox, "the outbox is gone", recorded=0)


def test_an_outbox_that_ends_below_the_cursor_stops_the_shard(outbox: OutboxWriter) -> None:
    record(outbox, cursor_n=9)
    three_entries(outbox)
    assert_stopped(outbox, "ends at 1-3, below the cursor 1-9", recorded=0)


def test_a_newer_epoch_stops_the_shard_before_anything_is_read(outbox: OutboxWriter) -> None:
    three_entries(outbox)
    outbox.client.xadd(outbox.keys.outbox, {"marker": "{}"}, id="2-0")
    assert_stopped(outbox, "stale epoch", recorded=0)


def test_an_older_epoch_stops_the_shard(outbox: OutboxWriter) -> None:
    three_entries(outbox)
    record(outbox, epoch=2)
    assert_stopped(outbox, "foreign epoch", recorded=0)


def test_another_server_stops_the_shard(outbox: OutboxWriter) -> None:
    three_entries(outbox)
    record(outbox, incarnation="another:one")
    assert_stopped(outbox, "another Redis answers", recorded=0)


def test_a_shard_that_was_never_opened_is_left_alone(outbox: OutboxWriter) -> None:
    three_entries(outbox)
    record(outbox, epoch=0, cursor_epoch=0)
    assert_stopped(outbox, "not opened", recorded=0)


def test_an_epoch_without_its_marker_stops_the_shard(outbox: OutboxWriter) -> None:
    three_entries(outbox)
    outbox.epoch, outbox.n = 2, -1
    outbox.send(LogWriter(NAME).issue_grant("g9", 1))
    record(outbox, epoch=2, cursor_epoch=1, cursor_n=3)
    assert_stopped(outbox, "2-0 begins an epoch without the gate's marker", recorded=0)


def test_the_marker_of_the_ledgers_epoch_is_passed(outbox: OutboxWriter) -> None:
    three_entries(outbox)
    assert persist(outbox).events == 3
    outbox.client.xadd(outbox.keys.outbox, {"marker": "{}"}, id="2-0")
    record(outbox, epoch=2)
    outcome = persist(outbox)
    assert (outcome.status, outcome.events, outcome.cursor) == ("persisted", 0, EventId(2, 0))


def test_an_unknown_format_stops_the_shard_until_somebody_knows_it(
    outbox: OutboxWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LogWriter(NAME)
    first, second, third = (
        writer.issue_grant("g", 100),
        writer.debit("d1", 1),
        writer.debit("d2", 1),
    )
    outbox.send(first)
    newer = second.text.replace("1\n", "2\n", 1)
    outbox.send_raw({"entry": newer, "chain": second.chain})
    outbox.send(third)
    assert_stopped(outbox, "entry format 2", recorded=1)
    from quota_engine.ledger import incoming

    known = incoming.parse_entry
    monkeypatch.setattr(
        incoming, "parse_entry", lambda text: known(second.text if text == newer else text)
    )
    # A release that knows format 2 goes on where this one stopped.
    outcome = persist(outbox)
    assert outcome.status == "persisted"
    assert outcome.events == 2
    assert outbox.ledger.read_shards()[0].stopped is None


def test_a_stopped_shard_goes_on_once_the_reason_is_gone(outbox: OutboxWriter) -> None:
    three_entries(outbox)
    [shard] = outbox.ledger.read_shards()
    record(outbox, incarnation="another:one")
    assert persist(outbox).status == "stopped"
    record(outbox, incarnation=shard.incarnation)
    assert persist(outbox).events == 3
    assert outbox.ledger.read_shards()[0].stopped is None


def test_one_stopped_shard_does_not_keep_the_others_from_draining(
    redis_url: str, database_url: str
) -> None:
    with opened_world(redis_url, database_url, shards=2) as outbox:
        name = QuotaName("user:1", "credit")
        assert outbox.ledger.shard_of(name) == 0
        outbox.send(LogWriter(name).issue_grant("g", 1))
        with pytest.raises(EngineUnavailableError, match="shard 1: the gate has not opened"):
            drain(outbox.client, outbox.ledger, [1, 0])
        assert len(outbox.ledger.history(name)) == 1
