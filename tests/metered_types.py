"""Calls that take tokens and their cost in one step, and what they left."""

from __future__ import annotations

import inspect
from typing import Any

from quota_engine.jobs.verify import verify
from tests.engines import Engines
from tests.metered import ACCOUNT, ANSWER, ESTIMATE, fund, set_price, spent

TYPES = ("text_token", "credit_usd")
CREDIT = 10**12
NAMED = {"provider": "openai", "model": "gpt-x", "estimate": ESTIMATE}
#: At 1 and 2 USD per million tokens: 120 and 30 of them.
COST = 180_000


async def set_prices(call: Engines, output: str = "2", **options: Any) -> None:
    await set_price(call, "input_token", "1", **options)
    await set_price(call, "output_token", output, **options)


async def fund_both(call: Engines, tokens: int = 1_000_000, credit: int = CREDIT) -> None:
    await fund(call, "text_token", tokens)
    await fund(call, "credit_usd", credit)


async def metered(call: Engines, **plan: Any) -> str:
    """Make one call of both types; return its operation id."""

    @call.engine.requires_quota(TYPES, **{**NAMED, **plan})
    async def ask(account: str) -> Any:
        return ANSWER

    await ask(ACCOUNT)
    entries = await call("history", ACCOUNT, "text_token")
    return str(entries[-1].operation_id)


async def spent_in_both(call: Engines) -> tuple[int, int]:
    return await spent(call), await spent(call, "credit_usd", CREDIT)


async def books_are_right(call: Engines) -> None:
    await call("drain")
    checked = call.engine.reports.check()
    if inspect.isawaitable(checked):
        checked = await checked
    assert list(checked) == []
    assert list(verify(call.engine.deployment.ledger)) == []
    assert (await call("reconcile")).drifts == ()
