"""Persisted entries leave the outbox some time later, and never what is not persisted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import text

from quota_engine.events import EventId
from quota_engine.jobs import trim as trimming
from quota_engine.jobs.persist import drain
from quota_engine.jobs.trim import trim
from quota_engine.keys import QuotaName
from quota_engine.outbox import Outbox
from quota_engine.scripts import load_scripts
from tests.entries import LogWriter
from tests.outboxes import OutboxWriter, opened_world

NAME = QuotaName("user:42", "text_token")
AT_ONCE = timedelta(0)
LATER = timedelta(hours=1)


@pytest.fixture
def outbox(any_redis_url: str, database_url: str) -> Iterator[OutboxWriter]:
    with opened_world(any_redis_url, database_url) as world:
        world.client.script_load(load_scripts()["trim_outbox"].source)
        yield world


@pytest.fixture
def writer(outbox: OutboxWriter) -> LogWriter:
    """Ten entries, six of them persisted."""
    log = LogWriter(NAME)
    outbox.send(log.issue_grant("g", 100), *(log.debit(f"d{turn}", 1) for turn in range(5)))
    drain(outbox.client, outbox.ledger, [0])
    outbox.send(*(log.debit(f"e{turn}", 1) for turn in range(4)))
    return log


def cut(
    outbox: OutboxWriter, trim_after: timedelta = AT_ONCE, keep_max: int = 1_000
) -> tuple[int, EventId | None]:
    """Trim; return how many went, and what is first now."""
    count = trim(outbox.client, outbox.ledger, 0, trim_after=trim_after, keep_max=keep_max)
    return count, Outbox(outbox.client, 0).first_id()


@pytest.mark.usefixtures("writer")
def test_what_is_not_persisted_stays(outbox: OutboxWriter) -> None:
    assert cut(outbox) == (7, EventId(1, 7))
    assert cut(outbox) == (0, EventId(1, 7))
    assert drain(outbox.client, outbox.ledger, [0]) == 4
    assert cut(outbox) == (4, None)
    assert Outbox(outbox.client, 0).last_id() == EventId(1, 10)
    assert drain(outbox.client, outbox.ledger, [0]) == 0


@pytest.mark.usefixtures("writer")
def test_persisted_entries_stay_until_they_are_old_enough(outbox: OutboxWriter) -> None:
    assert cut(outbox, LATER) == (0, EventId(1, 0))
    drain(outbox.client, outbox.ledger, [0])
    with outbox.ledger.transaction() as connection:
        connection.execute(
            text("UPDATE shards SET trim_mark_at = trim_mark_at - interval '1 hour'")
        )
    assert cut(outbox, LATER) == (7, EventId(1, 7))  # as far as the mark, which moves on
    assert outbox.ledger.read_shards()[0].trim_mark == EventId(1, 10)
    assert cut(outbox, LATER) == (0, EventId(1, 7))


@pytest.mark.usefixtures("writer")
def test_never_more_than_so_many_persisted_entries_stay(outbox: OutboxWriter) -> None:
    assert cut(outbox, LATER, keep_max=2) == (5, EventId(1, 5))
    assert cut(outbox, LATER, keep_max=0) == (2, EventId(1, 7))


@pytest.mark.usefixtures("writer")
def test_entries_of_earlier_epochs_count_as_persisted(outbox: OutboxWriter) -> None:
    drain(outbox.client, outbox.ledger, [0])
    outbox.epoch = 2
    outbox.open()
    assert cut(outbox, LATER, keep_max=20) == (0, EventId(1, 0))
    assert cut(outbox, LATER, keep_max=5) == (11, EventId(2, 0))


@pytest.mark.usefixtures("writer")
def test_a_trim_is_cut_in_slices(outbox: OutboxWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming, "SLICE", 2)
    assert cut(outbox) == (7, EventId(1, 7))


@pytest.mark.usefixtures("writer")
@pytest.mark.parametrize("fence", ["2", None])
def test_another_history_is_not_trimmed(outbox: OutboxWriter, fence: str | None) -> None:
    outbox.client.hdel(outbox.keys.versions, "@epoch")
    if fence is not None:
        outbox.client.hset(outbox.keys.versions, "@epoch", fence)
    assert cut(outbox) == (0, EventId(1, 0))


@pytest.mark.usefixtures("writer")
def test_a_closed_server_is_not_trimmed_and_gets_no_script(outbox: OutboxWriter) -> None:
    outbox.client.script_flush()
    assert cut(outbox) == (0, EventId(1, 0))
    assert outbox.client.script_exists(load_scripts()["trim_outbox"].sha) == [False]
