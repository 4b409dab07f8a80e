"""One call on several quotas of a shard: all or nothing, in each under its own id."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quota_engine.commands import (
    Action,
    CancelOperation,
    CaptureHold,
    Context,
    Debit,
    DebitUsed,
    ExtendHold,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    PlaceHold,
    ReleaseHold,
    SetLimit,
    SetOverdraftLimit,
    Share,
    Snapshot,
    UnloadQuota,
)
from quota_engine.commands.shares import suffix_of
from quota_engine.keys import QuotaName
from quota_engine.limits import checked_limit
from tests.lua.scenes import Scene, meets
from tests.shards import EPOCH, NOON_MS

USER = QuotaName("acme/team/user", "text_token")
CREDIT = QuotaName("acme/team/user", "credit")
TEAM = QuotaName("acme/team", "text_token")
ACME = QuotaName("acme", "text_token")
#: How the ids of the user's calls end in the quotas above.
SUFFIX = suffix_of(USER, TEAM)


def above(amount: int) -> tuple[Share, ...]:
    return (Share(TEAM, amount), Share(ACME, amount))


@pytest.fixture
def tree(scene: Scene) -> Scene:
    """The user has 100 tokens and 1,000 credits, the team 50 tokens, acme nothing."""
    for name in (USER, CREDIT, TEAM, ACME):
        empty = Snapshot(quota=name, epoch=EPOCH)
        assert scene.call(HydrateQuota(snapshot=empty, may_create=True)) == ["LOADED"]
    for name, amount in ((USER, 100), (CREDIT, 1_000), (TEAM, 50)):
        grant(scene, name, amount)
    return scene


def grant(scene: Scene, name: QuotaName, amount: int) -> None:
    terms = GrantTerms(amount=amount, source="purchase")
    assert scene.call(IssueGrant(quota=name, grant_id="g", terms=terms))[0] == "ISSUED"


def place(scene: Scene, hold_id: str, amount: int, *shares: Share) -> list[Any]:
    command = PlaceHold(
        quota=USER, hold_id=hold_id, amount=amount, ttl_ms=60_000, shares=shares or above(amount)
    )
    return scene.call(command)


def entries_of(scene: Scene, name: QuotaName) -> list[tuple[str, str, int]]:
    found = [entry for entry in scene.entries() if entry.quota == str(name)]
    return [(entry.kind, entry.operation_id, entry.amount) for entry in found][1:]


def test_what_the_team_lacks_refuses_the_user_and_leaves_no_trace(tree: Scene) -> None:
    answer = place(tree, "one", 30)
    assert answer[0] == "PLACED"
    assert answer[11] == str(TEAM)
    assert len(answer) == 1 + 10 + 11, "acme has no quota and does not limit"
    assert place(tree, "two", 30) == ["DENIED", str(USER), "30", "70", str(TEAM), "30", "20"]
    assert entries_of(tree, USER) == [("hold.placed", "one", 30)]
    assert entries_of(tree, TEAM) == [("hold.placed", f"one{SUFFIX}", 30)]
    assert entries_of(tree, ACME) == []


def test_a_quota_that_was_given_something_limits_from_then_on(tree: Scene) -> None:
    limit = SetOverdraftLimit(quota=ACME, operation_id="o", overdraft_limit=20)
    assert tree.call(limit)[0] == "LIMITED"
    assert place(tree, "one", 30)[0] == "DENIED"
    grant(tree, ACME, 5)
    assert place(tree, "one", 25)[0] == "PLACED"


def test_all_quotas_of_a_call_change_in_one_piece(tree: Scene) -> None:
    """The outbox says of all entries but the last that more of the same call follows."""
    before = tree.client.xlen(tree.keys.outbox)
    place(tree, "h", 20, Share(CREDIT, 500), *above(20))
    told: Any = tree.client.xrange(tree.keys.outbox)
    assert [fields.get("more") for _, fields in told[before:]] == ["1", "1", None]
    assert "more" not in told[before - 1][1]


def test_a_repeat_has_the_first_answers(tree: Scene) -> None:
    first = place(tree, "h", 20)
    assert place(tree, "h", 20) == ["REPLAYED", *first[1:]]
    assert place(tree, "h", 21) == ["IDEMPOTENCY_CONFLICT"]
    assert place(tree, "h", 20, Share(TEAM, 20)) == ["IDEMPOTENCY_CONFLICT"]


def test_two_accounts_may_use_one_id(tree: Scene) -> None:
    other = QuotaName("acme/team/other", "text_token")
    empty = Snapshot(quota=other, epoch=EPOCH)
    assert tree.call(HydrateQuota(snapshot=empty, may_create=True)) == ["LOADED"]
    grant(tree, other, 100)
    assert place(tree, "h", 20)[0] == "PLACED"
    again = PlaceHold(quota=other, hold_id="h", amount=20, ttl_ms=60_000, shares=above(20))
    assert tree.call(again)[0] == "PLACED"
    mine, others = f"h{SUFFIX}", f"h{suffix_of(other, TEAM)}"
    assert [operation for _, operation, _ in entries_of(tree, TEAM)] == [mine, others]


def test_an_id_of_another_call_refuses_in_any_of_the_quotas(tree: Scene) -> None:
    assert tree.call(Debit(quota=CREDIT, operation_id="x", amount=5))[0] == "DEBITED"
    both = Debit(quota=USER, operation_id="x", amount=5, shares=(Share(CREDIT, 7),))
    assert tree.call(both) == ["IDEMPOTENCY_CONFLICT"]
    assert tree.call(CancelOperation(quota=CREDIT, operation_id="y", is_absent=True))[0]
    late = Debit(quota=USER, operation_id="y", amount=5, shares=(Share(CREDIT, 7),))
    assert tree.call(late) == ["OPERATION_CANCELLED"]


def test_a_quota_that_has_the_call_already_is_not_charged_again(tree: Scene) -> None:
    """One quota's memory may be older: its log was mended, or its entries are in quarantine."""
    call = DebitUsed(quota=USER, operation_id="x", amount=5, shares=above(5))
    assert tree.call(call)[0] == "DEBITED"
    tree.client.delete(tree.keys.ops0(str(USER)), tree.keys.ops1(str(USER)))
    assert tree.call(call)[0] == "DEBITED"
    assert len(entries_of(tree, USER)) == 2
    assert len(entries_of(tree, TEAM)) == 1


def test_each_quota_is_charged_and_has_its_own_shortfall(tree: Scene) -> None:
    place(tree, "h", 40)
    used = CaptureHold(
        quota=USER, hold_id="h", operation_id="h:capture", amount=70, shares=above(70)
    )
    answer = tree.call(used)
    assert answer[:5] == ["CAPTURED", answer[1], answer[2], "70", "0"]
    assert answer[11:16] == [str(TEAM), answer[1], answer[13], "70", "20"]
    assert entries_of(tree, TEAM)[-1] == ("hold.captured", f"h{SUFFIX}:capture", 70)


def test_what_began_to_count_after_the_hold_is_charged_late(tree: Scene) -> None:
    place(tree, "h", 10)
    grant(tree, ACME, 100)
    used = CaptureHold(
        quota=USER, hold_id="h", operation_id="h:capture", amount=10, shares=above(10)
    )
    answer = tree.call(used)
    assert [answer[22], answer[30]] == [str(ACME), "late"]


def test_a_release_gives_back_wherever_the_hold_stands(tree: Scene) -> None:
    place(tree, "h", 40)
    assert place(tree, "next", 20)[0] == "DENIED"
    grant(tree, ACME, 100)
    released = tree.call(ReleaseHold(quota=USER, hold_id="h", shares=above(0)))
    assert released[0] == "RELEASED"
    assert place(tree, "next", 20)[0] == "PLACED"


def test_a_hold_grows_in_all_of_its_quotas_or_in_none(tree: Scene) -> None:
    place(tree, "h", 20)
    grown = ExtendHold(
        quota=USER, hold_id="h", operation_id="e", amount=51, ttl_ms=9_000, shares=above(51)
    )
    assert tree.call(grown) == ["DENIED", str(USER), "51", "100", str(TEAM), "51", "50"]
    fits = ExtendHold(quota=USER, hold_id="h", operation_id="e", amount=50, shares=above(50))
    assert tree.call(fits)[:2] == ["EXTENDED", "50"]
    assert tree.call(fits)[:2] == ["EXTENDED", "50"]
    assert len(entries_of(tree, TEAM)) == 2


def test_a_frozen_or_absent_quota_above_refuses_the_call(tree: Scene) -> None:
    tree.client.hset(tree.keys.quota(str(TEAM)), "frozen", "its log is in doubt")
    assert place(tree, "h", 1) == ["QUOTA_FROZEN"]
    used = DebitUsed(quota=USER, operation_id="x", amount=5, shares=above(5))
    assert tree.call(used)[0] == "DEBITED"
    assert tree.call(UnloadQuota(quota=ACME, version=0, change_after_ms=0)) == ["UNLOADED"]
    answer = tree.evalsha("place_hold", *call_of(tree, "h2"))
    assert str(answer) == f"QUOTA_NOT_LOADED {ACME}"


def call_of(scene: Scene, hold_id: str) -> tuple[Any, Any]:

    command = PlaceHold(quota=USER, hold_id=hold_id, amount=1, ttl_ms=1000, shares=above(1))
    return command.keys(scene.keys), command.argv(Context(scene.keys, epoch=EPOCH))


@meets("place_hold", "ADMITTED")
def test_a_dry_run_answers_and_changes_nothing(tree: Scene) -> None:
    dry = PlaceHold(
        quota=USER, hold_id="h", amount=50, ttl_ms=1_000, shares=above(50), is_dry=True
    )
    assert tree.call(dry) == ["ADMITTED", str(NOON_MS + 1_000), "100", "1"]
    assert place(tree, "h", 50)[0] == "PLACED"
    other = replace(dry, hold_id="h2")
    assert tree.call(other)[0] == "DENIED"


def test_no_window_goes_on_of_a_quota_that_is_asked_for_nothing(tree: Scene) -> None:
    """Something ends in it meanwhile; then a slower clock tells what counts with the rest."""
    limit = checked_limit(5, of="units", per="second", window="sliding", time_zone="UTC")
    made = SetLimit(quota=CREDIT, operation_id="w", action=Action.SET, limit=limit)
    assert tree.call(made)[0] == "SET"
    place(tree, "h", 10, Share(CREDIT, 1))
    short = PlaceHold(quota=CREDIT, hold_id="short", amount=2, ttl_ms=1_000)
    assert tree.call(short)[0] == "PLACED"
    tree.pass_time(5_000)
    shares = (Share(CREDIT, 1),)
    grown = ExtendHold(quota=USER, hold_id="h", operation_id="e", amount=20, shares=shares)
    assert tree.call(grown)[0] == "EXTENDED"
    assert ("hold.expired", "short:expire", 2) in entries_of(tree, CREDIT)
    tree.pass_time(-5_000)
    for amount, outcome in ((5, "EXCEEDED"), (4, "DEBITED"), (1, "EXCEEDED")):
        debit = Debit(quota=CREDIT, operation_id=f"d{amount}", amount=amount)
        assert tree.call(debit)[0] == outcome
