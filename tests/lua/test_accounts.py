"""What is said of accounts: who is told what, and which scripts refuse by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quota_engine.commands import PlaceHold, ReadAccounts, SetAccount, Share
from quota_engine.flows import set_account
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName, parents_of
from quota_engine.policies import MARK, AccountPolicy, field_of, record_of
from tests.lua.scenes import NAME, OTHER, WRITING, Scene, meets
from tests.shards import NOON_MS, WRITING_ROWS, Raw

#: Those that ask for something new, and those that put quota in.
ADMITTING = ("place_hold", "extend_hold", "debit")
GIVING = ("issue_grant", "transfer_in", "transfer_quota")
SINCE = from_ms(NOON_MS)
#: The account that transfers of ``WRITING`` arrive at stands below that of all others.
ABOVE = parents_of(NAME.account)[0]


def policy(account: str, state: str, revision: int = 1, reason: str = "why\nnot") -> AccountPolicy:
    return AccountPolicy(
        account=account, state=state, since=SINCE, revision=revision, reason=reason
    )


def say(scene: Scene, account: str, state: str, revision: int = 1) -> Raw:
    return scene.call(set_account(policy(account, state, revision)))


def barred(account: str, state: str) -> Raw:
    return ["BARRED", account, state, str(NOON_MS), "why not"]


@meets("place_hold", "BARRED")
@meets("extend_hold", "BARRED")
@meets("debit", "BARRED")
def test_a_suspended_account_and_all_below_it_admit_nothing_new(scene: Scene) -> None:
    for account in (NAME.account, ABOVE):
        scene.open()
        scene.funded()
        assert say(scene, account, "suspended") == ["SET"]
        for script in ADMITTING:
            assert scene.run(script) == barred(account, "suspended"), script


@pytest.mark.parametrize("state", ["suspended", "closed"])
@pytest.mark.parametrize("script", sorted(set(WRITING) - set(ADMITTING) - set(GIVING)))
def test_what_was_used_passes_whatever_is_said(scene: Scene, script: str, state: str) -> None:
    scene.funded()
    say(scene, ABOVE, state)
    assert scene.run(script)[0] in WRITING_ROWS


@pytest.mark.parametrize("script", GIVING)
def test_only_a_closed_account_takes_no_grants(scene: Scene, script: str) -> None:
    scene.funded()
    say(scene, ABOVE, "suspended")
    say(scene, NAME.account, "active")
    assert scene.run(script)[0] in WRITING_ROWS
    scene.open()
    scene.funded()
    say(scene, ABOVE, "closed")
    assert scene.run(script) == barred(ABOVE, "closed")


test_only_a_closed_account_takes_no_grants.rows = {  # type: ignore[attr-defined]
    (script, "BARRED") for script in GIVING
}


def test_what_left_comes_back_to_an_account_that_was_closed_since(scene: Scene) -> None:
    scene.funded()
    say(scene, NAME.account, "closed")
    arrival: Any = WRITING["transfer_in"]
    back = replace(arrival.transfer, source=NAME, target=OTHER)
    assert scene.call(arrival)[0] == "BARRED"
    assert scene.call(replace(arrival, transfer=back, is_back=True))[0] == "ARRIVED"


def test_where_units_leave_may_be_closed_where_they_arrive_not(scene: Scene) -> None:
    scene.funded()
    say(scene, OTHER.account, "closed")
    assert scene.run("transfer_quota") == barred(OTHER.account, "closed")
    say(scene, OTHER.account, "active", 2)
    assert scene.run("transfer_quota")[0] == "TRANSFERRED"


def test_a_closed_account_is_told_before_a_suspended_one_and_the_nearest_first(
    scene: Scene,
) -> None:
    scene.funded()
    say(scene, NAME.account, "suspended")
    say(scene, ABOVE, "suspended")
    assert scene.run("debit") == barred(NAME.account, "suspended")
    say(scene, ABOVE, "closed", 2)
    assert scene.run("debit") == barred(ABOVE, "closed")


def test_a_repeat_is_answered_and_a_renewal_that_grows_nothing_passes(scene: Scene) -> None:
    scene.funded()
    first = scene.run("debit")
    say(scene, ABOVE, "closed")
    assert scene.run("debit") == ["REPLAYED", *first[1:]]
    assert scene.extend("h", ttl_ms=5_000)[0] == "EXTENDED"


def test_a_call_is_refused_by_its_own_path_whatever_scopes_it_names(scene: Scene) -> None:
    scene.funded()
    say(scene, OTHER.account, "suspended")
    alone = PlaceHold(quota=NAME, hold_id="mine", amount=5, ttl_ms=1_000)
    assert scene.call(alone)[0] == "PLACED"
    beside = replace(alone, hold_id="other", shares=(Share(OTHER, 5),))
    assert scene.call(beside)[0] == "PLACED", "a quota that was never granted does not limit"
    below = PlaceHold(quota=OTHER, hold_id="below", amount=5, ttl_ms=1_000, shares=())
    assert scene.call(below) == barred(OTHER.account, "suspended")
    assert scene.run("transfer_quota")[0] == "TRANSFERRED"
    assert scene.call(replace(beside, hold_id="third")) == barred(OTHER.account, "suspended")


@meets("set_account", "SET", "KEPT")
def test_a_newer_revision_stays_whatever_comes_later(scene: Scene) -> None:
    scene.load()
    versions = scene.keys.versions
    assert say(scene, "acme", "active") == ["SET"]
    assert not scene.client.hexists(versions, MARK), "nothing restricts"
    assert say(scene, "acme", "suspended", 3) == ["SET"]
    newest = record_of(policy("acme", "suspended", 3))
    assert say(scene, "acme", "active", 2) == ["KEPT", newest]
    assert say(scene, "acme", "closed", 3) == ["KEPT", newest]
    assert scene.hash_of(versions) == {
        "@epoch": str(scene.epoch),
        "acme|": newest,
        MARK: "1",
    }
    mended = set_account(policy("acme", "active", 2), seen=newest)
    assert scene.call(replace(mended, seen="other")) == ["KEPT", newest]
    assert scene.call(mended) == ["SET"]
    assert scene.call(replace(mended, record="", seen=mended.record)) == ["SET"]
    assert not scene.client.hexists(versions, "acme|")


@meets("set_account", "FENCED")
@meets("read_accounts", "FENCED")
def test_another_epoch_or_no_outbox_is_fenced(scene: Scene) -> None:
    told: SetAccount = set_account(policy("acme", "suspended"))
    assert scene.call(told, epoch=scene.epoch + 1) == ["FENCED"]
    assert scene.call(ReadAccounts(quota=NAME), epoch=scene.epoch + 1) == ["FENCED"]
    scene.client.delete(scene.keys.outbox)
    assert scene.call(told) == ["FENCED"]


@meets("read_accounts", "OPEN", "BARRED")
def test_a_path_is_read_without_a_quota(scene: Scene) -> None:
    asked = ReadAccounts(quota=QuotaName("acme/team-7/user-42", "text_token"))
    say(scene, "acme/team", "closed")
    assert scene.call(asked) == ["OPEN"]
    say(scene, "acme", "suspended")
    assert scene.call(asked) == barred("acme", "suspended")


def test_no_quota_has_the_field_of_an_account() -> None:
    assert str(field_of("acme")) == "acme|"
    assert {str(field_of("a|")), str(field_of("a"))} == {"a||", "a|"}
