"""What metered calls left behind, and functions that behave like models."""

from __future__ import annotations

import inspect
from typing import Any

from sqlalchemy import text

from quota_engine import Usage
from quota_engine.tokens import count_tokens
from tests.engines import Engines

ACCOUNT = "user:1"
GRANTED = 1_000_000
ESTIMATE = Usage(input_tokens=100, output_tokens=200)
SAID = "The first half of an answer "
COUNTED = {"prompt_tokens": 120, "completion_tokens": 30, "total_tokens": 150}
CHARGED = 150
#: What a stream that broke off after its first chunk costs: the estimated input, what was said.
SAID_TOKENS = ESTIMATE.input_tokens + count_tokens(SAID, None)

ANSWER = {"id": "answer-1", "model": "m", "choices": [], "usage": COUNTED}
CHUNK = {"id": "answer-1", "model": "m", "choices": [{"index": 0, "delta": {"content": SAID}}]}
END = {
    "id": "answer-1",
    "model": "m",
    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
}
LAST = {"id": "answer-1", "model": "m", "choices": [], "usage": COUNTED}


async def fund(call: Engines, quota_type: str = "text_token", amount: int = GRANTED) -> None:
    await call("issue_grant", ACCOUNT, quota_type, amount)


async def set_price(call: Engines, kind: str, price: str, **options: Any) -> None:
    """Set a price of the model that these tests call, in USD per million."""
    result = call.engine.prices.set("openai", "gpt-x", kind, price, currency="USD", **options)
    if inspect.isawaitable(result):
        await result


async def spent(call: Engines, quota_type: str = "text_token", granted: int = GRANTED) -> int:
    """Return what was charged; nothing is held any more."""
    balance = await call("read_balance", ACCOUNT, quota_type)
    assert balance.held == 0
    assert balance.debt == 0
    return int(granted - balance.balance)


async def records(call: Engines) -> list[dict[str, Any]]:
    """Persist everything; return the usage records, oldest first, each with its ``amount``."""
    await call("drain")
    with call.engine.deployment.ledger.transaction() as sql:
        rows = sql.execute(text("SELECT usage, amount FROM usage_records ORDER BY id"))
        return [{**usage, "amount": amount} for usage, amount in rows]


async def ends(call: Engines, quota_type: str = "text_token") -> list[str]:
    """Return the kinds of the entries that end a call."""
    entries = await call("history", ACCOUNT, quota_type)
    kinds = ("hold.captured", "hold.released", "hold.expired", "usage.recorded")
    return [entry.kind for entry in entries if entry.kind in kinds]
