"""What an outbox says is in the ledger once, in order, and what does not fit is kept beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select

from quota_engine.errors import EngineUnavailableError
from quota_engine.events import EventId
from quota_engine.jobs.persist import PersistOutcome, drain, persist_batch
from quota_engine.jobs.server_check import read_incarnation
from quota_engine.jobs.verify import verify
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger, tables
from quota_engine.ledger.migrate import upgrade
from quota_engine.ledger.shards import lock_shard
from quota_engine.outbox import Outbox
from tests.entries import LogWriter, Written, altered, whole_life
from tests.outboxes import OutboxWriter, opened_world

NAME = QuotaName("user:42", "text_token")
#: Entries of a whole life.
LIFE = len(whole_life(NAME)[1])
OTHER = QuotaName("user:43", "text_token")


@pytest.fixture
def outbox(any_redis_url: str, database_url: str) -> Iterator[OutboxWriter]:
    with opened_world(any_redis_url, database_url) as world:
        yield world


def persist(outbox: OutboxWriter, **options: Any) -> PersistOutcome:
    return persist_batch(outbox.client, outbox.ledger, outbox.shard, **options)


def rows_of(ledger: Ledger, table: str) -> list[dict[str, Any]]:
    """Return a table's rows without what differs from run to run."""
    with ledger.transaction() as connection:
        found = connection.execute(select(tables.metadata.tables[table])).mappings()
        moving = {"recorded_at", "updated_at", "created_at", "id"}
        rows = [{name: row[name] for name in row if name not in moving} for row in found]
    return sorted(rows, key=str)


def quarantined(outbox: OutboxWriter) -> list[Any]:
    with outbox.ledger.transaction() as connection:
        table = tables.quarantine
        return list(connection.execute(select(table).order_by(table.c.id)))


def frozen_of(outbox: OutboxWriter, name: QuotaName) -> str:
    return outbox.ledger.read_snapshot(name, 0).frozen


def test_a_batch_is_persisted_once(outbox: OutboxWriter) -> None:
    _, written = whole_life(NAME)
    outbox.send(*written)
    outcome = persist(outbox)
    assert (outcome.status, outcome.events, outcome.quarantined) == ("persisted", LIFE, 0)
    assert (outcome.cursor, outcome.is_more) == (EventId(1, LIFE), False)
    assert persist(outbox).status == "empty"
    assert len(outbox.ledger.history(NAME)) == LIFE
    assert list(verify(outbox.ledger)) == []


def test_the_size_of_a_batch_changes_nothing(
    outbox: OutboxWriter, empty_database_url: str
) -> None:
    upgrade(empty_database_url)
    outbox.send(*whole_life(NAME)[1])
    while persist(outbox, batch_max=1).status == "persisted":
        pass
    with Ledger.open(empty_database_url) as whole:
        whole.create_deployment("dep_test", 1)
        outbox.record_opening(whole)
        assert persist_batch(outbox.client, whole, 0).events == LIFE
        for table in ("ledger_entries", "quotas", "grants", "holds", "usage_records"):
            assert rows_of(outbox.ledger, table) == rows_of(whole, table)
    assert list(verify(outbox.ledger)) == []


def test_references_and_usage_are_taken_from_the_details(outbox: OutboxWriter) -> None:
    writer = LogWriter(NAME)
    odd = '{"reference":"a\\u0000b\\ud800","usage":{"text":"\\u0000\\ud800"},"source":7}'
    outbox.send(
        writer.issue_grant("g", 100, details=odd),
        writer.debit("d1", 1, details=odd),
        writer.debit("d2", 1, details="no json"),
        writer.debit("d3", 1, details='{"usage":NaN}'),
        writer.debit("d4", 1, details="[1]"),
    )
    assert persist(outbox).quarantined == 0
    entries = rows_of(outbox.ledger, "ledger_entries")
    assert [row["details"] for row in entries].count(odd) == 2
    assert {row["reference"] for row in entries} == {"a\N{REPLACEMENT CHARACTER}b?", None}
    assert len(rows_of(outbox.ledger, "usage_records")) == 1
    assert list(verify(outbox.ledger)) == []


def test_the_incarnation_is_the_one_that_the_gate_records(outbox: OutboxWriter) -> None:
    page = Outbox(outbox.client, 0).read(EventId(0, 0), 1)
    assert page.incarnation == read_incarnation(outbox.client)


def test_pending_entries_of_a_quota_are_found_in_the_outbox(outbox: OutboxWriter) -> None:
    one, other = LogWriter(NAME), LogWriter(OTHER)
    outbox.send(one.issue_grant("g", 5), other.issue_grant("g", 5), one.debit("d", 1))
    reader = Outbox(outbox.client, 0)
    found = reader.pending_of(NAME, EventId(1, 0))
    assert [event.event_id.n for event in found] == [1, 3]
    assert (reader.last_id(), reader.length()) == (EventId(1, 3), 4)
    assert reader.oldest_pending_ms(EventId(1, 1)) is not None
    assert reader.oldest_pending_ms(EventId(1, 3)) is None


# -- what does not fit

Wrong = Callable[[LogWriter], Written]


def _gap(writer: LogWriter) -> Written:
    return writer.chained(altered(writer.debit("d", 1), version=writer.version + 7))


def _fork(writer: LogWriter) -> Written:
    return writer.chained(altered(writer.debit("d", 1), version=1))


def _unchained(writer: LogWriter) -> Written:
    written = writer.debit("d", 1)
    return Written(written.entry, written.text, "f" * 40)


def _other_balance(writer: LogWriter) -> Written:
    chain = writer.chain
    wrong = altered(writer.debit("d", 1), balance=1_099)
    writer.chain = chain
    return writer.chained(wrong)


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (_gap, "version_gap"),
        (_fork, "fork_or_rollback"),
        (_unchained, "chain"),
        (_other_balance, "balance"),
    ],
)
def test_a_quota_whose_entry_does_not_fit_is_frozen_and_the_others_go_on(
    outbox: OutboxWriter, wrong: Wrong, cause: str
) -> None:
    writer, other = LogWriter(NAME), LogWriter(OTHER)
    bad = None
    outbox.send(writer.issue_grant("g", 100), other.issue_grant("g", 100))
    bad = wrong(writer)
    after = writer.debit("d2", 1)
    outbox.send(bad, other.debit("d", 1), after)
    told: list[tuple[QuotaName, str]] = []
    outcome = persist(outbox, on_freeze=lambda name, reason: told.append((name, reason)))
    assert (outcome.status, outcome.events, outcome.quarantined) == ("persisted", 5, 2)
    assert [name for name, _ in told] == [NAME]
    assert told[0][1].startswith(cause)
    assert frozen_of(outbox, NAME) == told[0][1]
    assert frozen_of(outbox, OTHER) == ""
    assert len(outbox.ledger.history(NAME)) == 1
    assert len(outbox.ledger.history(OTHER)) == 2
    first, second = quarantined(outbox)
    assert (first.cause, first.quota, first.event_id) == (cause, str(NAME), "1-3")
    assert (first.raw_entry, first.raw_chain) == (bad.text.encode(), bad.chain.encode())
    assert (second.cause, second.raw_entry) == ("frozen", after.text.encode())


def test_a_frozen_quota_stays_frozen_in_later_batches_and_is_told_again(
    outbox: OutboxWriter,
) -> None:
    writer = LogWriter(NAME)
    outbox.send(_gap(writer))
    persist(outbox)
    fine = LogWriter(NAME).issue_grant("g", 5)
    outbox.send(fine)
    told: list[QuotaName] = []
    persist(outbox, on_freeze=lambda name, reason: told.append(name))
    assert told == [NAME]
    assert [row.cause for row in quarantined(outbox)] == ["version_gap", "frozen"]
    assert frozen_of(outbox, NAME).startswith("version_gap")
    assert outbox.ledger.history(NAME) == []


def _lines(**changes: Any) -> bytes:
    written = LogWriter(NAME).issue_grant("g", 5)
    return altered(written, **changes).text().encode()


@pytest.mark.parametrize(
    ("entry", "is_recognised"),
    [
        (b"\xff\xfe junk", False),
        (b"", False),
        (b"1\nhold.placed\nuser:42|text_token\n1", True),
        (b"1\nhold.placed\nuser:42|text_token\n1\n\xff", True),
        (b"1\nhold.placed\nno such quota\n1", False),
        (_lines(kind="hold.eaten"), True),
        (_lines(details="\0"), True),
        (_lines(amount=2**53), True),
        (_lines(balance=-(2**53)), True),
        (_lines(at_ms=-1), True),
        (_lines(operation_id="x" * 5_000), True),
        (_lines(subject="x" * 5_000), True),
        (_lines(quota="no quota type"), False),
        (_lines(quota="|text_token"), False),
        (_lines(version="1" + "0" * 5_000), True),
    ],
)
def test_bytes_that_are_no_entry_are_quarantined(
    outbox: OutboxWriter, entry: bytes, is_recognised: bool
) -> None:
    other = LogWriter(OTHER)
    outbox.send_raw({"entry": entry, "chain": "c" * 40})
    outbox.send(other.issue_grant("g", 100))
    outcome = persist(outbox)
    assert (outcome.status, outcome.events, outcome.quarantined) == ("persisted", 2, 1)
    [row] = quarantined(outbox)
    assert (row.cause, row.raw_entry) == ("malformed", entry)
    assert row.quota == (str(NAME) if is_recognised else None)
    assert bool(frozen_of(outbox, NAME)) == is_recognised
    assert len(outbox.ledger.history(OTHER)) == 1


def test_a_message_that_is_no_entry_at_all_keeps_its_fields(outbox: OutboxWriter) -> None:
    outbox.send_raw({"who": b"\xff", "marker": "late"})
    outbox.send_raw({"marker": "late"})
    persist(outbox)
    assert [row.raw_entry for row in quarantined(outbox)] == [b"who\n\xff\nmarker\nlate", b"late"]


def test_an_entry_of_another_shard_is_quarantined(any_redis_url: str, database_url: str) -> None:
    with opened_world(any_redis_url, database_url, shards=64) as outbox:
        outbox.send(LogWriter(NAME).issue_grant("g", 5))
        persist(outbox)
        [row] = quarantined(outbox)
        assert (row.cause, row.quota) == ("foreign_shard", None)
        assert list(outbox.ledger.known_quotas()) == []


@pytest.mark.row(
    21,
    injection="an operation id comes back when Redis has forgotten it",
    outcome="its entry is kept and marked `duplicate_of`, and counted",
)
def test_an_operation_id_that_comes_back_is_kept_and_marked(outbox: OutboxWriter) -> None:
    writer = LogWriter(NAME)
    outbox.send(writer.issue_grant("g", 100), writer.debit("d", 1))
    persist(outbox)
    outbox.send(writer.debit("d", 2), writer.debit("e", 3), writer.debit("e", 4))
    outcome = persist(outbox)
    assert (outcome.events, outcome.duplicates, outcome.quarantined) == (3, 2, 0)
    assert [row.duplicate_of for row in outbox.ledger.history(NAME)] == [None, None, 2, None, 4]
    first = outbox.ledger.find_operation(NAME, "d")
    assert first is not None
    assert first.amount == 1
    assert outbox.ledger.read_snapshot(NAME, 0).version == 5
    assert list(verify(outbox.ledger)) == []


def test_a_hold_id_that_comes_back_is_open_again(outbox: OutboxWriter) -> None:
    writer = LogWriter(NAME)
    outbox.send(writer.issue_grant("g", 100), writer.place_hold("h", 5), writer.close_hold("h"))
    outbox.send(writer.place_hold("h", 7))
    outcome = persist(outbox)
    assert (outcome.duplicates, outcome.quarantined) == (1, 0)
    [hold] = outbox.ledger.read_snapshot(NAME, 0).holds
    assert hold.amount == 7
    assert list(verify(outbox.ledger)) == []


# -- several drainers


def test_a_second_drainer_finds_the_shard_locked_and_leaves(outbox: OutboxWriter) -> None:
    outbox.send(LogWriter(NAME).issue_grant("g", 100))
    with outbox.ledger.transaction() as connection:
        assert lock_shard(connection, 0, None) is not None
        assert persist(outbox).status == "locked"
    assert persist(outbox).status == "persisted"


def test_a_waiting_drainer_waits_within_bounds(
    outbox: OutboxWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quota_engine.jobs.persist.LOCK_WAIT_MS", 50)
    outbox.send(LogWriter(NAME).issue_grant("g", 100))
    with outbox.ledger.transaction() as connection:
        lock_shard(connection, 0, None)
        assert persist(outbox, wait=True).status == "locked"
        with pytest.raises(EngineUnavailableError, match="not drained in time"):
            drain(outbox.client, outbox.ledger, [0], timeout_s=0.1)
    assert drain(outbox.client, outbox.ledger, [0]) == 1


def test_many_drainers_at_once_persist_each_entry_once(outbox: OutboxWriter) -> None:
    writers = [LogWriter(QuotaName(f"user:{number}", "credit")) for number in range(20)]
    written = [writer.issue_grant("g", 1_000) for writer in writers]
    for turn in range(20):
        written += [writer.debit(f"d{turn}", 1) for writer in writers]
    outbox.send_many(written)
    counts: list[int] = []

    def run() -> None:
        counts.append(drain(outbox.client, outbox.ledger, [0], batch_max=30))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(counts) == len(written)
    assert list(verify(outbox.ledger)) == []
    assert sum(head.version for head in outbox.ledger.known_quotas()) == len(written)


def test_drain_ends_although_others_go_on_writing(outbox: OutboxWriter) -> None:
    writer = LogWriter(NAME)
    outbox.send(writer.issue_grant("g", 100), writer.debit("d", 1))
    assert drain(outbox.client, outbox.ledger, [0], batch_max=1) == 2
    assert drain(outbox.client, outbox.ledger, [0]) == 0


def test_what_one_call_did_is_persisted_in_one_piece(outbox: OutboxWriter) -> None:
    """However small the batch is: a half of a call could be lost with the other half."""
    calls = [whole_life(name)[1][:3] for name in (NAME, OTHER)]
    for together in zip(*calls, strict=True):
        outbox.send_call(*together)
    counts = []
    while (outcome := persist(outbox, batch_max=1)).status == "persisted":
        counts.append(outcome.events)
    assert counts == [2, 2, 2]
    assert len(rows_of(outbox.ledger, "ledger_entries")) == 6
