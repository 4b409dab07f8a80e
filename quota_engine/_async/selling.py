"""Packages and their purchases, as the engine's callers see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from quota_engine import flows
from quota_engine._async.calling import AsyncCalling
from quota_engine._async.giving_back import AsyncGivingBack
from quota_engine._async.transport import AsyncTransport
from quota_engine.arguments import checked_text, checked_type
from quota_engine.backing import Backing
from quota_engine.commands import IssueGrant
from quota_engine.ids import checked_account
from quota_engine.instants import from_ms
from quota_engine.packages import (
    CANCELLED,
    Order,
    Package,
    Purchase,
    RefundedOrder,
    checked_lines,
    checked_order_id,
    checked_package_name,
    checked_package_terms,
    issue_of,
)
from quota_engine.settings import Settings
from quota_engine.waiting import in_thread


class AsyncPackages:
    """What is sold. Every call reads PostgreSQL."""

    def __init__(self, backing: Backing, settings: Settings) -> None:
        self._store = backing.sale_store
        self._settings = settings

    async def define(
        self,
        name: str,
        *,
        quota_type: str,
        amount: int,
        price: Decimal | int | str,
        currency: str | None = None,
        bonus: int = 0,
        original_price: Decimal | int | str | None = None,
        valid_for: timedelta | None = None,
        per_user_limit: int | None = None,
        priority: int = 50,
        sort_order: int = 0,
        description: str | None = None,
        active: bool = True,
    ) -> Package:
        """
        Say what a package gives and costs; other terms than before make a new version.

        ``currency`` None: the deployment's. ``quota_engine.packages.PackageTerms`` tells what each
        argument means. What was ordered keeps its version. The same terms again change nothing.
        """
        terms = checked_package_terms(
            quota_type=checked_type(quota_type, self._settings),
            amount=amount,
            price=price,
            currency=self._settings.currency if currency is None else currency,
            bonus=bonus,
            original_price=original_price,
            valid_for=valid_for,
            per_user_limit=per_user_limit,
            priority=priority,
            sort_order=sort_order,
            description=description,
        )
        known = checked_package_name(name)
        return await in_thread(self._store.define_package, known, terms, is_active=bool(active))

    async def find(self, name: str) -> Package | None:
        """Return a package's newest version, or None."""
        return await in_thread(self._store.find_package, checked_package_name(name))

    async def list(self, *, only_active: bool = False) -> Sequence[Package]:
        """Return the newest version of each package, by its sort order and name."""
        return await in_thread(self._store.list_packages, only_active=only_active)

    async def history(self, name: str) -> Sequence[Package]:
        """Return every version of a package, oldest first."""
        return await in_thread(self._store.package_history, checked_package_name(name))

    async def activate(self, name: str, active: bool = True) -> Package:
        """Begin to sell a package, or end it; pending orders may still be paid."""
        known = checked_package_name(name)
        return await in_thread(self._store.activate_package, known, is_active=bool(active))


class AsyncSelling(AsyncCalling):
    """Orders, payments and what is given back of them."""

    def __init__(self, transport: AsyncTransport, backing: Backing, settings: Settings) -> None:
        super().__init__(transport, backing, settings)
        self._store = backing.sale_store
        self._giving_back = AsyncGivingBack(transport, self._store, settings)
        self.packages = AsyncPackages(backing, settings)

    async def order(self, account: str, packages: str | Sequence[str], order_id: str) -> Order:
        """
        Record an order that is not paid yet, with the packages as they are now.

        Idempotent by ``order_id``; other packages by it raise ``IdempotencyConflictError``. An
        unknown package raises ``PackageNotFoundError``; one that is not sold, or that the account
        has as often as it may, ``PurchaseRefusedError``.
        """
        return await in_thread(
            self._store.order,
            checked_account(account),
            checked_lines(packages),
            checked_order_id(order_id),
        )

    async def purchase(self, account: str, package: str | Sequence[str], order_id: str) -> Order:
        """
        Take a payment: mark an order as paid, made in the same step if need be; issue its grants.

        Exactly once per order, however many callbacks come at once: the others are replayed. After
        ``EngineUnavailableError`` or ``QuotaFrozenError`` the payment may be recorded: then the
        workers issue its grants, and calling again is safe. Refused like ``order``.
        """
        await self._transport.connect()
        names = checked_lines(package)
        told = (checked_account(account), names)
        paid = await in_thread(self._store.pay, checked_order_id(order_id), self._now(), of=told)
        return await self._granted(paid)

    async def pay_order(self, order_id: str) -> Order:
        """Take the payment of an order that was recorded before: see ``purchase``."""
        await self._transport.connect()
        paid = await in_thread(self._store.pay, checked_order_id(order_id), self._now())
        return await self._granted(paid)

    async def cancel_order(self, order_id: str) -> Order:
        """Give up an order that was not paid; a later payment is refused."""
        return await in_thread(
            self._store.close_order, checked_order_id(order_id), state=CANCELLED
        )

    async def find_order(self, order_id: str) -> Order:
        """Return an order; raise ``PurchaseNotFoundError`` where there is none."""
        return await in_thread(self._store.find_order, checked_order_id(order_id))

    async def purchases(self, account: str) -> Sequence[Purchase]:
        """Return the lines of an account's orders, in the order of their making."""
        return await in_thread(self._store.list_purchases, checked_account(account))

    async def refund_purchase(
        self, order_id: str, *, actor: str | None = None, reason: str | None = None
    ) -> RefundedOrder:
        """
        Void what is left of a paid order's grants; say how much had been used.

        What open holds have of them stays with the holds. Safe to call again: the answer is the
        same. It is recorded first: what the caller leaves undone, also where a quota is frozen,
        the workers finish. ``actor`` and ``reason``, of whoever asked first, stay in the entries.
        The money is the caller's business. Raises ``PurchaseRefusedError`` for
        an order that was never paid.
        """
        await self._transport.connect()
        by = checked_text(actor, name="actor"), checked_text(reason, name="reason")
        return await self._giving_back.give_back(checked_order_id(order_id), *by)

    def _now(self) -> datetime | None:
        now_ms = self._transport.now_ms()
        return None if now_ms is None else from_ms(now_ms)

    async def _granted(self, order: Order) -> Order:
        """Issue the grants of a paid order, which are promised already."""
        for line in order.lines:
            if order.replayed:
                await self._giving_back.make(line)
            else:
                await self._transport.drive(flows.settled(self._issue_of(line)))
        return order

    def _issue_of(self, line: Purchase) -> IssueGrant:
        return replace(issue_of(line), grants_max=self._settings.grants_max)
