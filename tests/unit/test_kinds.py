"""An entry is taken only when it extends its quota's log, and is what its kind may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quota_engine import events, kinds
from quota_engine.chain import OPEN, PENDING, Cause, QuotaLog
from quota_engine.events import (
    Entry,
    MalformedEntryError,
    Movement,
    UnknownFormatError,
    parse_entry,
)
from quota_engine.keys import QuotaName
from tests.entries import LogWriter, Written, whole_life

NAME = QuotaName("user:42", "text_token")


def replay(written: list[Written]) -> QuotaLog:
    log = QuotaLog(name=NAME)
    for one in written:
        assert kinds.misfit(log, one.entry, one.text, one.chain) is None
        kinds.apply(log, one.entry, one.chain)
    return log


def test_every_kind_fits_and_adds_up() -> None:
    writer, written = whole_life(NAME)
    assert {one.entry.kind for one in written} == events.KINDS
    log = replay(written)
    assert (log.version, log.chain, log.balance) == (writer.version, writer.chain, writer.balance)
    live = [grant for grant in log.grants.values() if grant.state != PENDING]
    assert sum(grant.remaining + grant.reserved for grant in live) - log.debt == log.balance
    still_open = [hold for hold in log.holds.values() if hold.state == OPEN]
    assert sum(hold.amount for hold in still_open) == log.held
    assert {hold.hold_id: hold.state for hold in log.holds.values()} == {
        "h1": "captured",
        "h2": "released",
        "h3": "expired",
        "h4": "open",
    }
    assert {grant.grant_id: grant.state for grant in log.grants.values()} == {
        "g1": "live",
        "g2": "expired",
        "g3": "voided",
        "g4": "live",
        "t2:in:1": "live",
        "t2:in:2": "live",
    }
    assert log.overdraft_limit is None


def test_an_entry_is_its_text() -> None:
    for one in whole_life(NAME)[1]:
        assert parse_entry(one.text) == one.entry
        assert parse_entry(one.text).text() == one.text


@pytest.mark.parametrize(
    ("line", "value"),
    [(3, "+1"), (4, "1_000"), (7, " 5"), (8, "5 "), (9, "٣"), (10, "007"), (11, "-0"), (12, "x")],
)
def test_a_number_that_would_not_come_back_is_malformed(line: int, value: str) -> None:
    lines = whole_life(NAME)[1][0].text.split("\n")
    lines[line] = value
    with pytest.raises(MalformedEntryError):
        parse_entry("\n".join(lines))


def test_a_newer_format_is_unknown_and_not_malformed() -> None:
    with pytest.raises(UnknownFormatError):
        parse_entry("99\nwhatever")
    with pytest.raises(MalformedEntryError):
        parse_entry("junk")


def test_a_part_is_taken_from_the_first_allocations() -> None:
    writer = LogWriter(NAME)
    written = [
        writer.issue_grant("g1", 10),
        writer.issue_grant("g2", 10),
        writer.place_hold("h", 12),
        writer.capture_part("h", 5, "part"),
        writer.extend_hold("h", 10),
    ]
    assert replay(written).holds["h"].allocations == [("g1", 5), ("g2", 2), ("g2", 3)]


def _held() -> LogWriter:
    writer = LogWriter(NAME)
    writer.issue_grant("g", 100)
    writer.place_hold("h", 40)
    return writer


def _log() -> QuotaLog:
    writer = LogWriter(NAME)
    return replay([writer.issue_grant("g", 100), writer.place_hold("h", 40)])


Change = Callable[[Entry], Entry]
DEBIT = "debit"
CAPTURE = "capture"
RELEASE = "release"
ISSUE = "issue"
PLACE = "place"
CANCEL = "cancel"
SEND = "send"
ARRIVE = "arrive"

MISFITS: list[tuple[str, Change, Cause]] = [
    (DEBIT, lambda e: replace(e, version=e.version + 1), Cause.VERSION_GAP),
    (DEBIT, lambda e: replace(e, version=e.version - 1), Cause.FORK_OR_ROLLBACK),
    (DEBIT, lambda e: replace(e, balance=e.balance + 1), Cause.BALANCE),
    (DEBIT, lambda e: replace(e, held=e.held + 1), Cause.HELD),
    (DEBIT, lambda e: replace(e, held=0, held_delta=-40), Cause.HELD),
    (DEBIT, lambda e: replace(e, debt=-1), Cause.DEBT),
    (DEBIT, lambda e: replace(e, debt=1), Cause.MOVEMENTS),
    (DEBIT, lambda e: replace(e, movements=()), Cause.MOVEMENTS),
    (DEBIT, lambda e: replace(e, shortfall=1), Cause.BALANCE),
    (DEBIT, lambda e: replace(e, movements=(Movement("x", -5, 0),)), Cause.GRANT),
    (
        DEBIT,
        lambda e: replace(e, movements=(Movement("g", -65, 60),)),
        Cause.GRANT,
    ),
    (
        DEBIT,
        lambda e: replace(e, movements=(Movement("g", -2, 0), Movement("g", -3, 0))),
        Cause.MOVEMENTS,
    ),
    (CAPTURE, lambda e: replace(e, subject="other"), Cause.HOLD),
    (CAPTURE, lambda e: replace(e, held=1, held_delta=-39), Cause.HOLD),
    (CAPTURE, lambda e: replace(e, flags="late"), Cause.HELD),
    (CAPTURE, lambda e: replace(e, flags="part"), Cause.HOLD),
    (RELEASE, lambda e: replace(e, amount=39), Cause.HOLD),
    (RELEASE, lambda e: replace(e, subject="other"), Cause.HOLD),
    (ISSUE, lambda e: replace(e, terms="50 soon never now"), Cause.TERMS),
    (ISSUE, lambda e: replace(e, amount=6), Cause.GRANT),
    (ISSUE, lambda e: replace(e, subject="g"), Cause.GRANT),
    (PLACE, lambda e: replace(e, terms=""), Cause.TERMS),
    (PLACE, lambda e: replace(e, subject="h"), Cause.HOLD),
    (PLACE, lambda e: replace(e, amount=6), Cause.HOLD),
    (CANCEL, lambda e: replace(e, fingerprint="print"), Cause.TERMS),
    (CANCEL, lambda e: replace(e, amount=6), Cause.BALANCE),
    (SEND, lambda e: replace(e, details=""), Cause.TERMS),
    (SEND, lambda e: replace(e, details='{"to":7}'), Cause.TERMS),
    (SEND, lambda e: replace(e, terms="5 50"), Cause.TERMS),
    (SEND, lambda e: replace(e, terms="4 50 9"), Cause.TERMS),
    (SEND, lambda e: replace(e, shortfall=1), Cause.BALANCE),
    (SEND, lambda e: replace(e, amount=4, terms="4 50 9"), Cause.BALANCE),
    (SEND, lambda e: replace(e, movements=(Movement("g", 0, -5),)), Cause.MOVEMENTS),
    (SEND, lambda e: replace(e, held=39, held_delta=-1), Cause.HELD),
    (ARRIVE, lambda e: replace(e, terms=""), Cause.TERMS),
    (ARRIVE, lambda e: replace(e, amount=4, terms="4 50 9"), Cause.BALANCE),
    (ARRIVE, lambda e: replace(e, operation_id="other"), Cause.MOVEMENTS),
    (ARRIVE, lambda e: replace(e, terms="4 50 9 1 50 9"), Cause.MOVEMENTS),
    (ARRIVE, lambda e: replace(e, held=41, held_delta=1), Cause.HELD),
]


@pytest.mark.parametrize(("what", "change", "cause"), MISFITS)
def test_a_wrong_entry_does_not_fit(what: str, change: Change, cause: Cause) -> None:
    writer = _held()
    chain = writer.chain
    right = {
        DEBIT: lambda: writer.debit("d", 5),
        CAPTURE: lambda: writer.capture_hold("h", 30),
        RELEASE: lambda: writer.close_hold("h"),
        ISSUE: lambda: writer.issue_grant("g2", 5),
        PLACE: lambda: writer.place_hold("h2", 5),
        CANCEL: lambda: writer.cancel("d"),
        SEND: lambda: writer.transfer_out("t", 5),
        ARRIVE: lambda: writer.transfer_in("t:in", 5),
    }[what]()
    log = _log()
    assert kinds.misfit(log, right.entry, right.text, right.chain) is None
    writer.chain = chain
    wrong = writer.chained(change(right.entry))
    misfit = kinds.misfit(log, wrong.entry, wrong.text, wrong.chain)
    assert misfit is not None
    assert misfit.cause == cause


def test_another_chain_does_not_fit() -> None:
    right = _held().debit("d", 5)
    misfit = kinds.misfit(_log(), right.entry, right.text, "0" * 40)
    assert misfit is not None
    assert misfit.cause == Cause.CHAIN
