"""The ledger answers what the engine asks, and says plainly when it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import text, update

from quota_engine.commands import GrantTerms, WindowCount
from quota_engine.embedded import PostgresServer
from quota_engine.errors import (
    EngineUnavailableError,
    IdempotencyConflictError,
    InvalidArgumentError,
)
from quota_engine.events import GENESIS, NEVER_MS
from quota_engine.jobs.persist import drain
from quota_engine.keys import QuotaName
from quota_engine.ledger import Ledger, tables
from tests.entries import AT_MS, LogWriter, whole_life
from tests.outboxes import OutboxWriter, opened_world

NAME = QuotaName("user:42", "text_token")
HORIZON_MS = 900_000
TERMS = GrantTerms(amount=100, source="purchase", reference="order:1")


@pytest.fixture
def outbox(redis_url: str, database_url: str) -> Iterator[OutboxWriter]:
    with opened_world(redis_url, database_url) as world:
        yield world


@pytest.fixture
def ledger(outbox: OutboxWriter) -> Ledger:
    return outbox.ledger


def persist(outbox: OutboxWriter) -> int:
    return drain(outbox.client, outbox.ledger, [outbox.shard])


def test_an_unknown_quota_is_empty_and_creates_nothing(ledger: Ledger) -> None:
    snapshot = ledger.read_snapshot(NAME, HORIZON_MS)
    assert (snapshot.is_known, snapshot.epoch, snapshot.version) == (False, 1, 0)
    assert snapshot.chain == GENESIS
    assert ledger.find_operation(NAME, "d1") is None
    fate = ledger.find_hold(NAME, "h1")
    assert (fate.version, fate.was_placed, fate.capture) == (0, False, None)
    assert list(ledger.known_quotas()) == []


def test_a_snapshot_is_the_quota_as_it_was_persisted(outbox: OutboxWriter) -> None:
    writer, written = whole_life(NAME)
    outbox.send(*written)
    persist(outbox)
    snapshot = outbox.ledger.read_snapshot(NAME, HORIZON_MS)
    assert (snapshot.version, snapshot.chain) == (writer.version, writer.chain)
    assert (snapshot.debt, snapshot.overdraft_limit, snapshot.frozen) == (0, None, "")
    assert {
        (grant.grant_id, grant.remaining, grant.reserved, grant.state) for grant in snapshot.grants
    } == {("g4", 49, 8, "live"), ("t2:in:1", 4, 0, "live"), ("t2:in:2", 5, 0, "live")}
    assert {grant.expires_at_ms for grant in snapshot.grants} == {NEVER_MS}
    hour = WindowCount("calls:hour:sliding", 0, (AT_MS + 30) // 60_000 * 60_000, 1)
    assert (snapshot.limits, snapshot.counts) == (written[-2].entry.terms, (hour,))
    [hold] = snapshot.holds
    assert (hold.hold_id, hold.amount, hold.allocations) == ("h4", 8, (("g4", 8),))
    remembered = [operation.operation_id for operation in snapshot.operations]
    assert "h3:expire" in remembered
    assert "g2:start" not in remembered
    first = snapshot.operations[0]
    assert (first.version, first.amount, first.balance) == (1, 100, 100)
    assert first.movements == written[0].entry.movements


def test_a_pending_grant_and_an_ended_one_with_a_reserved_part_are_in_the_snapshot(
    outbox: OutboxWriter,
) -> None:
    writer = LogWriter(NAME)
    outbox.send(
        writer.issue_grant("g1", 10),
        writer.place_hold("h1", 4),
        writer.end_grant("g1"),
        writer.issue_grant("g2", 7, starts_at_ms=AT_MS + 60_000),
        writer.issue_grant("g3", 5),
        writer.debit("d1", 5),
    )
    persist(outbox)
    grants = outbox.ledger.read_snapshot(NAME, HORIZON_MS).grants
    assert {(g.grant_id, g.state, g.remaining, g.reserved) for g in grants} == {
        ("g1", "expired", 0, 4),
        ("g2", "pending", 7, 0),
    }


def test_operations_older_than_the_horizon_are_not_in_the_snapshot(outbox: OutboxWriter) -> None:
    writer = LogWriter(NAME)
    outbox.send(writer.issue_grant("g1", 10))
    persist(outbox)
    assert outbox.ledger.read_snapshot(NAME, 0).operations == ()
    assert outbox.ledger.find_operation(NAME, "g1") is not None


def test_a_hold_is_found_with_its_capture(outbox: OutboxWriter) -> None:
    _, written = whole_life(NAME)
    outbox.send(*written)
    persist(outbox)
    fate = outbox.ledger.find_hold(NAME, "h1")
    assert fate.was_placed
    assert fate.capture is not None
    assert (fate.capture.operation_id, fate.capture.amount) == ("h1:capture", 20)
    assert fate.version == len(written)
    unseen = outbox.ledger.find_hold(NAME, "h9")
    assert (unseen.version, unseen.was_placed, unseen.capture) == (len(written), False, None)


def test_history_gives_the_very_entries_that_were_written(outbox: OutboxWriter) -> None:
    _, written = whole_life(NAME)
    outbox.send(*written)
    persist(outbox)
    history = outbox.ledger.history(NAME)
    assert [recorded.entry for recorded in history] == [one.entry for one in written]
    assert [recorded.entry.text() for recorded in history] == [one.text for one in written]
    assert [recorded.chain for recorded in history] == [one.chain for one in written]
    assert [recorded.event_id.n for recorded in history] == list(range(1, len(written) + 1))
    later = outbox.ledger.history(NAME, after_version=3, limit=2)
    assert [recorded.entry.version for recorded in later] == [4, 5]


def test_known_quotas_come_page_by_page_in_order(outbox: OutboxWriter) -> None:
    names = [QuotaName(account, "credit") for account in ("é", "a", "B", "a/b", "a b", "账户")]
    for name in names:
        outbox.send(LogWriter(name).issue_grant("g", 1))
    persist(outbox)
    heads = list(outbox.ledger.known_quotas(shard=0, page_size=2))
    assert [head.quota for head in heads] == sorted(names, key=lambda name: name.account)
    assert {head.version for head in heads} == {1}


def test_quotas_with_due_changes_are_found(outbox: OutboxWriter) -> None:
    soon = AT_MS + 1_000
    starting, ending, expiring, idle, used_up = (
        LogWriter(QuotaName(account, "credit")) for account in "abcde"
    )
    outbox.send(
        starting.issue_grant("g", 5, starts_at_ms=soon),
        ending.issue_grant("g", 5, expires_at_ms=soon),
        expiring.issue_grant("g", 5),
        expiring.place_hold("h", 5, soon),
        idle.issue_grant("g", 5),
        used_up.issue_grant("g", 5, expires_at_ms=soon),
        used_up.debit("d", 5),
    )
    persist(outbox)
    ledger = outbox.ledger
    assert ledger.quotas_with_due_changes(soon - 1, 10) == []
    due = ledger.quotas_with_due_changes(soon, 10)
    assert sorted(name.account for name in due) == ["a", "b", "c"]
    assert len(ledger.quotas_with_due_changes(soon, 2)) == 2
    with ledger.transaction() as connection:
        connection.execute(
            update(tables.quotas).where(tables.quotas.c.account == "a").values(frozen="why")
        )
    assert len(ledger.quotas_with_due_changes(soon, 10)) == 2


def test_an_intent_is_recorded_once_and_applied_by_its_entry(outbox: OutboxWriter) -> None:
    ledger = outbox.ledger
    intent, is_new = ledger.record_intent(NAME, "g1", TERMS, '{"source":"purchase"}')
    assert is_new
    assert (intent.terms, intent.applied_version) == (TERMS, None)
    assert ledger.record_intent(NAME, "g1", TERMS)[1] is False
    assert [one.grant_id for one in ledger.open_intents()] == ["g1"]
    assert ledger.open_intents(timedelta(hours=1)) == []
    assert ledger.read_snapshot(NAME, HORIZON_MS).is_known is False
    outbox.send(LogWriter(NAME).issue_grant("g1", 100, fingerprint=TERMS.fingerprint))
    persist(outbox)
    assert ledger.open_intents() == []
    applied, is_new = ledger.record_intent(NAME, "g1", TERMS)
    assert (applied.applied_version, is_new) == (1, False)
    assert applied.details == '{"source":"purchase"}'
    assert applied.terms.reference == "order:1"


def test_the_same_grant_id_with_other_terms_conflicts(outbox: OutboxWriter) -> None:
    outbox.ledger.record_intent(NAME, "g1", TERMS)
    with pytest.raises(IdempotencyConflictError, match="g1"):
        outbox.ledger.record_intent(NAME, "g1", GrantTerms(amount=101, source="purchase"))
    outbox.send(LogWriter(NAME).issue_grant("g2", 100))
    persist(outbox)
    with pytest.raises(IdempotencyConflictError):
        outbox.ledger.record_intent(NAME, "g2", TERMS)


def test_of_two_first_starts_both_are_told_the_same_deployment(ledger: Ledger) -> None:
    again = ledger.create_deployment("dep_other", 7)
    assert (again.deployment_id, again.shards) == ("dep_test", 1)
    assert len(ledger.read_shards()) == 1
    assert ledger.deployment() == again


def test_the_books_sum_to_zero(outbox: OutboxWriter) -> None:
    _, written = whole_life(NAME)
    outbox.send(*written)
    persist(outbox)
    with outbox.ledger.transaction() as connection:
        rows = connection.execute(text("SELECT book, amount FROM books"))
        books = {row.book: row.amount for row in rows}
    assert sum(books.values()) == 0
    told = {"balances": 66, "expired": 35, "usage": 152, "issued": -250, "transferred": -3}
    assert books == told


@pytest.mark.parametrize(
    ("database_url", "told"),
    [
        ("postgresql://user:secret@127.0.0.1:1/nowhere", "Connection refused|refused"),
        ("postgresql://user:secret@no-such-host.invalid/nowhere", "no-such-host"),
    ],
)
def test_a_database_that_does_not_answer_is_told_without_its_password(
    database_url: str, told: str
) -> None:
    with pytest.raises(EngineUnavailableError, match=told) as caught:
        Ledger.open(database_url)
    assert "secret" not in str(caught.value)


def test_a_missing_database_and_missing_tables_are_told(
    postgres_server: PostgresServer, empty_database_url: str
) -> None:
    with pytest.raises(EngineUnavailableError, match="does not exist"):
        Ledger.open(postgres_server.url_of("no_such_database"))
    with (
        Ledger.open(empty_database_url) as ledger,
        pytest.raises(EngineUnavailableError, match="ledger migrate"),
    ):
        ledger.read_shards()


@pytest.mark.parametrize("url", ["mysql://user:secret@host/x", "not a url with secret", ""])
def test_what_is_no_postgresql_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Ledger.open(url)
    assert "secret" not in str(caught.value)


def test_a_forked_child_opens_connections_of_its_own(ledger: Ledger) -> None:
    def backend() -> int:
        with ledger.transaction() as connection:
            return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

    mine = backend()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(backend()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 100)) != mine
    os.close(reader)
    os.close(writer)
    assert backend() == mine


def test_a_cut_connection_is_replaced(ledger: Ledger, database_url: str) -> None:
    with ledger.transaction() as connection:
        mine = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with Ledger.open(database_url) as other, other.transaction() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": mine})
    assert ledger.deployment() is not None


def test_a_connection_that_is_in_use_while_the_ledger_closes_is_closed_when_it_is_given_back(
    database_url: str,
) -> None:
    """Nobody else would: its pool is gone by then, and the server would keep the session."""
    ledger = Ledger.open(database_url)
    with ledger.transaction() as connection:
        session = connection.connection.driver_connection
        assert session is not None
        ledger.close()
        assert connection.execute(text("SELECT 1")).scalar() == 1
    assert session.closed
    with ledger.transaction() as connection:
        session = connection.connection.driver_connection
        assert session is not None
    assert not session.closed, "a ledger that is used again has a pool again"
    ledger.close()
