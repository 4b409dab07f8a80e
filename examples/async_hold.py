"""
A hundred calls at once over one quota that pays for forty: forty are admitted, sixty refused.

Run it: `./run python examples/async_hold.py`
"""

import asyncio
import uuid

from quota_engine import AsyncQuotaEngine, QuotaInsufficientError


async def call_a_model(engine: AsyncQuotaEngine, account: str) -> bool:
    """Hold 50 tokens, use all of them; return whether the call was admitted."""
    try:
        async with engine.hold(account, "text_token", 50) as hold:
            await asyncio.sleep(0.05)  # here the model answers
            await hold.capture(50)
    except QuotaInsufficientError:
        return False
    return True


async def main() -> None:
    """Grant 2,000 tokens and let a hundred calls compete for them."""
    account = f"example:{uuid.uuid4()}"
    async with AsyncQuotaEngine.open() as engine:
        await engine.issue_grant(account, "text_token", 2_000, source="promotion")
        admitted = await asyncio.gather(*(call_a_model(engine, account) for _ in range(100)))
        left = await engine.read_balance(account, "text_token")
    print(f"{sum(admitted)} admitted, {admitted.count(False)} refused, {left.balance} left")


asyncio.run(main())
