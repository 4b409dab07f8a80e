"""An account with a subscription, at times that a test chooses."""

from __future__ import annotations

import inspect
from typing import Any

from tests.engines import Engines, TestClock

ACCOUNT = "user:42"
TOKENS = "text_token"
PRO: dict[str, Any] = {"period": "month", "amounts": {TOKENS: 100}, "priority": 10}


class Subscriber:
    """Calls an engine of either flavour for one account, by the test's clock."""

    def __init__(self, call: Engines, clock: TestClock) -> None:
        self.call = call
        self.clock = clock

    async def define(self, name: str = "pro", **terms: Any) -> Any:
        """Define a plan: 100 tokens a month, unless told otherwise."""
        result = self.call.engine.plans.define(name, **{**PRO, **terms})
        return await result if inspect.isawaitable(result) else result

    async def subscribe(self, plan: str = "pro", **how: Any) -> Any:
        """Subscribe, as ``sub-1`` unless told otherwise."""
        return await self.call("subscribe", ACCOUNT, plan, **{"subscription_id": "sub-1", **how})

    async def do(self, verb: str, *args: Any, **how: Any) -> Any:
        """Do something to the subscription."""
        return await self.call(f"{verb}_subscription", "sub-1", *args, **how)

    async def balance(self, quota_type: str = TOKENS) -> int:
        """Return what the account has now."""
        found = await self.call("read_balance", ACCOUNT, quota_type)
        return int(found.balance)

    async def use(self, amount: int) -> None:
        """Use tokens."""
        await self.call("debit", ACCOUNT, TOKENS, amount)

    async def schedule(self, **parts: float) -> str:
        """Let time pass, and do what is due then."""
        self.clock.forward(**parts)
        done = await self.call("run_schedule")
        return str(done["renewals"])

    async def issued(self, quota_type: str = TOKENS) -> list[str]:
        """Return the ids of all grants that were ever issued, in their order."""
        found = await self.call("history", ACCOUNT, quota_type)
        return [one.operation_id for one in found if one.kind == "grant.issued"]
