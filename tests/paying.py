"""An account, and those that pay when its own quota cannot."""

from __future__ import annotations

import inspect
from typing import Any

from quota_engine import AccountPolicy
from quota_engine.known_payers import KnownPayers
from tests.engines import Engines

USER, POOL, WALLET = "acme/team-7/user-42", "acme/the pool", "acme/wallet"
TOKENS = "text_token"


async def say(call: Engines, *args: Any, **kwargs: Any) -> AccountPolicy:
    result: Any = call.engine.accounts.set_pays_after(*args, **kwargs)
    found: AccountPolicy = await result if inspect.isawaitable(result) else result
    return found


async def family(call: Engines) -> None:
    """The user has 10 units, the pool 100, the wallet 50; they pay in this order."""
    for account, amount in ((USER, 10), (POOL, 100), (WALLET, 50)):
        await call("issue_grant", account, TOKENS, amount, source="purchase")
    await say(call, "acme/team-7", [POOL, WALLET], reason="own, pool, wallet", operator="ann")


async def balance(call: Engines, account: str) -> int:
    found: int = (await call("read_balance", account, TOKENS)).balance
    return found


def forget_payers(call: Engines) -> None:
    """As a client that has paid nothing yet."""
    call.engine._transport._payers = KnownPayers()
