"""Who pays in place of a quota that cannot: decided at the instant of the call, whole, or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quota_engine.commands import (
    Action,
    CaptureHold,
    Debit,
    DebitUsed,
    ExtendHold,
    FreezeQuota,
    GrantTerms,
    HydrateQuota,
    IssueGrant,
    PlaceHold,
    ReadAccounts,
    ReleaseHold,
    Share,
    Snapshot,
)
from quota_engine.commands.arguments import details_text
from quota_engine.commands.shares import suffix_of
from quota_engine.flows import set_account
from quota_engine.keys import QuotaName
from quota_engine.payers import payer_word
from quota_engine.policies import AccountPolicy
from tests.lua.scenes import NAME, Scene, meets
from tests.shards import EPOCH

#: Accounts of the same root, with what could be taken for a separator.
POOL = QuotaName("组/pool a,b=c%", "text_token")
WALLET = QuotaName("组/wallet", "text_token")
TEAM = QuotaName("组", "text_token")
SUFFIX = suffix_of(NAME, POOL)
BY_POOL = f"counted by:{payer_word(POOL.account)}"


def say(scene: Scene, *payers: str, account: str = NAME.account, revision: int = 1) -> None:
    """Say who pays after an account."""
    policy = AccountPolicy(account=account, revision=revision, pays_after={"*": payers})
    assert scene.call(set_account(policy)) == ["SET"]


def grant(scene: Scene, name: QuotaName, amount: int) -> None:
    terms = GrantTerms(amount=amount, source="purchase")
    assert scene.call(IssueGrant(quota=name, grant_id="g", terms=terms))[0] == "ISSUED"


@pytest.fixture
def family(scene: Scene) -> Scene:
    """The account has 10 units, the pool 100, the wallet 50; both pay after it, in this order."""
    scene.load()
    scene.issue("g", 10)
    for name in (POOL, WALLET, TEAM):
        empty = Snapshot(quota=name, epoch=EPOCH)
        assert scene.call(HydrateQuota(snapshot=empty, may_create=True)) == ["LOADED"]
    grant(scene, POOL, 100)
    grant(scene, WALLET, 50)
    say(scene, POOL.account, WALLET.account)
    return scene


def place(scene: Scene, hold_id: str, amount: int, *payers: QuotaName, **more: Any) -> list[Any]:
    command = PlaceHold(quota=NAME, hold_id=hold_id, amount=amount, ttl_ms=60_000)
    return scene.call(replace(command, payers=payers or (POOL, WALLET), **more))


def capture(scene: Scene, hold_id: str, amount: int, *payers: QuotaName, part: str = "") -> Any:
    return scene.call(
        CaptureHold(
            quota=NAME,
            hold_id=hold_id,
            operation_id=part or f"{hold_id}:capture",
            amount=amount,
            is_final=not part,
            payers=payers,
        )
    )


def sums(scene: Scene, name: QuotaName) -> tuple[int, int]:
    """Balance and held."""
    stored = scene.hash_of(scene.keys.quota(str(name)))
    remaining, covered, debt, held = (
        int(stored[one]) for one in ("remaining", "covered", "debt", "held")
    )
    return remaining + covered - debt, held


def test_the_own_quota_pays_what_it_can_pay_whole_and_the_payer_the_rest_of_the_calls(
    family: Scene,
) -> None:
    assert place(family, "own", 10)[8] == ""
    answer = place(family, "one", 11)
    assert (answer[0], answer[8]) == ("PLACED", BY_POOL)
    assert answer[11] == str(POOL)
    assert sums(family, NAME) == (10, 10)
    assert sums(family, POOL) == (100, 11)
    own, paid = (entry for entry in family.entries() if entry.operation_id.startswith("one"))
    assert (own.flags, own.amount, own.held_delta, own.delta) == (BY_POOL, 11, 0, 0)
    assert (paid.operation_id, paid.flags) == (f"one{SUFFIX}", "")
    assert paid.details == details_text({"account": NAME.account})


@meets("place_hold", "PAYERS_WANTED")
@meets("debit", "PAYERS_WANTED")
@meets("debit_used", "PAYERS_WANTED")
def test_payers_are_asked_for_only_where_the_own_quota_is_short(family: Scene) -> None:
    asked = PlaceHold(quota=NAME, hold_id="h", amount=11, ttl_ms=1_000)
    assert family.call(replace(asked, amount=10, hold_id="own"))[0] == "PLACED"
    assert family.call(asked) == ["PAYERS_WANTED"]
    assert family.call(replace(asked, payers=(WALLET,))) == ["PAYERS_WANTED"]
    assert family.call(replace(asked, payers=(POOL,)))[0] == "PLACED", "the wallet is not needed"
    debit = Debit(quota=NAME, operation_id="d", amount=11)
    assert family.call(debit) == ["PAYERS_WANTED"]
    assert family.call(DebitUsed(quota=NAME, operation_id="u", amount=11)) == ["PAYERS_WANTED"]


def test_what_the_first_payer_lacks_the_next_one_pays_whole(family: Scene) -> None:
    place(family, "most", 80)
    answer = place(family, "next", 30)
    assert answer[8] == f"counted by:{payer_word(WALLET.account)}"
    assert (sums(family, POOL), sums(family, WALLET)) == ((100, 80), (50, 30))
    assert place(family, "much", 30) == [
        *("DENIED", str(NAME), "30", "10"),
        *(str(POOL), "30", "20", str(WALLET), "30", "20"),
    ]


@meets("capture_hold", "PAYERS_WANTED")
def test_who_pays_for_a_hold_is_charged_for_it_with_what_is_beyond_it(family: Scene) -> None:
    place(family, "h", 20)
    say(family, revision=2)
    assert capture(family, "h", 5, part="p") == ["PAYERS_WANTED"]
    answer = capture(family, "h", 5, POOL, part="p")
    assert (answer[3], answer[4], answer[8]) == ("5", "0", f"part {BY_POOL}")
    assert sums(family, POOL) == (95, 15)
    answer = capture(family, "h", 25, WALLET, POOL)
    assert (answer[3], answer[8], answer[11]) == ("25", BY_POOL, str(POOL))
    assert sums(family, POOL) == (70, 0)
    assert sums(family, NAME) == (10, 0)
    assert sums(family, WALLET) == (50, 0)


@meets("release_hold", "PAYERS_WANTED")
def test_who_pays_gets_back_what_is_released(family: Scene) -> None:
    place(family, "h", 20)
    release = ReleaseHold(quota=NAME, hold_id="h")
    assert family.call(release) == ["PAYERS_WANTED"]
    assert family.call(replace(release, payers=(POOL,)))[0] == "RELEASED"
    assert (sums(family, POOL), sums(family, NAME)) == ((100, 0), (10, 0))


@meets("extend_hold", "PAYERS_WANTED")
def test_growth_is_admitted_by_who_pays(family: Scene) -> None:
    place(family, "h", 20)
    grow = ExtendHold(quota=NAME, hold_id="h", operation_id="e", amount=60)
    assert family.call(grow) == ["PAYERS_WANTED"]
    grow = replace(grow, payers=(POOL,))
    assert family.call(grow)[:2] == ["EXTENDED", "60"]
    assert (sums(family, POOL), sums(family, NAME)) == ((100, 60), (10, 0))
    more = replace(grow, operation_id="f", amount=101)
    assert family.call(more) == ["DENIED", str(POOL), "101", "100"]
    family.pass_time(60_000)
    family.call(Debit(quota=POOL, operation_id="later", amount=1))
    assert sums(family, POOL) == (99, 0), "it has expired there as well"


def test_a_repeat_has_the_first_answer_and_no_second_payer(family: Scene) -> None:
    first = place(family, "h", 20)
    family.issue("more", 100)
    assert place(family, "h", 20) == ["REPLAYED", *first[1:]]
    again = PlaceHold(quota=NAME, hold_id="h", amount=20, ttl_ms=60_000)
    assert family.call(again) == ["REPLAYED", *first[1:11]], "who did not know the payer"
    charged = capture(family, "h", 20, POOL)
    assert capture(family, "h", 20, POOL) == ["REPLAYED", *charged[1:]]
    assert sums(family, POOL) == (80, 0)


def test_what_was_used_is_paid_whole_by_the_first_that_can_else_by_the_own_quota(
    family: Scene,
) -> None:
    used = DebitUsed(quota=NAME, operation_id="u", amount=60, payers=(POOL, WALLET))
    assert family.call(used)[8] == f"used {BY_POOL}"
    assert (sums(family, NAME), sums(family, POOL)) == ((10, 0), (40, 0))
    nobody = family.call(replace(used, operation_id="v"))
    assert (nobody[4], nobody[8]) == ("50", "used"), "nobody can: the own one, as far as it goes"
    assert (sums(family, NAME), sums(family, POOL)) == ((0, 0), (40, 0))
    place(family, "h", 20)
    family.pass_time(60_000)
    late = capture(family, "h", 45, POOL, WALLET)
    assert late[8] == f"late counted by:{payer_word(WALLET.account)}"
    assert sums(family, WALLET) == (5, 0)


def test_who_is_suspended_frozen_limited_or_has_nothing_does_not_pay(family: Scene) -> None:
    suspended = AccountPolicy(account=POOL.account, revision=1, state="suspended")
    assert family.call(set_account(suspended)) == ["SET"]
    by_wallet = f"counted by:{payer_word(WALLET.account)}"
    assert place(family, "a", 11)[8] == by_wallet
    active = replace(suspended, revision=2, state="active")
    assert family.call(set_account(active)) == ["SET"]
    assert place(family, "b", 11)[8] == BY_POOL
    family.set_limit(1, "minute", of="calls", quota=POOL)
    assert place(family, "c", 11)[8] == BY_POOL
    assert place(family, "d", 11)[8] == by_wallet
    family.set_limit(1, "minute", of="calls", quota=POOL, action=Action.REMOVE)
    assert family.call(FreezeQuota(quota=POOL, reason="in doubt")) == ["MARKED"]
    assert place(family, "e", 11)[8] == by_wallet
    refused = ["DENIED", str(NAME), "18", "10", str(POOL), "18", "17", str(WALLET), "18", "17"]
    assert place(family, "f", 18) == refused
    say(family, revision=2)
    assert place(family, "f", 18) == ["DENIED", "10"], "strictly its own"


def test_a_payer_above_the_account_pays_once(family: Scene) -> None:
    grant(family, TEAM, 200)
    say(family, TEAM.account, revision=2)
    above = {"shares": (Share(TEAM, 30),)}
    command = PlaceHold(quota=NAME, hold_id="h", amount=30, ttl_ms=60_000, **above)
    answer = family.call(command)
    assert answer[8] == f"counted by:{payer_word(TEAM.account)}"
    assert len(answer) == 1 + 10 + 11
    assert (sums(family, TEAM), sums(family, NAME)) == ((200, 30), (10, 0))
    done = CaptureHold(
        quota=NAME, hold_id="h", operation_id="h:capture", amount=40, shares=(Share(TEAM, 40),)
    )
    assert family.call(done)[0] == "CAPTURED"
    assert (sums(family, TEAM), sums(family, NAME)) == ((160, 0), (10, 0))


def test_a_payer_above_that_has_the_call_already_has_paid(family: Scene) -> None:
    """The caller's own part of it was lost: whoever makes the call again charges nobody anew."""
    grant(family, TEAM, 200)
    say(family, TEAM.account, revision=2)
    used = DebitUsed(quota=NAME, operation_id="u", amount=30, shares=(Share(TEAM, 30),))
    first = family.call(used)
    assert first[8] == f"used counted by:{payer_word(TEAM.account)}"
    for remembered in (family.keys.ops0, family.keys.ops1):
        family.client.hdel(remembered(str(NAME)), "u")
    again = family.call(used)
    assert (again[0], again[8]) == ("DEBITED", first[8])
    assert (sums(family, TEAM), sums(family, NAME)) == ((170, 0), (10, 0))


def test_who_is_told_to_pay_pays_and_who_was_not_sent_has_paid(family: Scene) -> None:
    """Whatever the own quota has by then, and whatever is said of payers."""
    say(family, revision=2)
    used = DebitUsed(quota=NAME, operation_id="u", amount=5, paid_by=POOL.account)
    assert family.call(replace(used, payers=(POOL,)))[8] == f"used {BY_POOL}"
    assert (sums(family, POOL), sums(family, NAME)) == ((95, 0), (10, 0))
    assert family.call(replace(used, operation_id="v"))[8] == f"used {BY_POOL}"
    assert (sums(family, POOL), sums(family, NAME)) == ((95, 0), (10, 0))
    say(family, POOL.account, revision=3)
    place(family, "over", 20, POOL)
    family.pass_time(60_000)
    paid = CaptureHold(
        quota=NAME, hold_id="over", operation_id="over:capture", amount=20, paid_by=POOL.account
    )
    assert family.call(paid)[8] == f"late {BY_POOL}"
    place(family, "open", 20, POOL)
    paid = replace(paid, hold_id="open", operation_id="open:capture")
    assert family.call(paid)[8] == BY_POOL
    assert (sums(family, POOL), sums(family, NAME)) == ((95, 20), (10, 0))


def test_who_pays_is_said_by_the_nearest_account_and_never_the_account_itself(
    family: Scene,
) -> None:
    say(family, POOL.account, account=TEAM.account, revision=1)
    say(family, WALLET.account, revision=2)
    assert place(family, "near", 11)[8] == f"counted by:{payer_word(WALLET.account)}"
    unsaid = AccountPolicy(account=NAME.account, revision=3)
    assert family.call(set_account(unsaid)) == ["SET"]
    assert place(family, "above", 11)[8] == BY_POOL
    pool = Debit(quota=POOL, operation_id="d", amount=200)
    assert family.call(pool) == ["DENIED", "89"]


def test_the_limits_of_an_account_count_what_others_pay_for(family: Scene) -> None:
    family.set_limit(40, "minute")
    assert place(family, "h", 30)[8] == BY_POOL
    assert family.limits() == [("units/minute", 40, 30)]
    assert place(family, "i", 11)[0] == "EXCEEDED"
    capture(family, "h", 20, POOL)
    assert family.limits() == [("units/minute", 40, 20)]


def test_a_question_tells_who_would_pay(family: Scene) -> None:
    asked = place(family, "h", 11, is_dry=True)
    assert asked[0] == "ADMITTED"
    assert asked[4:] == [str(NAME), f"by:{payer_word(POOL.account)}"]
    assert place(family, "h", 101, is_dry=True)[0] == "DENIED"


@meets("read_accounts", "PAYERS")
def test_a_quota_that_nobody_knows_may_have_payers(family: Scene) -> None:
    asked = ReadAccounts(quota=QuotaName(f"{NAME.account}/new", "text_token"))
    assert family.call(asked) == ["PAYERS"]
    say(family, revision=2)
    assert family.call(asked) == ["OPEN"]
