"""
The one place where the two flavours differ in more than words: how blocking work is run.

The ledger is read by blocking code. The sync engine calls it in place; the async engine lends it a
thread. Ledger reads are rare (hydration, intents, histories): the hot path never comes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in a thread and await its result."""
    return await asyncio.to_thread(function, *args, **kwargs)


def in_place(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work here and now."""
    return function(*args, **kwargs)
