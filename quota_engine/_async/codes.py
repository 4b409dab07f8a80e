"""Redemption codes, as the engine's callers see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from quota_engine._async.selling import AsyncSelling
from quota_engine._async.transport import AsyncTransport
from quota_engine.backing import Backing
from quota_engine.codes import (
    CodeBatch,
    RedemptionCode,
    checked_codes,
    checked_count,
    checked_expiry,
    code_hash,
    new_codes,
)
from quota_engine.errors import InvalidArgumentError
from quota_engine.ids import checked_account, checked_id, new_id
from quota_engine.instants import from_ms
from quota_engine.packages import Order, checked_package_name
from quota_engine.settings import Settings
from quota_engine.waiting import in_thread


class AsyncCodes:
    """Codes that are worth a package, once. Every call reads PostgreSQL."""

    def __init__(self, transport: AsyncTransport, backing: Backing) -> None:
        self._store = backing.sale_store.codes
        self._transport = transport

    async def create(
        self,
        package: str,
        count: int | None = None,
        *,
        codes: Sequence[str] | None = None,
        expires_at: datetime | None = None,
        batch_id: str | None = None,
    ) -> CodeBatch:
        """
        Make a batch of codes for a package as it is now; they are told once, and never again.

        ``count`` new ones, or ``codes`` that ``quota_engine.codes.new_codes`` made: who keeps
        those first, and a batch id of its own, may call again after an unknown outcome. Raises
        ``PackageNotFoundError``, ``PurchaseRefusedError`` for one that is not sold,
        ``InvalidArgumentError``, ``IdempotencyConflictError`` for another batch by the same id.
        """
        if (count is None) == (codes is None):
            raise InvalidArgumentError("tell either how many codes to make, or the codes")
        made = checked_codes(codes) if count is None else new_codes(checked_count(count))
        if batch_id is None:
            batch_id = new_id("batch", self._transport.now_ms())
        batch_id, name = checked_id(batch_id, name="batch id"), checked_package_name(package)
        ends = checked_expiry(expires_at)
        version, replayed = await in_thread(
            self._store.create_codes, batch_id, name, made, ends, self._now()
        )
        return CodeBatch(
            batch_id=batch_id,
            package=name,
            version=version,
            expires_at=ends,
            codes=made,
            replayed=replayed,
        )

    async def list(
        self, *, batch_id: str | None = None, account: str | None = None
    ) -> Sequence[RedemptionCode]:
        """Return what is known of codes: of a batch, of those an account redeemed, or of all."""
        batch = None if batch_id is None else checked_id(batch_id, name="batch id")
        name = None if account is None else checked_account(account)
        return await in_thread(self._store.list_codes, batch, name, self._now())

    async def revoke(
        self, code: str | None = None, *, batch_id: str | None = None
    ) -> Sequence[RedemptionCode]:
        """
        End a code (itself, or its code id) or a batch; return what was named, as it is now.

        What was redeemed stays redeemed: refund its order. Safe to call again. Raises
        ``CodeNotFoundError``.
        """
        if (code is None) == (batch_id is None):
            raise InvalidArgumentError("tell either a code or a batch id")
        if code is None:
            where = {"batch_id": checked_id(batch_id, name="batch id")}
        elif str(code).startswith("code_"):
            where = {"code_id": checked_id(code, name="code id")}
        else:
            where = {"code_hash": code_hash(code)}
        return await in_thread(self._store.revoke, where=where, now=self._now())

    def _now(self) -> datetime | None:
        now_ms = self._transport.now_ms()
        return None if now_ms is None else from_ms(now_ms)


class AsyncRedeeming(AsyncSelling):
    """Codes that become grants."""

    def __init__(self, transport: AsyncTransport, backing: Backing, settings: Settings) -> None:
        super().__init__(transport, backing, settings)
        self.codes = AsyncCodes(transport, backing)

    async def redeem(self, account: str, code: str) -> Order:
        """
        Give an account what a code is worth: the paid order ``code:<code id>`` of its package.

        Exactly once, however many ask at once; for the same account it is replayed. Letters may be
        small, with or without dashes. Raises ``CodeNotFoundError``, ``CodeRefusedError`` for one
        that is over or somebody else's, ``PurchaseRefusedError`` where the account has the package
        as often as it may. After ``EngineUnavailableError`` calling again is safe.
        """
        hashed, name = code_hash(code), checked_account(account)
        await self._transport.connect()
        order = await in_thread(self._store.codes.redeem, name, hashed, self._now())
        return await self._granted(order)
