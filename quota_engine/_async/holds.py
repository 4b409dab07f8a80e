"""A hold inside its ``with`` block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from quota_engine.commands import CapturedHold, ExtendedHold, PlacedHold, ReleasedHold, Share
from quota_engine.errors import EngineFault
from quota_engine.scopes import AmountArgument, TypeArgument
from quota_engine.usage import Usage

if TYPE_CHECKING:
    from quota_engine._async.calls import AsyncCalls


class AsyncHoldBlock:
    """
    Holds quota for the length of a block; inside it, the hold itself.

    Leaving the block without a capture releases the hold, with or without an exception. A capture
    that failed half-way is left alone: it may have reached Redis, and else the hold expires.
    """

    def __init__(
        self,
        calls: AsyncCalls,
        account: str,
        quota_type: TypeArgument,
        amount: int | None,
        options: Mapping[str, Any],
    ) -> None:
        self._calls = calls
        self._arguments = (account, quota_type, amount)
        self._options = options
        self._placed: PlacedHold | None = None
        self._is_settled = False

    async def __aenter__(self) -> AsyncHoldBlock:
        self._placed = await self._calls.place_hold(*self._arguments, **self._options)
        self._is_settled = False
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_settled:
            await self.release()

    @property
    def placed(self) -> PlacedHold:
        """The hold as it was placed or last extended."""
        if self._placed is None:
            raise EngineFault("the hold is only placed when its block is entered")
        return self._placed

    @property
    def hold_id(self) -> str:
        """The hold's id, unique per quota."""
        return self.placed.hold_id

    @property
    def offline(self) -> bool:
        """Whether it was admitted while Redis was away."""
        return self.placed.offline

    @property
    def account(self) -> str:
        """Who spends."""
        return self.placed.account

    @property
    def quota_type(self) -> str:
        """What kind of thing is spent."""
        return self.placed.quota_type

    @property
    def amount(self) -> int:
        """Units held in all, as placed or last extended through this block."""
        return self.placed.amount

    @property
    def shares(self) -> tuple[Share, ...]:
        """What it asks of further quotas: of other types, of the accounts above."""
        return self.placed.shares

    @property
    def expires_at(self) -> datetime:
        """When the hold expires, as placed or last extended through this block."""
        return self.placed.expires_at

    async def capture(
        self,
        amount: AmountArgument,
        *,
        usage: Usage | Mapping[str, Any] | None = None,
        final: bool = True,
        operation_id: str | None = None,
    ) -> CapturedHold:
        """Charge ``amount`` units; ``final`` frees the rest of the hold."""
        self._is_settled = self._is_settled or final
        return await self._calls.capture_hold(
            self.placed, amount, usage=usage, final=final, operation_id=operation_id
        )

    async def extend(
        self, *, amount: AmountArgument | None = None, ttl: float | None = None
    ) -> ExtendedHold:
        """Let the hold grow to a new total, or live ``ttl`` seconds from now."""
        extended = await self._calls.extend_hold(self.placed, amount=amount, ttl=ttl)
        self._placed = replace(self.placed, amount=extended.amount, expires_at=extended.expires_at)
        return extended

    async def release(self) -> ReleasedHold:
        """Give the hold back unused."""
        self._is_settled = True
        return await self._calls.release_hold(self.placed)
