"""Whoever edits the ledger is found out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from quota_engine.jobs.persist import drain
from quota_engine.jobs.verify import Finding, verify
from quota_engine.keys import QuotaName
from tests.entries import LogWriter, whole_life
from tests.outboxes import OutboxWriter, opened_world

NAME = QuotaName("user:42", "text_token")


@pytest.fixture
def outbox(redis_url: str, database_url: str) -> Iterator[OutboxWriter]:
    with opened_world(redis_url, database_url) as world:
        world.send(*whole_life(NAME)[1])
        other = LogWriter(QuotaName("user:43", "credit"))
        world.send(other.issue_grant("g", 5), other.place_hold("h", 3), other.close_hold("h"))
        drain(world.client, world.ledger, [0])
        yield world


def edit(outbox: OutboxWriter, *statements: str) -> list[Finding]:
    """Change rows behind the ledger's back; return what verifying finds."""
    with outbox.ledger.transaction() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            assert connection.execute(text(statement)).rowcount != 0
    return list(verify(outbox.ledger))


def test_an_honest_ledger_has_no_findings(outbox: OutboxWriter) -> None:
    counts: list[int] = []
    assert list(verify(outbox.ledger, counts.append)) == []
    assert counts == [33]


@pytest.mark.parametrize(
    ("statement", "cause", "version"),
    [
        ("UPDATE ledger_entries SET amount = 29 WHERE version = 17", "chain", 17),
        (
            "UPDATE ledger_entries SET details = '{}' WHERE version = 1 AND account = 'user:42'",
            "chain",
            1,
        ),
        (
            "UPDATE ledger_entries SET chain = 'f' WHERE version = 2 AND account = 'user:42'",
            "chain",
            2,
        ),
        ("UPDATE ledger_entries SET movements = 'x' WHERE version = 8", "malformed", 8),
        ("UPDATE ledger_entries SET kind = 'hold.eaten' WHERE version = 8", "malformed", 8),
        ("UPDATE ledger_entries SET format = '7' WHERE version = 8", "malformed", 8),
        ("DELETE FROM ledger_entries WHERE version = 17", "version_gap", 18),
        ("UPDATE quotas SET balance = balance + 1000 WHERE account = 'user:42'", "head", None),
        ("UPDATE quotas SET overdraft_limit = 5 WHERE account = 'user:42'", "head", None),
        ("DELETE FROM quotas WHERE account = 'user:43'", "head", None),
        ("UPDATE grants SET remaining = 58 WHERE grant_id = 'g4'", "grant", None),
        ("UPDATE grants SET grant_id = 'g9' WHERE grant_id = 'g4'", "grant", None),
        ("UPDATE holds SET amount = 9 WHERE hold_id = 'h4'", "hold", None),
        ("UPDATE holds SET state = 'captured' WHERE hold_id = 'h4'", "hold", None),
        ("UPDATE holds SET state = 'captured' WHERE hold_id = 'h2'", "hold", None),
        ("DELETE FROM holds WHERE hold_id = 'h2'", "hold", None),
        ("DELETE FROM usage_records WHERE version = 9", "usage", 9),
        ("UPDATE usage_records SET amount = 1 WHERE version = 9", "usage", 9),
        ("UPDATE usage_records SET version = 10 WHERE version = 9", "usage", 9),
    ],
)
def test_an_edited_row_is_found(
    outbox: OutboxWriter, statement: str, cause: str, version: int | None
) -> None:
    findings = edit(outbox, statement)
    assert findings
    assert (findings[0].cause, findings[0].version) == (cause, version)
    # a count that is too small for a shard's cursor is about no quota
    assert len({finding.quota for finding in findings} - {None}) == 1


def test_an_operation_that_is_there_twice_is_found(outbox: OutboxWriter) -> None:
    findings = edit(
        outbox,
        "DROP INDEX ledger_entries_operation",
        "UPDATE ledger_entries SET operation_id = 'd1' WHERE operation_id = 'limit-2'",
    )
    assert [finding.cause for finding in findings] == ["chain", "duplicate"]
    assert findings[1].version == 21


def test_an_intent_that_waits_is_no_finding(outbox: OutboxWriter) -> None:
    columns = "account, quota_type, grant_id, state, fingerprint, amount, remaining, reserved"
    more = "priority, starts_at_ms, expires_at_ms, created_at_ms"
    assert (
        edit(
            outbox,
            f"INSERT INTO grants ({columns}, {more})"
            " VALUES ('user:44', 'credit', 'g', 'intent', 'f', 1, 0, 0, 0, 0, 0, 0)",
        )
        == []
    )


def test_an_event_that_is_nowhere_is_found(outbox: OutboxWriter) -> None:
    """A whole quota was removed, and the cursor says that there was more."""
    [finding] = edit(
        outbox,
        "DELETE FROM ledger_entries WHERE account = 'user:43'",
        "DELETE FROM quotas WHERE account = 'user:43'",
        "DELETE FROM grants WHERE account = 'user:43'",
        "DELETE FROM holds WHERE account = 'user:43'",
    )
    assert (finding.quota, finding.cause) == (None, "cursor")
    assert "but 33 events were persisted" in finding.detail


def test_what_is_in_quarantine_is_not_missing(outbox: OutboxWriter) -> None:
    outbox.send_raw({"junk": "x"})
    drain(outbox.client, outbox.ledger, [0])
    assert list(verify(outbox.ledger)) == []


def test_what_waits_in_quarantine_while_its_quota_goes_on_is_found(outbox: OutboxWriter) -> None:
    outbox.send_raw({"entry": f"1\njunk\n{NAME}\n", "chain": "x"})
    drain(outbox.client, outbox.ledger, [0])
    assert list(verify(outbox.ledger)) == []
    [finding] = edit(outbox, "UPDATE quotas SET frozen = '' WHERE account = 'user:42'")
    assert (finding.quota, finding.cause) == (NAME, "frozen")


@pytest.mark.parametrize(
    ("term", "statement"),
    [
        ("granted", "UPDATE ledger_entries SET amount = amount + 1 WHERE operation_id = 'g4'"),
        ("refunded", "UPDATE ledger_entries SET terms = '0 0' WHERE kind = 'quota.refunded'"),
        ("used", "UPDATE ledger_entries SET amount = amount + 1 WHERE operation_id = 'd1'"),
        ("used", "UPDATE ledger_entries SET shortfall = 2 WHERE operation_id = 'part-1'"),
        ("expired", "UPDATE ledger_entries SET amount = 9 WHERE operation_id = 'g2:expire:h3'"),
        ("voided", "UPDATE ledger_entries SET amount = 6 WHERE kind = 'grant.voided'"),
        ("transferred out", "UPDATE ledger_entries SET amount = 5 WHERE operation_id = 't1'"),
        ("transferred in", "UPDATE ledger_entries SET amount = 8 WHERE operation_id = 't2:in'"),
        ("remaining", "UPDATE grants SET remaining = remaining + 1 WHERE grant_id = 'g1'"),
        ("held", "UPDATE holds SET allocations = '[[\"g4\", 7]]' WHERE hold_id = 'h4'"),
        ("debt", "UPDATE quotas SET debt = debt + 1 WHERE account = 'user:42'"),
    ],
)
def test_the_equation_misses_a_unit_in_each_of_its_terms(
    outbox: OutboxWriter, term: str, statement: str
) -> None:
    """Beside what the replay of the chain finds, which this must not need."""
    sums = [one for one in edit(outbox, statement) if one.cause == "sums"]
    [finding] = [one for one in sums if "make" in one.detail]
    assert finding.quota == NAME
    assert f"{term} " in finding.detail


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE daily_charges SET charged = charged + 1 WHERE account = 'user:42'",
        "UPDATE daily_charges SET called = called - 1 WHERE account = 'user:42'",
        "UPDATE daily_charges SET paid = paid + 1 WHERE account = 'user:42'",
        "DELETE FROM daily_charges WHERE account = 'user:42'",
    ],
)
def test_daily_charges_are_those_of_the_entries(outbox: OutboxWriter, statement: str) -> None:
    [finding] = [one for one in edit(outbox, statement) if one.quota == NAME]
    assert (finding.cause, "daily charges" in finding.detail) == ("sums", True)
