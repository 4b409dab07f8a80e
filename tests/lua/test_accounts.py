"""What is said of accounts: who is told what, and which scripts refuse by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quota_engine.commands import PlaceHold, ReadAccounts, SetAccount, Share
from quota_engine.flows import set_account
from quota_engine.instants import from_ms
from quota_engine.keys import QuotaName, parents_of
from quota_engine.policies import MARK, AccountPolicy, field_of, parse_enforcement, record_of
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


# -- the shadow


def shade(scene: Scene, account: str, text: str, revision: int = 1) -> None:
    """Say of an account which of its quota types refuse nothing."""
    said = AccountPolicy(account=account, revision=revision, enforcement=parse_enforcement(text))
    assert scene.call(set_account(said)) == ["SET"]


def flags_of(scene: Scene) -> list[tuple[str, str]]:
    return [(entry.kind, entry.flags) for entry in scene.entries()][2:]


def test_in_the_shadow_what_would_be_refused_is_let_through_and_told(scene: Scene) -> None:
    scene.funded()
    shade(scene, NAME.account, "text_token=shadow")
    placed = scene.place("over", 120)
    assert (placed[0], placed[6], placed[8]) == ("PLACED", "130", "shadow insufficient")
    assert scene.place("over", 120) == ["REPLAYED", *placed[1:]]
    assert scene.debit("d", 5)[3:9] == ["5", "5", "100", "130", "0", "shadow insufficient"]
    assert scene.extend("h", 20) == [
        "EXTENDED",
        "20",
        f"{NOON_MS + 60_000}",
        str(NAME),
        "insufficient",
    ]
    assert scene.capture("over", 120)[3:6] == ["120", "30", "10"], "the capture rule"
    assert scene.capture("h", 20)[3:6] == ["20", "10", "0"]
    assert flags_of(scene) == [
        ("hold.placed", "shadow insufficient"),
        ("quota.debited", "shadow insufficient"),
        ("hold.extended", "shadow insufficient"),
        ("hold.captured", ""),
        ("hold.captured", ""),
    ]
    scene.issue("more", 10)
    assert scene.place("within", 10)[8] == "", "what it can pay is admitted as ever"


def test_limits_are_in_the_shadow_as_what_a_quota_has_is(scene: Scene) -> None:
    scene.funded()
    scene.set_limit(1, "minute", of="calls")
    assert scene.place("one", 1)[0] == "PLACED"
    assert scene.place("two", 1)[0] == "EXCEEDED"
    shade(scene, ABOVE, "*=shadow")
    assert scene.place("two", 1)[8] == "shadow limited"
    dry = PlaceHold(quota=NAME, hold_id="dry", amount=1, ttl_ms=1_000, is_dry=True)
    assert scene.call(dry)[4:] == [str(NAME), "limited"]
    assert scene.debit("d", 1)[8] == "shadow limited"
    assert scene.debit("e", 200)[8] == "shadow insufficient"


def test_who_is_nearest_decides_on_enforcement(scene: Scene) -> None:
    scene.funded()
    for account, text, is_admitted in (
        (ABOVE, "*=shadow", True),
        (ABOVE, "credit=shadow", False),
        (ABOVE, "*=shadow text_token=enforce", False),
        (ABOVE, "text_token=shadow", True),
        (NAME.account, "credit=enforce", True),
        (NAME.account, "*=enforce", False),
        (NAME.account, "*=enforce text_token=shadow", True),
    ):
        number = scene.client.hlen(scene.keys.versions) + len(scene.entries())
        scene.client.hdel(scene.keys.versions, f"{account}|")
        shade(scene, account, text)
        row = scene.debit(f"d{number}", 1_000)[0]
        assert row == ("DEBITED" if is_admitted else "DENIED"), (account, text)


def test_the_deployment_s_types_are_in_the_shadow_where_no_account_says_otherwise(
    scene: Scene,
) -> None:
    scene.funded()
    assert scene.run("place_hold", unenforced=" credit ")[0] == "PLACED"
    asked = PlaceHold(quota=NAME, hold_id="over", amount=500, ttl_ms=1_000)
    assert scene.call(asked, unenforced=" credit text_tokens ")[0] == "DENIED"
    assert scene.call(asked, unenforced=" credit text_token ")[8] == "shadow insufficient"
    shade(scene, ABOVE, "*=enforce")
    refused = replace(asked, hold_id="other")
    assert scene.call(refused, unenforced=" credit text_token ")[0] == "DENIED"


def test_frozen_barred_pressed_and_uncountable_are_never_in_the_shadow(scene: Scene) -> None:
    scene.funded()
    shade(scene, ABOVE, "*=shadow")
    assert scene.place("all", 2**53 - 12)[8] == "shadow insufficient"
    assert scene.place("more", 5)[0] == "DENIED", "nobody could count it"
    assert scene.run("debit", outbox_max=1) == ["BACKPRESSURE"]
    scene.freeze()
    assert scene.run("debit") == ["QUOTA_FROZEN"]
    say(scene, NAME.account, "suspended")
    assert scene.run("debit") == barred(NAME.account, "suspended")


@meets("read_accounts", "SHADOW")
def test_a_quota_that_nobody_knows_may_be_in_the_shadow(scene: Scene) -> None:
    asked = ReadAccounts(quota=QuotaName("acme/nobody", "credit"))
    assert scene.call(asked, unenforced=" credit ") == ["SHADOW"]
    shade(scene, "acme", "credit=shadow")
    assert scene.call(asked) == ["SHADOW"]
    assert scene.call(replace(asked, quota=QuotaName("acme/nobody", "image"))) == ["OPEN"]
