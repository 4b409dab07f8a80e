"""What a client remembers of its answers, and what it makes of them when they are sent again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from quota_engine.commands import (
    CaptureHold,
    Command,
    Context,
    Debit,
    ExtendHold,
    IssueGrant,
    PlaceHold,
    ReadBalance,
    ReleaseHold,
    Share,
    VoidGrant,
)
from quota_engine.commands.replies import error_from
from quota_engine.errors import GrantNotFoundError, QuotaError, QuotaInsufficientError
from quota_engine.keys import QuotaName, ShardKeys
from quota_engine.resending import (
    REFUSALS,
    Kept,
    Outcome,
    RecentCommands,
    Resent,
    owed,
    sent_again,
)
from quota_engine.scripts import load_scripts
from tests.lua_texts import known_commands

CONTEXT = Context(ShardKeys(7), epoch=2)

NAME, OTHER = QuotaName("user:1", "text_token"), QuotaName("user:2", "text_token")
OLD, NEW = object(), object()
EPOCHS = {NAME: 2, OTHER: 2}
epoch_of = EPOCHS.__getitem__


def debit(number: int, quota: QuotaName = NAME) -> Debit:
    return Debit(quota=quota, operation_id=f"d{number}", amount=number)


def remembering(*instants: float, epoch: int = 1, **limits: Any) -> RecentCommands:
    """A client that was answered at these instants, and then saw a new opening."""
    recent = RecentCommands(5.0, 450.0, **limits)
    for number, at in enumerate(instants, start=1):
        recent.keep(at, OLD, epoch, debit(number))
    recent.mark()
    return recent


def ids(kept: list[Kept]) -> list[str]:
    return [one.command.operation_id for one in kept]  # type: ignore[attr-defined]


def test_what_was_answered_shortly_before_the_last_answer_is_taken_in_order() -> None:
    recent = remembering(94.0, 95.5, 99.0, 100.0)
    assert ids(recent.take(130.0, NEW, epoch_of)) == ["d2", "d3", "d4"]
    assert recent.is_behind, "they are not sent yet"
    assert recent.take(130.0, NEW, epoch_of) == []
    assert not recent.is_behind


def test_what_is_so_old_that_its_id_may_be_forgotten_is_not_sent() -> None:
    recent = remembering(100.0, 102.0)
    assert ids(recent.take(551.0, NEW, epoch_of)) == ["d2"]
    assert remembering(100.0).take(551.0, NEW, epoch_of) == []


def test_a_new_opening_of_the_same_epoch_sends_nothing() -> None:
    recent = remembering(100.0, 101.0, epoch=2)
    assert recent.take(102.0, NEW, epoch_of) == []
    assert not recent.is_behind
    assert len(recent) == 2, "and it stays remembered"


def test_an_answer_of_the_old_epoch_that_came_late_is_sent_too() -> None:
    recent = remembering(100.0)
    assert ids(recent.take(101.0, NEW, epoch_of)) == ["d1"]
    recent.keep(101.0, OLD, 1, debit(2))
    recent.mark()
    assert ids(recent.take(101.0, NEW, epoch_of)) == ["d2"]
    assert recent.take(101.0, NEW, epoch_of) == []
    assert not recent.is_behind


def test_what_could_not_be_sent_comes_first_next_time() -> None:
    recent = remembering(98.0, 99.0, 100.0)
    taken = recent.take(101.0, NEW, epoch_of)
    recent.keep(101.0, NEW, 2, taken[0].command)
    recent.put_back(taken[1:])
    assert recent.is_behind
    assert ids(recent.take(102.0, NEW, epoch_of)) == ["d2", "d3"]


def test_memory_is_bounded_by_time_and_by_number() -> None:
    recent = RecentCommands(5.0, 450.0, kept_max=100)
    for number in range(1, 1_000):
        recent.keep(number / 10, OLD, 1, debit(number))
        assert len(recent) <= 65, "five seconds, and the quarter until the next look"
    for number in range(1, 1_000):
        recent.keep(100.0, OLD, 1, debit(number))
    assert 90 <= len(recent) <= 100


def test_what_awaits_being_sent_is_not_pruned_by_newer_answers() -> None:
    recent = remembering(100.0)
    for number in range(10):
        recent.keep(200.0 + number, NEW, 2, debit(50 + number))
    assert ids(recent.take(210.0, NEW, epoch_of)) == ["d1"]


def test_a_child_and_a_closed_engine_forget() -> None:
    recent = remembering(100.0)
    recent.drop(PlaceHold(quota=NAME, hold_id="h", amount=1, ttl_ms=1))
    assert recent.knows_hold(NAME, "h")
    recent.forget()
    assert (len(recent), recent.is_behind, recent.knows_hold(NAME, "h")) == (0, False, False)


def test_every_command_that_a_caller_is_answered_for_is_sent_again() -> None:
    sent = {name for name, kind in known_commands().items() if kind.is_sent_again}
    engines_own = {"catch_up", "drop_quota", "freeze_quota", "hydrate_quota", "note_persisted"}
    engines_own |= {"read_balance", "record_repair", "snapshot_quota", "trim_outbox"}
    engines_own |= {"read_accounts", "read_limits", "set_account"}
    assert known_commands().keys() - sent == engines_own | {"unload_quota"}


# -- one by one

Answers = Callable[[Command[Any]], Any]


def run(command: Command[Any], answers: Answers) -> tuple[Outcome, list[Command[Any]]]:
    """Drive a flow; ``answers`` returns a result, or an error to be raised."""
    sent: list[Command[Any]] = []
    flow = sent_again(command)
    try:
        step: Any = next(flow)
        while True:
            sent.append(step)
            answer = answers(step)
            step = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
    except StopIteration as stop:
        return stop.value, sent


def refusing(*codes: str) -> Answers:
    """Refuse the first times by these codes, then answer with something new."""
    left = [error_from(f"{code} x") for code in codes]

    def answer(command: Command[Any]) -> Any:
        if left:
            return left.pop(0)
        return command.parse(["DEBITED", "p", "1", "5", "0", "0", "0", "0", "", "", ""])

    return answer


DENIED = QuotaInsufficientError("user:1", "text_token", required=5, available=0)


@pytest.mark.parametrize(
    "refusal", [DENIED, "QUOTA_FROZEN x", "BACKPRESSURE 1 1 {qe:07}:outbox", "OOM x"]
)
def test_a_debit_that_was_admitted_is_owed(refusal: Any) -> None:
    error = error_from(refusal) if isinstance(refusal, str) else refusal
    answers = iter([error])

    def answer(command: Command[Any]) -> Any:
        found = next(answers, None)
        lines = ["p", "1", "1", "0", "0", "0", "0", "", "", ""]
        return found or command.parse(["DEBITED", *lines])

    outcome, sent = run(debit(1), answer)
    assert outcome == Outcome.RESTORED
    assert sent[1] == owed(debit(1))
    assert sent[1].script == "debit_used"
    assert sent[1].argv(CONTEXT)[6] == debit(1).fingerprint, "a retry is a repeat"


def test_a_debit_of_several_quotas_is_owed_by_all_of_them() -> None:
    shared = replace(debit(1), shares=(Share(QuotaName("acme", "text_token"), 5),))
    owing = owed(shared)
    assert owing.others == shared.others
    assert owing.fingerprint_before == shared.fingerprint


PLACE = PlaceHold(quota=NAME, hold_id="h", amount=5, ttl_ms=1000)
EXTEND = ExtendHold(quota=NAME, hold_id="h", operation_id="e", ttl_ms=1000)
RELEASE = ReleaseHold(quota=NAME, hold_id="h")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (PLACE, DENIED),
        (PLACE, error_from("QUOTA_FROZEN x")),
        (EXTEND, error_from("HOLD_NOT_FOUND h")),
        (RELEASE, error_from("HOLD_NOT_FOUND h")),
    ],
)
def test_a_hold_that_is_not_admitted_now_is_dropped(
    command: Command[Any], error: QuotaError
) -> None:
    assert run(command, lambda _: error) == (Outcome.DROPPED, [command])


def test_a_hold_that_was_closed_since_need_not_be_extended() -> None:
    assert run(EXTEND, refusing("HOLD_CLOSED"))[0] == Outcome.SURVIVED


def test_a_capture_of_a_hold_that_is_gone_is_charged_late() -> None:
    capture = CaptureHold(quota=NAME, hold_id="h", operation_id="h:capture", amount=5)
    answers = iter([error_from("HOLD_NOT_FOUND h")])

    def answer(command: Command[Any]) -> Any:
        lines = ["p", "1", "5", "0", "0", "0", "0", "late", "", ""]
        return next(answers, None) or command.parse(["CAPTURED", *lines])

    outcome, sent = run(capture, answer)
    assert outcome == Outcome.RESTORED
    assert [command.is_known for command in sent] == [False, True]  # type: ignore[attr-defined]
    assert sent[1].may_create


def test_what_was_cancelled_meanwhile_stays_cancelled() -> None:
    assert run(debit(1), refusing("OPERATION_CANCELLED"))[0] == Outcome.CANCELLED


def test_what_can_only_be_refused_is_said() -> None:
    with pytest.raises(GrantNotFoundError):
        run(VoidGrant(quota=NAME, grant_id="g"), refusing("GRANT_NOT_FOUND"))


def test_every_reply_that_refuses_is_known_to_who_sends_many_again() -> None:
    refusing = {
        row
        for spec in load_scripts().values()
        for row in spec.returns
        if row in {"DENIED", "BARRED", "EXCEEDED"}
    }
    assert refusing == REFUSALS


def test_numbers_add_up() -> None:
    before = Resent(survived=2)
    after = before.with_one(Outcome.RESTORED).with_one(Outcome.RESTORED)
    assert (after.since(before), after.sent) == (Resent(restored=2), 4)
    assert not ReadBalance.is_sent_again
    assert IssueGrant.is_sent_again
