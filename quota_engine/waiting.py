"""
The one place where the two flavours differ in more than words: how blocking work is run.

The ledger is read by blocking code. The sync engine calls it in place; the async engine lends it a
thread. Ledger reads are rare (hydration, intents, histories): the hot path never comes here.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work in a thread and await its result."""
    return await asyncio.to_thread(function, *args, **kwargs)


def in_place(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking work here and now."""
    return function(*args, **kwargs)


class AsyncTurn:
    """One task's turn at a time; waiting for it has an end."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def take(self, seconds: float) -> bool:
        """Wait for the turn; return whether it came in time."""
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                return await self._lock.acquire()
        except TimeoutError:
            return False

    def release(self) -> None:
        """Give the turn to the next."""
        self._lock.release()


class Turn:
    """One thread's turn at a time; waiting for it has an end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self, seconds: float) -> bool:
        """Wait for the turn; return whether it came in time."""
        return self._lock.acquire(timeout=max(seconds, 0.0))

    def release(self) -> None:
        """Give the turn to the next."""
        self._lock.release()


class Forgetting(Protocol):
    """What must not be carried over a fork."""

    def forget(self) -> None: ...


_FORGOTTEN: weakref.WeakSet[Forgetting] = weakref.WeakSet()


def forgotten_at_fork(memory: Forgetting) -> None:
    """Let a forked child forget what its parent remembers: the parent is who answers for it."""
    _FORGOTTEN.add(memory)


def _forget_in_child() -> None:
    for memory in list(_FORGOTTEN):
        memory.forget()


os.register_at_fork(after_in_child=_forget_in_child)
