"""One source for both engines: a test calls a method by name, on the sync and the async one."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

from quota_engine import AsyncQuotaEngine, QuotaEngine

#: An instant that tests call now. Whole seconds, so that it survives milliseconds.
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class TestClock:
    """A clock that goes where a test puts it."""

    __test__ = False

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **parts: float) -> datetime:
        """Let time pass, and return the new instant."""
        self.now += timedelta(**parts)
        return self.now


class Engines:
    """One engine, sync or async, whose methods are called by name and awaited either way."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour
        self.engine: Any = None

    async def open(self, redis_url: str, database_url: str, **options: Any) -> Engines:
        """Open the engine; the caller closes it."""
        kind: Any = QuotaEngine if self.flavour == "sync" else AsyncQuotaEngine
        opened = kind.open(redis_url, database_url, **options)
        self.engine = await opened if inspect.isawaitable(opened) else opened
        return self

    async def close(self) -> None:
        """Close the engine."""
        if self.engine is not None:
            await self("close")

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self.engine, method)(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result
