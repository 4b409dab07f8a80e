"""What cannot be meant is refused before anything is written, with what was expected instead."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import redis

from quota_engine import (
    EngineUnavailableError,
    InvalidAmountError,
    InvalidArgumentError,
    QuotaEngine,
    QuotaError,
)
from tests.engines import NOON, TestClock

pytestmark = pytest.mark.anyio

TOKENS = ("user:42", "text_token")

NO_AMOUNTS: tuple[Any, ...] = (
    *(0, -1, 1.5, True, math.nan, math.inf, "10", None, [], Decimal(10), 2**53, 2**80, -(2**53)),
)
NO_ACCOUNTS: tuple[Any, ...] = (
    *("", "x" * 300, "a\nb", "a\x00b", "a\x7fb", "\u2028", "\ud800", " a", "a ", "/", "a//b"),
    *(None, 42, b"user:42", ["user:42"]),
)
NO_QUOTA_TYPES: tuple[Any, ...] = ("", "tokens", "Text_Token", "text token", "a|b", "中", None, 7)
NO_TTLS: tuple[Any, ...] = (0, -1, 365 * 86_400, math.nan, math.inf, True, "60", 0.0001)
NO_IDS: tuple[Any, ...] = ("", "x" * 129, "two words", "a\nb", "a\x1fb", "\ud800", 7)


@pytest.fixture
async def filled(timed: Any) -> Any:
    """An engine with a grant of 1,000 units and a hold of 100."""
    await timed("issue_grant", *TOKENS, 1000, grant_id="g1")
    await timed("place_hold", *TOKENS, 100, operation_id="h1")
    return timed


@pytest.fixture
def writes(filled: Any, redis_url: str) -> Any:
    """Everything that Redis holds, asked again with each call."""
    with redis.Redis.from_url(redis_url) as client:
        yield lambda: {key: client.dump(key) for key in client.keys("*")}


async def refused(
    call: Any, error: type[QuotaError], method: str, *args: Any, **options: Any
) -> None:
    with pytest.raises(error) as raised:
        await call(method, *args, **options)
    assert isinstance(raised.value, QuotaError)
    assert len(str(raised.value)) > 15, "it says what was wrong"


async def test_an_amount_is_a_whole_number_of_units(filled: Any, writes: Any) -> None:
    before = writes()
    for amount in NO_AMOUNTS:
        for method in ("issue_grant", "debit", "place_hold", "has_quota"):
            await refused(filled, InvalidAmountError, method, *TOKENS, amount)
        if amount is not None:  # as an amount to extend to, and as a limit, it has a meaning
            hold = ("h1", {"account": TOKENS[0], "quota_type": TOKENS[1]})
            await refused(
                filled, InvalidAmountError, "extend_hold", hold[0], amount=amount, **hold[1]
            )
            if amount != 0 or amount is True:
                await refused(
                    filled, InvalidAmountError, "capture_hold", hold[0], amount, **hold[1]
                )
                await refused(filled, InvalidAmountError, "set_overdraft_limit", *TOKENS, amount)
    assert issubclass(InvalidAmountError, ValueError)
    assert writes() == before


async def test_an_account_is_a_path_of_printable_text(filled: Any, writes: Any) -> None:
    before = writes()
    for account in NO_ACCOUNTS:
        for method in ("issue_grant", "debit", "place_hold", "has_quota"):
            await refused(filled, InvalidArgumentError, method, account, "text_token", 1)
        for method in ("read_balance", "history"):
            await refused(filled, InvalidArgumentError, method, account, "text_token")
    assert writes() == before


async def test_a_quota_type_must_be_one_of_the_deployment_s(filled: Any, writes: Any) -> None:
    before = writes()
    for quota_type in NO_QUOTA_TYPES:
        for method in ("issue_grant", "debit", "place_hold"):
            await refused(filled, InvalidArgumentError, method, "user:42", quota_type, 1)
        await refused(filled, InvalidArgumentError, "read_balance", "user:42", quota_type)
    assert writes() == before


async def test_a_hold_lives_between_a_moment_and_a_day(filled: Any, writes: Any) -> None:
    before = writes()
    for ttl in NO_TTLS:
        await refused(filled, InvalidArgumentError, "place_hold", *TOKENS, 1, ttl=ttl)
        await refused(
            filled,
            InvalidArgumentError,
            "extend_hold",
            "h1",
            ttl=ttl,
            account=TOKENS[0],
            quota_type=TOKENS[1],
        )
    assert writes() == before
    for ttl in (0.001, 1, 86_400):
        await filled("place_hold", *TOKENS, 1, ttl=ttl)


async def test_an_id_is_one_printable_word(filled: Any, writes: Any) -> None:
    before = writes()
    for text in NO_IDS:
        await refused(filled, InvalidArgumentError, "issue_grant", *TOKENS, 1, grant_id=text)
        await refused(filled, InvalidArgumentError, "place_hold", *TOKENS, 1, operation_id=text)
        await refused(filled, InvalidArgumentError, "debit", *TOKENS, 1, operation_id=text)
        await refused(filled, InvalidArgumentError, "void_grant", *TOKENS, text)
    assert writes() == before


async def test_a_grant_ends_after_it_starts_and_in_the_future(filled: Any, writes: Any) -> None:
    before = writes()
    hour = timedelta(hours=1)
    for terms in (
        {"starts_at": NOON + hour, "expires_at": NOON + hour},
        {"starts_at": NOON + 2 * hour, "expires_at": NOON + hour},
        {"expires_at": NOON},
        {"expires_at": NOON - hour},
        {"starts_at": NOON - 2 * hour, "expires_at": NOON - hour},
        {"expires_at": datetime(2030, 1, 1)},
        {"expires_at": "2030-01-01"},
        {"starts_at": 5},
        {"source": "gift"},
        {"priority": 1.5},
        {"priority": True},
        {"priority": 10**7},
        {"description": "x" * 2_001},
        {"reference": 7},
        {"reference": "a\x00b"},
    ):
        await refused(filled, InvalidArgumentError, "issue_grant", *TOKENS, 1, **terms)
    assert writes() == before
    assert [entry.kind for entry in await filled("history", *TOKENS)] == [
        "grant.issued",
        "hold.placed",
    ]


async def test_a_refused_grant_leaves_no_promise(filled: Any, clock: TestClock) -> None:
    terms = {"expires_at": NOON - timedelta(hours=1), "grant_id": "g2"}
    await refused(filled, InvalidArgumentError, "issue_grant", *TOKENS, 5, **terms)
    issued = await filled("issue_grant", *TOKENS, 7, grant_id="g2")
    assert (issued.amount, issued.replayed) == (7, False)


async def test_usage_has_known_counts_only(filled: Any, writes: Any) -> None:
    before = writes()
    for usage in ({"tokens": 5}, {"input_tokens": -1}, {"input_tokens": 1.5}, 7):
        await refused(filled, InvalidArgumentError, "debit", *TOKENS, 1, usage=usage)
    assert writes() == before


async def test_a_hold_by_its_id_needs_its_quota(filled: Any, writes: Any) -> None:
    before = writes()
    for hold in ("h1", None, 7, object()):
        await refused(filled, InvalidArgumentError, "capture_hold", hold, 1)
        await refused(filled, InvalidArgumentError, "release_hold", hold)
    assert writes() == before


async def test_a_setting_that_does_not_exist_is_refused(redis_url: str, database_url: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"no setting hold_ttl;.*hold_ttl_seconds"):
        QuotaEngine.open(redis_url, database_url, hold_ttl=5)


async def test_a_closed_engine_says_so(redis_url: str, database_url: str) -> None:
    engine = QuotaEngine.open(redis_url, database_url)
    engine.close()
    with pytest.raises(EngineUnavailableError, match="closed"):
        engine.read_balance("user:1", "text_token")
