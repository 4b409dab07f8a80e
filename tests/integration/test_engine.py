"""The engine's calls against real servers: each test runs on the sync and on the async engine."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from quota_engine import (
    AsyncQuotaEngine,
    GrantNotFoundError,
    HoldClosedError,
    HoldNotFoundError,
    InvalidAmountError,
    InvalidArgumentError,
    QuotaEngine,
    QuotaInsufficientError,
    Usage,
)

pytestmark = pytest.mark.anyio

TOKENS = ("user:42", "text_token")
ODD_ACCOUNTS = (
    "a|b",
    "{qe:03}:x",
    "}{",
    "two words",
    "会员/张三",
    "acme/team-7/user-42",
    "ümlaut:ß",
    "emoji-🙂",
    "x" * 200,
)


async def funded(call: Any, amount: int = 1000) -> None:
    await call("issue_grant", *TOKENS, amount, source="purchase", grant_id="g1")


async def figures(call: Any) -> tuple[int, int, int]:
    balance = await call("read_balance", *TOKENS)
    return balance.balance, balance.held, balance.debt


async def test_an_unknown_account_reads_as_zero_and_is_not_made(call: Any) -> None:
    balance = await call("read_balance", *TOKENS)
    assert (balance.balance, balance.held, balance.version, balance.grants) == (0, 0, 0, ())
    assert (balance.available, balance.spendable) == (0, 0)
    assert not await call("has_quota", *TOKENS, 1)
    with pytest.raises(QuotaInsufficientError):
        await call("place_hold", *TOKENS, 1)
    with pytest.raises(QuotaInsufficientError):
        await call("debit", *TOKENS, 1)
    with pytest.raises(GrantNotFoundError):
        await call("void_grant", *TOKENS, "g1")
    assert (await call("reconcile")).checked == 0
    assert await call("history", *TOKENS) == []


async def test_a_grant_is_shown_with_its_terms(call: Any) -> None:
    issued = await call(
        "issue_grant",
        *TOKENS,
        100_000,
        source="membership",
        reference="plan:9",
        description="会员开通赠送",
        priority=10,
    )
    assert (issued.amount, issued.balance, issued.version) == (100_000, 100_000, 1)
    assert (issued.source, issued.reference) == ("membership", "plan:9")
    assert (issued.priority, issued.expires_at, issued.replayed) == (10, None, False)
    assert issued.grant_id.startswith("grant_")
    balance = await call("read_balance", *TOKENS)
    (grant,) = balance.grants
    assert (grant.grant_id, grant.remaining, grant.priority) == (issued.grant_id, 100_000, 10)
    (entry,) = await call("history", *TOKENS)
    assert (entry.source, entry.reference) == ("membership", "plan:9")
    assert (entry.description, entry.grant_id) == ("会员开通赠送", issued.grant_id)


async def test_a_hold_sets_units_aside_and_moves_no_balance(call: Any) -> None:
    await funded(call)
    hold = await call("place_hold", *TOKENS, 400, ttl=60)
    assert (hold.amount, hold.balance, hold.account) == (400, 1000, "user:42")
    balance = await call("read_balance", *TOKENS)
    assert (balance.balance, balance.held, balance.available) == (1000, 400, 600)
    assert balance.grants[0].remaining == 600
    assert await call("has_quota", *TOKENS, 600)
    assert not await call("has_quota", *TOKENS, 601)


async def test_a_capture_charges_what_was_used_and_frees_the_rest(call: Any) -> None:
    await funded(call)
    hold = await call("place_hold", *TOKENS, 400)
    captured = await call("capture_hold", hold, 150, usage=Usage(input_tokens=150))
    assert (captured.amount, captured.shortfall, captured.late) == (150, 0, False)
    assert (captured.balance, captured.replayed) == (850, False)
    assert [(part.grant_id, part.amount) for part in captured.allocations] == [("g1", 150)]
    assert await figures(call) == (850, 0, 0)


async def test_a_capture_may_be_nothing_all_or_more(call: Any) -> None:
    await funded(call)
    balance = 1000
    for amount in (0, 200, 300):
        hold = await call("place_hold", *TOKENS, 200)
        captured = await call("capture_hold", hold, amount)
        balance -= amount
        assert (captured.amount, captured.shortfall) == (amount, 0)
        assert await figures(call) == (balance, 0, 0)


async def test_a_capture_beyond_everything_is_recorded_as_shortfall(call: Any) -> None:
    await funded(call)
    await call("set_overdraft_limit", *TOKENS, 50)
    hold = await call("place_hold", *TOKENS, 400)
    captured = await call("capture_hold", hold, 1200)
    assert (captured.amount, captured.shortfall, captured.balance) == (1200, 150, -50)
    assert await figures(call) == (-50, 0, 50)


async def test_a_hold_is_captured_in_parts(call: Any) -> None:
    await funded(call)
    hold = await call("place_hold", *TOKENS, 400)
    await call("capture_hold", hold, 100, final=False)
    assert await figures(call) == (900, 300, 0)
    await call("capture_hold", hold, 50)
    assert await figures(call) == (850, 0, 0)


async def test_a_released_hold_gives_everything_back(call: Any) -> None:
    await funded(call)
    hold = await call("place_hold", *TOKENS, 400)
    assert (await call("release_hold", hold)).amount == 400
    assert await figures(call) == (1000, 0, 0)


async def test_a_closed_hold_stays_closed(call: Any) -> None:
    await funded(call)
    hold = await call("place_hold", *TOKENS, 400)
    await call("capture_hold", hold, 150)
    released = await call("release_hold", hold)
    assert (released.amount, released.replayed) == (0, False)
    with pytest.raises(HoldClosedError):
        await call("extend_hold", hold, ttl=60)
    assert await figures(call) == (850, 0, 0)


async def test_a_released_hold_is_charged_late_once(call: Any) -> None:
    await funded(call)
    hold = await call("place_hold", *TOKENS, 400)
    await call("release_hold", hold)
    captured = await call("capture_hold", hold, 150)
    assert (captured.late, captured.balance) == (True, 850)
    assert (await call("capture_hold", hold, 150)).replayed
    assert await figures(call) == (850, 0, 0)


async def test_an_unknown_hold_is_said_to_be_unknown(call: Any) -> None:
    await funded(call)
    named = {"account": TOKENS[0], "quota_type": TOKENS[1]}
    for method, args in (("capture_hold", (5,)), ("release_hold", ()), ("extend_hold", ())):
        options = {"ttl": 5} if method == "extend_hold" else {}
        with pytest.raises(HoldNotFoundError):
            await call(method, "hold_never_placed", *args, **named, **options)


async def test_a_hold_grows_and_lives_longer(call: Any) -> None:
    await funded(call)
    hold = await call("place_hold", *TOKENS, 400, ttl=60)
    grown = await call("extend_hold", hold, amount=700, ttl=600)
    assert (grown.amount, grown.hold_id) == (700, hold.hold_id)
    assert (grown.expires_at - hold.expires_at).total_seconds() > 500
    with pytest.raises(QuotaInsufficientError) as refused:
        await call("extend_hold", grown, amount=1001)
    assert (refused.value.required, refused.value.available) == (1001, 1000)
    with pytest.raises(InvalidAmountError):
        await call("extend_hold", grown, amount=699)
    assert (await call("extend_hold", grown, amount=700)).amount == 700
    with pytest.raises(InvalidArgumentError):
        await call("extend_hold", grown)
    assert await figures(call) == (1000, 700, 0)
    assert (await call("capture_hold", grown, 700)).balance == 300


async def test_a_debit_takes_at_once_or_not_at_all(call: Any) -> None:
    await funded(call)
    debited = await call("debit", *TOKENS, 300, reference="order 7")
    assert (debited.amount, debited.shortfall, debited.balance) == (300, 0, 700)
    with pytest.raises(QuotaInsufficientError) as refused:
        await call("debit", *TOKENS, 701)
    assert (refused.value.required, refused.value.available) == (701, 700)
    assert (refused.value.account, refused.value.quota_type) == TOKENS
    assert await figures(call) == (700, 0, 0)


async def test_what_was_used_already_is_charged_whoever_used_it(call: Any) -> None:
    debited = await call("debit", *TOKENS, 300, already_used=True)
    assert (debited.shortfall, debited.balance) == (300, 0)
    await call("set_overdraft_limit", *TOKENS, None)
    debited = await call("debit", *TOKENS, 300, already_used=True)
    assert (debited.shortfall, debited.balance) == (0, -300)
    assert (await call("read_balance", *TOKENS)).spendable is None


async def test_a_grant_pays_debt_first(call: Any) -> None:
    await call("set_overdraft_limit", *TOKENS, 500)
    await call("debit", *TOKENS, 300)
    await funded(call)
    assert await figures(call) == (700, 0, 0)


async def test_a_voided_grant_leaves_what_holds_have_of_it(call: Any) -> None:
    await funded(call)
    hold = await call("place_hold", *TOKENS, 400)
    assert (await call("void_grant", *TOKENS, "g1")).amount == 600
    assert await figures(call) == (400, 400, 0)
    await call("capture_hold", hold, 100)
    assert await figures(call) == (0, 0, 0)
    with pytest.raises(GrantNotFoundError):
        await call("void_grant", *TOKENS, "g2")


async def test_grants_pay_in_burn_down_order(call: Any) -> None:
    await call("issue_grant", *TOKENS, 10, grant_id="late", priority=60)
    await call("issue_grant", *TOKENS, 10, grant_id="first", priority=-5)
    await call("issue_grant", *TOKENS, 10, grant_id="middle")
    debited = await call("debit", *TOKENS, 25)
    assert [(part.grant_id, part.amount) for part in debited.allocations] == [
        ("first", 10),
        ("middle", 10),
        ("late", 5),
    ]


async def test_amounts_survive_beyond_fourteen_digits(call: Any) -> None:
    most = 2**53 - 1
    await call("issue_grant", *TOKENS, most)
    hold = await call("place_hold", *TOKENS, 1_234_567_890_123_457)
    captured = await call("capture_hold", hold, 1_234_567_890_123_456)
    assert captured.balance == most - 1_234_567_890_123_456
    with pytest.raises(InvalidAmountError):
        await call("issue_grant", *TOKENS, most)
    await call("drain")
    assert (await call("history", *TOKENS))[-1].balance_after == captured.balance
    assert (await call("reconcile")).drifts == ()


async def test_any_legal_account_works_everywhere(call: Any) -> None:
    for account in ODD_ACCOUNTS:
        await call("issue_grant", account, "credit", 100, grant_id="赠|送{1}")
        hold = await call("place_hold", account, "credit", 40, operation_id="hold|{中文}")
        await call("capture_hold", hold, 30)
        other = await call("place_hold", account, "credit", 5, ttl=3600)
        await call("release_hold", other.hold_id, account=account, quota_type="credit")
        assert await call("drain") == 5
        entries = await call("history", account, "credit")
        kinds = [entry.kind.partition(".")[2] for entry in entries]
        assert kinds == ["issued", "placed", "captured", "placed", "released"]
        assert (await call("read_balance", account, "credit")).balance == 70
    report = await call("reconcile")
    assert (report.checked, report.drifts) == (len(ODD_ACCOUNTS), ())


async def test_history_shows_what_is_pending_too(call: Any) -> None:
    await funded(call)
    assert await call("drain") == 1
    await call("debit", *TOKENS, 300)
    entries = await call("history", *TOKENS)
    assert [entry.version for entry in entries] == [1, 2]
    assert [entry.is_pending for entry in entries] == [False, True]
    assert [entry.balance_after for entry in entries] == [1000, 700]
    assert await call("drain") == 1
    assert await call("drain") == 0


async def test_quota_types_of_one_account_are_apart(call: Any) -> None:
    await funded(call)
    await call("issue_grant", "user:42", "credit_usd", 5)
    await call("debit", "user:42", "credit_usd", 5)
    assert await figures(call) == (1000, 0, 0)


def test_both_engines_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(value).parameters)
            for name, value in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and name != "aclose"
        }

    assert methods(QuotaEngine) == methods(AsyncQuotaEngine)
