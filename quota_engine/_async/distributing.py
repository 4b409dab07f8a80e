"""The call that tells how many users a budget serves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from quota_engine._async.calling import AsyncCalling
from quota_engine.amounts import checked_amount
from quota_engine.distribution import (
    CALL_TOKENS,
    Allotment,
    Distribution,
    checked_split,
    distribute,
    typical_call,
)
from quota_engine.prices.price import checked_money


class AsyncDistributing(AsyncCalling):
    """The distribution calculator."""

    async def calculate_distribution(
        self,
        budget: Decimal | int | str,
        allotments: Sequence[Allotment],
        *,
        currency: str | None = None,
        input_share: Decimal | float | str = "0.75",
        cached_share: Decimal | float | str = 0,
        call_tokens: int = CALL_TOKENS,
        at: datetime | None = None,
        service_tier: str | None = None,
    ) -> Distribution:
        """
        Return how many users a budget serves, with these amounts of models for each.

        By the prices in force ``at`` an instant (now), in ``currency`` (the deployment's). Text is
        used in calls of ``call_tokens``: ``input_share`` of them goes in, ``cached_share`` of it
        from a cache. Changes nothing. Raises ``PricingNotFoundError`` with what is missing.
        """
        money = checked_money(budget, name="budget")
        split = checked_split(input_share, cached_share, call_tokens)
        priced = []
        for one in allotments:
            checked_amount(one.amount)
            call = typical_call(one, split)
            cost = await self.cost(
                call.usage,
                provider=one.provider,
                model=one.model,
                usage_type=call.usage_type,
                at=at,
                service_tier=service_tier,
                currency=currency or self._settings.currency,
            )
            priced.append((one, call, cost))
        return distribute(money, priced)
